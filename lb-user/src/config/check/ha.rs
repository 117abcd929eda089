//! Rules within `[ha]`, and between it and the rest.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::{
    Report,
    between::{Claims, Part},
    service::unicast,
};
use crate::{
    config::{
        file::{Field, Group, GroupAddress, Ha, Node, Service},
        read::{Located, Place, Wrong},
    },
    core::model::{
        self, Mode,
        ha::{ADDRESSES, GROUPS, PATHS, Path},
    },
};

pub(super) fn check(ha: &Ha, node: &Node, services: &[Service], report: &mut Report<'_>) {
    // A flow goes to one backend, whichever node has it.
    if let Some(Located { place, value: None }) = &node.hash_seed {
        let wrong = Wrong::new("missing, must be set where `[ha]` is");
        let hint = "make one with `openssl rand -hex 16`: both nodes need the same";
        report.add(place, wrong.hint(hint));
    }
    paths(ha, report);
    groups(ha, report);
    let witness = witness(ha);
    if let Some(witness) = &witness {
        third(ha, witness, report);
    }
    for path in sockets(&ha.listen).chain(sockets(&ha.peer)).chain(&witness) {
        if let Err(wrong) = stays(path.value.ip(), ha, services) {
            report.add(&path.place, wrong);
        }
    }
}

/// Addresses of the pair that others must keep clear of. They hold for edits as
/// well, so they are of a file or of a model.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// Both nodes and the witness: what one node refuses, the other would.
    heard: Vec<Located<IpAddr>>,
    /// With the position of their group.
    moving: Vec<(usize, Located<IpAddr>)>,
}

impl Claimed {
    /// Reports backends that a node would have itself, but for VIPs, which none may
    /// have anyway.
    pub(super) fn check_backends<S: Claims>(&self, services: &[S], report: &mut Report<'_>) {
        let vips: HashSet<_> = services.iter().filter_map(Claims::vip).collect();
        let moving = self.moving.iter().map(|(_, moving)| moving);
        let moving = moving.filter(|moving| !vips.contains(&moving.value));
        let moving: HashMap<_, _> =
            moving.map(|Located { place, value }| (*value, place)).collect();
        for service in services {
            for (index, address) in service.addresses().enumerate() {
                if let Some(place) = address.and_then(|address| moving.get(&address)) {
                    let wrong = Wrong::new("must not be an address of a group: a node has it");
                    let wrong = wrong.hint(format!("{place} is this address"));
                    report.add(&service.place(Part::Address(index)), wrong);
                }
            }
        }
    }

    /// Reports services in mode `fullnat` whose backends would answer the node that does
    /// not serve: `sources`, of `node.nat_sources`, move with the VIP, or neither does.
    pub(super) fn check_sources<S: Claims>(
        &self,
        services: &[S],
        sources: &[IpNet],
        report: &mut Report<'_>,
    ) {
        let fullnat = |service: &&S| service.mode() == Some(Mode::FullNat);
        for service in services.iter().filter(fullnat) {
            let Some(vip) = service.vip() else { continue };
            let own = self.group(vip);
            let sources = sources.iter().filter(|net| net.addr().is_ipv4() == vip.is_ipv4());
            let strange = |source: &IpAddr| self.group(*source) != own;
            let Some(source) = sources.flat_map(addresses).find(strange) else { continue };
            let wrong = if own.is_some() {
                Wrong::new(format!("needs `{source}` of `node.nat_sources` in its group")).hint(
                    "the backends' answers come there: add it to the group's `addresses`, with \
                     the interface towards the backends",
                )
            } else {
                let rule = format!("must be an address of the group that `{source}` is in");
                Wrong::new(rule).hint(
                    "packets to backends come from there, and the answers go to the node that \
                     has it",
                )
            };
            report.add(&service.place(Part::Vip), wrong);
        }
    }

    /// Position of the group that an address moves with.
    fn group(&self, address: IpAddr) -> Option<usize> {
        let (group, _) = self.moving.iter().find(|(_, moving)| moving.value == address)?;
        Some(*group)
    }

