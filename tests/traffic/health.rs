//! Probes of every kind against real servers: who is up, and why the others
//! are not.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_tests::harness::{
    Agent, Backend, Echo, Lab, LineServer, Mode, NAT_V4, Process, Protocol, Result, Service,
    eventually, run, source_addresses, spread_udp, tool,
};
use serde_json::Value;

use super::{ECHO, WEB};

/// How long a probe's outcome may take to show.
const PATIENCE: Duration = Duration::from_secs(15);
/// Port of the TLS servers.
const TLS: u16 = 443;
/// Port of the servers that say how they are.
const LINE: u16 = 9000;
/// Port of the DNS server.
const DNS: u16 = 53;

/// A service at all backends that are probed like this.
fn probed(lab: &Lab, protocol: Protocol, port: u16, health: &str) -> Service {
    let lines = format!(
        "[service.health]\ninterval = \"200ms\"\ntimeout = \"150ms\"\nrise = 1\nfall = 1\n{health}"
    );
    Service::new(NAT_V4, protocol, port, Mode::Nat).with(&lab.backends).lines(&lines)
}

/// Waits until a backend's health is as it should be; returns the last reason.
pub(super) fn becomes(
    lab: &Lab,
    agent: &Agent,
    service: &str,
    backend: &str,
    health: &str,
) -> String {
    let mut reason = String::new();
    let done = eventually(PATIENCE, || {
        let list = lab.json(&["backend", "list", service]).unwrap_or_default();
        let mut all = list.as_array().into_iter().flatten();
        let found = all.find(|found| found["name"] == backend).cloned().unwrap_or_default();
        reason = found["reason"].as_str().unwrap_or_default().to_owned();
        found["health"] == health
    });
    assert!(done, "{service}/{backend} is not {health} but `{reason}`: {}", agent.log());
    reason
}

#[test]
fn plain_probes_tell_who_serves_and_why_the_others_do_not() -> Result<()> {
    let lab = Lab::new(2)?;
    let script = lab.path("check");
    fs::write(&script, "#!/bin/sh\n[ $LB_ADDRESS = 10.2.0.11 ] || { echo disk full; exit 3; }\n")
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let first = &lab.backends[0];
    // Any answer that repeats the question with the bit QR set is one.
    let answer = |query: &[u8]| {
        query.iter().enumerate().map(|(i, b)| if i == 2 { b | 0x80 } else { *b }).collect()
    };
    let _dns = Echo::answering(&first.netns, &[first.address(true)], DNS, answer)?;
    let exec = format!("kind = \"exec\"\ncommand = [{script:?}]");
    // What is probed, and what is wrong with the second backend, if anything.
    let cases = [
        (probed(&lab, Protocol::Tcp, WEB, "kind = \"http\"\npath = \"/1k\""), None),
        (probed(&lab, Protocol::Tcp, 8080, "kind = \"tcp\""), None),
        (probed(&lab, Protocol::Tcp, 8443, &exec), Some("disk full")),
        (
            probed(&lab, Protocol::Udp, ECHO, "kind = \"udp\"\nsend = \"hi\"\nexpect = \"b1:hi\""),
            Some("answer begins with `b2:hi`"),
        ),
        (
            probed(&lab, Protocol::Udp, DNS, "kind = \"dns\"\nname = \"web.test\""),
            Some("port unreachable"),
        ),
    ];
    let agent = lab.start_agent(&lab.config(cases.iter().map(|(service, _)| service.clone())))?;
    for (service, wrong) in &cases {
        becomes(&lab, &agent, service.name(), "b1", "up");
        let Some(wrong) = wrong else {
            becomes(&lab, &agent, service.name(), "b2", "up");
            continue;
        };
        let reason = becomes(&lab, &agent, service.name(), "b2", "down");
        assert!(reason.contains(wrong), "{}: {reason}", service.name());
        assert_eq!(lab.backends_by(service.name(), "effective_weight")?["b2"], 0);
    }
    // New flows follow.
    let to = (NAT_V4, ECHO).into();
    let takers = spread_udp(&lab.client, &source_addresses(true), to, 50)?;
    assert_eq!(takers.keys().collect::<Vec<_>>(), ["b1"]);
    // A page that is not there, and a port where nobody listens.
    let web = cases[0].0.name();
    lab.done(&["service", "set", web, "health.path=/none"])?;
    let reason = becomes(&lab, &agent, web, "b1", "down");
    assert!(reason.contains("404"), "{reason}");
    let tcp = cases[1].0.name();
    lab.done(&["service", "set", tcp, "health.port=81"])?;
    // What follows is said of a busy host.
    let reason = becomes(&lab, &agent, tcp, "b2", "down");
    assert!(reason.starts_with("connection refused"), "{reason}");
    Ok(())
}

