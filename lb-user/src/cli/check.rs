//! `lb check`.

use std::{fs, path::PathBuf};

use lb_common::tunnel;

use super::{Failure, console::Console, count};
use crate::{
    config::{self, local::LocalFile},
    core::model::{Model, Protocol, Service},
};

/// Check a configuration file without touching anything
///
/// Prints every mistake at once, each with its line, key and value, the rule
/// it breaks and what to write instead, and exits with status 64. Warns of
/// what is legal but may not be what was meant. Needs no privileges.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration file
    file: PathBuf,
    /// Check as `lb agent --interface NAME` would read it
    #[arg(long, value_name = "NAME", value_parser = super::agent::interface)]
    interface: Vec<String>,
}

impl Check {
    pub(super) fn run(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let model = config::load(&self.file, &self.interface)?.model;
        let file = self.file.display();
        let files = config::local::files(&model);
        let lacks = files.iter().filter_map(LocalFile::lack);
        for surprise in config::surprise::surprises(&model).into_iter().chain(lacks) {
            console.tell(format_args!("warning: {file}: {surprise}"));
        }
        for advice in segments(&model) {
            console.tell(format_args!("note: {file}: {advice}"));
        }
        console.say(format_args!("{file}: ok: {}", summary(&model)))
    }
}

fn summary(model: &Model) -> String {
    let backends: usize = model.services.iter().map(|service| service.backends.len()).sum();
    let services = count(model.services.len() as u64, "service");
    let interfaces = count(model.node.interfaces.len() as u64, "interface");
    format!("{services}, {}, {interfaces}", count(backends as u64, "backend"))
}

/// Bytes of a packet on a link whose MTU is not known.
const ETHERNET: u32 = 1500;
/// Bytes of a TCP header.
const TCP: u32 = 20;

/// The longest segments that fit into the packets that tunnels carry: what backends
/// announce is what clients send.
fn segments(model: &Model) -> impl Iterator<Item = String> {
    let mtus = model.node.interfaces.iter().map(|interface| {
        let mtu = fs::read_to_string(format!("/sys/class/net/{interface}/mtu"));
        mtu.ok().and_then(|mtu| mtu.trim().parse().ok()).unwrap_or(ETHERNET)
    });
    let mtu = mtus.min().unwrap_or(ETHERNET);
    let tunnelled =
        |service: &&Service| service.mode.is_tunnel() && service.protocol == Protocol::Tcp;
    model.services.iter().filter(tunnelled).filter_map(move |service| {
        let overheads = service.backends.iter().map(|backend| service.mode.overhead(backend.address));
        let overhead = overheads.max()?;
        let header = tunnel::overhead(service.vip.is_ipv4(), false);
        let mss = mtu.checked_sub(overhead + header + TCP)?;
        Some(format!(
            "service `{}`: {overhead} of {mtu} bytes are for the tunnel: have its backends announce \
             an MSS of {mss} at most, such as by `ip route change default … advmss {mss}`",
            service.name
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{Mode, sample};

    #[test]
    fn segments_leave_room_for_both_headers() {
        let advice = |mode, vip, address: &str| {
            let mut service = sample::service(vip, (80, 80), Protocol::Tcp, mode);
            service.backends.push(sample::backend(address.parse().unwrap(), None, 1));
            let mut model = sample::model(vec![service]);
            model.node.interfaces = vec!["no-such-link".to_owned()];
            segments(&model).collect::<Vec<_>>().join("\n")
        };
        for (mode, vip, address, mss) in [
            (Mode::Ipip, "203.0.113.1", "10.0.0.1", 1500 - 20 - 40),
            (Mode::Gue, "203.0.113.1", "fd00::1", 1500 - 48 - 40),
            (Mode::Ipip, "2001:db8::1", "10.0.0.1", 1500 - 20 - 60),
            (Mode::Gue, "2001:db8::1", "fd00::1", 1500 - 48 - 60),
        ] {
            let advice = advice(mode, vip, address);
            assert!(advice.ends_with(&format!("advmss {mss}`")), "{advice}");
        }
        assert_eq!(advice(Mode::Dsr, "203.0.113.1", "10.0.0.1"), "");
    }
}
