//! Formatting, lints, documentation.

use crate::{
    setup::World,
    shell::{self, cargo},
};

/// All crates but the data plane, which the host's compiler cannot build.
pub(crate) const HOST_CRATES: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

/// Checks everything; a warning is a failure.
pub(crate) fn lint(world: World) -> anyhow::Result<()> {
    shell::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let mut clippy = cargo(&["clippy", "--all-targets"]);
    shell::run(clippy.args(HOST_CRATES).args(["--", "-D", "warnings"]))?;
    data_plane(world)?;
    let mut doc = cargo(&["doc", "--no-deps", "--document-private-items"]);
    shell::run(doc.args(HOST_CRATES).env("RUSTDOCFLAGS", "-D warnings"))
}

fn data_plane(world: World) -> anyhow::Result<()> {
    // Not `cargo +TOOLCHAIN`: below another cargo, the first of the name in
    // `PATH` need not be rustup's.
    let mut clippy = shell::command("rustup");
    match world {
        World::Debian => {
            clippy.env("RUSTC_BOOTSTRAP", "1").args(["run", "debian", "cargo", "clippy"]);
        }
        World::Nightly => {
            clippy.args(["run", "nightly", "cargo", "clippy", "-Z", "build-std=core"]);
        }
    }
    let crates = ["--package", "lb-ebpf", "--package", "lb-bench-ebpf"];
    clippy.args(crates).args(["--target", "bpfel-unknown-none"]);
    shell::run(clippy.args(["--", "-D", "warnings"]))
}
