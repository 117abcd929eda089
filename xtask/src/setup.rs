//! Installs what is missing, and nothing else.

mod packages;
mod toolchain;

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::shell;

pub(crate) use toolchain::World;

/// What the machine is prepared for; each needs what the one before does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building and linting.
    Build,
    /// The demonstration.
    Run,
    /// All tests.
    Test,
}

/// What the lab consists of, and what its visitors use.
const LAB_PACKAGES: &[&str] = &["curl", "ethtool", "iproute2", "nginx-light", "wrk"];
/// What the tests use besides.
const TEST_PACKAGES: &[&str] = &[
    "bpftool",
    "groff-base",
    "haproxy",
    "iperf3",
    "iputils-ping",
    "keepalived",
    "nftables",
    "openssl",
    "python3-maxminddb",
    "python3-scapy",
    "strace",
    "tcpdump",
    "tshark",
];
/// Where pins go.
const BPF: &str = "/sys/fs/bpf";
/// Types of the running kernel, without which no program is loaded.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Prepares the machine and says which toolchain builds the data plane.
pub(crate) fn setup(purpose: Purpose) -> anyhow::Result<World> {
    let world = toolchain::ensure()?;
    if purpose >= Purpose::Run {
        let more = if purpose == Purpose::Test { TEST_PACKAGES } else { &[] };
        packages::ensure(&[LAB_PACKAGES, more].concat())?;
        check_kernel()?;
        mount_bpf()?;
    }
    Ok(world)
}

fn check_kernel() -> anyhow::Result<()> {
    if !Path::new(KERNEL_TYPES).exists() {
        bail!("the kernel shows no types at `{KERNEL_TYPES}`: use one with CONFIG_DEBUG_INFO_BTF");
    }
    Ok(())
}

/// Mounts the BPF file system, which containers commonly lack.
fn mount_bpf() -> anyhow::Result<()> {
    let mounts =
        std::fs::read_to_string("/proc/self/mounts").context("read `/proc/self/mounts`")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPF)) {
        return Ok(());
    }
    shell::run(shell::root_command("mount")?.args(["-t", "bpf", "bpf", BPF]))
}
