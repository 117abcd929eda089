//! Edits that cannot be kept are refused.

use std::fs;

use lb_tests::harness::{Lab, Mount, Result, curl, eventually};

use super::{PATIENCE, URL, WEB, web};

/// Tries an edit that the disk has no place for; nothing may change.
fn refuses(lab: &Lab, hint: &str) -> Result<()> {
    let state = || -> Result<_> {
        let list = lab.json(&["backend", "list"])?;
        let weights: Vec<_> =
            list.as_array().unwrap().iter().map(|b| b["effective_weight"].clone()).collect();
        let status = lab.json(&["status"])?;
        Ok((lab.generation()?, weights, status["edits"].clone()))
    };
    let before = state()?;
    for words in [
        &["backend", "maint", WEB, "b1"][..],
        &["backend", "set", WEB, "b1", "--weight", "0"],
        &["firewall", "deny", "10.1.0.0/24"],
        &["service", "remove", WEB],
    ] {
        let says = lab.refused(1, words)?;
        assert!(says.contains("nothing was changed") && says.contains(hint), "{says}");
    }
    assert_eq!(state()?, before);
    assert_eq!(curl(&lab.client, URL)?, "b1\n");
    Ok(())
}

#[test]
fn without_room_an_edit_is_refused_and_with_room_it_is_made() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let disk = Mount::tiny(&config.state_dir)?;
    let agent = lab.start_agent(&config)?;
    lab.done(&["backend", "set", WEB, "b1", "--weight", "9"])?;
    disk.fill()?;
    refuses(&lab, "hint: make room there")?;
    // What is on disk is what was in force.
    agent.kill()?;
    let _agent = lab.start_agent(&config)?;
    assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 9);
    refuses(&lab, "hint: make room there")?;
    disk.clear()?;
    lab.done(&["backend", "set", WEB, "b1", "--weight", "11"])?;
    assert_eq!(lab.backends_by(WEB, "effective_weight")?["b1"], 11);
    Ok(())
}

#[test]
fn where_nothing_can_be_written_an_edit_is_refused() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    let disk = Mount::read_only(&config.state_dir)?;
    refuses(&lab, "hint: `node.state_dir` must be a directory that the agent can write to")?;
    drop(disk);
    lab.done(&["backend", "set", WEB, "b1", "--weight", "11"])?;
    assert_eq!(lab.backends_by(WEB, "effective_weight")?["b1"], 11);
    Ok(())
}

#[test]
fn a_denial_ends_in_time_without_room_to_write_it_down() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let disk = Mount::tiny(&config.state_dir)?;
    let agent = lab.start_agent(&config)?;
    lab.done(&["firewall", "deny", "10.1.0.0/24", "--for", "3s"])?;
    disk.fill()?;
    assert!(curl(&lab.client, URL).is_err());
    assert!(eventually(PATIENCE, || curl(&lab.client, URL).is_ok()), "{}", agent.log());
    assert_eq!(lab.json(&["firewall", "list"])?["deny"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn a_time_that_never_comes_stops_nobody() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    for words in [
        &["firewall", "deny", "198.51.100.0/24", "--for", "20years"][..],
        &["backend", "drain", WEB, "b1", "--deadline", "20years"],
    ] {
        assert!(lab.refused(1, words)?.contains("ten years"));
    }
    agent.kill()?;
    let never = u64::MAX;
    let edits = serde_json::json!({ "version": 1, "edits": {
        "services": { WEB: { "backends": { "b1": { "order": { "state": "drain", "deadline": never } } } } },
        "firewall": { "deny": { "198.51.100.0/24": { "deny": true, "until": never } } },
    } });
    fs::write(config.state_dir.join("edits.json"), edits.to_string()).unwrap();
    let _agent = lab.start_agent(&config)?;
    let notes = lab.done(&["reload"])?.stderr;
    assert!(notes.contains("denied until 9999-12-31") && notes.contains("drain"), "{notes}");
    assert_eq!(curl(&lab.client, URL)?, "b2\n");
    Ok(())
}
