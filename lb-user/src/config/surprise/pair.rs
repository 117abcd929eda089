//! What may surprise in `[ha]`.

use std::collections::HashSet;

use crate::core::model::{
    Node, Service,
    ha::{Group, GroupAddress, Ha, Path},
};

/// The interface without a network.
const LOOPBACK: &str = "lo";

pub(super) fn served_by_both(service: &Service, ha: &Ha) -> Option<String> {
    ha.group_of(service.vip).is_none().then(|| {
        let Service { name, vip, .. } = service;
        format!("service `{name}`: no `ha.group` has `{vip}`: both nodes serve it")
    })
}

/// Of the pair's own keys, and where its addresses are.
pub(super) fn surprises(ha: &Ha, node: &Node) -> Vec<String> {
    let mut surprises: Vec<_> = paths_by_one_way(ha).collect();
    surprises.extend(unheard(ha));
    surprises.extend(passed_by(ha, node));
    surprises
}

fn paths_by_one_way(ha: &Ha) -> impl Iterator<Item = String> + '_ {
    let ends = |path: &Path| (path.listen.ip(), path.peer.ip());
    let again = ha.paths.iter().enumerate().filter(move |(index, path)| {
        ha.paths[..*index].iter().any(|other| ends(other) == ends(path))
    });
    again.map(move |(_, path)| {
        let (ours, theirs) = ends(path);
        format!(
            "`[ha]` has two paths between `{ours}` and `{theirs}`: what cuts one cuts the other"
        )
    })
}

/// What moves, with the name of its group.
fn moving(ha: &Ha) -> impl Iterator<Item = (&str, &GroupAddress)> {
    ha.groups.iter().flat_map(|group| {
        let Group { name, addresses, .. } = group;
        addresses.iter().map(move |address| (name.as_str(), address))
    })
}

fn unheard(ha: &Ha) -> impl Iterator<Item = String> + '_ {
    let silent = moving(ha).filter(|(_, address)| address.interface == LOOPBACK);
    silent.map(|(group, GroupAddress { address, .. })| {
        format!(
            "group `{group}`: `{address}` is at `{LOOPBACK}`, where nobody hears that it has moved"
        )
    })
}

/// Once for each interface of a group: it may have many addresses.
fn passed_by(ha: &Ha, node: &Node) -> Vec<String> {
    let is_attached = |interface: &str| node.interfaces.iter().any(|one| one == interface);
    // Frames of `eth0.7` come in by `eth0`; of other names one cannot tell.
    let below = |interface: &str| interface.split('.').next().is_some_and(is_attached);
    let is_elsewhere = |at: &str| at != LOOPBACK && !is_attached(at) && !below(at);
    let mut told = HashSet::new();
    let elsewhere = moving(ha).filter(|(group, GroupAddress { interface, .. })| {
        is_elsewhere(interface) && told.insert((*group, interface.as_str()))
    });
    elsewhere
        .map(|(group, GroupAddress { address, interface })| {
            format!(
                "group `{group}`: `{address}` is at `{interface}`, which is none of \
                 `node.interfaces`: packets that do not come by one of these do not meet the \
                 balancer"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BACKEND, SERVICE, surprises_of};

    /// Of a pair with these paths, and these addresses in its one group.
    fn surprises_of_group(paths: &str, addresses: &str) -> Vec<String> {
        surprises_of(&format!(
            "[node]\nhash_seed = \"{}\"\n[ha]\npair = \"edge\"\n{paths}\
             config = \"independent\"\n[[ha.group]]\nname = \"blue\"\n\
             addresses = [{addresses}]\n{SERVICE}{BACKEND}",
            "0".repeat(32)
        ))
    }

    fn address(vip: &str, interface: &str) -> String {
        format!("{{ address = \"{vip}/32\", interface = \"{interface}\" }}")
    }

    fn surprises_of_pair(paths: &str, vip: &str, interface: &str) -> Vec<String> {
        surprises_of_group(paths, &address(vip, interface))
    }

    const PATH: &str = "listen = [\"10.0.0.2:4790\"]\npeer = [\"10.0.0.3:4790\"]\n";

    #[test]
    fn vips_that_do_not_move_are_told() {
        let pair = |vip| surprises_of_pair(PATH, vip, "eth0");
        let told = "service `web`: no `ha.group` has `203.0.113.10`: both nodes serve it";
        assert_eq!(pair("203.0.113.11"), [told]);
        assert_eq!(pair("203.0.113.10"), [""; 0]);
    }

    #[test]
    fn pairs_that_hear_less_than_meant_are_told() {
        let paths = |second: &str| {
            let both = |node: &str| format!("[\"10.0.0.{node}:4790\", \"{second}{node}:4791\"]");
            format!("listen = {}\npeer = {}\n", both("2"), both("3"))
        };
        assert_eq!(
            surprises_of_pair(&paths("10.0.0."), "203.0.113.10", "eth0"),
            [
                "`[ha]` has two paths between `10.0.0.2` and `10.0.0.3`: what cuts one cuts the other"
            ]
        );
        assert_eq!(surprises_of_pair(&paths("10.0.1."), "203.0.113.10", "eth0"), [""; 0]);
        assert_eq!(
            surprises_of_pair(PATH, "203.0.113.10", "lo"),
            ["group `blue`: `203.0.113.10` is at `lo`, where nobody hears that it has moved"]
        );
    }

    #[test]
    fn addresses_where_packets_pass_the_balancer_by_are_told() {
        let all = [("10", "eth0"), ("11", "eth1"), ("12", "eth1"), ("13", "eth0.7"), ("14", "br0")];
        let all = all.map(|(last, interface)| address(&format!("203.0.113.{last}"), interface));
        let told = |last: u8, interface: &str| {
            format!(
                "group `blue`: `203.0.113.{last}` is at `{interface}`, which is none of \
                 `node.interfaces`: packets that do not come by one of these do not meet the \
                 balancer"
            )
        };
        let expected = [told(11, "eth1"), told(14, "br0")];
        assert_eq!(surprises_of_group(PATH, &all.join(", ")), expected);
    }
}
