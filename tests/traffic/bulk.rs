//! Much data, in packets as long as may be: nothing stalls in any mode.

use std::{net::IpAddr, time::Duration};

use lb_tests::harness::{
    Config, DSR_V4, DSR_V6, Lab, Load, Mode, Process, Protocol, Result, Service, run,
    tunnel_sources,
};

use super::{VIPS, WEB, tunnel::unwrap_everywhere, url};

/// iperf3's port.
pub(super) const IPERF: u16 = 5201;
const PATIENCE: Duration = Duration::from_secs(30);

/// A web service and iperf3's at each VIP.
fn services(lab: &Lab, vips: &[(IpAddr, Mode)]) -> Config {
    let services = vips.iter().flat_map(|&(vip, mode)| {
        [WEB, IPERF].map(|port| Service::new(vip, Protocol::Tcp, port, mode).with(&lab.backends))
    });
    Config { node: tunnel_sources(), ..lab.config(services.collect::<Vec<_>>()) }
}

/// Bytes of each half of a second, as iperf3's client saw them.
fn transfer(lab: &Lab, vip: IpAddr, words: &[&str]) -> Result<Vec<u64>> {
    let mut client = lab.client.command("iperf3");
    client.args(["--json", "--time", "2", "--interval", "0.5", "--client"]).arg(vip.to_string());
    let report = run(client.args(words), PATIENCE)?.stdout;
    let report: serde_json::Value = report.parse().expect("JSON");
    let intervals = report["intervals"].as_array().expect("a list");
    Ok(intervals.iter().map(|one| one["sum"]["bytes"].as_u64().expect("a number")).collect())
}

/// Much data both ways at these VIPs, whose services the agent of `config` has.
pub(super) fn check(lab: &Lab, config: &Config, vips: &[(IpAddr, Mode)]) -> Result<()> {
    let _agent = lab.start_agent(config)?;
    let mut server = lab.backends[0].netns.command("iperf3");
    let _server = Process::start(server.arg("--server"))?;
    for &(vip, mode) in vips {
        let load = Load { connections: 4, ..Load::new(url(vip, WEB, "/1m")) };
        let report = load.run(&lab.client)?;
        assert!(report.is_clean(), "{mode} at {vip}: {}", report.text);
        for words in [&[][..], &["--reverse"]] {
            let bytes = transfer(lab, vip, words)?;
            assert!(bytes.len() >= 4, "{mode} at {vip} {words:?}: {bytes:?}");
            // The least is what a connection at its slowest start sends.
            assert!(
                bytes.iter().all(|&bytes| bytes > 100_000),
                "{mode} at {vip} {words:?}: {bytes:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn much_data_goes_without_stalls() -> Result<()> {
    let lab = Lab::new(1)?;
    check(&lab, &services(&lab, &VIPS), &VIPS)
}

/// What a client sends at first does not fit.
#[test]
fn much_data_goes_through_tunnels_without_stalls() -> Result<()> {
    let lab = Lab::new(1)?;
    unwrap_everywhere(&lab)?;
    for mode in [Mode::Ipip, Mode::Gue] {
        let vips = [DSR_V4, DSR_V6].map(|vip| (vip, mode));
        check(&lab, &services(&lab, &vips), &vips)?;
    }
    Ok(())
}
