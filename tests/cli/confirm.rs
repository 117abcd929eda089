//! `lb reload --confirm`.

use std::fs;

use lb_tests::harness::{Lab, Result, curl, eventually, spread};

use super::{PATIENCE, URL, WEB, names, other, web};

#[test]
fn a_reload_that_nobody_confirms_is_taken_back() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    lab.done(&["backend", "set", WEB, "b1", "--weight", "50"])?;
    let first = lab.generation()?;
    let mut less = config.clone();
    less.services[0].remove("b3");
    let new = other(&lab, &less).display().to_string();
    let done = lab.done(&["reload", &new, "--confirm", "4s"])?;
    assert!(done.stdout.contains("taken back in 4s unless"), "{}", done.stdout);
    assert_eq!(names(&lab)?, ["b1", "b2"]);
    assert!(!spread(&lab.client, URL, 30)?.contains_key("b3"));
    // Nobody else's change gets in between.
    for words in [
        &["backend", "set", WEB, "b1", "--weight", "3"][..],
        &["reload"],
        &["firewall", "allow", "tcp/25"],
    ] {
        let says = lab.refused(1, words)?;
        assert!(
            says.contains("waits for its confirmation") && says.contains("hint: confirm it"),
            "{says}"
        );
    }
    assert_eq!(lab.generation()?, first + 1);
    assert!(lab.done(&["status"])?.stdout.contains("unless confirmed"));
    let back = || names(&lab).is_ok_and(|names| names.len() == 3);
    assert!(eventually(PATIENCE, back), "{}", agent.log());
    assert!(spread(&lab.client, URL, 60)?.contains_key("b3"));
    // The edit from before is still one.
    assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 50);
    assert_eq!(lab.generation()?, first + 2);
    lab.done(&["backend", "drain", WEB, "b1"])?;
    Ok(())
}

#[test]
fn a_confirmed_reload_stays() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    let mut less = config.clone();
    less.services[0].remove("b2");
    lab.write(&less)?;
    lab.done(&["reload", "--confirm", "2s"])?;
    let first = lab.generation()?;
    lab.done(&["reload", "--confirmed"])?;
    assert_eq!(lab.json(&["status"])?["confirm_s"], serde_json::Value::Null);
    let uptime = || lab.json(&["status"]).ok().and_then(|status| status["uptime_s"].as_u64());
    let then = uptime().unwrap();
    assert!(eventually(PATIENCE, || uptime() >= Some(then + 3)));
    assert_eq!((names(&lab)?, lab.generation()?), (vec!["b1".to_owned()], first));
    assert!(
        lab.refused(1, &["reload", "--confirmed"])?.contains("hint: it may have been taken back")
    );
    Ok(())
}

#[test]
fn what_cannot_wait_is_done_and_outlives_a_reload_that_is_taken_back() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    let mut less = config.clone();
    less.services[0].remove("b3");
    let new = other(&lab, &less).display().to_string();
    lab.done(&["reload", &new, "--confirm", "4s"])?;
    lab.done(&["backend", "maint", WEB, "b1"])?;
    lab.done(&["firewall", "deny", "198.51.100.0/24"])?;
    assert_eq!(spread(&lab.client, URL, 10)?.into_keys().collect::<Vec<_>>(), ["b2"]);
    let back = || names(&lab).is_ok_and(|names| names.len() == 3);
    assert!(eventually(PATIENCE, back), "{}", agent.log());
    let held = || -> Result<()> {
        assert_eq!(lab.backends_by(WEB, "admin")?["b1"], "maint");
        let list = lab.json(&["firewall", "list"])?;
        assert_eq!(list["deny"][0]["prefix"], "198.51.100.0/24");
        assert!(!spread(&lab.client, URL, 30)?.contains_key("b1"));
        Ok(())
    };
    held()?;
    agent.kill()?;
    let _agent = lab.start_agent(&config)?;
    held()
}