#[test]
fn a_certificate_of_an_unknown_authority_is_the_reason() -> Result<()> {
    let lab = Lab::new(2)?;
    let [ours, other] = ["ours", "other"].map(|name| authority(&lab, name));
    let (ours, other) = (ours?, other?);
    let _servers =
        [tls_server(&lab, &lab.backends[0], &ours)?, tls_server(&lab, &lab.backends[1], &other)?];
    let probe = format!(
        "kind = \"https\"\nhost = \"web.test\"\nca_file = {:?}",
        ours.with_extension("pem")
    );
    let service = probed(&lab, Protocol::Tcp, TLS, &probe);
    let name = service.name().to_owned();
    let agent = lab.start_agent(&lab.config([service]))?;
    becomes(&lab, &agent, &name, "b1", "up");
    let reason = becomes(&lab, &agent, &name, "b2", "down");
    assert!(reason.contains("certificate"), "{reason}");
    lab.done(&["service", "set", &name, "health.host=other.test"])?;
    let reason = becomes(&lab, &agent, &name, "b1", "down");
    assert!(reason.contains("web.test") && reason.contains("other.test"), "{reason}");
    lab.done(&["service", "set", &name, "health.verify=false", "health.host=web.test"])?;
    becomes(&lab, &agent, &name, "b1", "up");
    becomes(&lab, &agent, &name, "b2", "up");
    Ok(())
}

#[test]
fn a_file_that_this_host_cannot_use_takes_no_backend_down() -> Result<()> {
    let lab = Lab::new(1)?;
    let authority = authority(&lab, "ours")?;
    let _server = tls_server(&lab, &lab.backends[0], &authority)?;
    // Who opens it waits for a writer.
    let fifo = lab.path("fifo").display().to_string();
    run(tool("mkfifo").arg(&fifo), PATIENCE)?;
    let probe = format!("kind = \"https\"\nhost = \"web.test\"\nca_file = {fifo:?}");
    let service = probed(&lab, Protocol::Tcp, TLS, &probe);
    let name = service.name().to_owned();
    let agent = lab.start_agent(&lab.config([service]))?;
    let stays = |health: &str, why: &str| {
        let says = || {
            let reason = lab.backends_by(&name, "reason").unwrap_or_default();
            reason.get("b1").and_then(Value::as_str).is_some_and(|reason| reason.contains(why))
        };
        assert!(eventually(PATIENCE, says), "never `{why}`: {}", agent.log());
        assert_eq!(lab.backends_by(&name, "health").unwrap()["b1"], health);
    };
    stays("unknown", "no regular file, expected");
    assert!(lab.done(&["reload"])?.stderr.contains("is no regular file on this host"));
    let pem = authority.with_extension("pem");
    let copy = lab.path("copy.pem");
    let set = format!("health.ca_file={}", copy.display());
    lab.done(&["service", "set", &name, &set])?;
    stays("unknown", "no such file or directory, expected");
    fs::copy(pem, &copy).unwrap();
    becomes(&lab, &agent, &name, "b1", "up");
    lab.done(&["service", "set", &name, &format!("health.ca_file={fifo}")])?;
    stays("up", "no regular file, expected");
    Ok(())
}

#[test]
fn what_a_backend_says_of_itself_sets_its_weight_and_state() -> Result<()> {
    let lab = Lab::new(2)?;
    let server = |backend: &Backend| {
        LineServer::start(&backend.netns, backend.address(true), LINE, "up 100%")
    };
    let (one, two) = (server(&lab.backends[0])?, server(&lab.backends[1])?);
    let service = probed(&lab, Protocol::Udp, ECHO, &format!("kind = \"agent\"\nport = {LINE}"));
    let name = service.name().to_owned();
    let agent = lab.start_agent(&lab.config([service]))?;
    becomes(&lab, &agent, &name, "b1", "up");
    becomes(&lab, &agent, &name, "b2", "up");
    let shows = |field: &str, value: Value| {
        let shown = || lab.backends_by(&name, field).is_ok_and(|all| all["b1"] == value);
        assert!(eventually(PATIENCE, shown), "no {field} {value}: {}", agent.log());
    };
    one.say("up 50%");
    shows("effective_weight", 50.into());
    let sources = source_addresses(true);
    let counts = spread_udp(&lab.client, &sources, (NAT_V4, ECHO).into(), 2000)?;
    let share = counts["b1"] as f64 / 2000.0;
    assert!((share - 1.0 / 3.0).abs() < 0.06, "{counts:?}");
    one.say("drain");
    shows("effective_weight", 0.into());
    assert_eq!(lab.json(&["service", "show", &name])?["up"], 1);
    one.say("ready up 100%");
    shows("effective_weight", 100.into());
    // Who stands above it may order otherwise, and weighs it.
    lab.done(&["backend", "set", &name, "b1", "--weight", "40"])?;
    shows("effective_weight", 40.into());
    two.say("down # out of memory");
    let reason = becomes(&lab, &agent, &name, "b2", "down");
    assert!(reason.starts_with("says `down`: out of memory"), "{reason}");
    drop(one);
    let reason = becomes(&lab, &agent, &name, "b1", "down");
    assert!(reason.starts_with("connection refused"), "{reason}");
    Ok(())
}