    /// Reports a denied prefix that would keep heartbeats or votes out.
    pub(super) fn check_denied(
        &self,
        denied: IpNet,
        place: impl FnOnce() -> Place,
        report: &mut Report<'_>,
    ) {
        if let Some(heard) = self.heard.iter().find(|heard| denied.contains(&heard.value)) {
            let rule = "must not contain a node of the pair or its witness: they would not hear \
                        each other";
            let Located { place: theirs, value } = heard;
            report.add(&place(), Wrong::new(rule).hint(format!("{theirs} is at `{value}`")));
        }
    }
}

impl From<&Ha> for Claimed {
    fn from(ha: &Ha) -> Self {
        let witness = witness(ha);
        let heard = sockets(&ha.peer).chain(sockets(&ha.listen)).chain(&witness);
        let heard = heard.map(|Located { place, value }| (place.clone(), value.ip()));
        Self { heard: located(heard), moving: moving(ha).collect() }
    }
}

impl From<&model::ha::Ha> for Claimed {
    fn from(ha: &model::ha::Ha) -> Self {
        let place = |path: String| Place { line: None, path, written: None };
        let nodes = ha.paths.iter().enumerate().flat_map(|(at, path)| {
            let socket = |key, ip| (place(format!("ha.{key}[{at}]")), ip);
            [socket("peer", path.peer.ip()), socket("listen", path.listen.ip())]
        });
        let moving = ha.groups.iter().enumerate().flat_map(|(index, group)| {
            let place = place(format!("ha.group.{}.addresses", group.name));
            group
                .addresses
                .iter()
                .map(move |one| (index, Located { place: place.clone(), value: one.address }))
        });
        let witness = ha.witness.map(|socket| (place("ha.witness".to_owned()), socket.ip()));
        Self { heard: located(nodes.chain(witness)), moving: moving.collect() }
    }
}

fn located(values: impl Iterator<Item = (Place, IpAddr)>) -> Vec<Located<IpAddr>> {
    values.map(|(place, value)| Located { place, value }).collect()
}

/// The addresses of all groups, with the group's position.
fn moving(ha: &Ha) -> impl Iterator<Item = (usize, Located<IpAddr>)> {
    ha.groups.iter().enumerate().flat_map(|(index, group)| {
        let addresses = group.addresses.iter().filter_map(|address| address.address.as_ref());
        addresses.map(move |Located { place, value }| {
            (index, Located { place: place.clone(), value: *value })
        })
    })
}

/// The addresses of a prefix of `node.nat_sources`: a few.
fn addresses(net: &IpNet) -> Vec<IpAddr> {
    let first = net.network();
    let more = 0..1_u32 << (net.max_prefix_len() - net.prefix_len()).min(8);
    let nth = |number: u32| match first {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + number).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    };
    more.map(nth).collect()
}

/// Those that are not wrong by themselves.
fn sockets(list: &Field<Vec<Field<SocketAddr>>>) -> impl Iterator<Item = &Located<SocketAddr>> {
    list.iter().flat_map(|list| &list.value).flatten()
}

fn paths(ha: &Ha, report: &mut Report<'_>) {
    for list in [&ha.listen, &ha.peer].into_iter().flatten() {
        if list.value.is_empty() {
            let hint = "such as `listen = [\"10.0.0.2:4790\"]` and `peer = [\"10.0.0.3:4790\"]`";
            report.add(&list.place, Wrong::new("must name at least one address").hint(hint));
        } else if list.value.len() > PATHS {
            report.add(&list.place, Wrong::new(format!("must be {PATHS} addresses at most")));
        }
    }
    report.duplicates(sockets(&ha.listen).chain(sockets(&ha.peer)), "must be listed once");
    for peer in sockets(&ha.peer) {
        let same = |ours: &&Located<SocketAddr>| {
            ours.value.ip() == peer.value.ip() && ours.value != peer.value
        };
        if let Some(Located { place, .. }) = sockets(&ha.listen).find(same) {
            let wrong = Wrong::new("must not be an address of this node");
            report.add(&peer.place, wrong.hint(format!("{place} is the same at another port")));
        }
    }
    let (Some(listen), Some(peer)) = (&ha.listen, &ha.peer) else { return };
    let (ours, theirs) = (listen.value.len(), peer.value.len());
    if ours != theirs {
        if ours > 0 && theirs > 0 {
            let rule = format!("must be as many addresses as in `ha.listen`, {ours}");
            let hint = "one for each, in the same order: the two make a path";
            report.add(&peer.place, Wrong::new(rule).hint(hint));
        }
        return;
    }
    for path in listen.value.iter().zip(&peer.value) {
        if let (Some(listen), Some(peer)) = path
            && listen.value.is_ipv4() != peer.value.is_ipv4()
        {
            let family = if listen.value.is_ipv4() { "IPv4" } else { "IPv6" };
            let rule = format!("must be an {family} address, as {} is", listen.place);
            report.add(&peer.place, Wrong::new(rule));
        }
    }
}

