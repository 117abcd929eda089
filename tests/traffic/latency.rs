//! Policy `latency`: new flows go where connections are accepted soon.

use std::{collections::BTreeMap, net::TcpStream, time::Duration};

use lb_tests::harness::{Lab, Mode, NAT_V4, NAT_V6, Protocol, Result, Service, eventually, run};
use serde_json::Value;

use super::WEB;

/// How long weights may take to follow.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn new_flows_leave_a_backend_that_accepts_connections_late() -> Result<()> {
    let lab = Lab::new(3)?;
    // Nobody probes: what is known comes from the clients' own connections.
    let lines = "policy = \"latency\"\n[service.health]\nkind = \"none\"";
    let services = [NAT_V4, NAT_V6].map(|vip| {
        Service::new(vip, Protocol::Tcp, WEB, Mode::Nat).with(&lab.backends).lines(lines)
    });
    let names = services.each_ref().map(|service| service.name().to_owned());
    let agent = lab.start_agent(&lab.config(services))?;
    // 5000 bytes a second: a SYN-ACK takes 15 ms. Nothing longer is sent.
    let slow = "qdisc add dev eth0 root tbf rate 40kbit burst 100 latency 1s";
    run(lab.backends[2].netns.command("tc").args(slow.split(' ')), Duration::from_secs(10))?;
    for (vip, name) in [NAT_V4, NAT_V6].into_iter().zip(names) {
        let connect = || TcpStream::connect_timeout(&(vip, WEB).into(), Duration::from_secs(5));
        let mut seen = String::new();
        let moved = eventually(PATIENCE, || {
            let all = lab.client.within(|| (0..30).try_for_each(|_| connect().map(drop)));
            let of = |field| lab.backends_by(&name, field).unwrap_or_default();
            let (weights, handshakes) = (of("effective_weight"), of("handshake_us"));
            seen = format!("{all:?}, weights {weights:?}, handshakes {handshakes:?}");
            let of_slow = |all: BTreeMap<String, Value>| all.get("b3").and_then(Value::as_u64);
            let (weight, handshake) = (of_slow(weights), of_slow(handshakes));
            weight.is_some_and(|weight| weight <= 50) && handshake > Some(5_000)
        });
        assert!(moved, "{name}: {seen}: {}", agent.log());
    }
    Ok(())
}
