//! Ways behind the balancer that carry less than those before it: clients learn so
//! (RFC 1191, RFC 8201), and nothing stalls.

use std::{net::IpAddr, time::Duration};

use lb_common::stats::Counter;
use lb_tests::harness::{Lab, Result, eventually, run};

use super::{VIPS, WEB, all_services, url};

const PATIENCE: Duration = Duration::from_secs(10);

/// A request of several packets, each as long as the client knows that it may be.
pub(super) fn ask_at_length(lab: &Lab, vip: IpAddr, port: u16) -> Result<()> {
    let mut curl = lab.client.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]);
    curl.args(["--max-time", "5"]);
    curl.arg("--header").arg(format!("Long: {}", "x".repeat(6000))).arg(url(vip, port, "/1k"));
    let answer = run(&mut curl, PATIENCE)?.stdout;
    assert_eq!(answer.len(), 1024, "at {vip}");
    Ok(())
}

#[test]
fn clients_learn_how_long_their_packets_may_be() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, _) in VIPS {
        ask_at_length(&lab, vip, WEB)?;
    }
    assert_eq!(lab.pins().counter(Counter::TooBig)?, 0);
    // The backends themselves would take longer ones.
    for backend in &lab.backends {
        let [v4, v6] = [true, false].map(|v4| backend.address(v4));
        lab.balancer.ip(&format!(
            "route add {v4}/32 dev l1 mtu 1300\n-6 route add {v6}/128 dev l1 mtu 1300\n"
        ))?;
    }
    for (vip, mode) in VIPS {
        let told = || lab.pins().counter(Counter::TooBig).unwrap_or_default();
        let before = told();
        let learns = || ask_at_length(&lab, vip, WEB).is_ok() && told() > before;
        assert!(eventually(PATIENCE, learns), "{mode} at {vip}: {:?}", lab.pins().counters()?);
        let known = told();
        ask_at_length(&lab, vip, WEB)?;
        assert_eq!(told(), known, "{mode} at {vip}");
        let vip = vip.to_string();
        let route = run(lab.client.command("ip").args(["route", "get", &vip]), PATIENCE)?.stdout;
        assert!(route.contains("mtu 1300"), "{route}");
    }
    Ok(())
}