fn witness(ha: &Ha) -> Option<Located<SocketAddr>> {
    let Located { place, value } = ha.witness.as_ref()?;
    Some(Located { place: place.clone(), value: (*value)? })
}

/// Reports a witness that would die with a node.
fn third(ha: &Ha, witness: &Located<SocketAddr>, report: &mut Report<'_>) {
    let mut nodes = sockets(&ha.listen).chain(sockets(&ha.peer));
    if let Some(node) = nodes.find(|node| node.value.ip() == witness.value.ip()) {
        let wrong = Wrong::new("must be an address of a third host");
        report.add(&witness.place, wrong.hint(format!("{} is at this address", node.place)));
    }
}

/// Whether a node keeps an address, whoever serves.
fn stays(address: IpAddr, ha: &Ha, services: &[Service]) -> Result<(), Wrong> {
    unicast(address)?;
    let mut groups = ha.groups.iter().flat_map(|group| &group.addresses);
    let of_group =
        groups.find_map(|moving| moving.address.as_ref().filter(|moving| moving.value == address));
    if let Some(Located { place, .. }) = of_group {
        let wrong = Wrong::new("must not be an address of a group: it moves");
        return Err(wrong.hint(format!("{place} is this address")));
    }
    let mut vips = services.iter().filter_map(|service| service.vip.as_ref());
    match vips.find(|vip| vip.value == address) {
        Some(Located { place, .. }) => {
            Err(Wrong::new("must not be a VIP").hint(format!("{place} is this address")))
        }
        None => Ok(()),
    }
}

fn groups(ha: &Ha, report: &mut Report<'_>) {
    if let Some(group) = ha.groups.get(GROUPS) {
        report.add(&group.place, Wrong::new(format!("must be {GROUPS} groups at most")));
    }
    let names = ha.groups.iter().filter_map(|group| group.name.as_ref());
    report.duplicates(names, "must be unique among groups");
    let addresses: Vec<_> = moving(ha).map(|(_, address)| address).collect();
    if let Some(address) = addresses.get(ADDRESSES) {
        let wrong = Wrong::new(format!("must be {ADDRESSES} addresses at most in all groups"));
        let hint = "a node that takes over announces each several times: more would delay it";
        report.add(&address.place, wrong.hint(hint));
    }
    for Located { place, value } in &addresses {
        if let Err(wrong) = unicast(*value) {
            report.add(place, wrong);
        }
    }
    report.duplicates(&addresses, "must be listed once in all groups");
}

/// The model of the pair; `None`: parts of it are wrong.
pub(super) fn model(ha: Ha) -> Option<model::ha::Ha> {
    let sockets = |list: Field<Vec<Field<SocketAddr>>>| {
        list?.value.into_iter().map(|socket| Some(socket?.value)).collect::<Option<Vec<_>>>()
    };
    let paths = sockets(ha.listen)?.into_iter().zip(sockets(ha.peer)?);
    Some(model::ha::Ha {
        pair: ha.pair?.value,
        paths: paths.map(|(listen, peer)| Path { listen, peer }).collect(),
        key_file: ha.key_file?.value,
        priority: ha.priority?.value,
        heartbeat: ha.heartbeat?.value,
        preempt: ha.preempt?.value,
        replicate: ha.replicate?.value,
        witness: ha.witness?.value,
        fence: ha.fence?.value,
        groups: ha.groups.into_iter().map(group).collect::<Option<_>>()?,
    })
}

fn group(group: Group) -> Option<model::ha::Group> {
    Some(model::ha::Group {
        name: group.name?.value,
        prefer: group.prefer?.value,
        addresses: group.addresses.into_iter().map(address).collect::<Option<_>>()?,
    })
}

fn address(address: GroupAddress) -> Option<model::ha::GroupAddress> {
    Some(model::ha::GroupAddress {
        address: address.address?.value,
        interface: address.interface?.value,
    })
}
