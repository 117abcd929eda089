//! Two nodes, of which each has one key, the next, or both.

use std::time::Duration;

use proptest::prelude::*;

use super::{super::key::file, *};
use crate::core::ha::Stamp;

/// Files with the old key, with both, and with the new one only.
struct Files {
    directory: tempfile::TempDir,
}

const OLD: &str = "old";
const BOTH: &str = "both";
const NEW: &str = "new";

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [old, both, new] = [OLD, BOTH, NEW].map(|name| directory.path().join(name));
        let copy = |from, to| std::fs::copy(from, to).expect("a copy");
        file::create(&old).expect("a key");
        copy(&old, &both);
        file::rotate(&both).expect("two keys");
        copy(&both, &new);
        file::retire(&new).expect("one key");
        Self { directory }
    }

    fn keys(&self, name: &str) -> Keys {
        Keys::read(&self.directory.path().join(name)).expect("keys")
    }

    fn voice(&self, name: &str) -> Voice {
        Voice::new(self.keys(name), "edge")
    }
}

fn beat() -> Beat {
    let (interval, grant) = (Duration::ZERO, Duration::ZERO);
    let (heard, echo, groups) = (None, None, Vec::new());
    let stamp = Stamp { boot: 1, sequence: 1 };
    let (node, priority, answer, witness) = ("lb-a".to_owned(), 100, false, 0);
    Beat { node, stamp, answer, interval, heard, grant, echo, witness, priority, groups }
}

/// Whether the one understands what the other says, which it then has heard.
fn speaks(from: &Voice, to: &mut Voice) -> bool {
    let frame = to.decode(&from.encode(&beat(), None));
    frame.is_ok_and(|frame| {
        to.hear(&frame);
        true
    })
}

/// What both speak, which each has heard of the other.
fn spoken(nodes: &[Voice; 2]) -> Option<String> {
    let [a, b] = nodes.each_ref().map(|node| node.spoken.fingerprint());
    (a == b).then(|| a.to_string())
}

/// What happens to one of two nodes.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Its file is the next, or the one before: it reads that.
    Reload(usize, bool),
    /// Its agent starts anew.
    Restart(usize),
    /// It says something, which comes or does not.
    Speak(usize, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2_usize, any::<bool>()).prop_map(|(node, on)| Step::Reload(node, on)),
        (0..2_usize).prop_map(Step::Restart),
        (0..2_usize, any::<bool>()).prop_map(|(node, comes)| Step::Speak(node, comes)),
    ]
}

proptest! {
    /// Whoever is first, whatever is lost, and whenever an agent starts: nodes that
    /// know each other understand every word, and each other's newest key.
    #[test]
    fn no_step_of_a_change_costs_a_frame(
        steps in prop::collection::vec(any_step(), 0..40),
    ) {
        let files = Files::new();
        let mut nodes = [OLD, OLD].map(|name| files.voice(name));
        let mut at = [0, 0];
        let names = [OLD, BOTH, NEW];
        for step in steps {
            match step {
                Step::Reload(node, on) => {
                    let next = if on { (at[node] + 1).min(2) } else { at[node].max(1) - 1 };
                    let keys = files.keys(names[next]);
                    // Somebody may retire the key too soon, or before the peer was
                    // heard with the new one: he is told.
                    let apart = at[1 - node].abs_diff(next) > 1;
                    let known = nodes[node].peer.is_some();
                    if nodes[node].allow(&keys, Path::new("file")).is_ok() && !apart {
                        nodes[node].renew(keys);
                        at[node] = next;
                    } else {
                        let keeps = keys.get(nodes[node].spoken.fingerprint()).is_some();
                        prop_assert!(apart || known || !keeps);
                    }
                }
                Step::Restart(node) => nodes[node] = files.voice(names[at[node]]),
                Step::Speak(node, comes) => if comes {
                    let (from, to) = (nodes[node].clone(), &mut nodes[1 - node]);
                    speaks(&from, to);
                }
            }
        }
        // Whatever was: two words later they know each other, and lose none.
        for from in [0, 1, 0, 1] {
            let speaker = nodes[from].clone();
            speaks(&speaker, &mut nodes[1 - from]);
        }
        for from in [0, 1, 0, 1] {
            let speaker = nodes[from].clone();
            prop_assert!(speaks(&speaker, &mut nodes[1 - from]));
        }
        let both_know_the_new = at[0] > 0 && at[1] > 0;
        let newest = files.keys(if both_know_the_new { NEW } else { OLD });
        prop_assert_eq!(spoken(&nodes), Some(newest.newest().fingerprint().to_string()));
    }
}

