//! What follows from the pair's key.

use lb_tests::harness::{Result, run};

use super::{FLOWS, PATIENCE, Pair, VIPS};

/// What places flows at both nodes.
fn seeds(pair: &Pair) -> Result<[[u64; 2]; 2]> {
    let seed = |node: usize| pair.lab.nodes[node].pins().place_seed();
    Ok([seed(0)?, seed(1)?])
}

#[test]
fn both_nodes_place_flows_by_the_key_and_another_key_forgets_them() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    let before = seeds(&pair)?;
    assert_eq!(before[0], before[1]);

    let _flows = pair.open()?;
    let recorded = |pair: &Pair| pair.lab.nodes[0].pins().recorded();
    assert!(recorded(&pair)? >= VIPS.len() * FLOWS);
    pair.agent(0).kill()?;
    pair.start(0)?;
    assert_eq!(seeds(&pair)?, before);
    assert!(recorded(&pair)? >= VIPS.len() * FLOWS);

    pair.agent(0).kill()?;
    let key_file = pair.lab.path("other.key");
    run(pair.lab.nodes[0].lb().args(["ha", "keygen"]).arg(&key_file), PATIENCE)?;
    pair.configs[0].ha.as_mut().expect("a pair").key_file = key_file;
    pair.start(0)?;
    let after = seeds(&pair)?;
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
    assert_eq!(recorded(&pair)?, 0);
    assert!(pair.words().contains("recorded flows are forgotten"), "{}", pair.words());
    Ok(())
}
