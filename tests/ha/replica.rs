//! Services, firewall and edits that the nodes share.

use std::{collections::BTreeMap, fs};

use lb_tests::harness::{Config, Mount, NAT_V4, Network, Output, PairLab, Result, eventually};
use serde_json::{Value, json};

use super::{PATIENCE, Pair, assert_kept, services};

const BOTH: [Network; 2] = [Network::Front, Network::Back];

/// A pair that shares its configuration; `lb-a` serves.
struct Sharing {
    pair: Pair,
    /// Name of a web service.
    web: String,
}

impl Sharing {
    fn new(backends: usize) -> Result<Self> {
        Self::with(backends, |_| {})
    }

    fn with(backends: usize, change: impl Fn(&mut Config)) -> Result<Self> {
        let pair = Pair::with(backends, |config| {
            config.ha.as_mut().unwrap().replicate = true;
            change(config);
        })?;
        let services = &pair.configs[0].services;
        let sharing = Self { web: services[0].name().to_owned(), pair };
        sharing.pair.settles("all", 0);
        sharing.agrees();
        Ok(sharing)
    }

    /// Waits until both say that they go by the same.
    fn agrees(&self) {
        let agreed = |node: usize| {
            let status = self.pair.lab.nodes[node].json(&["ha", "status"]);
            status.is_ok_and(|status| status["config"]["agreed"] == true)
        };
        let both = || agreed(0) && agreed(1);
        assert!(eventually(PATIENCE, both), "{}", self.pair.words());
        assert_eq!(self.said(0).unwrap(), self.said(1).unwrap(), "{}", self.pair.words());
    }

    fn order(&self, node: usize, words: &[&str]) -> Result<Output> {
        self.pair.lab.nodes[node].done(words)
    }

    fn set_weight(&self, node: usize, backend: &str, weight: u32) -> Result<Output> {
        let weight = weight.to_string();
        self.order(node, &["backend", "set", &self.web, backend, "--weight", &weight])
    }

    fn weights(&self, node: usize) -> Result<BTreeMap<String, Value>> {
        self.pair.lab.nodes[node].backends_by(&self.web, "weight")
    }

    /// What a node says of services, backends and firewall, but for their state.
    fn said(&self, node: usize) -> Result<Vec<Value>> {
        let node = &self.pair.lab.nodes[node];
        let fields = ["service", "name", "address", "port", "weight", "admin"];
        let mut said = vec![node.json(&["firewall", "list"])?];
        for list in ["service", "backend"] {
            let list = node.json(&[list, "list"])?;
            let mut lines: Vec<_> = list
                .as_array()
                .unwrap()
                .iter()
                .map(|line| fields.map(|field| line[field].to_string()).join(" "))
                .collect();
            lines.sort();
            said.push(json!(lines));
        }
        Ok(said)
    }

    fn cut(&self) -> Result<()> {
        for network in BOTH {
            [0, 1].into_iter().try_for_each(|from| self.pair.lab.cut(network, from))?;
        }
        Ok(())
    }

    fn restart(&mut self, node: usize) -> Result<()> {
        self.pair.agent(node).kill()?;
        self.pair.start(node)
    }
}

#[test]
fn an_edit_on_either_node_is_on_the_disks_of_both_when_the_command_returns() -> Result<()> {
    let mut sharing = Sharing::new(3)?;
    let web = sharing.web.clone();
    for (node, weight) in [(0, 5), (1, 7)] {
        let output = sharing.set_weight(node, "b1", weight)?;
        assert!(!output.stderr.contains("peer"), "{}", output.stderr);
        assert_eq!(sharing.weights(1 - node)?["b1"], weight);
    }
    sharing.order(1, &["backend", "drain", &web, "b2"])?;
    sharing.order(0, &["firewall", "deny", "198.51.100.0/24"])?;
    let before = sharing.said(0)?;
    // The machine stops at once.
    for node in [1, 0] {
        sharing.restart(node)?;
        assert_eq!(sharing.said(node)?, before);
    }
    sharing.agrees();
    assert_eq!(sharing.said(1)?, before);
    Ok(())
}

#[test]
fn a_node_that_was_away_gets_what_it_missed() -> Result<()> {
    let mut sharing = Sharing::new(3)?;
    sharing.pair.agent(1).kill()?;
    let away = || {
        let status = sharing.pair.lab.nodes[0].json(&["status"]);
        status.is_ok_and(|status| status["ha"]["connected"] == false)
    };
    assert!(eventually(PATIENCE, away));
    let output = sharing.set_weight(0, "b1", 5)?;
    assert!(output.stderr.contains("the peer is away"), "{}", output.stderr);
    sharing.restart(0)?;
    // It takes over again once it believes that there is no peer.
    sharing.pair.serves("all", 0);
    sharing.set_weight(0, "b2", 7)?;
    sharing.pair.start(1)?;
    sharing.agrees();
    let weights = sharing.weights(1)?;
    assert_eq!((&weights["b1"], &weights["b2"]), (&json!(5), &json!(7)));
    Ok(())
}

