//! `lb ha`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    Failure, Session, Status,
    client::Request,
    console::Console,
    count,
    table::{Cell, Table, numbers, words},
    units::duration,
};
use crate::{
    agent::ha::key::{
        Fingerprint,
        file::{self as key_file, KeyError},
    },
    api::{
        FailedOver, FailoverOrder, HaConfig, HaConflict, HaHeard, HaKey, HaStatus, HaSync,
        HaTransition, HaWitness,
    },
    config::overlay::moment,
};

/// Operate a pair of balancers
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb ha status
  lb ha failover blue                     the peer serves it from now on
  lb ha resync                            compare all flows with the peer's anew
  lb ha conflicts                         what was changed on both nodes at once
  lb ha keygen /etc/lb/pair.key
  lb ha keygen --rotate /etc/lb/pair.key  then reload, copy it to the peer, reload there
  lb ha keygen --retire /etc/lb/pair.key  the same once both nodes speak the newest")]
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
    /// Changes that gave way to others
    ///
    /// Where both nodes changed the same while they did not hear each other, what was
    /// ordered on the node of the higher term stays.
    Conflicts {
        /// Forget them, on both nodes
        #[arg(long)]
        clear: bool,
    },
    /// Make the key of a pair, the same for both nodes
    ///
    /// The key is 32 random bytes, as hexadecimal digits in one line. Make it on
    /// one node, copy it to the other, and name it in `ha.key_file`: who can read
    /// it can speak for a node. Needs no agent.
    ///
    /// To change over to another key, `--rotate` the file on one node, copy it to
    /// the witness, if there is one, which reads it by itself, and to the other node, and
    /// `lb reload` on both, in any order. Once `lb ha status` says on
    /// both that the newest key is spoken, do the same with `--retire`.
    Keygen {
        /// Put a new key in front of the one in FILE
        #[arg(long, requires = "file")]
        rotate: bool,
        /// Take the older of two keys out of FILE
        #[arg(long, requires = "file", conflicts_with = "rotate")]
        retire: bool,
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
            Order::Conflicts { clear: false } => {
                let answer =
                    lb.client.send::<Vec<HaConflict>>(Request::get(&["ha", "conflicts"]))?;
                lb.console.answer(&answer, |console, conflicts| show_conflicts(console, conflicts))
            }
            Order::Conflicts { clear: true } => {
                lb.change(Request::delete(&["ha", "conflicts"]), "conflicts forgotten")
            }
            Order::Keygen { file: None, .. } => {
                let key = key_file::generate()?;
                if lb.console.looks.json {
                    return lb.console.json(&json!({ "key": key.trim_end() }).to_string());
                }
                lb.console.write(key.as_bytes())
            }
            Order::Keygen { rotate: true, file: Some(file), .. } => {
                let [newest, old] = key_file::rotate(&file)?;
                let done = format!("key {newest} written, before {old}");
                tell_of_keys(lb, &file, newest, &done)
            }
            Order::Keygen { retire: true, file: Some(file), .. } => {
                let [newest, old] = key_file::retire(&file)?;
                let done = format!("key {old} removed, {newest} stays");
                tell_of_keys(lb, &file, newest, &done)
            }
            Order::Keygen { file: Some(file), .. } => {
                key_file::create(&file)?;
                if lb.console.looks.json {
                    return lb.console.json(&json!({ "key_file": file }).to_string());
                }
                lb.console.say(format_args!("{}: key written", file.display()))
            }
        }
    }
}

fn tell_of_keys(
    lb: &mut Session<'_>,
    file: &Path,
    newest: Fingerprint,
    done: &str,
) -> Result<(), Failure> {
    if lb.console.looks.json {
        let answer = json!({ "key_file": file, "newest": newest.to_string() });
        return lb.console.json(&answer.to_string());
    }
    lb.console.say(format_args!("{}: {done}", file.display()))?;
    lb.console.say(
        "copy it to the witness, if there is one, which reads it by itself, and to the peer, then \
         `lb reload` on both nodes",
    )
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
    if let Some(other) = &status.stranger {
        console.say(format_args!(
            "peer: speaks version {} of heartbeats, this node version {}, heard {} ms ago: end \
             the agent of the older version and upgrade it",
            other.version, other.expected, other.heard_ms
        ))?;
    }
    show_key(console, &status.key)?;
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
    show_config(console, &status.config, status.peer.is_some())?;
    show_transitions(console, &status.transitions)?;
    for (reason, count) in &status.refused {
        console.say(format_args!("frames refused, {reason}: {count}"))?;
    }
    Ok(())
}

