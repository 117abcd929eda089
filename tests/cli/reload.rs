//! `lb reload` and `lb plan`.

use std::fs;

use lb_tests::harness::{Flows, Lab, NAT_V4, Result, Survey, source_addresses, spread};

use super::{URL, WEB, input::BAD, names, other, web};

#[test]
fn a_plan_tells_what_moves_and_changes_nothing() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    let mut flows = Flows::open(&lab.client, &source_addresses(true), (NAT_V4, 80).into(), 60)?;
    let generation = lab.generation()?;
    let same = other(&lab, &config).display().to_string();
    let nothing = lab.done(&["plan", &same])?;
    assert_eq!((nothing.stdout.as_str(), nothing.stderr.as_str()), ("", "no change\n"));

    let mut less = config.clone();
    less.services[0].remove("b3");
    let new = other(&lab, &less).display().to_string();
    let plan = lab.json(&["plan", &new])?;
    assert_eq!(
        plan["changes"],
        serde_json::json!([format!("service `{WEB}`: backend `b3` is removed")])
    );
    let movement = &plan["services"][0];
    assert_eq!(movement["service"], WEB);
    let slots = movement["slots"].as_f64().unwrap();
    assert!((0.30..0.45).contains(&slots), "a third of the slots, and few more: {plan}");
    assert_eq!(movement["flows"], 60);
    assert_eq!(movement["flows_ended"], flows.by_backend()["b3"]);
    let table = lab.done(&["plan", &new])?.stdout;
    assert!(table.contains("backend `b3` is removed") && table.contains("SLOTS MOVED"), "{table}");

    assert_eq!(lab.generation()?, generation);
    assert_eq!(flows.survey(None), Survey { kept: 60, moved: 0, broken: 0 });
    assert_eq!(names(&lab)?.len(), 3);
    Ok(())
}

#[test]
fn where_edits_override_the_file_is_said() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    lab.done(&["backend", "set", WEB, "b1", "--weight", "7"])?;
    lab.done(&["backend", "drain", WEB, "b2"])?;
    let file = lab.write(&config)?.display().to_string();
    for words in [&["plan", file.as_str()][..], &["reload"]] {
        let notes = lab.done(words)?.stderr;
        for note in ["`b1`: weight is 7, the file says 100", "`b2`: ordered to drain"] {
            assert!(notes.contains(note), "{words:?}: {notes}");
        }
    }
    assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 7);
    lab.done(&["reload", "--discard-edits"])?;
    assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 100);
    assert_eq!(lab.backends_by(WEB, "admin")?["b2"], "ready");
    assert_eq!(lab.done(&["reload"])?.stderr, "");
    // A file that is not the agent's own is in force no longer than the agent.
    let new = other(&lab, &lab.config([])).display().to_string();
    let notes = lab.done(&["reload", &new])?.stderr;
    assert!(notes.contains("until the agent starts again"), "{notes}");
    Ok(())
}

#[test]
fn a_bad_file_is_refused_with_every_mistake() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    let generation = lab.generation()?;
    let bad = lab.path("bad.toml");
    fs::write(&bad, BAD).unwrap();
    let bad = bad.display().to_string();
    let refuse = |words: &[&str]| -> Result<()> {
        let says = lab.refused(64, words)?;
        assert!(says.contains("colour") && says.contains("70000"), "{words:?}: {says}");
        Ok(())
    };
    refuse(&["plan", &bad])?;
    refuse(&["reload", &bad])?;
    fs::write(lab.path("lb.toml"), BAD).unwrap();
    refuse(&["reload"])?;
    refuse(&["reload", "--confirm", "1s"])?;
    let missing = lab.path("missing.toml").display().to_string();
    assert!(lab.refused(64, &["reload", &missing])?.contains("hint: is the path right?"));
    assert_eq!((lab.generation()?, names(&lab)?), (generation, vec!["b1".to_owned()]));
    assert_eq!(spread(&lab.client, URL, 1)?["b1"], 1);
    Ok(())
}