#[test]
fn what_was_changed_on_both_sides_of_a_partition_is_kept_or_shown() -> Result<()> {
    let sharing = Sharing::new(3)?;
    let web = sharing.web.clone();
    sharing.cut()?;
    sharing.pair.serves("all", 1);
    sharing.set_weight(0, "b1", 5)?;
    sharing.set_weight(0, "b2", 6)?;
    sharing.set_weight(1, "b1", 7)?;
    sharing.order(1, &["firewall", "deny", "198.51.100.0/24"])?;
    sharing.order(1, &["backend", "drain", &web, "b3"])?;
    sharing.pair.lab.heal()?;
    sharing.agrees();
    // The node that took over has the higher term.
    let weights = sharing.weights(0)?;
    assert_eq!((&weights["b1"], &weights["b2"]), (&json!(7), &json!(6)));
    let conflicts = |node: usize| sharing.pair.lab.nodes[node].json(&["ha", "conflicts"]);
    let found = conflicts(0)?;
    assert_eq!(found, conflicts(1)?);
    let [conflict] = &found.as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!(conflict["path"], format!("edits.services.{web}.backends.b1.keys.weight"));
    assert_eq!((&conflict["kept"], &conflict["dropped"]), (&json!(7), &json!(5)));
    assert_eq!(conflict["node"], "lb-a");
    let says = sharing.order(1, &["ha", "status"])?.stdout;
    assert!(says.contains("1 change gave way: `lb ha conflicts`"), "{says}");
    let says = sharing.order(0, &["ha", "conflicts"])?.stdout;
    assert!(says.contains("weight: 7 stays, 5 of `lb-a` gave way"), "{says}");
    sharing.order(0, &["ha", "conflicts", "--clear"])?;
    assert_eq!(conflicts(1)?, json!([]));
    Ok(())
}

#[test]
fn what_is_served_stays_when_a_node_with_another_file_comes() -> Result<()> {
    let lab = PairLab::new(3)?;
    lab.make_key()?;
    let configs = [0, 1].map(|node| {
        // Of two that nobody goes by yet the second would stay.
        let mut config = lab.config(node, services(&lab.backends[node..]));
        let ha = config.ha.as_mut().expect("a pair");
        (ha.replicate, ha.priority) = (true, 100 + node as u8);
        config
    });
    let web = configs[0].services[0].name().to_owned();
    let mut pair = Pair { agents: [None, None], configs, lab };
    pair.start(0)?;
    pair.serves("all", 0);
    pair.start(1)?;
    let sharing = Sharing { pair, web };
    sharing.agrees();
    assert_eq!(sharing.weights(1)?.len(), 3);
    let conflicts = sharing.pair.lab.nodes[0].json(&["ha", "conflicts"])?;
    let gave_way = |of: &Value| of["node"] == "lb-b";
    let conflicts = conflicts.as_array().expect("a list");
    assert!(!conflicts.is_empty() && conflicts.iter().all(gave_way), "{conflicts:?}");
    let forgotten = sharing.order(1, &["ha", "conflicts", "--clear"])?;
    assert!(forgotten.stderr.contains("of `lb-b`"), "{}", forgotten.stderr);
    Ok(())
}

#[test]
fn a_file_that_one_node_puts_in_force_is_in_force_on_both() -> Result<()> {
    let mut sharing = Sharing::new(3)?;
    let mut less = sharing.pair.configs[0].clone();
    less.services.iter_mut().for_each(|service| service.remove("b3"));
    let file = sharing.pair.lab.nodes[0].path("lb.toml");
    fs::write(file, less.to_string()).unwrap();
    sharing.order(0, &["reload"])?;
    assert_eq!(sharing.weights(1)?.into_keys().collect::<Vec<_>>(), ["b1", "b2"]);
    assert!(sharing.pair.words().contains("from the peer: "), "{}", sharing.pair.words());
    // Its own file is as it was, which is no reason to go back to it.
    sharing.restart(1)?;
    sharing.agrees();
    assert_eq!(sharing.weights(1)?.len(), 2);
    let words = sharing.pair.words();
    assert!(words.contains("are not gone by, those of the pair are"), "{words}");
    // Nor is a reload, which may be about something else.
    let says = sharing.order(1, &["reload"])?.stderr;
    assert!(says.contains("are not gone by, those of the pair are"), "{says}");
    assert_eq!((sharing.weights(0)?.len(), sharing.weights(1)?.len()), (2, 2));
    // Nor is one that is confirmed later, or a start after it.
    sharing.order(1, &["reload", "--confirm", "1h"])?;
    sharing.order(1, &["reload", "--confirmed"])?;
    sharing.restart(1)?;
    sharing.agrees();
    assert_eq!((sharing.weights(0)?.len(), sharing.weights(1)?.len()), (2, 2));
    // Whoever wants it says so.
    let file = sharing.pair.lab.nodes[1].path("lb.toml").display().to_string();
    sharing.order(1, &["reload", &file])?;
    assert_eq!((sharing.weights(0)?.len(), sharing.weights(1)?.len()), (3, 3));
    Ok(())
}

