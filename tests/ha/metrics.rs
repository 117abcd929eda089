//! What a pair says of itself in metrics, before and after it hands over.

use lb_tests::harness::{METRICS, Metrics, Result, eventually, http_get};

use super::{PATIENCE, Pair};

/// A group that is handed over by order.
const GROUP: &str = "all";

impl Pair {
    fn metrics(&self, node: usize) -> Result<Metrics> {
        Metrics::scrape(&self.lab.nodes[node].netns)
    }
}

#[test]
fn roles_terms_and_transitions_are_told_with_their_cause() -> Result<()> {
    let pair = Pair::with(2, |config| {
        config.http = Some(METRICS.parse().unwrap());
        config.ha.as_mut().unwrap().replicate = true;
    })?;
    pair.settles(GROUP, 0);
    let _flows = pair.open()?;
    (0..2).for_each(|node| pair.is_told(node));
    let entered = || pair.metrics(1).unwrap().get("lb_sync_entered_total", &[]) > Some(0.0);
    assert!(eventually(PATIENCE, entered), "{}", pair.words());
    let group = [("group", GROUP)];
    let role = |metrics: &Metrics| metrics.get("lb_ha_role", &group);
    let (before, standby) = (pair.metrics(0)?, pair.metrics(1)?);
    assert_eq!((role(&before), role(&standby)), (Some(1.0), Some(0.0)));
    for metrics in [&before, &standby] {
        assert_eq!(metrics.all("lb_ha_heartbeat_age_seconds").count(), 2);
        assert_eq!(metrics.get("lb_ha_peer_present", &[]), Some(1.0));
        // The first frame of a run is not believed.
        let unproven = [("reason", "unproven")];
        assert!(metrics.get("lb_ha_frames_refused_total", &unproven) > Some(0.0));
        for direction in ["told", "heard"] {
            assert_eq!(metrics.get("lb_sync_connected", &[("direction", direction)]), Some(1.0));
        }
    }
    assert!(before.get("lb_sync_records_total", &[("direction", "told")]) > Some(0.0));
    assert_eq!(standby.get("lb_sync_complete", &[("direction", "heard")]), Some(1.0));
    assert!(before.get("lb_sync_lag_seconds", &[]).is_some());
    assert!(before.get("lb_ha_lease_seconds", &group) > Some(0.0));
    for name in ["lb_sync_repaired_total", "lb_sync_removed_total"] {
        assert!(standby.get(name, &[]).is_some(), "{name}");
    }
    for reason in ["unknown_backend", "no_room"] {
        assert_eq!(standby.get("lb_sync_left_out_total", &[("reason", reason)]), Some(0.0));
    }
    let told = || pair.metrics(0).unwrap().get("lb_sync_queue", &[]) == Some(0.0);
    assert!(eventually(PATIENCE, told), "{}", pair.words());
    let agreed = |node: usize| pair.metrics(node).unwrap().get("lb_ha_config_agreed", &[]);
    assert!(
        eventually(PATIENCE, || (0..2).all(|node| agreed(node) == Some(1.0))),
        "{}",
        pair.words()
    );
    assert_eq!(before.get("lb_ha_config_conflicts", &[]), Some(0.0));
    let health = |node: usize| http_get(&pair.lab.nodes[node].netns, "/healthz");
    assert_eq!(health(0)?, (200, "ok, active\n".into()));
    assert_eq!(health(1)?, (200, "ok, standby\n".into()));

    pair.lab.nodes[0].done(&["ha", "failover"])?;
    // Whoever serves now: a busy machine may have taken it back.
    let (gave, took) = (pair.metrics(0)?, pair.metrics(1)?);
    assert!(took.get("lb_ha_term", &group) > before.get("lb_ha_term", &group));
    let transitions = |metrics: &Metrics, to, cause| {
        metrics.get("lb_ha_transitions_total", &[("group", GROUP), ("to", to), ("cause", cause)])
    };
    assert_eq!(transitions(&gave, "standby", "ordered"), Some(1.0), "{}", pair.words());
    assert_eq!(transitions(&took, "active", "handed_over"), Some(1.0), "{}", pair.words());
    let status = pair.lab.nodes[1].json(&["ha", "status"])?;
    let mut latest = status["transitions"].as_array().expect("a list").iter();
    assert!(latest.any(|one| one["to"] == "active" && one["cause"] == "handed_over"), "{status}");
    let words = pair.lab.nodes[0].done(&["ha", "status"])?.stdout;
    assert!(words.contains("ago: group all to standby, ordered, term "), "{words}");
    Ok(())
}

#[test]
fn a_death_of_the_peer_is_silence() -> Result<()> {
    let mut pair = Pair::with(2, |config| config.http = Some(METRICS.parse().unwrap()))?;
    pair.settles(GROUP, 0);
    pair.agent(0).kill()?;
    pair.serves(GROUP, 1);
    let labels = [("group", GROUP), ("to", "active"), ("cause", "silence")];
    assert_eq!(pair.metrics(1)?.get("lb_ha_transitions_total", &labels), Some(1.0));
    let gone = || pair.metrics(1).unwrap().get("lb_ha_peer_present", &[]) == Some(0.0);
    assert!(eventually(PATIENCE, gone), "{}", pair.words());
    Ok(())
}
