//! `lb decap` at a backend.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Netns, Result, lb_binary, owner::BPF, run};

/// `node.tunnel_sources` of tests, of both families.
pub const TUNNEL_SOURCES: [&str; 2] = ["10.255.7.0/24", "fd00:ff:0:7::/64"];
/// How long the command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The line of a configuration that names [`TUNNEL_SOURCES`].
#[must_use]
pub fn tunnel_sources() -> String {
    format!("tunnel_sources = {TUNNEL_SOURCES:?}\n")
}

/// `lb decap`, pinned apart for each namespace.
#[must_use]
pub fn decap(netns: &Netns) -> Command {
    let mut command = netns.command(lb_binary());
    command.args(["decap", "--pin-dir"]).arg(decap_pins(netns));
    command
}

/// Where [`decap`] pins.
#[must_use]
pub fn decap_pins(netns: &Netns) -> PathBuf {
    Path::new(BPF).join(netns.name())
}

/// Unwraps what comes in at `interface` from [`TUNNEL_SOURCES`] for these VIPs.
///
/// # Errors
/// `lb` refuses.
pub fn unwrap_for(netns: &Netns, interface: &str, vips: &[IpAddr]) -> Result<()> {
    let mut command = decap(netns);
    command.args(["--interface", interface]);
    for source in TUNNEL_SOURCES {
        command.args(["--source", source]);
    }
    for vip in vips {
        command.args(["--vip", &vip.to_string()]);
    }
    run(&mut command, PATIENCE).map(drop)
}
