//! The lab itself, without a balancer: what fails here is no fault of `lb`.

use std::net::SocketAddr;

use lb_tests::harness::{
    DSR_V4, DSR_V6, Flows, Lab, Load, Result, ask_udp, curl, source_addresses,
};

#[test]
fn backends_answer_directly() -> Result<()> {
    let lab = Lab::new(2)?;
    for backend in &lab.backends {
        for v4 in [true, false] {
            let address = SocketAddr::new(backend.address(v4), 80);
            assert_eq!(
                curl(&lab.client, &format!("http://{address}/"))?,
                format!("{}\n", backend.name)
            );
            assert_eq!(curl(&lab.client, &format!("http://{address}/1k"))?.len(), 1024);
            let echo = SocketAddr::new(backend.address(v4), 7);
            assert_eq!(ask_udp(&lab.client, echo, "hello")?, backend.name);
        }
    }
    Ok(())
}

#[test]
fn routed_traffic_flows_both_ways() -> Result<()> {
    let lab = Lab::new(1)?;
    // Through the balancer's kernel, there and back: the way of mode `nat`.
    lab.client.ip("route add 10.2.0.11/32 via 10.1.0.1 src 10.1.0.2\n -6 route add fd00:2::11/128 via fd00:1::1 src fd00:1::2")?;
    for url in ["http://10.2.0.11/1k", "http://[fd00:2::11]/1k"] {
        let report = Load::new(url).run(&lab.client)?;
        assert!(report.is_clean(), "{}", report.text);
    }
    Ok(())
}

#[test]
fn answers_from_a_dsr_vip_bypass_the_balancer() -> Result<()> {
    let lab = Lab::new(1)?;
    // The balancer's kernel stands in for the balancer: it sends what is for
    // the VIP to the backend, and nothing comes back through it.
    lab.balancer
        .ip(&format!("route add {DSR_V4} via 10.2.0.11\n -6 route add {DSR_V6} via fd00:2::11"))?;
    for vip in [DSR_V4, DSR_V6] {
        let address = SocketAddr::new(vip, 80);
        assert_eq!(curl(&lab.client, &format!("http://{address}/"))?, "b1\n");
        assert_eq!(ask_udp(&lab.client, SocketAddr::new(vip, 7), "hello")?, "b1");
    }
    Ok(())
}

#[test]
fn flows_remember_their_backend() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.balancer.ip(&format!("route add {DSR_V4} via 10.2.0.11"))?;
    let vip = SocketAddr::new(DSR_V4, 80);
    let mut flows = Flows::open(&lab.client, &source_addresses(true), vip, 2000)?;
    assert_eq!(flows.by_backend().get("b1"), Some(&2000));
    assert_eq!(flows.survey(None).kept, 2000);
    Ok(())
}
