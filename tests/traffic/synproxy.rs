//! Clients whose SYNs are answered with cookies.

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use lb_common::stats::Counter;
use lb_tests::harness::{
    Config, Error, Flows, Lab, LineServer, Load, Mode, NAT_V4, NAT_V6, Protocol, Result, Service,
    Survey, anywhere, curl, eventually, run, source_addresses, spread,
};

use super::{
    WEB,
    bulk::{self, IPERF},
    flood::flood,
    fullnat, names, url,
};
use crate::packet::frame::{ACK, SYN};

const VIPS: [IpAddr; 2] = [NAT_V4, NAT_V6];
const MODES: [Mode; 2] = [Mode::Nat, Mode::FullNat];
/// Port of the server that speaks first.
const SPEAKS: u16 = 3306;
const PATIENCE: Duration = Duration::from_secs(30);

/// TCP services that answer SYNs with cookies above `rate`.
fn config(lab: &Lab, mode: Mode, ports: &[u16], rate: &str) -> Config {
    let line = format!("syn_cookies_above = {rate}");
    let services = VIPS.iter().flat_map(|&vip| {
        let service = |port: &u16| Service::new(vip, Protocol::Tcp, *port, mode);
        ports.iter().map(service).collect::<Vec<_>>()
    });
    let services = services.map(|service| service.with(&lab.backends).lines(&line));
    let node = match mode {
        Mode::FullNat => format!("nat_sources = {:?}\n", fullnat::SOURCES),
        _ => String::new(),
    };
    Config { node, ..lab.config(services) }
}

fn lab(mode: Mode, backends: usize) -> Result<Lab> {
    if mode == Mode::FullNat { fullnat::lab(backends) } else { Lab::new(backends) }
}

fn sent(lab: &Lab) -> Result<u64> {
    lab.pins().counter(Counter::SynCookieSent)
}

fn confirmed(lab: &Lab) -> Result<u64> {
    lab.pins().counter(Counter::SynCookieConfirmed)
}

#[test]
fn clients_are_served_and_stay_with_their_backends() -> Result<()> {
    for mode in MODES {
        let lab = lab(mode, 2)?;
        let _agent = lab.start_agent(&config(&lab, mode, &[WEB], "0"))?;
        for vip in VIPS {
            let before = (sent(&lab)?, confirmed(&lab)?);
            let answers = spread(&lab.client, &url(vip, WEB, "/"), 40)?;
            assert_eq!(
                answers.into_keys().collect::<BTreeSet<_>>(),
                names(&lab),
                "{mode} at {vip}"
            );
            let after = (sent(&lab)?, confirmed(&lab)?);
            assert_eq!((after.0 - before.0, after.1 - before.1), (40, 40), "{mode} at {vip}");
            for close in [false, true] {
                let load = Load { close, ..Load::new(url(vip, WEB, "/1k")) };
                let report = load.run(&lab.client)?;
                let counters = lab.pins().counters()?;
                assert!(
                    report.is_clean(),
                    "{mode} at {vip}, {close}: {} {counters:?}",
                    report.text
                );
            }
        }
    }
    Ok(())
}

#[test]
fn much_data_goes_without_stalls() -> Result<()> {
    for mode in MODES {
        let lab = lab(mode, 1)?;
        let config = config(&lab, mode, &[WEB, IPERF], "0");
        bulk::check(&lab, &config, &VIPS.map(|vip| (vip, mode)))?;
        assert!(confirmed(&lab)? > 0);
    }
    Ok(())
}

/// What a server says to who connects and says nothing.
fn greeting(lab: &Lab, to: SocketAddr) -> Result<String> {
    let failed = || Error::io(format!("read what `{to}` says"));
    lab.client
        .within(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            stream.read_to_string(&mut said).map(|_| said)
        })?
        .map_err(failed())
}

