//! Several editors at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use lb_tests::harness::{Lab, Result, eventually};

use super::{PATIENCE, WEB, web};

#[test]
fn two_editors_at_once_get_a_generation_for_each_edit() -> Result<()> {
    const EDITS: u64 = 20;
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let first = lab.generation()?;
    let edit = |backend: &str| -> Result<Vec<u64>> {
        (1..=EDITS)
            .map(|weight| {
                let words = ["backend", "set", WEB, backend, "--weight", &weight.to_string()];
                Ok(lab.json(&words)?["generation"].as_u64().expect("a generation"))
            })
            .collect()
    };
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(|| edit("b1"));
        let two = edit("b2");
        (one.join().unwrap(), two)
    });
    let (one, two) = (one?, two?);
    assert!(one.is_sorted() && two.is_sorted());
    let mut all = [one, two].concat();
    all.sort_unstable();
    assert_eq!(all, (first + 1..=first + 2 * EDITS).collect::<Vec<_>>());
    assert_eq!(lab.generation()?, first + 2 * EDITS);
    let weights = lab.backends_by(WEB, "weight")?;
    assert!(weights.values().all(|weight| *weight == EDITS), "{weights:?}");
    Ok(())
}

#[test]
fn of_twenty_editors_with_one_name_one_wins_and_none_of_others_is_lost() -> Result<()> {
    const EDITORS: usize = 20;
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let first = lab.generation()?;
    let results: Vec<Result<bool>> = thread::scope(|scope| {
        let editors: Vec<_> = (0..EDITORS)
            .map(|number| {
                let lab = &lab;
                scope.spawn(move || {
                    let (name, address) =
                        (format!("x{number}"), format!("10.2.0.11:{}", 8000 + number));
                    lab.done(&["backend", "add", WEB, &name, &address])?;
                    let same = lab.ask(&["backend", "add", WEB, "same", "10.2.0.11:9000"])?;
                    let refused = same.stderr.contains("has a backend `same` already");
                    assert_ne!(same.status.success(), refused, "{}", same.stderr);
                    lab.done(&["backend", "set", WEB, &name, "--weight", "7"])?;
                    Ok(same.status.success())
                })
            })
            .collect();
        editors.into_iter().map(|editor| editor.join().unwrap()).collect()
    });
    let winners = results.into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(winners.iter().filter(|won| **won).count(), 1);
    assert_eq!(lab.generation()?, first + 2 * EDITORS as u64 + 1);
    let weights = lab.backends_by(WEB, "weight")?;
    assert_eq!(weights.values().filter(|weight| **weight == 7).count(), EDITORS);
    assert_eq!(lab.json(&["status"])?["edits"], EDITORS as u64 + 1);
    Ok(())
}

#[test]
fn edits_and_hangups_together_lose_no_edit() -> Result<()> {
    const EDITS: u64 = 30;
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    let first = lab.generation()?;
    let editing = AtomicBool::new(true);
    let edit = |number: u64| -> Result<()> {
        for weight in 1..=EDITS {
            let backend = format!("b{number}");
            lab.done(&["backend", "set", WEB, &backend, "--weight", &weight.to_string()])?;
            lab.done(&["firewall", "deny", &format!("198.18.{number}.{weight}")])?;
        }
        Ok(())
    };
    let hang_up = || -> Result<()> {
        // The file differs each time, so that each is a change.
        for port in (8000..).take_while(|_| editing.load(Ordering::Relaxed)) {
            let mut changed = config.clone();
            changed.firewall = format!("allow = [\"tcp/{port}\"]");
            lab.write(&changed)?;
            agent.reload()?;
            lab.generation()?;
        }
        lab.write(&config)?;
        agent.reload()
    };
    thread::scope(|scope| {
        let hanging = scope.spawn(hang_up);
        let editors = [scope.spawn(|| edit(1)), scope.spawn(|| edit(2))];
        let edited = editors.map(|editor| editor.join().unwrap());
        editing.store(false, Ordering::Relaxed);
        hanging.join().unwrap()?;
        edited.into_iter().collect::<Result<()>>()
    })?;
    let is_back =
        || lab.json(&["firewall", "list"]).is_ok_and(|list| list["allow"] == serde_json::json!([]));
    assert!(eventually(PATIENCE, is_back), "{}", agent.log());
    let is_there = || -> Result<()> {
        let weights = lab.backends_by(WEB, "weight")?;
        assert!(weights.values().all(|weight| *weight == EDITS), "{weights:?}");
        let denied = lab.json(&["firewall", "list"])?["deny"].as_array().map(Vec::len);
        assert_eq!(denied, Some(2 * EDITS as usize));
        Ok(())
    };
    is_there()?;
    assert!(lab.generation()? > first + 4 * EDITS, "no reload came between the edits");
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
    agent.kill()?;
    let _agent = lab.start_agent(&config)?;
    is_there()
}

#[test]
fn an_edit_does_not_wait_for_a_backend_that_is_away() -> Result<()> {
    let lab = Lab::new(1)?;
    let agent = lab.start_agent(&web(&lab))?;
    lab.done(&["backend", "add", WEB, "away", "10.2.0.250"])?;
    for number in 1..=3 {
        lab.done(&["firewall", "deny", &format!("192.0.2.{number}")])?;
    }
    // Said when it came, and not at each edit since.
    assert_eq!(agent.log().matches("not resolved yet").count(), 1, "{}", agent.log());
    Ok(())
}
