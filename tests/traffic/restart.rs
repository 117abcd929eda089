//! The agent comes and goes; forwarding does not notice.

use std::time::Duration;

use lb_tests::harness::{
    Flows, Lab, Load, Result, ask_udp, curl, eventually, run, source_addresses,
};

use super::{ECHO, VIPS, WEB, all_answer, all_services, url};

/// How long traffic may take to show in the counters.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until `packets` more have been forwarded.
fn forwards(lab: &Lab, packets: u64) -> bool {
    let forwarded = || lab.pins().traffic().map_or(0, |traffic| traffic.packets);
    let enough = forwarded() + packets;
    eventually(PATIENCE, || forwarded() >= enough)
}

#[test]
fn killing_the_agent_fails_no_request_and_moves_no_flow() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = lab.config(all_services(&lab));
    for (vip, mode) in VIPS {
        let agent = lab.start_agent(&config)?;
        let sources = source_addresses(vip.is_ipv4());
        let mut flows = Flows::open(&lab.client, &sources, (vip, WEB).into(), 300)?;
        // Longer than any start of an agent, however busy the machine.
        let duration = Duration::from_secs(60);
        let kept = Load { duration, ..Load::new(url(vip, WEB, "/1k")) }.start(&lab.client)?;
        let closing = Load { duration, close: true, ..Load::new(url(vip, WEB, "/1k")) };
        let closing = closing.start(&lab.client)?;

        assert!(forwards(&lab, 1000));
        agent.kill()?;
        assert!(forwards(&lab, 1000), "nothing is forwarded without an agent");
        assert_eq!(flows.survey(None).kept, 300, "{mode} at {vip}, without an agent");
        let agent = lab.start_agent(&config)?;
        assert!(forwards(&lab, 1000), "nothing is forwarded after adoption");

        for report in [kept.end()?, closing.end()?] {
            assert!(report.is_clean(), "{mode} at {vip}: {}\n{}", report.text, agent.log());
        }
        assert_eq!(flows.survey(None).kept, 300, "{mode} at {vip}, after adoption");
        assert!(agent.terminate()?.success());
    }
    Ok(())
}

#[test]
fn an_agent_that_is_told_to_end_leaves_the_forwarding() -> Result<()> {
    let lab = Lab::new(3)?;
    let agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    assert!(agent.terminate()?.success());
    for (vip, _) in VIPS {
        curl(&lab.client, &url(vip, WEB, "/"))?;
        assert!(all_answer(&lab, vip), "at {vip}: {:?}", lab.pins().counters()?);
    }
    Ok(())
}

#[test]
fn detach_leaves_nothing_pinned_or_attached() -> Result<()> {
    let lab = Lab::new(1)?;
    let file = lab.write(&lab.config(all_services(&lab)))?;
    for _ in 0..2 {
        let agent = lab.start_agent(&lab.config(all_services(&lab)))?;
        let vip = VIPS[0].0;
        ask_udp(&lab.client, (vip, ECHO).into(), "hello")?;
        assert!(agent.terminate()?.success());
        assert!(is_attached(&lab)?);

        run(lab.lb().arg("detach").arg("--config").arg(&file), PATIENCE)?;
        assert_eq!(lab.pins().names(), Vec::<String>::new());
        assert!(!is_attached(&lab)?);
        assert!(ask_udp(&lab.client, (vip, ECHO).into(), "hello").is_err());
    }
    Ok(())
}

/// Whether a program is attached to one of the balancer's interfaces.
fn is_attached(lab: &Lab) -> Result<bool> {
    let links = run(lab.balancer.command("ip").args(["-details", "link", "show"]), PATIENCE)?;
    Ok(links.stdout.contains("xdp"))
}