#[test]
fn a_reload_that_nobody_confirmed_is_not_gone_by_after_a_kill() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    lab.done(&["backend", "maint", WEB, "b1"])?;
    let mut less = config.clone();
    less.services[0].remove("b2");
    lab.write(&less)?;
    lab.done(&["reload", "--confirm", "1h", "--discard-edits"])?;
    assert_eq!(curl(&lab.client, URL)?, "b1\n");
    agent.kill()?;
    // Twice, since the second start has nobody to tell it but the disk.
    for _ in 0..2 {
        let agent = lab.start_agent(&less)?;
        assert_eq!(names(&lab)?, ["b1", "b2"]);
        assert_eq!(lab.backends_by(WEB, "admin")?["b1"], "maint");
        assert_eq!(curl(&lab.client, URL)?, "b2\n");
        assert!(agent.log().contains("reloaded and not confirmed"), "{}", agent.log());
        agent.kill()?;
    }
    // Whoever wants it says so.
    let agent = lab.start_agent(&less)?;
    lab.done(&["reload", "--discard-edits"])?;
    assert_eq!(names(&lab)?, ["b1"]);
    agent.kill()?;
    let _agent = lab.start_agent(&less)?;
    assert_eq!((names(&lab)?, curl(&lab.client, URL)?), (vec!["b1".to_owned()], "b1\n".to_owned()));
    Ok(())
}

#[test]
fn an_agent_that_ends_takes_an_unconfirmed_reload_back() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    let mut less = config.clone();
    less.services[0].remove("b2");
    let new = other(&lab, &less).display().to_string();
    lab.done(&["reload", &new, "--confirm", "1h"])?;
    assert!(!spread(&lab.client, URL, 20)?.contains_key("b2"));
    assert!(agent.terminate()?.success());
    assert!(spread(&lab.client, URL, 60)?.contains_key("b2"));
    Ok(())
}

#[test]
fn a_reload_is_taken_back_though_an_interface_went_away() -> Result<()> {
    let lab = Lab::new(2)?;
    let mut config = web(&lab);
    config.interfaces.push("extra".to_owned());
    let queues = "numrxqueues 2 numtxqueues 2";
    let add = format!("link add extra {queues} type veth peer name extrap {queues}");
    lab.balancer.ip(&format!("{add}\nlink set extra up\nlink set extrap up"))?;
    let agent = lab.start_agent(&config)?;
    let mut less = config.clone();
    less.services[0].remove("b2");
    less.interfaces.retain(|name| name != "extra");
    lab.write(&less)?;
    lab.done(&["reload", "--confirm", "2s"])?;
    lab.balancer.ip("link del extra")?;
    let back = || names(&lab).is_ok_and(|names| names.len() == 2);
    assert!(eventually(PATIENCE, back), "{}", agent.log());
    assert!(spread(&lab.client, URL, 60)?.contains_key("b2"));
    // So does the next agent, which goes by the same.
    agent.kill()?;
    let agent = lab.start_agent(&less)?;
    assert_eq!(names(&lab)?, ["b1", "b2"], "{}", agent.log());
    lab.balancer.ip(&format!("{add}\nlink set extra up\nlink set extrap up"))?;
    let served = || {
        let status = lab.json(&["status"]).unwrap_or_default();
        let all = status["interfaces"].as_array().cloned().unwrap_or_default();
        all.iter().all(|interface| interface["xdp_mode"].is_string())
    };
    assert!(eventually(PATIENCE, served), "{}", agent.log());
    Ok(())
}