#[test]
fn a_server_that_speaks_first_is_heard() -> Result<()> {
    for mode in MODES {
        let lab = lab(mode, 1)?;
        let _agent = lab.start_agent(&config(&lab, mode, &[SPEAKS], "0"))?;
        for vip in VIPS {
            let backend = &lab.backends[0];
            let address = backend.address(vip.is_ipv4());
            let _server = LineServer::start(&backend.netns, address, SPEAKS, "how do you do")?;
            assert_eq!(greeting(&lab, (vip, SPEAKS).into())?, "how do you do\n", "{mode} at {vip}");
        }
        // And who does not listen is said so.
        let refused = greeting(&lab, (NAT_V4, SPEAKS).into()).expect_err("nobody listens");
        assert!(format!("{refused:?}").contains("Connection"), "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_flood_of_syns_reaches_nobody_and_harms_nobody() -> Result<()> {
    const FLOWS: usize = 40;
    const RATE: u64 = 2;
    for mode in MODES {
        let lab = lab(mode, 2)?;
        let _agent = lab.start_agent(&config(&lab, mode, &[WEB], &RATE.to_string()))?;
        let to = SocketAddr::new(NAT_V4, WEB);
        let mut flows = Flows::open(&lab.client, &source_addresses(true), to, FLOWS)?;
        let reached = || lab.pins().traffic().map(|traffic| traffic.packets);
        let before = (sent(&lab)?, reached()?);
        flood(&lab, NAT_V4, SYN, 20_000, anywhere);
        let after = (sent(&lab)?, reached()?);
        // What reaches backends is the rate, for as long as the flood took, and what the
        // open connections have to say.
        let (answered, passed) = (after.0 - before.0, after.1 - before.1);
        assert!(answered + passed >= 20_000, "{mode}: {answered} answered, {passed} passed");
        assert!(answered > 19_900 && passed < 200, "{mode}: {answered} answered, {passed} passed");
        // Who comes meanwhile is served, by a cookie.
        let cookies = confirmed(&lab)?;
        flood(&lab, NAT_V4, SYN, 1000, anywhere);
        curl(&lab.client, &url(NAT_V4, WEB, "/"))?;
        assert_eq!(confirmed(&lab)?, cookies + 1, "{mode}");
        // Nobody guesses a cookie.
        flood(&lab, NAT_V4, ACK, 20_000, anywhere);
        assert_eq!(confirmed(&lab)?, cookies + 1, "{mode}");
        assert_eq!(flows.survey(None), Survey { kept: FLOWS, moved: 0, broken: 0 }, "{mode}");
    }
    Ok(())
}

/// What `lb explain` says of a connection that the affinity table has, which knows ports of
/// IPv4 only.
fn told_of_one(lab: &Lab) -> Result<String> {
    let flow = lab.json(&["flow", "list", "--limit", "1"])?[0].clone();
    let client = format!("{}:{}", flow["client"].as_str().unwrap_or("?"), flow["client_port"]);
    Ok(lab.done(&["explain", &client, &SocketAddr::new(NAT_V4, WEB).to_string()])?.stdout)
}

#[test]
fn connections_outlive_the_agent_and_the_setting() -> Result<()> {
    const FLOWS: usize = 100;
    for mode in MODES {
        let lab = lab(mode, 2)?;
        for vip in VIPS {
            let agent = lab.start_agent(&config(&lab, mode, &[WEB], "0"))?;
            let sources = source_addresses(vip.is_ipv4());
            let mut flows = Flows::open(&lab.client, &sources, (vip, WEB).into(), FLOWS)?;
            let kept = Survey { kept: FLOWS, moved: 0, broken: 0 };
            agent.kill()?;
            assert_eq!(flows.survey(None), kept, "{mode} at {vip}, without an agent");
            // The file has no cookies any more.
            let agent = lab.start_agent(&config(&lab, mode, &[WEB], "\"off\""))?;
            assert_eq!(flows.survey(None), kept, "{mode} at {vip}, without cookies");
            if vip.is_ipv4() {
                let told = told_of_one(&lab)?;
                assert!(told.contains("opened by one, its packets are translated; off"), "{told}");
            }
            let before = sent(&lab)?;
            curl(&lab.client, &url(vip, WEB, "/"))?;
            assert_eq!(sent(&lab)?, before, "{mode} at {vip}");
            assert!(agent.terminate()?.success());
        }
    }
    Ok(())
}

#[test]
fn what_is_lost_is_said_again() -> Result<()> {
    for mode in MODES {
        let lab = lab(mode, 1)?;
        let _agent = lab.start_agent(&config(&lab, mode, &[WEB], "0"))?;
        // One packet of four that reaches the client or the backend.
        let rules = "add table inet loss
            add chain inet loss in { type filter hook input priority 0; }
            add rule inet loss in meta l4proto tcp numgen random mod 4 == 0 drop";
        for netns in [&lab.client, &lab.backends[0].netns] {
            run(netns.command("nft").arg(rules), PATIENCE)?;
        }
        for vip in VIPS {
            for _ in 0..10 {
                let done = || curl(&lab.client, &url(vip, WEB, "/1k"));
                assert!(eventually(PATIENCE, || done().is_ok()), "{mode} at {vip}");
            }
        }
    }
    Ok(())
}
