//! An agent that is killed while it is edited.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use lb_tests::harness::{Lab, Result, curl, eventually};
use serde_json::Value;

use super::{PATIENCE, URL, WEB, web};

/// Editors at work when the agent is killed.
const EDITORS: usize = 3;

/// Denies one prefix after the other until nobody answers; whatever command
/// returned 0 is noted.
fn edit(lab: &Lab, numbers: &AtomicUsize, acknowledged: &Mutex<BTreeSet<String>>) -> Result<()> {
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("198.18.{}.{}/32", number / 256, number % 256);
        if !lab.ask(&["firewall", "deny", &prefix])?.status.success() {
            return Ok(());
        }
        acknowledged.lock().unwrap().insert(prefix);
    }
}

fn denied(list: &Value) -> BTreeSet<String> {
    let all = list["deny"].as_array().expect("a list").iter();
    all.map(|denied| denied["prefix"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn whatever_command_returned_is_in_force_after_a_kill_in_a_burst() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let file = config.state_dir.join("edits.json");
    let (numbers, acknowledged) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let count = || acknowledged.lock().unwrap().len();
    for round in 1..=4 {
        let agent = lab.start_agent(&config)?;
        let goal = count() + 5 + round;
        thread::scope(|scope| {
            let editors: Vec<_> =
                (0..EDITORS).map(|_| scope.spawn(|| edit(&lab, &numbers, &acknowledged))).collect();
            let busy = eventually(PATIENCE, || count() >= goal);
            agent.kill()?;
            assert!(busy, "{} of {goal} edits", count());
            editors.into_iter().try_for_each(|editor| editor.join().unwrap())
        })?;
        let text = fs::read(&file).unwrap();
        let edits: Value = serde_json::from_slice(&text).expect("whole JSON");
        assert_eq!(edits["version"], 1);
        // Nobody forwards worse for it.
        assert_eq!(curl(&lab.client, URL)?, "b1\n");
    }
    let _agent = lab.start_agent(&config)?;
    let found = denied(&lab.json(&["firewall", "list"])?);
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(found.is_superset(&acknowledged), "{:?}", acknowledged.difference(&found));
    // What was under way may be there or not, and nothing else.
    assert!(found.len() <= acknowledged.len() + 4 * EDITORS, "{found:?}");
    Ok(())
}

#[test]
fn an_edit_is_in_force_after_a_kill_right_behind_it() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    for weight in 1..=3 {
        let agent = lab.start_agent(&config)?;
        let weight = weight.to_string();
        lab.done(&["backend", "set", WEB, "b2", "--weight", &weight])?;
        agent.kill()?;
        let agent = lab.start_agent(&config)?;
        assert_eq!(lab.backends_by(WEB, "effective_weight")?["b2"].to_string(), weight);
        lab.done(&["backend", "maint", WEB, "b1"])?;
        agent.kill()?;
        // The data plane had it before the command returned.
        assert_eq!(curl(&lab.client, URL)?, "b2\n");
        let agent = lab.start_agent(&config)?;
        assert_eq!(lab.backends_by(WEB, "admin")?["b1"], "maint");
        assert_eq!(curl(&lab.client, URL)?, "b2\n");
        lab.done(&["backend", "ready", WEB, "b1"])?;
        agent.terminate()?;
    }
    Ok(())
}
