//! `[ha]`: two balancers that stand in for each other.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Most ways between the nodes.
pub const PATHS: usize = 4;
/// Most groups of a pair.
pub const GROUPS: usize = lb_common::limits::GROUPS as usize;

/// Most addresses of all groups. Each is held anew every second, and announced
/// several times when it comes: with more, that would delay the takeover that it
/// serves.
pub const ADDRESSES: usize = 256;

/// `[ha]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ha {
    /// Name of the pair, the same on both nodes.
    pub pair: String,
    /// Ways to the peer and back, the service path first; one to [`PATHS`].
    pub paths: Vec<Path>,
    /// Where the pair's key is.
    pub key_file: PathBuf,
    /// Who serves if nothing else decides: the higher.
    pub priority: u8,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Whether a node takes its groups back when it returns.
    pub preempt: bool,
    /// Whether both nodes share services and firewall, and edits of them.
    pub replicate: bool,
    /// Who has the third vote, where `lb witness` runs.
    pub witness: Option<SocketAddr>,
    /// What is run before a takeover from a silent peer.
    pub fence: Option<Fence>,
    /// One to [`GROUPS`], names unique, no address in two, [`ADDRESSES`] in all.
    pub groups: Vec<Group>,
}

/// `ha.fence`: a program that makes sure that the peer does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Its absolute path, and its arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Two sockets that heartbeats go between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Ours.
    pub listen: SocketAddr,
    /// The peer's, of the same family.
    pub peer: SocketAddr,
}

/// `[[ha.group]]`: addresses that one of the nodes has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Name of the node that is to serve it.
    pub prefer: Option<String>,
    /// What moves to the node that serves it; at least one.
    pub addresses: Vec<GroupAddress>,
}

/// An address that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: String,
}

impl Ha {
    /// Position of the group that has this address.
    #[must_use]
    pub fn group_of(&self, address: IpAddr) -> Option<usize> {
        let has = |group: &Group| group.addresses.iter().any(|one| one.address == address);
        self.groups.iter().position(has)
    }

    /// The groups that prefer none of these nodes, and whom they prefer.
    pub fn preferring_others<'h>(
        &'h self,
        nodes: [&'h str; 2],
    ) -> impl Iterator<Item = (&'h str, &'h str)> {
        let preferring = self.groups.iter().filter_map(|group| {
            let prefer = group.prefer.as_deref()?;
            Some((group.name.as_str(), prefer))
        });
        preferring.filter(move |(_, prefer)| !nodes.contains(prefer))
    }
}
