//! Services that share the port of a backend.

use lb_tests::harness::{
    Flows, Lab, Mode, NAT_V4, NAT_V6, OTHER_NAT_V4, OTHER_NAT_V6, Protocol, Result, Service,
    source_addresses,
};

#[test]
fn each_flow_to_a_shared_backend_is_counted_once() -> Result<()> {
    let lab = Lab::new(1)?;
    let vips = [NAT_V4, OTHER_NAT_V4, NAT_V6, OTHER_NAT_V6];
    let services =
        vips.map(|vip| Service::new(vip, Protocol::Tcp, 80, Mode::Nat).with(&lab.backends));
    let config = lab.config(services);
    let _agent = lab.start_agent(&config)?;
    let mut open = Vec::new();
    for (number, vip) in (1..).zip(vips) {
        let sources = source_addresses(vip.is_ipv4());
        open.push(Flows::open(&lab.client, &sources, (vip, 80).into(), 10 * number)?);
    }
    for (number, service) in (1..).zip(&config.services) {
        let flows = lab.backends_by(service.name(), "flows")?;
        assert_eq!(flows["b1"], 10 * number, "{}", service.name());
        let count = lab.done(&["flow", "count", "--service", service.name()])?.stdout;
        assert_eq!(count.trim(), (10 * number).to_string(), "{}", service.name());
    }
    assert_eq!(lab.json(&["status"])?["flows"], 100);
    assert_eq!(lab.done(&["flow", "count"])?.stdout.trim(), "100");
    // What is flushed is flows, too: their entries for replies run out.
    assert!(lab.done(&["flow", "flush", "--all"])?.stdout.contains("100"));
    Ok(())
}
