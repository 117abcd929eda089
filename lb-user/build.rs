//! Builds the eBPF object that the library embeds.

use std::process::Command;

use anyhow::Context as _;
use aya_build::{Package, Toolchain, build_ebpf};

/// Crates of the eBPF program that use unstable compiler features.
const UNSTABLE: &str = "aya_ebpf,aya_ebpf_bindings,aya_ebpf_cty,aya_log_ebpf,lb_xdp";

/// `cargo xtask setup` links this toolchain where it uses the distribution's
/// compiler, which brings the core library for BPF prebuilt.
const DISTRIBUTION_TOOLCHAIN: &str = "debian";

fn main() -> anyhow::Result<()> {
    let package = Package { name: "lb-ebpf", root_dir: "../lb-ebpf", ..Default::default() };
    println!("cargo:rerun-if-changed=../lb-common");
    let distribution = Command::new("rustup")
        .args(["run", DISTRIBUTION_TOOLCHAIN, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    let toolchain = if distribution {
        // SAFETY: the build script has one thread.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", UNSTABLE) };
        Toolchain::Custom(DISTRIBUTION_TOOLCHAIN)
    } else {
        Toolchain::Nightly
    };
    build_ebpf([package], toolchain).context("run `cargo xtask setup` to install what is missing")
}
