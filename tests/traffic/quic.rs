//! QUIC connection IDs that name their server, with clients whose address changes.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use lb_tests::harness::{Lab, Mode, Protocol, Result, Service, eventually, source_addresses};

use super::{ECHO, VIPS, names};

const PATIENCE: Duration = Duration::from_secs(1);
/// Octets of a server ID.
const ID: usize = 2;
/// Octets of a nonce.
const NONCE: usize = 4;

fn services(lab: &Lab) -> Vec<Service> {
    let service = |&(vip, mode): &(IpAddr, Mode)| {
        let mut service = Service::new(vip, Protocol::Udp, ECHO, mode).with(&lab.backends).lines(
            &format!("[[service.quic]]\nid = 0\nserver_id_length = {ID}\nnonce_length = {NONCE}"),
        );
        for backend in &lab.backends {
            let id: String =
                id_of(&backend.name).iter().map(|octet| format!("{octet:02x}")).collect();
            service.set(&backend.name, &format!("server_ids = [\"{id}\"]"));
        }
        service
    };
    VIPS.iter().map(service).collect()
}

/// The server ID of a backend: its name, which has as many letters.
fn id_of(name: &str) -> [u8; ID] {
    name.as_bytes().try_into().expect("a name of two letters")
}

/// A short header with a connection ID of a server (RFC 9000, section 17.3).
fn packet(server: &str) -> Vec<u8> {
    [&[0x41, 0x10][..], &id_of(server), &[7; NONCE], &[0x5a; 24]].concat()
}

/// What a client begins with: a long header with an ID of its own (section 17.2).
fn initial() -> Vec<u8> {
    [&[0xc0, 0, 0, 0, 1, 8][..], &[0x63; 8], &[0x5a; 24]].concat()
}

/// Sends a packet from an address and port of the client's; the name of who answers.
fn ask(lab: &Lab, from: SocketAddr, to: SocketAddr, packet: &[u8]) -> Result<String> {
    let exchange = || -> io::Result<String> {
        // A process that another test begins may hold the socket of before for a moment.
        let mut bound = None;
        let mut binds = || {
            bound = UdpSocket::bind(from).ok();
            bound.is_some()
        };
        if !eventually(PATIENCE, &mut binds) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = bound.ok_or(io::ErrorKind::AddrInUse)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(packet)?;
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer)?;
        let (name, echoed) = answer[..length].split_at(ID);
        assert_eq!(echoed, [b":", packet].concat());
        Ok(String::from_utf8_lossy(name).into_owned())
    };
    let answered = lab.client.within(exchange)?;
    Ok(answered.unwrap_or_else(|error| panic!("{from} asks {to}: {error}")))
}

/// Addresses and ports that a client comes from, one after the other.
fn roaming(vip: IpAddr) -> impl Iterator<Item = SocketAddr> {
    let sources = source_addresses(vip.is_ipv4());
    (20_000..20_040).zip(sources.into_iter().cycle()).map(|(port, from)| (from, port).into())
}

#[test]
fn a_client_that_moves_stays_with_its_server() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(services(&lab)))?;
    for ((vip, mode), service) in VIPS.into_iter().zip(services(&lab)) {
        let to: SocketAddr = (vip, ECHO).into();
        let mut begun = BTreeMap::new();
        for from in roaming(vip) {
            // Who answers the first packet puts its own ID into what follows.
            let server = ask(&lab, from, to, &initial())?;
            assert_eq!(ask(&lab, from, to, &packet(&server))?, server, "{mode} at {vip}");
            begun.entry(server).or_insert(from);
        }
        assert_eq!(begun.keys().cloned().collect::<std::collections::BTreeSet<_>>(), names(&lab));
        for server in begun.keys() {
            for from in roaming(vip) {
                let answered = ask(&lab, from, to, &packet(server))?;
                assert_eq!(answered, *server, "{mode} at {vip} from {from}");
            }
        }
        // A server that drains keeps what it has, wherever that comes from now.
        lab.done(&["backend", "drain", service.name(), "b2"])?;
        for from in roaming(vip).take(10) {
            assert_eq!(ask(&lab, from, to, &packet("b2"))?, "b2", "{mode} at {vip}");
        }
        lab.done(&["backend", "maint", service.name(), "b2"])?;
        for from in roaming(vip).take(10) {
            assert_ne!(ask(&lab, from, to, &packet("b2"))?, "b2", "{mode} at {vip}");
        }
        lab.done(&["backend", "ready", service.name(), "b2"])?;
        assert_eq!(
            ask(&lab, (source_addresses(vip.is_ipv4())[0], 30_000).into(), to, &packet("b2"))?,
            "b2"
        );
    }
    let stats = lab.json(&["stats"])?;
    assert!(stats["quic_routed"].as_u64() > Some(4 * 160), "{stats}");
    assert!(stats["quic_unrouted"].as_u64() >= Some(4 * 50), "{stats}");
    Ok(())
}

/// IDs are given and taken by command, as everything else.
#[test]
fn server_ids_are_given_by_command() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(services(&lab)))?;
    let (vip, service) = (VIPS[0].0, &services(&lab)[0]);
    let from = (source_addresses(true)[0], 31_000).into();
    let to = (vip, ECHO).into();
    for server in ["b1", "b2", "b3"] {
        assert_eq!(ask(&lab, from, to, &packet(server))?, server);
    }
    // "b4" in digits.
    lab.done(&["backend", "set", service.name(), "b3", "--server-ids", "6233,6234"])?;
    for server in ["b3", "b4"] {
        assert_eq!(ask(&lab, from, to, &packet(server))?, "b3");
    }
    let shown = lab.json(&["service", "show", service.name()])?;
    let text = shown.to_string();
    assert!(text.contains("6234") && text.contains("server_id_length"), "{text}");
    Ok(())
}

/// Who could read the key could tell which connections have the same server.
#[test]
fn a_key_that_others_can_read_is_refused_and_none_is_shown() -> Result<()> {
    let lab = Lab::new(1)?;
    let (key, digits) = (lab.path("quic.key"), "8f95f09245765f80256934e50c66207f");
    let readable_by = |mode: u32| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::write(&key, digits).and_then(|()| fs::set_permissions(&key, permissions))
    };
    readable_by(0o644).expect("the lab's directory can be written");
    let plain = services(&lab);
    let keyed: Vec<_> =
        plain.iter().map(|service| service.clone().lines(&format!("key_file = {key:?}"))).collect();
    let _agent = lab.start_agent(&lab.config(plain))?;
    lab.write(&lab.config(keyed))?;
    let refused = lab.refused(64, &["reload"])?;
    assert!(refused.contains("has mode 0644") && refused.contains("chmod 600"), "{refused}");
    assert!(!refused.contains("8f95"), "{refused}");
    readable_by(0o600).expect("the file is there");
    lab.done(&["reload"])?;
    let service = services(&lab)[0].name().to_owned();
    for words in [&["service", "show", &service][..], &["status"], &["stats"]] {
        let shown = lab.json(words)?.to_string();
        assert!(!shown.contains("8f95"), "{shown}");
    }
    assert!(lab.json(&["service", "show", &service])?.to_string().contains("quic.key"));
    Ok(())
}