#[test]
fn a_backend_that_was_down_is_so_for_the_next_agent_whatever_was_ordered() -> Result<()> {
    let lab = Lab::new(3)?;
    let mut servers = Vec::new();
    for backend in &lab.backends {
        servers.push(LineServer::start(&backend.netns, backend.address(true), LINE, "up")?);
    }
    let with = |lines: &str| {
        let health = format!("[service.health]\nkind = \"tcp\"\nport = {LINE}\n{lines}");
        let service = Service::new(NAT_V4, Protocol::Tcp, 80, Mode::Nat);
        lab.config([service.with(&lab.backends).lines(&health)])
    };
    let quick = with("interval = \"200ms\"\ntimeout = \"150ms\"\nrise = 1\nfall = 1");
    let name = quick.services[0].name().to_owned();
    let agent = lab.start_agent(&quick)?;
    for backend in ["b1", "b2", "b3"] {
        becomes(&lab, &agent, &name, backend, "up");
    }
    drop(servers.drain(1..));
    for backend in ["b2", "b3"] {
        becomes(&lab, &agent, &name, backend, "down");
    }
    lab.done(&["backend", "drain", &name, "b2"])?;
    lab.done(&["backend", "maint", &name, "b1"])?;
    agent.kill()?;
    // Its own probes would take an hour.
    let _agent = lab.start_agent(&with("interval = \"10m\"\nfall = 10"))?;
    let health = lab.backends_by(&name, "health")?;
    assert_eq!(["b2", "b3"].map(|backend| &health[backend]), ["down"; 2]);
    assert_ne!(health["b1"], "down");
    Ok(())
}

/// `openssl req` of a new key and certificate, which go to `path` with the
/// endings `key` and `pem`.
fn certify(path: &Path, words: &[&str]) -> Result<()> {
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut command = tool("openssl");
    command.args(["req", "-x509", "-days", "2"]).args(curve).args(words);
    command.arg("-keyout").arg(path.with_extension("key"));
    command.arg("-out").arg(path.with_extension("pem"));
    run(&mut command, Duration::from_secs(10)).map(drop)
}

/// Makes an authority.
fn authority(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.path(name);
    certify(&path, &["-subj", &format!("/CN={name}")])?;
    Ok(path)
}

/// nginx with a certificate for `web.test`.
fn tls_server(lab: &Lab, backend: &Backend, authority: &Path) -> Result<Process> {
    let path = lab.path(&format!("tls-{}", backend.name));
    let [pem, key] = ["pem", "key"].map(|end| authority.with_extension(end).display().to_string());
    let names = ["-addext", "subjectAltName=DNS:web.test"];
    let no_authority = ["-addext", "basicConstraints=critical,CA:FALSE"];
    let signed = ["-subj", "/CN=web.test", "-CA", &pem, "-CAkey", &key];
    certify(&path, &[&signed[..], &names, &no_authority].concat())?;
    let file = path.with_extension("conf");
    let server = path.display();
    let configuration = format!(
        "daemon off;
master_process off;
pid {server}.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {server}.body;
    proxy_temp_path {server}.proxy;
    fastcgi_temp_path {server}.fastcgi;
    scgi_temp_path {server}.scgi;
    uwsgi_temp_path {server}.uwsgi;
    server {{
        listen {TLS} ssl;
        ssl_certificate {server}.pem;
        ssl_certificate_key {server}.key;
        location / {{ return 200 ok; }}
    }}
}}
"
    );
    fs::write(&file, configuration).unwrap();
    let mut command = backend.netns.command("nginx");
    Process::start(command.arg("-e").arg("stderr").arg("-c").arg(&file))
}
