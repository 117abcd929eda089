//! Floods, limits and quotas, beside real connections.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use lb_common::stats::Counter;
use lb_tests::harness::{
    Agent, CLIENT_V4, Config, DSR_V4, Flows, Lab, Mode, NAT_V4, Protocol, Result, Service, Survey,
    anywhere, ask_udp, curl, eventually, source_addresses,
};
use socket2::{Domain, Socket, Type};

use super::{ECHO, WEB, all_services, url};
use crate::packet::frame::{ACK, Packet, SYN, Tcp};

/// How long an order may take to show.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that a flood is to leave alone.
const FLOWS: usize = 40;

/// Sends segments to a VIP, each from the source that `source` gives for its number.
pub(super) fn flood(lab: &Lab, vip: IpAddr, flags: u8, count: u32, source: fn(u32) -> Ipv4Addr) {
    let send = || -> io::Result<()> {
        let kind = Type::from(libc::SOCK_RAW);
        let socket = Socket::new(Domain::IPV4, kind, Some(libc::IPPROTO_RAW.into()))?;
        let to = SocketAddr::new(vip, 0).into();
        (0..count).try_for_each(|number| {
            let port = 1024 + (number % 60_000) as u16;
            let packet = Packet::new(source(number).into(), vip, Tcp::body(port, WEB, flags));
            socket.send_to(&packet.bytes(), &to).map(drop)
        })
    };
    lab.client.within(send).expect("the client's namespace").expect("packets are sent");
}

/// Always the same.
fn somewhere(_: u32) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 0, 1)
}

fn open(lab: &Lab, vip: IpAddr) -> Result<Flows> {
    Flows::open(&lab.client, &source_addresses(true), (vip, WEB).into(), FLOWS)
}

fn reload(lab: &Lab, agent: &Agent, config: &Config) -> Result<()> {
    lab.write(config)?;
    let before = lab.pins().generation()?;
    agent.reload()?;
    let published = eventually(PATIENCE, || lab.pins().generation().is_ok_and(|now| now > before));
    assert!(published, "{}", agent.log());
    Ok(())
}

#[test]
fn a_flood_from_many_sources_breaks_nobodys_connection() -> Result<()> {
    let lab = Lab::new(3)?;
    let mut config = lab.config(all_services(&lab));
    config.firewall = "new_flows_per_source = { rate = 20, burst = 40 }".into();
    let _agent = lab.start_agent(&config)?;
    for vip in [NAT_V4, DSR_V4] {
        let mut flows = open(&lab, vip)?;
        let limited = || lab.pins().counter(Counter::SourceRate);
        let before = limited()?;
        // As many sources as packets: nobody is limited, new clients included.
        for flags in [SYN, ACK] {
            flood(&lab, vip, flags, 10_000, anywhere);
        }
        assert_eq!(limited()?, before, "at {vip}");
        // One source: it is limited, and nobody else.
        flood(&lab, vip, SYN, 10_000, somewhere);
        assert!(limited()? > before + 9_000, "at {vip}");
        let kept = Survey { kept: FLOWS, moved: 0, broken: 0 };
        assert_eq!(flows.survey(None), kept, "at {vip}");
        curl(&lab.client, &url(vip, WEB, "/"))?;
    }
    Ok(())
}

#[test]
fn a_service_is_for_the_sources_that_it_allows() -> Result<()> {
    let lab = Lab::new(1)?;
    let only = |prefix: &str| {
        let services = [NAT_V4, DSR_V4].into_iter().zip([Mode::Nat, Mode::Dsr]);
        let services = services.flat_map(|(vip, mode)| {
            [(Protocol::Tcp, WEB), (Protocol::Udp, ECHO)].map(|(protocol, port)| {
                let service = Service::new(vip, protocol, port, mode);
                service.lines(&format!("allow_sources = [\"{prefix}\"]")).with(&lab.backends)
            })
        });
        lab.config(services.collect::<Vec<_>>())
    };
    let agent = lab.start_agent(&only(&CLIENT_V4.to_string()))?;
    for vip in [NAT_V4, DSR_V4] {
        assert_eq!(curl(&lab.client, &url(vip, WEB, "/"))?, "b1\n");
        assert_eq!(ask_udp(&lab.client, (vip, ECHO).into(), "hello")?, "b1");
    }
    reload(&lab, &agent, &only("192.0.2.0/24"))?;
    for vip in [NAT_V4, DSR_V4] {
        let before = lab.pins().counter(Counter::SourceNotAllowed)?;
        assert!(ask_udp(&lab.client, (vip, ECHO).into(), "hello").is_err(), "at {vip}");
        assert!(curl(&lab.client, &url(vip, WEB, "/")).is_err(), "at {vip}");
        assert!(lab.pins().counter(Counter::SourceNotAllowed)? > before, "at {vip}");
    }
    let (client, vip) = (format!("{CLIENT_V4}:4711"), format!("{NAT_V4}:{WEB}"));
    let told = lab.done(&["explain", &client, &vip])?;
    assert!(told.stdout.contains("10.1.0.2 is not allowed"), "{}", told.stdout);
    Ok(())
}

#[test]
fn a_service_that_is_full_keeps_its_connections_and_says_so() -> Result<()> {
    let lab = Lab::new(2)?;
    let service = Service::new(NAT_V4, Protocol::Tcp, WEB, Mode::Nat);
    let lines = format!("max_flows = {FLOWS}\non_empty = \"reject\"");
    let service = service.lines(&lines).with(&lab.backends);
    let name = service.name().to_owned();
    let agent = lab.start_agent(&lab.config([service]))?;
    let mut flows = open(&lab, NAT_V4)?;
    let shown = |key: &str| lab.json(&["service", "show", &name]).map(|shown| shown[key].clone());
    let full = || shown("full").is_ok_and(|full| full == true);
    assert!(eventually(PATIENCE, full), "{}", agent.log());
    assert_eq!(shown("max_flows")?, FLOWS);
    assert!(agent.log().contains("`max_flows` is reached"), "{}", agent.log());
    let refused = curl(&lab.client, &url(NAT_V4, WEB, "/")).expect_err("it is full").to_string();
    assert!(refused.contains("refused") || refused.contains("connect"), "{refused}");
    assert_eq!(flows.survey(None), Survey { kept: FLOWS, moved: 0, broken: 0 });
    lab.done(&["flow", "flush", "--service", &name])?;
    assert!(eventually(PATIENCE, || !full()), "{}", agent.log());
    curl(&lab.client, &url(NAT_V4, WEB, "/"))?;
    // Nobody recorded them any more, and they go on all the same.
    assert_eq!(flows.survey(None), Survey { kept: FLOWS, moved: 0, broken: 0 });
    Ok(())
}
