//! Echo, and errors about flows.

use std::{io::ErrorKind, time::Duration};

use lb_common::stats::Counter;
use lb_tests::harness::{
    Error, Lab, Mode, NAT_V4, NAT_V6, Protocol, Result, Service, ask_udp, run,
};

use super::{VIPS, all_services};

/// A port at which no backend listens.
const CLOSED: u16 = 9;

#[test]
fn vips_answer_ping() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, _) in VIPS {
        let before = lab.pins().counter(Counter::EchoReplied)?;
        let mut ping = lab.client.command("ping");
        ping.args(["-c", "3", "-i", "0.1", "-W", "2"]).arg(vip.to_string());
        run(&mut ping, Duration::from_secs(10))?;
        assert_eq!(lab.pins().counter(Counter::EchoReplied)?, before + 3, "at {vip}");
    }
    Ok(())
}

#[test]
fn port_unreachable_from_a_nat_backend_reaches_the_client() -> Result<()> {
    let lab = Lab::new(2)?;
    let vips = [NAT_V4, NAT_V6];
    let services =
        vips.map(|vip| Service::new(vip, Protocol::Udp, CLOSED, Mode::Nat).with(&lab.backends));
    let _agent = lab.start_agent(&lab.config(services))?;
    for vip in vips {
        // A connected socket takes only an error that quotes its own packet.
        let answer = ask_udp(&lab.client, (vip, CLOSED).into(), "hello");
        let refused = matches!(
            &answer,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::ConnectionRefused
        );
        assert!(refused, "at {vip}: {answer:?}, {:?}", lab.pins().counters()?);
    }
    Ok(())
}
