use super::{vote::ANEW, *};

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// Time between looks at the nodes.
const STEP: Duration = Duration::from_millis(10);
/// Long enough for everything to have settled.
const SETTLED: Duration = Duration::from_secs(3);

fn node(name: &str, priority: u8) -> Pair {
    node_of(name, priority, false)
}

fn node_of(name: &str, priority: u8, witness: bool) -> Pair {
    let settings = Settings {
        node: name.to_owned(),
        priority,
        heartbeat: HEARTBEAT,
        preempt: false,
        witness,
        fence: false,
        groups: vec![GroupSettings { id: 1, digest: 0, preferred: false }],
    };
    Pair::new(settings, u64::from(priority), 0, Duration::ZERO)
}

fn view(node: &Pair) -> View {
    node.groups().next().expect("a group")
}

fn serves(node: &Pair) -> bool {
    view(node).lease.is_some()
}

/// A step of two nodes on one clock, whose frames take no time. One that is
/// broken cannot serve.
fn step(nodes: &mut [Pair; 2], broken: [bool; 2], now: Duration) {
    for (node, broken) in nodes.iter_mut().zip(broken) {
        if broken { node.stop_all(now) } else { node.tick(now) }
    }
    for from in 0..2 {
        if !nodes[from].is_due(now) {
            continue;
        }
        nodes[from].begin_round(now);
        let beat = nodes[from].beat(false, None, now);
        let echo = match nodes[1 - from].receive(&beat, now) {
            Ok(true) => None,
            Err(Refusal::Unproven(echo)) => echo,
            _ => continue,
        };
        let answer = nodes[1 - from].beat(true, echo, now);
        let _ = nodes[from].receive(&answer, now);
    }
}

#[test]
fn a_node_that_cannot_serve_leaves_its_groups_to_the_peer() {
    let mut nodes = [node("a", 150), node("b", 100)];
    let mut now = Duration::ZERO;
    let mut run = |nodes: &mut [Pair; 2], broken: [bool; 2]| {
        let end = now + SETTLED;
        while now < end {
            now += STEP;
            step(nodes, broken, now);
            assert!(!(broken[0] && serves(&nodes[0])), "at {now:?}");
        }
    };
    run(&mut nodes, [false, false]);
    assert!(serves(&nodes[0]) && !serves(&nodes[1]));
    run(&mut nodes, [true, false]);
    assert!(serves(&nodes[1]));
    run(&mut nodes, [false, false]);
    assert!(!serves(&nodes[0]) && serves(&nodes[1]));
}

#[test]
fn what_the_peer_may_serve_by_another_name_is_not_begun_beside_it() {
    let mut nodes = [node("a", 150), node("b", 100)];
    nodes[1] = {
        let settings = Settings {
            groups: vec![GroupSettings { id: 2, digest: 0, preferred: false }],
            ..nodes[1].settings.clone()
        };
        Pair::new(settings, 100, 0, Duration::ZERO)
    };
    let mut now = Duration::ZERO;
    // Whoever has stopped is not heard.
    let mut run = |nodes: &mut [Pair; 2], alone: bool| {
        let end = now + SETTLED;
        while now < end {
            now += STEP;
            if alone {
                nodes[0].tick(now);
            } else {
                step(nodes, [false, false], now);
            }
        }
        [0, 1].map(|index| (serves(&nodes[index]), nodes[index].is_lacked(0, now)))
    };
    assert_eq!(run(&mut nodes, false), [(false, true), (false, true)]);
    assert_eq!(run(&mut nodes, true)[0], (true, false));
    assert_eq!(run(&mut nodes, false), [(true, true), (false, true)]);
}

#[test]
fn a_node_without_a_peer_serves_again_once_it_can() {
    let mut node = node("a", 150);
    let mut now = Duration::ZERO;
    let mut run = |node: &mut Pair, broken: bool| {
        for _ in 0..SETTLED.as_millis() / STEP.as_millis() {
            now += STEP;
            if broken { node.stop_all(now) } else { node.tick(now) }
        }
    };
    run(&mut node, false);
    let served = view(&node);
    assert!(served.lease.is_some());
    run(&mut node, true);
    assert_eq!((view(&node).lease, view(&node).term), (None, served.term));
    run(&mut node, false);
    assert!(serves(&node) && view(&node).term == served.term + 1);
}

#[test]
fn a_node_that_hears_one_that_it_does_not_understand_does_not_begin_to_serve() {
    let mut node = node("a", 150);
    let mut now = Duration::ZERO;
    let mut run = |node: &mut Pair, stranger: bool| {
        for _ in 0..SETTLED.as_millis() / STEP.as_millis() {
            now += STEP;
            if stranger {
                node.make_way(now);
            }
            node.tick(now);
        }
        serves(node)
    };
    assert!(!run(&mut node, true));
    assert!(run(&mut node, false));
    // Who serves goes on.
    assert!(run(&mut node, true));
}

#[test]
fn a_node_that_knows_its_peer_takes_over_from_it_whoever_else_is_there() {
    let mut nodes = [node("a", 150), node("b", 100)];
    let mut now = Duration::ZERO;
    while now < SETTLED {
        now += STEP;
        step(&mut nodes, [false, false], now);
    }
    let [a, mut b] = nodes;
    assert!(serves(&a) && !serves(&b));
    for _ in 0..SETTLED.as_millis() / STEP.as_millis() {
        now += STEP;
        b.make_way(now);
        b.tick(now);
    }
    assert!(serves(&b));
}

#[test]
fn two_witnesses_have_no_vote() {
    let mut nodes = [node_of("a", 150, true), node_of("b", 100, true)];
    let mut now = Duration::ZERO;
    // Both nodes live for so long, and are answered by these runs of a witness.
    let mut live = |nodes: &mut [Pair; 2], runs: [u64; 2], length: u32, apart: bool| {
        for _ in 0..(HEARTBEAT * length).as_millis() / STEP.as_millis() {
            now += STEP;
            if apart {
                for node in &mut *nodes {
                    node.tick(now);
                    node.begin_round(now);
                }
            } else {
                step(nodes, [false, false], now);
            }
            for (node, run) in nodes.iter_mut().zip(runs) {
                let asked = node.question(now).expect("there is a witness");
                let stamp = Stamp { boot: run, sequence: asked.stamp.sequence };
                let Question { stamp: question, lease, groups, .. } = asked;
                node.receive_answer(&Answer { stamp, question, lease, groups }, now);
            }
        }
        nodes.each_ref().map(|node| (serves(node), node.has_rival_witness()))
    };
    assert_eq!(live(&mut nodes, [7, 7], 60, false), [(true, false), (false, false)]);
    // One that starts anew is another for both.
    for (runs, length) in [([7, 8], ANEW / 2), ([8, 8], 2), ([9, 8], ANEW / 2), ([9, 9], 2)] {
        assert_eq!(live(&mut nodes, runs, length, false), [(true, false), (false, false)]);
    }
    assert_eq!(live(&mut nodes, [9, 10], 2 * ANEW, false), [(true, true), (false, true)]);
    // Each has the vote of its own witness, and does not go by it.
    assert_eq!(live(&mut nodes, [9, 10], 60, true), [(false, true), (false, true)]);
    assert_eq!(live(&mut nodes, [9, 9], 60, false), [(true, false), (false, false)]);
}
