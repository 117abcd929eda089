//! Runs a stream of packets through a program and times it.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use bytemuck::Zeroable as _;
use lb_bench::{Control, FRAME, Order};

use super::{
    frame::is_valid,
    os::{CpuTime, go_on},
};

/// A sequence of packets.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Driver program, a function of `tests/ebpf/src/drive.rs`.
    pub(super) driver: &'static str,
    /// The frame, see [`super::frame`].
    pub(super) template: [u8; FRAME],
    /// Which flow comes next.
    pub(super) order: Order,
    /// Number of flows, for any order but [`Order::Fresh`].
    pub(super) flows: u32,
    /// First client address, or the last 32 bits of it.
    pub(super) first_address: u32,
    /// The other end's port.
    pub(super) other_port: u16,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Verdict on the last packet.
    pub(super) verdict: u32,
    /// Nanoseconds of this thread per packet, the driver's share included.
    pub(super) ns: f64,
}

/// `struct xdp_md` of `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// The loaded driver.
pub(super) struct Driver {
    ebpf: Ebpf,
    target: ProgramArray<MapData>,
    control: Array<MapData, [u8; size_of::<Control>()]>,
    bounce: ProgramFd,
    ingress: u32,
    sent: u64,
}

const DRIVERS: [&str; 9] = [
    "tcp_v4",
    "udp_v4",
    "tcp_v4_reply",
    "tcp_v6",
    "udp_v6",
    "tcp_v4_short",
    "udp_v4_short",
    "tcp_v6_short",
    "same",
];

impl Driver {
    /// Loads the bench's object. Packets come in by the interface `ingress` of
    /// the caller's network namespace.
    pub(super) fn load(object: &[u8], ingress: u32) -> Result<Self> {
        let mut ebpf = Ebpf::load(object).context("load the driver")?;
        for name in DRIVERS {
            load_program(&mut ebpf, name)?;
        }
        let bounce = load_program(&mut ebpf, "bounce")?;
        let mut map = |name| ebpf.take_map(name).with_context(|| format!("no map `{name}`"));
        Ok(Self {
            target: map("TARGET")?.try_into()?,
            control: map("CONTROL")?.try_into()?,
            bounce,
            ebpf,
            ingress,
            sent: 0,
        })
    }

    /// Attaches a driver to an interface that no packet comes by: the kernel has a
    /// trampoline for XDP programs that are attached, and for others makes one for each
    /// run, which takes two RCU grace periods, some 15 ms (`bpf_prog_test_run_xdp`,
    /// net/bpf/test_run.c). Short runs can follow each other only so.
    pub(super) fn stand_by(&mut self, driver: &str, interface: &str) -> Result<()> {
        let program = self.ebpf.program_mut(driver).context("no such driver")?;
        let program: &mut Xdp = program.try_into()?;
        program
            .attach(interface, XdpMode::Skb)
            .with_context(|| format!("attach to {interface}"))?;
        Ok(())
    }

    /// Sends `packets` packets of `stream` through `target`.
    pub(super) fn run(&mut self, stream: &Stream, target: &ProgramFd, packets: u32) -> Result<Run> {
        self.send(stream, target, packets, None)
    }

    /// The driver's own cost: a run through a program that does nothing.
    pub(super) fn idle(&mut self, stream: &Stream, packets: u32) -> Result<Run> {
        let bounce = self.bounce.try_clone()?;
        self.run(stream, &bounce, packets)
    }

    /// Sends every flow of `stream` once, in order of their numbers.
    pub(super) fn visit_all(&mut self, stream: &Stream, target: &ProgramFd) -> Result<()> {
        let stream = Stream { order: Order::Walk, ..stream.clone() };
        self.run(&stream, target, stream.flows).map(drop)
    }

    /// Fails unless the driver makes valid frames of `stream`.
    pub(super) fn check(&mut self, stream: &Stream) -> Result<()> {
        let bounce = self.bounce.try_clone()?;
        for _ in 0..100 {
            let mut frame = [0; FRAME];
            self.send(stream, &bounce, 1, Some(&mut frame))?;
            ensure!(is_valid(&frame), "`{}`: bad checksum in {frame:02x?}", stream.driver);
        }
        Ok(())
    }

    fn send(
        &mut self,
        stream: &Stream,
        target: &ProgramFd,
        packets: u32,
        last: Option<&mut [u8]>,
    ) -> Result<Run> {
        let Stream { driver, template, order, flows, first_address, other_port } = *stream;
        self.target.set(0, target, 0).with_context(|| {
            let fd = target.as_fd().as_raw_fd();
            format!(
                "tail-call the measured program (descriptor {fd}): like the driver it must be an \
                 XDP program without multi-buffer support"
            )
        })?;
        let control = Control {
            template,
            count: self.sent,
            order: order as u32,
            flows,
            step: step(flows),
            index: (self.sent % u64::from(flows.max(1))) as u32,
            first_address,
            other_port: u32::from(other_port.to_be()),
        };
        self.control.set(0, bytemuck::cast::<_, [u8; size_of::<Control>()]>(control), 0)?;
        self.sent += u64::from(packets);

        let md = XdpMd { data_end: FRAME as u32, ingress_ifindex: self.ingress, ..XdpMd::zeroed() };
        let program: &Xdp = self.ebpf.program(driver).context("no such driver")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&template),
            data_out: last,
            ctx_in: Some(bytemuck::bytes_of(&md)),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let start = CpuTime::now()?;
        let result = program.test_run(options);
        let elapsed = start.elapsed()?;
        // An interrupted run fails too, but that is not what is to be told.
        go_on()?;
        let result = result.with_context(|| format!("run `{driver}`"))?;
        Ok(Run { verdict: result.return_value, ns: elapsed.as_nanos() as f64 / f64::from(packets) })
    }
}

/// Loads one program of the bench's object.
pub(super) fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("load `{name}`"))?;
    Ok(program.fd()?.try_clone()?)
}

/// A stride with no divisor in common with `flows`, near their golden section,
/// which takes the numbers that follow each other far apart.
fn step(flows: u32) -> u32 {
    fn gcd(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let golden = (f64::from(flows) * 0.618) as u32;
    (golden.max(1)..).find(|&step| gcd(step, flows.max(1)) == 1).unwrap_or(1)
}

/// Fails unless a verdict is the expected one.
pub(super) fn expect_verdict(what: &str, verdict: u32, expected: u32) -> Result<()> {
    let name = |verdict| match verdict {
        0 => "XDP_ABORTED",
        1 => "XDP_DROP",
        2 => "XDP_PASS",
        3 => "XDP_TX",
        4 => "XDP_REDIRECT",
        _ => "none",
    };
    ensure!(
        verdict == expected,
        "`{what}`: verdict {}, expected {}",
        name(verdict),
        name(expected)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_visits_every_flow() {
        for flows in [1, 2, 3, 1_000, 100_000] {
            let step = u64::from(step(flows));
            let mut seen = vec![false; flows as usize];
            for i in 0..u64::from(flows) {
                seen[(i * step % u64::from(flows)) as usize] = true;
            }
            assert!(seen.into_iter().all(|seen| seen), "{flows} flows");
        }
    }
}