fn show_config(
    console: &mut Console<'_>,
    config: &HaConfig,
    has_peer: bool,
) -> Result<(), Failure> {
    let HaConfig { mode, version, agreed, conflicts, trouble } = config;
    let Some(version) = version else {
        return console.say(format_args!("configuration: {mode}"));
    };
    let peer = match (has_peer, agreed) {
        (false, _) => "the peer is away",
        (true, true) => "the same at the peer",
        (true, false) => "the peer has another one",
    };
    console.say(format_args!("configuration: version {version}, {peer}"))?;
    if let Some(trouble) = trouble {
        console.say(format_args!("configuration: {trouble}"))?;
    }
    if *conflicts > 0 {
        let conflicts = count(*conflicts, "change");
        console.say(format_args!("configuration: {conflicts} gave way: `lb ha conflicts`"))?;
    }
    Ok(())
}

fn show_conflicts(console: &mut Console<'_>, conflicts: &[HaConflict]) -> Result<(), Failure> {
    if conflicts.is_empty() {
        return console.say("no conflicts");
    }
    let json = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    for HaConflict { at, path, kept, dropped, node } in conflicts {
        let at = moment(*at);
        let mut found = Vec::new();
        differences(path, kept.as_ref(), dropped.as_ref(), &mut found);
        for (path, kept, dropped) in found {
            let (kept, dropped) = (json(kept), json(dropped));
            console
                .say(format_args!("{at} {path}: {kept} stays, {dropped} of `{node}` gave way"))?;
        }
    }
    Ok(())
}

/// A path, and what either has there.
type Difference<'v> = (String, Option<&'v Value>, Option<&'v Value>);

/// Finds what differs: of two whole services that may be one key of one backend.
fn differences<'v>(
    path: &str,
    kept: Option<&'v Value>,
    dropped: Option<&'v Value>,
    found: &mut Vec<Difference<'v>>,
) {
    if let (Some(Value::Object(ours)), Some(Value::Object(theirs))) = (kept, dropped) {
        let added = theirs.keys().filter(|key| !ours.contains_key(*key));
        for key in ours.keys().chain(added) {
            differences(&format!("{path}.{key}"), ours.get(key), theirs.get(key), found);
        }
    } else if kept != dropped {
        found.push((path.to_owned(), kept, dropped));
    }
}

fn show_key(console: &mut Console<'_>, key: &HaKey) -> Result<(), Failure> {
    let HaKey { spoken, newest, peer_newest } = key;
    let peer = match peer_newest {
        None => "the peer is not there".to_owned(),
        Some(theirs) if theirs == newest => "the newest, the peer's as well".to_owned(),
        Some(theirs) => format!("the newest is {newest}, the peer's {theirs}"),
    };
    console.say(format_args!("key {spoken} is spoken: {peer}"))
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
    let HaHeard { records, entered, repaired, removed, unknown, no_room, .. } = heard;
    console.say(format_args!(
        "flows heard: {words}, {records} records, {entered} entered, {repaired} repaired, \
         {removed} removed"
    ))?;
    if unknown + no_room > 0 {
        console.say(format_args!(
            "flows heard: {unknown} records of unknown backends, {no_room} without room"
        ))?;
    }
    Ok(())
}

fn show_transitions(console: &mut Console<'_>, latest: &[HaTransition]) -> Result<(), Failure> {
    for HaTransition { group, to, cause, term, ago_ms } in latest {
        let ago = duration(ago_ms / 1_000);
        console.say(format_args!("{ago} ago: group {group} to {to}, {cause}, term {term}"))?;
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
