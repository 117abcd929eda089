//! Flows made up for one node: packets that its program is run with.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Range,
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::programs::{ProgramFd, ProgramInfo};
use lb_bench::{Order, PORTS_PER_ADDRESS};
use lb_common::maps;
use lb_tests::harness::{Netns, Node, eventually};

use super::PATIENCE;
use crate::bench::{
    driver::{Driver, Stream, expect_verdict},
    frame::{self, Client, Macs, Transport},
    link,
};

/// Port of the services.
pub(super) const PORT: u16 = 80;
/// Address of the first flow's client.
pub(super) const FIRST: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// Verdict on every packet, `linux/bpf.h`: backends are behind another interface.
const XDP_REDIRECT: u32 = 4;
/// The node's interface towards clients, and that of the router.
const INTERFACES: [&str; 2] = ["l0", "r1"];

/// An interface for [`Driver::stand_by`], and who does.
pub(super) const QUIET: &str = "quiet0";
const DRIVER: &str = "tcp_v4";

/// Who sends packets to a node. To be made and used in its namespace.
pub(super) struct Source {
    driver: Driver,
    program: ProgramFd,
    macs: Macs,
}

impl Source {
    /// To a node with these pins.
    pub(super) fn to(node: &Node, router: &Netns, pins: &Path, object: &[u8]) -> Result<Self> {
        let here = link::of(&node.netns, INTERFACES[0])?;
        let router = link::of(router, INTERFACES[1])?;
        let program = ProgramInfo::from_pin(pins.join(maps::PROGRAM))
            .context("open the pinned program")?
            .fd()?;
        let mut driver = Driver::load(object, here.ifindex)?;
        driver.stand_by(DRIVER, QUIET)?;
        Ok(Self { driver, program, macs: Macs { to: here.mac, from: router.mac } })
    }

    /// Waits until packets to these VIPs are forwarded: next hops may not be known
    /// at first. The packets are of the first flow.
    pub(super) fn wait(&mut self, vips: &[IpAddr]) -> Result<()> {
        for &vip in vips {
            let stream = self.stream(vip, 0..1);
            let mut seen = None;
            let _ = eventually(PATIENCE, || {
                seen = Some(self.driver.run(&stream, &self.program, 1).map(|run| run.verdict));
                !matches!(seen, Some(Ok(verdict)) if verdict != XDP_REDIRECT)
            });
            let verdict = seen.context("no packet was sent")??;
            expect_verdict(&format!("a packet to {vip}"), verdict, XDP_REDIRECT)?;
        }
        Ok(())
    }

    /// Sends two packets of each flow: that establishes them. Nanoseconds per packet.
    pub(super) fn establish(&mut self, vip: IpAddr, flows: Range<u32>) -> Result<f64> {
        let packets = flows.end - flows.start;
        let first = self.visit(vip, flows.clone(), packets)?;
        Ok(f64::midpoint(first, self.visit(vip, flows, packets)?))
    }

    /// Sends packets of flows in turn. Nanoseconds per packet.
    pub(super) fn visit(&mut self, vip: IpAddr, flows: Range<u32>, packets: u32) -> Result<f64> {
        let stream = self.stream(vip, flows);
        let run = self.driver.run(&stream, &self.program, packets)?;
        // A node that serves no more drops them.
        expect_verdict(&format!("a packet to {vip}"), run.verdict, XDP_REDIRECT)?;
        Ok(run.ns)
    }

    /// What the driver itself takes: nanoseconds per packet.
    pub(super) fn idle(&mut self, vip: IpAddr, flows: Range<u32>, packets: u32) -> Result<f64> {
        let stream = self.stream(vip, flows);
        Ok(self.driver.idle(&stream, packets)?.ns)
    }

    fn stream(&self, vip: IpAddr, flows: Range<u32>) -> Stream {
        assert!(flows.start.is_multiple_of(PORTS_PER_ADDRESS), "flow {}", flows.start);
        let (network, other) = (Ipv6Addr::UNSPECIFIED, (vip, PORT));
        Stream {
            driver: DRIVER,
            template: frame::template(self.macs, Client::Source, network, other, Transport::DATA),
            order: Order::Walk,
            flows: flows.end - flows.start,
            first_address: FIRST + flows.start / PORTS_PER_ADDRESS,
            other_port: PORT,
        }
    }
}