#[test]
fn a_change_in_the_usual_order_loses_no_word() {
    let files = Files::new();
    let mut nodes = [OLD, OLD].map(|name| files.voice(name));
    let talk = |nodes: &mut [Voice; 2]| {
        for from in [0, 1, 0, 1] {
            let speaker = nodes[from].clone();
            assert!(speaks(&speaker, &mut nodes[1 - from]));
        }
    };
    talk(&mut nodes);
    for (file, first) in [(BOTH, 0), (NEW, 1)] {
        for node in [first, 1 - first] {
            let keys = files.keys(file);
            nodes[node].allow(&keys, Path::new("file")).expect("the peer knows one");
            assert_eq!(nodes[node].renew(keys), file == NEW);
            talk(&mut nodes);
        }
        let newest = files.keys(NEW).newest().fingerprint().to_string();
        assert_eq!(spoken(&nodes), Some(newest));
    }
}

#[test]
fn a_node_that_starts_with_both_keys_understands_a_peer_with_either() {
    let files = Files::new();
    for name in [OLD, NEW] {
        let (mut starts, mut peer) = (files.voice(BOTH), files.voice(name));
        let frame = starts.decode(&peer.encode(&beat(), None)).expect("a frame");
        // What is to be proven is answered in the words that it came in.
        let answer = starts.encode(&beat(), Some(frame.key));
        assert!(peer.decode(&answer).is_ok());
        starts.hear(&frame);
        assert!(speaks(&starts, &mut peer));
    }
}

#[test]
fn a_key_that_the_peer_still_needs_is_not_given_up() {
    let files = Files::new();
    let (mut ours, theirs) = (files.voice(BOTH), files.voice(OLD));
    let file = Path::new("/etc/lb/pair.key");
    let unheard = "the peer is away, and may know no key of `/etc/lb/pair.key`";
    let error = ours.allow(&files.keys(NEW), file).expect_err("nobody knows");
    assert_eq!(error.to_string(), unheard);
    assert!(ours.allow(&files.keys(OLD), file).is_ok());
    assert!(speaks(&theirs, &mut ours));
    let error = ours.allow(&files.keys(NEW), file).expect_err("the peer has the old one");
    assert_eq!(error.to_string(), "the peer knows no key of `/etc/lb/pair.key`");
    assert!(error.hint().is_some_and(|hint| hint.contains("--rotate")));
    assert!(ours.forget_peer() && !ours.forget_peer());
    let error = ours.allow(&files.keys(NEW), file).expect_err("it had the old one");
    assert_eq!(error.to_string(), unheard);
    assert!(speaks(&files.voice(BOTH), &mut ours) && ours.forget_peer());
    assert!(ours.allow(&files.keys(NEW), file).is_ok(), "it had the new one");
}

#[test]
fn keys_that_place_flows_otherwise_are_refused() {
    let (files, others) = (Files::new(), Files::new());
    let error = files.voice(OLD).allow(&others.keys(OLD), Path::new("other")).expect_err("no");
    assert_eq!(error.to_string(), "`other` places flows otherwise than the keys in use");
    assert!(error.hint().is_some_and(|hint| hint.contains("`place`")));
}

#[test]
fn an_operator_is_told_which_key_is_spoken_and_what_the_peer_has() {
    let files = Files::new();
    let mut ours = files.voice(BOTH);
    let [new, old] = [NEW, OLD].map(|name| files.keys(name).newest().fingerprint().to_string());
    let status = |spoken: &str, peer: Option<&str>| api::HaKey {
        spoken: spoken.to_owned(),
        newest: new.clone(),
        peer_newest: peer.map(str::to_owned),
    };
    assert_eq!(ours.status(), status(&old, None));
    assert!(speaks(&files.voice(OLD), &mut ours));
    assert_eq!(ours.status(), status(&old, Some(&old)));
    assert!(speaks(&files.voice(NEW), &mut ours));
    assert_eq!(ours.status(), status(&new, Some(&new)));
}
