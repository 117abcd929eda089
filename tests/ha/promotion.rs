//! A node dies while it takes over, before each call by which its takeover shows.

use std::{collections::BTreeMap, fs};

use lb_tests::harness::{DSR_V4, Error, PairLab, Process, Result, eventually, tool};

use super::{ECHO, PATIENCE, Pair};

/// Heartbeats, requests to the kernel about addresses, and announcements are sent.
const CALL: &str = "sendto";
/// The calls after the death of the peer at which the node dies, one each time. Two
/// heartbeats by two paths are sent before it takes over, or three; from the tenth on it
/// announces for a while, then it takes the addresses.
const CALLS: [usize; 20] =
    [4, 5, 6, 7, 8, 9, 10, 11, 14, 18, 22, 24, 25, 26, 27, 28, 29, 30, 31, 32];
/// More of them, for machines on which heartbeats come in between more often.
const MORE: [usize; 14] = [3, 2, 33, 34, 35, 36, 37, 38, 40, 12, 16, 20, 23, 42];
/// What it was about to do after it had begun to serve or before, each at least once.
const STEPS: [(bool, Last); 4] = [
    (false, Last::Heartbeat),
    (true, Last::Heartbeat),
    (true, Last::Announcement),
    (true, Last::Address),
];

/// What a node was about to do when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Heartbeat,
    /// Looks at the addresses that there are.
    Look,
    /// Takes one.
    Address,
    Announcement,
}

impl Last {
    /// Of a call as strace prints it.
    fn of(call: &str) -> Self {
        // RTM_NEWADDR is 20.
        if call.contains("\"lbHA") {
            Self::Heartbeat
        } else if call.contains("nlmsg_type=0x14") || call.contains("RTM_NEWADDR") {
            Self::Address
        } else if call.contains("nlmsg_type") {
            Self::Look
        } else {
            Self::Announcement
        }
    }
}

/// The thread of an agent's heartbeats.
fn heartbeats(agent: u32) -> Result<String> {
    let failed = Error::io("look for the thread of heartbeats");
    let tasks = fs::read_dir(format!("/proc/{agent}/task")).map_err(failed)?;
    let mut tasks = tasks.flatten().map(|task| task.path());
    let task = tasks
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "ha"));
    let name = task.and_then(|task| Some(task.file_name()?.to_str()?.to_owned()));
    Ok(name.expect("an agent of a pair has such a thread"))
}

/// Has an agent die at this call of its heartbeats' thread, counted from now on.
fn die_at(call: usize, agent: u32) -> Result<Process> {
    let mut strace = tool("strace");
    strace.args(["-p", &heartbeats(agent)?, "-e", &format!("trace={CALL}")]);
    strace.args(["-e", &format!("inject={CALL}:signal=SIGKILL:when={call}")]);
    let mut strace = Process::start(&mut strace)?;
    strace.wait_for("attached", PATIENCE, |log| log.contains("attached"))?;
    Ok(strace)
}

#[test]
fn whenever_a_node_dies_that_takes_over_one_serves_then_in_a_term_of_its_own() -> Result<()> {
    // Two addresses at one interface, so that there are not too many calls.
    let mut pair = Pair::with(1, |config| {
        if let Some(ha) = &mut config.ha {
            ha.groups[0].addresses = PairLab::dsr_addresses();
        }
    })?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(DSR_V4, ECHO)?;
    let (mut active, mut died) = (0, BTreeMap::new());
    for (turn, call) in CALLS.into_iter().chain(MORE).enumerate() {
        if turn >= CALLS.len() && STEPS.iter().all(|step| died.contains_key(step)) {
            break;
        }
        pair.goes_on(&offered[active]);
        let term = pair.lab.nodes[active].groups_by("term")?["all"].as_u64();
        let next = pair.agent(1 - active);
        let mut strace = die_at(call, next.id())?;
        pair.agent(active).kill()?;
        strace.wait_for("death", PATIENCE, |log| log.contains("killed by SIGKILL"))?;
        let log = strace.log();
        let last = log.lines().rfind(|line| line.contains(CALL));
        let last = Last::of(last.expect("it died at a call"));
        let served = next.log().contains("this node serves ");
        *died.entry((served, last)).or_insert(0) += 1;
        drop(next);
        pair.start(0)?;
        pair.start(1)?;
        let one = || {
            let mut roles = [0, 1].map(|node| pair.role(node, "all").unwrap_or_default());
            roles.sort();
            roles == ["active", "standby"]
        };
        assert!(eventually(PATIENCE, one), "at call {call}, {last:?}: {}", pair.words());
        active = usize::from(pair.is(1, "all", "active"));
        let next = pair.lab.nodes[active].groups_by("term")?["all"].as_u64();
        // That of the node that died in between was higher by one, if it had any.
        assert!(next > term.map(|term| term + 1), "{term:?}, {next:?}: {}", pair.words());
    }
    println!("{died:?}");
    assert!(STEPS.iter().all(|step| died.contains_key(step)), "{died:?}");
    pair.goes_on(&offered[active]);
    drop(offered);
    // Two that served at a time would take hundreds.
    let turns = watch.turns()?;
    assert!(turns.len() <= 1 + 2 * (CALLS.len() + MORE.len()), "{turns:?}");
    Ok(())
}
