//! Mirror of `[ha]` and its groups.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use toml::de::DeValue;

use super::Field;
use crate::{
    config::{
        read::{Located, Place, Section, Wrong},
        value::{
            duration, flag,
            ha::{moving_address, socket_address, witness},
            interface, name, number, path,
            probe::command,
            time, word,
        },
    },
    core::model::ha::Fence,
};

/// Default of `ha.key_file`.
pub const KEY_FILE: &str = "/etc/lb/pair.key";
/// Default of `ha.priority`.
const PRIORITY: u8 = 100;
/// Default of `ha.heartbeat`.
const HEARTBEAT: Duration = Duration::from_millis(50);

/// Default of `ha.fence.timeout`.
const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Values of it.
const FENCE_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

/// Between heartbeats. A lease, eleven quarters of it, ends up to two ticks of the
/// kernel early, which may take 10 ms each: it must outlast them by enough to be
/// renewed.
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_millis(25)..=Duration::from_secs(1);

/// `[ha]`.
#[derive(Debug)]
pub struct Ha {
    /// `pair`.
    pub pair: Field<String>,
    /// `listen`; those that are wrong keep their positions.
    pub listen: Field<Vec<Field<SocketAddr>>>,
    /// `peer`, likewise.
    pub peer: Field<Vec<Field<SocketAddr>>>,
    /// `key_file`.
    pub key_file: Field<PathBuf>,
    /// `priority`.
    pub priority: Field<u8>,
    /// `heartbeat`.
    pub heartbeat: Field<Duration>,
    /// `preempt`.
    pub preempt: Field<bool>,
    /// `config`: whether it is "replicate".
    pub replicate: Field<bool>,
    /// `witness`, if any.
    pub witness: Field<Option<SocketAddr>>,
    /// `fence`, if any.
    pub fence: Field<Option<Fence>>,
    /// `[[ha.group]]`.
    pub groups: Vec<Group>,
}

/// `[[ha.group]]`.
#[derive(Debug)]
pub struct Group {
    /// Where its table begins.
    pub place: Place,
    /// `name`.
    pub name: Field<String>,
    /// `prefer`, if any.
    pub prefer: Field<Option<String>>,
    /// `addresses`.
    pub addresses: Vec<GroupAddress>,
}

/// An element of `ha.group.addresses`.
#[derive(Debug)]
pub struct GroupAddress {
    /// `address`.
    pub address: Field<IpAddr>,
    /// `interface`.
    pub interface: Field<String>,
}

pub(super) fn read(mut table: Section<'_>) -> Ha {
    let ha = Ha {
        pair: table.required("pair", "any name, the same on both nodes, such as \"edge\"", name),
        listen: table.elements("listen", "listen = [\"10.0.0.2:4790\"]", socket_address),
        peer: table.elements("peer", "peer = [\"10.0.0.3:4790\"]", socket_address),
        key_file: table.optional("key_file", KEY_FILE.into(), path(KEY_FILE)),
        priority: table.optional("priority", PRIORITY, |value| {
            number(1..=254)(value).map(|priority| priority as u8)
        }),
        heartbeat: table.optional("heartbeat", HEARTBEAT, heartbeat),
        preempt: table.optional("preempt", false, flag),
        replicate: table.optional(
            "config",
            true,
            word(&[("replicate", true), ("independent", false)]),
        ),
        witness: table.optional("witness", None, |value| witness(value).map(Some)),
        fence: fence(&mut table),
        groups: table
            .some_tables("group", "`[[ha.group]]`, with the addresses that move")
            .into_iter()
            .map(group)
            .collect(),
    };
    table.finish();
    ha
}

fn fence(table: &mut Section<'_>) -> Field<Option<Fence>> {
    let place = table.place();
    let example = "fence = { command = [\"/usr/local/sbin/fence\", \"lb-b\"] }";
    let Some(mut table) = table.inline_table("fence", example) else {
        return Some(Located { place, value: None });
    };
    let place = table.place();
    let example = "such as [\"/usr/local/sbin/fence\", \"lb-b\"]";
    let program = table.required("command", example, command);
    let timeout = table.optional("timeout", FENCE_TIMEOUT, time(FENCE_TIMEOUTS));
    table.finish();
    let value = Fence { command: program?.value, timeout: timeout?.value };
    Some(Located { place, value: Some(value) })
}

fn heartbeat(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    time(HEARTBEATS)(value).map_err(|wrong| match duration(value) {
        Ok(time) if time < *HEARTBEATS.start() => {
            wrong.hint("leases are measured in ticks of the kernel, which may take 10ms each")
        }
        _ => wrong,
    })
}

fn group(mut table: Section<'_>) -> Group {
    let addresses = table.some_tables(
        "addresses",
        "such as `addresses = [{ address = \"203.0.113.10/32\", interface = \"eth0\" }]`",
    );
    let group = Group {
        place: table.place(),
        name: table.required("name", "any unique name, such as \"blue\"", name),
        prefer: table.optional("prefer", None, |value| name(value).map(Some)),
        addresses: addresses.into_iter().map(group_address).collect(),
    };
    table.finish();
    group
}

fn group_address(mut table: Section<'_>) -> GroupAddress {
    let address = GroupAddress {
        address: table.required("address", "such as \"203.0.113.10/32\"", moving_address),
        interface: table.required("interface", "the interface that has it", interface),
    };
    table.finish();
    address
}
