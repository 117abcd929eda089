//! The toolchain of the data plane: a compiler that takes unstable features, a
//! core library for BPF, and a linker of the same LLVM as the compiler.
//!
//! rustup's nightly with `rust-src` has the first two, and so does Debian:
//! `rustc-web`, which follows upstream for browsers, comes with a core library
//! built for BPF, and needs nothing but the package archive. Whichever is here
//! is used. Where neither is, Debian's is installed if the archive has it: it
//! changes seldom, and its LLVM is known. `build.rs` of `lb-user` decides alike.

use std::path::Path;

use anyhow::{Context as _, bail};

use super::packages;
use crate::shell;

/// Name under which rustup knows Debian's compiler; `lb-user/build.rs` uses it.
const TOOLCHAIN: &str = "debian";
/// What makes Debian's compiler complete, and what bpf-linker is built with.
const PACKAGES: &[&str] =
    &["g++", "libstd-rust-web-dev-bpf", "llvm-22-dev", "rust-web-clippy", "rustc-web"];
/// LLVM of these packages.
const LLVM: &str = "22";
/// Where the packages put it.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// The version of bpf-linker that was tried with it.
const LINKER_VERSION: &str = "0.13.0";

/// Which toolchain builds the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// Debian's packages, linked into rustup.
    Debian,
    /// rustup's nightly, which builds the core library from its source.
    Nightly,
}

/// Finds the toolchain or installs it.
pub(super) fn ensure() -> anyhow::Result<World> {
    if !shell::has("rustup") {
        bail!("rustup is not installed: get it from https://rustup.rs");
    }
    if runs(TOOLCHAIN) {
        return debian();
    }
    if nightly_has_source() {
        return nightly();
    }
    if shell::has("apt-cache") {
        if !packages::available(PACKAGES) {
            packages::update()?;
        }
        if packages::available(PACKAGES) {
            return debian();
        }
    }
    nightly()
}

fn debian() -> anyhow::Result<World> {
    packages::ensure(PACKAGES)?;
    if !runs(TOOLCHAIN) {
        eprintln!("linking Debian's compiler into rustup as `{TOOLCHAIN}`");
        shell::run(shell::command("rustup").args(["toolchain", "link", TOOLCHAIN, "/usr"]))?;
    }
    let version = shell::answer(shell::command("rustup").args(["run", TOOLCHAIN, "rustc", "-vV"]))
        .with_context(|| format!("rustup's toolchain `{TOOLCHAIN}` does not run"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    if llvm.is_none_or(|llvm| llvm.split('.').next() != Some(LLVM)) {
        bail!("rustup's toolchain `{TOOLCHAIN}` has LLVM {llvm:?}, expected {LLVM}: unlink it");
    }
    if !has_linker() {
        eprintln!("installing bpf-linker {LINKER_VERSION} with LLVM {LLVM}");
        let feature = format!("llvm-{LLVM}");
        let mut install = shell::cargo(&["install", "bpf-linker", "--version", LINKER_VERSION]);
        install.args(["--locked", "--force", "--no-default-features", "--features", &feature]);
        // Without the prefix the build does not find the shared library.
        install.env("LLVM_PREFIX", LLVM_PREFIX);
        install.env("PATH", {
            let mut path = std::ffi::OsString::from(format!("{LLVM_PREFIX}/bin:"));
            path.push(shell::path());
            path
        });
        shell::run(&mut install)?;
    }
    Ok(World::Debian)
}

fn nightly() -> anyhow::Result<World> {
    if !nightly_has_source() {
        eprintln!("installing rustup's nightly with its source");
        let mut install = shell::command("rustup");
        install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        install.args(["--component", "rust-src", "--component", "clippy"]);
        shell::run(&mut install).context(
            "the data plane needs rustup's nightly with `rust-src`, or Debian's `rustc-web`, \
             and neither can be installed",
        )?;
    }
    if !has_linker() {
        eprintln!("installing bpf-linker");
        shell::run(&mut shell::cargo(&["install", "bpf-linker", "--locked", "--force"]))?;
    }
    Ok(World::Nightly)
}

/// Whether rustup has a toolchain and its compiler runs.
fn runs(toolchain: &str) -> bool {
    sysroot(toolchain).is_some()
}

fn nightly_has_source() -> bool {
    sysroot("nightly")
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library").exists())
}

fn sysroot(toolchain: &str) -> Option<String> {
    let words = ["run", toolchain, "rustc", "--print", "sysroot"];
    shell::answer(shell::command("rustup").args(words))
}

/// Whether bpf-linker is there and finds its libraries.
fn has_linker() -> bool {
    shell::answer(shell::command("bpf-linker").arg("--version")).is_some()
}