#[test]
fn a_backend_that_a_reload_took_for_a_while_starts_anew_only_if_it_was() -> Result<()> {
    let lab = Lab::new(3)?;
    let mut config = web(&lab);
    config.services[0] = config.services[0].clone().lines("slow_start = \"1h\"");
    let agent = lab.start_agent(&config)?;
    let mut less = config.clone();
    less.services[0].remove("b3");
    let new = other(&lab, &less).display().to_string();
    lab.done(&["reload", &new, "--confirm", "2s"])?;
    let back = || names(&lab).is_ok_and(|names| names.len() == 3);
    assert!(eventually(PATIENCE, back), "{}", agent.log());
    assert_eq!(lab.backends_by(WEB, "effective_weight")?["b3"], 100);
    // In comparison: one that comes back by a reload of its own.
    lab.done(&["reload", &new])?;
    lab.done(&["reload"])?;
    let weights = lab.backends_by(WEB, "effective_weight")?;
    assert!(weights["b3"].as_u64() < Some(50), "{weights:?}");
    Ok(())
}

#[test]
fn an_agent_whose_edits_clash_with_its_file_can_start_without_them() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    lab.done(&["backend", "set", WEB, "b1", "--weight", "7"])?;
    lab.done(&["backend", "add", WEB, "twin", "10.2.0.12"])?;
    agent.kill()?;
    let mut clash = config.clone();
    clash.services[0] = clash.services[0].clone().with_one("b2", "10.2.0.12".parse().unwrap());
    let says = lab.start_agent(&clash).unwrap_err().to_string();
    assert!(says.contains("lb agent --discard-edits"), "{says}");
    for words in [&["--discard-edits"][..], &[]] {
        let agent = lab.start_agent_with(&clash, words)?;
        let told = agent.log().contains("discarded");
        assert_eq!(told, !words.is_empty(), "{}", agent.log());
        let aside = fs::read_to_string(config.state_dir.join("edits.json.discarded")).unwrap();
        assert!(aside.contains("10.2.0.12"), "{aside}");
        assert_eq!(names(&lab)?, ["b1", "b2"]);
        assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 100);
        agent.kill()?;
    }
    Ok(())
}

#[test]
fn a_refused_reload_leaves_orders_as_they_are() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    lab.done(&["backend", "maint", WEB, "b1"])?;
    let mut absent = config.clone();
    absent.interfaces.push("absent".to_owned());
    absent.services[0].remove("b1");
    let new = other(&lab, &absent).display().to_string();
    lab.refused(64, &["reload", &new, "--discard-edits"])?;
    lab.refused(64, &["reload", &new, "--confirm", "9s"])?;
    assert_eq!(lab.backends_by(WEB, "admin")?["b1"], "maint");
    // Whatever changes weights next does not put it back in service.
    lab.done(&["backend", "set", WEB, "b2", "--weight", "50"])?;
    assert_eq!(lab.backends_by(WEB, "effective_weight")?["b1"], 0);
    assert_eq!(spread(&lab.client, URL, 20)?.into_keys().collect::<Vec<_>>(), ["b2"]);
    Ok(())
}

#[test]
fn another_file_takes_no_edits_from_the_agents_own() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab);
    let agent = lab.start_agent(&config)?;
    lab.done(&["backend", "set", WEB, "b1", "--weight", "7"])?;
    lab.done(&["backend", "maint", WEB, "b2"])?;
    let new = other(&lab, &lab.config([])).display().to_string();
    let notes = lab.done(&["reload", &new])?.stderr;
    assert!(notes.contains("without effect"), "{notes}");
    agent.kill()?;
    let _agent = lab.start_agent(&config)?;
    assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 7);
    assert_eq!(lab.backends_by(WEB, "admin")?["b2"], "maint");
    // Its own file does, and says what it loses; an order is kept.
    lab.write(&lab.config([]))?;
    let notes = lab.done(&["reload"])?.stderr;
    assert!(notes.contains("what was set of it is forgotten"), "{notes}");
    assert!(notes.contains("ordered to maint, once there is one"), "{notes}");
    fs::write(lab.path("lb.toml"), config.to_string()).unwrap();
    lab.done(&["reload"])?;
    assert_eq!(lab.backends_by(WEB, "weight")?["b1"], 100);
    assert_eq!(lab.backends_by(WEB, "admin")?["b2"], "maint");
    Ok(())
}
