//! Ways between the nodes that are not there yet.

use lb_tests::harness::{Result, eventually};

use super::{PATIENCE, Pair};

#[test]
fn an_address_that_comes_later_keeps_no_node_out_and_becomes_a_path() -> Result<()> {
    let pair = Pair::with(1, |config| {
        let ha = config.ha.as_mut().expect("a pair");
        let later = |node: &str| format!("10.9.0.{node}:4790").parse().expect("an address");
        let (ours, theirs) = if config.name == "lb-a" { ("2", "3") } else { ("3", "2") };
        ha.listen.push(later(ours));
        ha.peer.push(later(theirs));
    })?;
    pair.settles("all", 0);
    let heard = |node: usize| {
        let status = pair.lab.nodes[node].json(&["ha", "status"]);
        status.is_ok_and(|status| status["paths"][2]["heard_ms"].is_number())
    };
    assert!(!heard(0) && !heard(1));
    for (node, last) in pair.lab.nodes.iter().zip([2, 3]) {
        node.netns.ip(&format!("addr add 10.9.0.{last}/24 dev l1"))?;
    }
    assert!(eventually(PATIENCE, || heard(0) && heard(1)), "{}", pair.words());
    Ok(())
}
