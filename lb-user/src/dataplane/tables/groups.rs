//! Which group of the pair entries are of.

use lb_common::{lease, service::address_flags};
use proptest::prelude::*;

use super::{
    tests::{address, carry_out, check_reach},
    *,
};
use crate::{
    core::{
        model::{
            Mode, Model, Protocol,
            ha::Ha,
            sample::{ha, model, service},
        },
        nexthop::Network,
    },
    dataplane::fake,
};

/// The VIPs of other tests in groups, if any: both orders, one alone.
pub(super) fn any_ha() -> impl Strategy<Value = Option<Ha>> {
    let (v4, v6) = ("192.0.2.1", "2001:db8::1");
    let groups: [&[&[&str]]; 4] = [&[&[v4], &[v6]], &[&[v6], &[v4]], &[&[v4, v6]], &[&[v6]]];
    prop::option::of(prop::sample::select(groups.map(ha).to_vec()))
}

fn two_vips(groups: Option<&[&[&str]]>) -> Model {
    let vips = ["192.0.2.1", "192.0.2.2"];
    let web = |vip| service(vip, (80, 80), Protocol::Tcp, Mode::Nat);
    Model { ha: groups.map(ha), ..model(vips.map(web).into()) }
}

/// Groups of the entries of both VIPs, and of the host's own address.
fn written(tables: &Tables) -> [u16; 3] {
    let of = |last| {
        let addr = lb_common::addr::to_bytes([192, 0, 2, last].into());
        let found = address(tables, addr).expect("an address");
        let is_vip = found.flags & address_flags::VIP != 0;
        let services = tables.snapshot().unwrap().services;
        assert!(services.values().all(|entry| entry.vip != addr || entry.group == found.group));
        assert_eq!(services.values().any(|entry| entry.vip == addr), is_vip);
        found.group
    };
    [of(1), of(2), of(3)]
}

#[test]
fn vips_have_the_groups_of_their_addresses_and_the_host_has_none() {
    let mut tables = fake::tables(64).unwrap();
    let host_addresses = [[192, 0, 2, 1], [192, 0, 2, 3]].map(Into::into).into();
    let network = Network { host_addresses, ..Network::default() };
    let (first, second) = (lease::group(0), lease::group(1));
    let steps: [(Option<&[&[&str]]>, _); 5] = [
        (None, [0, 0, 0]),
        (Some(&[&["192.0.2.1"], &["192.0.2.2", "192.0.2.3"]]), [first, second, 0]),
        (Some(&[&["192.0.2.2"], &["192.0.2.1"]]), [second, first, 0]),
        (Some(&[&["192.0.2.2"]]), [0, first, 0]),
        (None, [0, 0, 0]),
    ];
    for (groups, expected) in steps {
        carry_out(&mut tables, &two_vips(groups), &network, check_reach);
        assert_eq!(written(&tables), expected);
    }
}

#[test]
fn another_group_is_another_shape() {
    let before = two_vips(Some(&[&["192.0.2.1"], &["192.0.2.2"]]));
    let named = |name: &str| {
        let mut model = before.clone();
        model.ha.as_mut().unwrap().groups[0].name = name.to_owned();
        model
    };
    assert!(before.has_shape_of(&named("blue")));
    for groups in [None, Some(&[&["192.0.2.2"] as &[_], &["192.0.2.1"]] as &[_])] {
        assert!(!before.has_shape_of(&two_vips(groups)));
        assert!(!two_vips(groups).has_shape_of(&before));
    }
}
