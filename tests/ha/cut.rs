//! Frames between the balancers are lost.

use lb_tests::harness::{NAT_V4, Network, Result, eventually};

use super::{ECHO, PATIENCE, Pair, assert_kept, nodes};

const BOTH: [Network; 2] = [Network::Front, Network::Back];

#[test]
fn one_path_is_enough() -> Result<()> {
    for network in BOTH {
        let pair = Pair::new(1)?;
        pair.settles("all", 0);
        let watch = pair.lab.watch()?;
        let offered = pair.lab.offer(NAT_V4, ECHO)?;
        pair.goes_on(&offered[0]);
        [0, 1].into_iter().try_for_each(|from| pair.lab.cut(network, from))?;
        let silent = || {
            let status = pair.lab.nodes[1].json(&["ha", "status"]);
            let paths = status.map(|status| status["paths"].clone());
            let ages = paths.ok().and_then(|paths| paths.as_array().cloned()).unwrap_or_default();
            // Ten heartbeats.
            ages.iter().filter(|path| path["heard_ms"].as_u64().is_none_or(|ms| ms > 500)).count()
                == 1
        };
        assert!(eventually(PATIENCE, silent), "{network:?}: {}", pair.words());
        pair.settles("all", 0);
        pair.goes_on(&offered[0]);
        drop(offered);
        assert_eq!(watch.turns()?.len(), 1, "{network:?}");
    }
    Ok(())
}

#[test]
fn who_is_not_heard_any_more_hands_over_before_it_is_replaced() -> Result<()> {
    let pair = Pair::new(2)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    BOTH.into_iter().try_for_each(|network| pair.lab.cut(network, 0))?;
    pair.settles("all", 1);
    pair.goes_on(&offered[1]);
    assert_kept(&mut flows);
    pair.lab.heal()?;
    pair.settles("all", 1);
    pair.goes_on(&offered[1]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn who_hears_nothing_but_is_heard_is_not_replaced_beside_itself() -> Result<()> {
    let pair = Pair::new(2)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    BOTH.into_iter().try_for_each(|network| pair.lab.cut(network, 1))?;
    let deaf = || {
        let status = pair.lab.nodes[0].json(&["ha", "status"]);
        status.is_ok_and(|status| status["peer"].is_null())
    };
    assert!(eventually(PATIENCE, deaf), "{}", pair.words());
    pair.settles("all", 0);
    pair.goes_on(&offered[0]);
    pair.lab.heal()?;
    pair.settles("all", 0);
    drop(offered);
    assert_eq!(watch.turns()?.len(), 1);
    Ok(())
}

#[test]
fn after_a_partition_one_of_them_serves_alone() -> Result<()> {
    let pair = Pair::new(2)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    for network in BOTH {
        [0, 1].into_iter().try_for_each(|from| pair.lab.cut(network, from))?;
    }
    // Two nodes cannot tell this from the death of the other.
    pair.serves("all", 1);
    pair.serves("all", 0);
    pair.lab.heal()?;
    let alone = || pair.is(0, "all", "active") != pair.is(1, "all", "active");
    assert!(eventually(PATIENCE, alone), "{}", pair.words());
    let prober = pair.prober(NAT_V4)?;
    pair.goes_on(&prober);
    assert!(alone(), "{}", pair.words());
    assert_kept(&mut flows);
    Ok(())
}
