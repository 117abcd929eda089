//! Builds the eBPF programs of the bench.

use std::{env::consts::ARCH, path::PathBuf};

use crate::{setup::World, shell};

/// Crates of the object that use unstable compiler features.
const UNSTABLE: &str = "aya_ebpf,aya_ebpf_bindings,aya_ebpf_cty,lb_bench";
const TARGET: &str = "bpfel-unknown-none";

/// Builds the object and says where it is. This happens here and not in a
/// build script because xtask itself must build before the toolchain for BPF
/// is there: it is xtask that installs it.
pub(super) fn build(world: World) -> anyhow::Result<PathBuf> {
    let target_dir = shell::root().join("target/bench-ebpf");
    let mut cargo = shell::command("rustup");
    match world {
        World::Debian => {
            cargo.args(["run", "debian", "cargo", "build"]).env("RUSTC_BOOTSTRAP", UNSTABLE)
        }
        World::Nightly => cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]),
    };
    cargo.args(["--release", "--package", "lb-bench-ebpf", "--bins", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target_dir);
    // As aya-build does for the data plane.
    let flags = format!("--cfg=bpf_target_arch=\"{ARCH}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    // Set by the cargo that runs this program, for its own toolchain.
    cargo.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    shell::run(&mut cargo)?;
    Ok(target_dir.join(TARGET).join("release/lb-bench"))
}
