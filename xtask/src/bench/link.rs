//! What the system says about an interface.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::harness::{Netns, run};

/// An interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Its index.
    pub(super) ifindex: u32,
    /// Its Ethernet address.
    pub(super) mac: [u8; 6],
}

/// Looks `interface` up.
pub(super) fn of(netns: &Netns, interface: &str) -> Result<Link> {
    let mut command = netns.command("ip");
    command.args(["-json", "link", "show", "dev", interface]);
    let output = run(&mut command, Duration::from_secs(10))?;
    let links: serde_json::Value = serde_json::from_str(&output.stdout)?;
    let text = links[0]["address"].as_str().context("`ip` tells no address")?;
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    let ifindex = links[0]["ifindex"].as_u64().context("`ip` tells no index")?;
    Ok(Link { ifindex: u32::try_from(ifindex)?, mac })
}
