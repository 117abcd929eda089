//! `lb ha`.

use std::path::PathBuf;

use serde_json::json;

use super::{
    Failure, Session, Status,
    client::Request,
    console::Console,
    table::{Cell, Table, numbers, words},
};
use crate::{
    agent::ha::key::{self, KeyError},
    api::{FailedOver, FailoverOrder, HaHeard, HaStatus, HaSync, HaWitness},
};

/// Operate a pair of balancers
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb ha status
  lb ha failover blue                     the peer serves it from now on
  lb ha resync                            compare all flows with the peer's anew
  lb ha keygen /etc/lb/pair.key")]
pub(super) struct Command {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Who serves which group, and how the peer is
    Status,
    /// Hand a group over to the peer
    Failover {
        /// The group; all that this node serves if none is given
        #[arg(value_name = "GROUP")]
        group: Option<String>,
        /// Also if the peer does not know all flows yet: some connections may break
        #[arg(long)]
        force: bool,
    },
    /// Have both nodes tell each other all flows again
    Resync,
    /// Make the key of a pair, the same for both nodes
    ///
    /// The key is 32 random bytes, as hexadecimal digits in one line. Make it on
    /// one node, copy it to the other, and name it in `ha.key_file`: who can read
    /// it can speak for a node. Needs no agent.
    Keygen {
        /// New file, for its owner only [default: standard output]
        file: Option<PathBuf>,
    },
}

impl Command {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        match self.order {
            Order::Status => {
                let answer = lb.client.send::<HaStatus>(Request::get(&["ha"]))?;
                lb.console.answer(&answer, show)
            }
            Order::Failover { group, force } => {
                let order = FailoverOrder { group, force };
                let request = Request::post(&["ha", "failover"]).json(&order);
                let answer = lb.client.send::<FailedOver>(request)?;
                lb.console.answer(&answer, |console, done| {
                    console.say(format_args!("handed over: {}", done.groups.join(", ")))
                })
            }
            Order::Resync => {
                let answer = lb.client.send::<HaStatus>(Request::post(&["ha", "resync"]))?;
                lb.console.answer(&answer, |console, _| {
                    console.say("all flows are told again: `lb ha status` says when that is done")
                })
            }
            Order::Keygen { file: None } => {
                let key = key::generate()?;
                if lb.console.looks.json {
                    return lb.console.json(&json!({ "key": key.trim_end() }).to_string());
                }
                lb.console.write(key.as_bytes())
            }
            Order::Keygen { file: Some(file) } => {
                key::create(&file)?;
                if lb.console.looks.json {
                    return lb.console.json(&json!({ "key_file": file }).to_string());
                }
                lb.console.say(format_args!("{}: key written", file.display()))
            }
        }
    }
}

fn show(console: &mut Console<'_>, status: &HaStatus) -> Result<(), Failure> {
    console.say(format_args!("pair {}", status.pair))?;
    match &status.peer {
        Some(peer) => {
            console.say(format_args!("peer {}: heard {} ms ago", peer.node, peer.heard_ms))?;
        }
        None => match status.paths.iter().filter_map(|path| path.heard_ms).min() {
            Some(ago) => console.say(format_args!("peer: gone (heard {ago} ms ago)"))?,
            None => console.say("peer: not heard yet")?,
        },
    }
    for path in &status.paths {
        let heard = path.heard_ms.map(|ago| format!("heard {ago} ms ago"));
        let heard = heard.unwrap_or_else(|| "nothing heard".to_owned());
        console.say(format_args!("path to {}: {heard}", path.peer))?;
    }
    if let Some(HaWitness { address, heard_ms }) = &status.witness {
        let heard = heard_ms.map(|ago| format!("answered {ago} ms ago"));
        let heard = heard.unwrap_or_else(|| "no answer yet".to_owned());
        console.say(format_args!("witness at {address}: {heard}"))?;
    }
    let mut table = Table::new([
        words("GROUP"),
        words("ROLE"),
        words("PEER"),
        numbers("TERM"),
        numbers("LEASE"),
    ]);
    for group in &status.groups {
        table.row([
            Cell::new(&group.name),
            Cell::new(&group.role),
            Cell::maybe(group.peer_role.as_ref()),
            Cell::new(group.term),
            Cell::maybe(group.lease_ms.map(|left| format!("{left}ms"))),
        ]);
    }
    console.table(&table)?;
    for group in &status.groups {
        if let Some(trouble) = &group.trouble {
            console.say(format_args!("group {}: {trouble}", group.name))?;
        }
    }
    show_sync(console, &status.sync)?;
    for (reason, count) in &status.refused {
        console.say(format_args!("frames refused, {reason}: {count}"))?;
    }
    Ok(())
}

fn show_sync(console: &mut Console<'_>, HaSync { told, heard }: &HaSync) -> Result<(), Failure> {
    let state = |connected, complete| match (connected, complete) {
        (false, _) => "not connected",
        (true, false) => "not complete yet",
        (true, true) => "complete",
    };
    let words = state(told.connected, told.complete);
    let lag = told.lag_ms.map(|lag| format!(", {lag} ms behind at most")).unwrap_or_default();
    console.say(format_args!("flows told: {words}, {} records{lag}", told.records))?;
    if let Some(trouble) = &told.trouble {
        console.say(format_args!("flows told: {trouble}"))?;
    }
    let words = state(heard.connected, heard.complete);
    let HaHeard { records, entered, repaired, unknown, no_room, .. } = heard;
    console.say(format_args!(
        "flows heard: {words}, {records} records, {entered} entered, {repaired} repaired"
    ))?;
    if unknown + no_room > 0 {
        console.say(format_args!(
            "flows heard: {unknown} records of unknown backends, {no_room} without room"
        ))?;
    }
    Ok(())
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let failure = Self::new(Status::Refused, &error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
