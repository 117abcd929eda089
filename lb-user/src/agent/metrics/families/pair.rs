//! What a node knows of its pair.

use std::fmt;

use super::Page;
use crate::api::{HaConfig, HaHeard, HaStatus, HaSync, HaTold};

/// Directions of flow sync: what the peer is told, and what it tells.
const DIRECTIONS: [&str; 2] = ["told", "heard"];

pub(super) fn encode(page: &mut Page<'_>, status: &HaStatus, queue: usize) -> fmt::Result {
    groups(page, status)?;
    heartbeats(page, status)?;
    config(page, &status.config)?;
    sync(page, &status.sync, queue)
}

fn groups(
    page: &mut Page<'_>,
    HaStatus { groups, transition_counts, .. }: &HaStatus,
) -> fmt::Result {
    let label = |name| [("group", name)];
    let roles =
        groups.iter().map(|one| (label(one.name.as_str()), u64::from(one.role == "active")));
    page.gauges("ha_role", "1: this node serves the group, 0: it stands by", roles)?;
    let terms = groups.iter().map(|one| (label(one.name.as_str()), one.term));
    page.gauges("ha_term", "counts the changes of who serves the group", terms)?;
    let leases =
        groups.iter().filter_map(|one| Some((label(one.name.as_str()), seconds(one.lease_ms?))));
    page.gauges("ha_lease_seconds", "for how long this node may serve without another", leases)?;
    let transitions = transition_counts.iter().map(|one| {
        let labels = [("group", one.group.as_str()), ("to", &one.to), ("cause", &one.cause)];
        (labels, one.count)
    });
    page.counters("ha_transitions", "this node began to serve, or stopped", transitions)
}

fn heartbeats(
    page: &mut Page<'_>,
    HaStatus { peer, paths, refused, .. }: &HaStatus,
) -> fmt::Result {
    page.gauge("ha_peer_present", "whether the peer is there", u64::from(peer.is_some()))?;
    let names: Vec<_> = paths.iter().map(|path| path.peer.to_string()).collect();
    let ages = names
        .iter()
        .zip(paths)
        .filter_map(|(name, path)| Some(([("path", name.as_str())], seconds(path.heard_ms?))));
    page.gauges("ha_heartbeat_age_seconds", "since the path brought a frame", ages)?;
    let refused = refused.iter().map(|(reason, count)| ([("reason", reason.as_str())], *count));
    page.counters("ha_frames_refused", "frames without effect", refused)
}

/// Nothing where the nodes share no configuration.
fn config(page: &mut Page<'_>, config: &HaConfig) -> fmt::Result {
    if config.version.is_none() {
        return Ok(());
    }
    let help = "whether the peer is there and goes by the same services and firewall";
    page.gauge("ha_config_agreed", help, u64::from(config.agreed))?;
    let help = "changes that gave way to others and that nobody has cleared";
    page.gauge("ha_config_conflicts", help, config.conflicts)
}

fn sync(page: &mut Page<'_>, HaSync { told, heard }: &HaSync, queue: usize) -> fmt::Result {
    let HaTold { connected, complete, records, lag_ms, .. } = told;
    let both = |values: [u64; 2]| {
        DIRECTIONS.into_iter().zip(values).map(|(word, value)| ([("direction", word)], value))
    };
    let connected = [u64::from(*connected), u64::from(heard.connected)];
    page.gauges("sync_connected", "whether flows can be told", both(connected))?;
    let complete = [u64::from(*complete), u64::from(heard.complete)];
    page.gauges("sync_complete", "whether all flows are known", both(complete))?;
    let records = [*records, heard.records];
    page.counters("sync_records", "records of flows", both(records))?;
    if let Some(lag) = lag_ms {
        let help = "age, at most, of the changes that the peer confirmed last";
        page.gauge("sync_lag_seconds", help, seconds(*lag))?;
    }
    page.gauge("sync_queue", "changed buckets that the peer is not told of yet", queue as u64)?;
    let HaHeard { entered, repaired, removed, unknown, no_room, .. } = *heard;
    page.counter("sync_entered", "records that made or moved an entry here", entered)?;
    let help = "of these, found by comparing all flows, after all were known: divergence";
    page.counter("sync_repaired", help, repaired)?;
    let help = "entries removed here, of flows that the peer does not have any more";
    page.counter("sync_removed", help, removed)?;
    let left_out = [("unknown_backend", unknown), ("no_room", no_room)];
    let left_out = left_out.map(|(reason, count)| ([("reason", reason)], count));
    page.counters("sync_left_out", "records without an entry here", left_out)
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1e3
}