#[test]
fn a_peer_without_room_is_told_of_and_gets_it_when_there_is_room() -> Result<()> {
    let mut sharing = Sharing::new(2)?;
    sharing.pair.agent(1).kill()?;
    let disk = Mount::tiny(&sharing.pair.configs[1].state_dir)?;
    sharing.pair.start(1)?;
    sharing.agrees();
    disk.fill()?;
    let output = sharing.set_weight(0, "b1", 5)?;
    let says = &output.stderr;
    assert!(says.contains("the peer has not stored it: ") && says.contains("No space"), "{says}");
    assert_eq!((&sharing.weights(0)?["b1"], &sharing.weights(1)?["b1"]), (&json!(5), &json!(100)));
    let says = sharing.order(0, &["ha", "status"])?.stdout;
    assert!(says.contains("the peer has another one") && says.contains("No space"), "{says}");
    let prober = sharing.pair.prober(NAT_V4)?;
    disk.clear()?;
    sharing.agrees();
    assert_eq!(sharing.weights(1)?["b1"], 5);
    sharing.pair.goes_on(&prober);
    Ok(())
}

#[test]
fn no_edit_is_lost_whoever_is_killed_meanwhile() -> Result<()> {
    let mut sharing = Sharing::new(4)?;
    let names = ["b1", "b2", "b3", "b4"];
    let mut last = BTreeMap::new();
    for round in 0..6_u32 {
        for (index, name) in names.iter().enumerate() {
            // The agent that is killed next may be in the middle of telling.
            let weight = 10 + round * 10 + index as u32;
            sharing.set_weight(index % 2, name, weight)?;
            last.insert((*name).to_owned(), json!(weight));
        }
        sharing.restart(round as usize % 2)?;
        if round % 2 == 0 {
            sharing.agrees();
        }
    }
    sharing.agrees();
    assert_eq!(sharing.weights(0)?, last);
    assert_eq!(sharing.pair.lab.nodes[0].json(&["ha", "conflicts"])?, json!([]));
    Ok(())
}

#[test]
fn while_a_reload_waits_for_its_confirmation_the_peer_waits_as_well() -> Result<()> {
    let sharing = Sharing::new(2)?;
    sharing.order(1, &["reload", "--confirm", "1h"])?;
    let says = sharing.set_weight(0, "b1", 5)?.stderr;
    assert!(says.contains("a reload waits for its confirmation"), "{says}");
    assert_eq!(sharing.weights(1)?["b1"], 100);
    sharing.order(1, &["reload", "--confirmed"])?;
    sharing.agrees();
    assert_eq!(sharing.weights(1)?["b1"], 5);
    Ok(())
}

#[test]
fn who_shares_with_nobody_is_told_so() -> Result<()> {
    let pair = Pair::with(1, |config| {
        config.ha.as_mut().unwrap().replicate = config.name == "lb-a";
    })?;
    pair.settles("all", 0);
    let told = |node: usize, words: &str| {
        let status = || pair.lab.nodes[node].done(&["ha", "status"]);
        eventually(PATIENCE, || status().is_ok_and(|status| status.stdout.contains(words)))
    };
    assert!(told(0, "`ha.config` is \"independent\" at `lb-b`"), "{}", pair.words());
    assert!(told(1, "configuration: independent"), "{}", pair.words());
    Ok(())
}

/// While it was away a backend came, and got connections.
#[test]
fn who_returns_takes_over_once_it_has_the_configuration_and_the_connections() -> Result<()> {
    let mut sharing = Sharing::with(2, |config| {
        let first = config.name == "lb-a";
        let ha = config.ha.as_mut().unwrap();
        (ha.preempt, ha.priority) = (true, if first { 200 } else { 100 });
        config.services.iter_mut().for_each(|service| service.remove("b2"));
    })?;
    sharing.pair.agent(0).kill()?;
    sharing.pair.serves("all", 1);
    let address = sharing.pair.lab.backends[1].address(true).to_string();
    sharing.order(1, &["backend", "add", &sharing.web, "b2", &address])?;
    let mut flows = sharing.pair.open()?;
    assert!(flows[0].by_backend().contains_key("b2"));
    sharing.pair.start(0)?;
    sharing.pair.settles("all", 0);
    sharing.agrees();
    assert_kept(&mut flows);
    Ok(())
}
