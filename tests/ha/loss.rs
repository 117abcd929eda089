//! Frames between the nodes are lost by chance.

use lb_tests::harness::{NAT_V4, Result, eventually};

use super::{ECHO, ENOUGH, PATIENCE, Pair, assert_kept};

/// Packets of a hundred that are lost, each way by each path.
const LOSS: u8 = 20;
/// Answers that take some hundred heartbeats.
const MANY: usize = 60 * ENOUGH;

#[test]
fn loss_by_chance_never_has_both_serve_and_ends_no_service() -> Result<()> {
    let pair = Pair::new(2)?;
    pair.settles("all", 0);
    pair.is_told(1);
    let mut flows = pair.open()?;
    let before = pair.term(0, "all")?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    pair.lab.lose(LOSS)?;
    // By whichever node.
    let answers = || offered.iter().map(lb_tests::harness::Prober::answers).sum::<usize>();
    while answers() < MANY {
        let enough = answers() + ENOUGH;
        assert!(eventually(PATIENCE, || answers() >= enough), "{}", pair.words());
    }
    let lost = pair.lab.lost()?;
    pair.lab.heal()?;
    let alone = || pair.is(0, "all", "active") != pair.is(1, "all", "active");
    assert!(eventually(PATIENCE, alone), "{}", pair.words());
    drop(offered);
    // Nodes that serve at the same time would take turns with every frame.
    let changes = pair.term(0, "all")?.max(pair.term(1, "all")?) - before;
    let turns = watch.turns()?.len();
    println!("{LOSS} %, {lost:?} packets lost: {changes} changes, {turns} turns");
    // Of two heartbeats and as many answers for each of some hundred rounds.
    assert!(lost.iter().all(|lost| *lost > 20), "{lost:?}");
    assert!(turns <= 1 + changes as usize, "{turns} turns by {changes} changes");
    assert_kept(&mut flows);
    Ok(())
}
