//! Requests reach backends, and answers come back from the VIP.

use std::{collections::BTreeSet, thread};

use lb_common::stats::Counter;
use lb_tests::harness::{
    Lab, Load, Mode, NAT_V4, NAT_V6, OTHER_NAT_V4, OTHER_NAT_V6, Protocol, Result, Service, curl,
    spread,
};

use super::{VIPS, WEB, all_answer, all_services, names, url};

#[test]
fn tcp_requests_are_spread_over_all_backends() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, _) in VIPS {
        let answers = spread(&lab.client, &url(vip, WEB, "/"), 40)?;
        let answered: BTreeSet<_> = answers.into_keys().collect();
        assert_eq!(answered, names(&lab), "at {vip}");
        assert_eq!(curl(&lab.client, &url(vip, WEB, "/1k"))?.len(), 1024);
    }
    Ok(())
}

#[test]
fn udp_answers_come_from_the_vip_and_all_backends() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, _) in VIPS {
        assert!(all_answer(&lab, vip), "at {vip}: {:?}", lab.pins().counters()?);
    }
    Ok(())
}

#[test]
fn the_data_plane_itself_forwards() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, mode) in VIPS {
        // The kernel could forward what is handed to it: it must not need to.
        curl(&lab.client, &url(vip, WEB, "/"))?;
        let pins = lab.pins();
        let (handed, before) = (pins.counter(Counter::HandedOver)?, pins.traffic()?);
        curl(&lab.client, &url(vip, WEB, "/"))?;
        let after = pins.traffic()?;
        // SYN, ACK, request; SYN-ACK, answer. The rest may come after curl's end.
        assert!(after.packets >= before.packets + 3, "at {vip}: {before:?}, {after:?}");
        let replies = if mode == Mode::Nat { 2 } else { 0 };
        assert!(after.replies >= before.replies + replies, "at {vip}: {before:?}, {after:?}");
        assert_eq!(pins.counter(Counter::HandedOver)?, handed, "at {vip}");
    }
    Ok(())
}

#[test]
fn load_causes_no_socket_errors() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, mode) in VIPS {
        for close in [false, true] {
            let load = Load { close, ..Load::new(url(vip, WEB, "/1k")) };
            let report = load.run(&lab.client)?;
            assert!(report.is_clean(), "{mode} at {vip}, close {close}: {}", report.text);
        }
    }
    Ok(())
}

#[test]
fn a_backend_port_of_its_own_is_translated() -> Result<()> {
    let lab = Lab::new(2)?;
    let service = |vip| Service::new(vip, Protocol::Tcp, 443, Mode::Nat).with(&lab.backends);
    let services = [NAT_V4, NAT_V6].map(|vip| service(vip).to_port(8443));
    let _agent = lab.start_agent(&lab.config(services))?;
    for vip in [NAT_V4, NAT_V6] {
        let answers = spread(&lab.client, &url(vip, 443, "/"), 30)?;
        assert_eq!(answers.len(), 2, "{answers:?}");
    }
    Ok(())
}

#[test]
fn two_services_share_backends_and_port() -> Result<()> {
    let lab = Lab::new(2)?;
    let pairs = [(NAT_V4, OTHER_NAT_V4), (NAT_V6, OTHER_NAT_V6)];
    let vips = pairs.iter().flat_map(|&(one, other)| [one, other]);
    let services =
        vips.map(|vip| Service::new(vip, Protocol::Tcp, WEB, Mode::Nat).with(&lab.backends));
    let _agent = lab.start_agent(&lab.config(services))?;
    for (one, other) in pairs {
        // An answer that came back from the wrong VIP would break the connection.
        let (one, other) = thread::scope(|scope| {
            let run = |vip, close| {
                let load = Load { close, ..Load::new(url(vip, WEB, "/1k")) };
                let client = &lab.client;
                scope.spawn(move || load.run(client))
            };
            let (one, other) = (run(one, true), run(other, false));
            (one.join().unwrap(), other.join().unwrap())
        });
        for report in [one?, other?] {
            assert!(report.is_clean(), "{}: {:?}", report.text, lab.pins().counters()?);
        }
    }
    Ok(())
}
