//! `[ha]`: what makes a node one of a pair.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// `[ha]`.
#[derive(Clone, Debug)]
pub struct Ha {
    /// `ha.pair`.
    pub pair: String,
    /// `ha.peer`.
    pub peer: Vec<SocketAddr>,
    /// `ha.listen`.
    pub listen: Vec<SocketAddr>,
    /// `ha.key_file`.
    pub key_file: PathBuf,
    /// `ha.priority`.
    pub priority: u8,
    /// `ha.heartbeat`.
    pub heartbeat: Duration,
    /// `ha.preempt`.
    pub preempt: bool,
    /// `ha.config`: whether it is "replicate".
    pub replicate: bool,
    /// `ha.fence.command`.
    pub fence: Option<Vec<String>>,
    /// `ha.witness`.
    pub witness: Option<SocketAddr>,
    /// The groups.
    pub groups: Vec<Group>,
}

/// One `[[ha.group]]`.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Name of the node that is to serve it.
    pub prefer: Option<String>,
    /// What moves, and the interface that has it.
    pub addresses: Vec<(IpAddr, &'static str)>,
}

impl Display for Ha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pair, peer, listen, key_file, priority, heartbeat, preempt, .. } = self;
        let Self { fence, witness, replicate, groups, .. } = self;
        let words = |paths: &[SocketAddr]| paths.iter().map(ToString::to_string).collect();
        let (peer, listen): (Vec<_>, Vec<_>) = (words(peer), words(listen));
        writeln!(f, "[ha]\npair = {pair:?}\npeer = {peer:?}\nlisten = {listen:?}")?;
        writeln!(f, "key_file = {key_file:?}\npriority = {priority}")?;
        writeln!(f, "heartbeat = \"{}ms\"\npreempt = {preempt}", heartbeat.as_millis())?;
        let config = if *replicate { "replicate" } else { "independent" };
        writeln!(f, "config = {config:?}")?;
        if let Some(command) = fence {
            writeln!(f, "fence = {{ command = {command:?} }}")?;
        }
        if let Some(witness) = witness {
            writeln!(f, "witness = \"{witness}\"")?;
        }
        groups.iter().try_for_each(|group| group.fmt(f))
    }
}

impl Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n[[ha.group]]\nname = {:?}", self.name)?;
        if let Some(node) = &self.prefer {
            writeln!(f, "prefer = {node:?}")?;
        }
        writeln!(f, "addresses = [")?;
        for (address, interface) in &self.addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let interface = format!("interface = \"{interface}\"");
            writeln!(f, "    {{ address = \"{address}/{length}\", {interface} }},")?;
        }
        writeln!(f, "]")
    }
}
