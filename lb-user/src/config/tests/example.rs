//! `lb.example.toml` and README tell the truth.

use std::collections::BTreeSet;

use super::{ALONE, mistakes, model, parse};

pub(super) const EXAMPLE: &str = include_str!("../../../lb.example.toml");

const README: &str = include_str!("../../../../README.md");

/// What is wrong with `quic` in the example, which is of TCP.
const OF_UDP: &str = "must be left out where the protocol is TCP";

/// The keys without a default.
const REQUIRED: [&str; 5] = ["interfaces", "name", "vip", "port", "address"];

/// The example with every `#key = ...` and `#[table]` in force; prose has a
/// space after its `#`.
pub(super) fn uncommented() -> String {
    let mut inside = false;
    let line = |line: &str| {
        let Some(code) = line.strip_prefix('#') else { return format!("{line}\n") };
        let prose = !inside && code.starts_with(' ') || code.is_empty();
        inside = !prose && code.ends_with(['[', ',']);
        format!("{}\n", if prose { line } else { code })
    };
    EXAMPLE.lines().map(line).collect()
}

#[test]
fn example_has_every_default() {
    let kept = |line: &&str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.starts_with('[') || REQUIRED.contains(&key)
    };
    let minimal: String = EXAMPLE.lines().filter(kept).map(|line| format!("{line}\n")).collect();
    assert_eq!(model(EXAMPLE), model(&minimal));
    assert_eq!(model(EXAMPLE).services.len(), 1);
    assert_eq!(model(EXAMPLE).services[0].backends.len(), 1);
}

#[test]
fn whole_configurations_of_the_readme_are_right() {
    let blocks = README.split("```toml\n").skip(1);
    let blocks = blocks.filter_map(|block| Some(block.split_once("```")?.0));
    let whole: Vec<_> = blocks.filter(|block| block.starts_with("[node]")).map(model).collect();
    let [alone, tunnels, translated, of_pair] = &whole[..] else { panic!("{}", whole.len()) };
    assert_eq!((alone.services.len(), alone.ha.is_some()), (1, false));
    assert_eq!(tunnels.node.tunnel_sources.len(), 2);
    assert_eq!(translated.node.nat_sources.len(), 2);
    assert_eq!(of_pair.ha.as_ref().map(|ha| ha.groups.len()), Some(1));
}

#[test]
fn what_the_example_has_commented_out_is_known() {
    let mistakes = parse(&uncommented(), ALONE).expect_err("keys of kinds of probes");
    let rules: BTreeSet<_> = mistakes.iter().map(|mistake| mistake.rule.as_str()).collect();
    let unowned = "must be left out with kind \"none\"";
    assert_eq!(rules, BTreeSet::from([unowned, OF_UDP]));
}

#[test]
fn example_shows_the_keys_of_every_kind_of_probe() {
    for kind in ["tcp", "http", "https", "udp", "dns", "exec", "agent"] {
        let text = uncommented().replace("kind = \"none\"", &format!("kind = \"{kind}\""));
        let mistakes = parse(&text, ALONE).expect_err("keys of other kinds");
        let owned = format!("must be left out with kind \"{kind}\"");
        let others = [OF_UDP, &owned];
        assert!(mistakes.iter().all(|mistake| others.contains(&mistake.rule.as_str())), "{kind}");
    }
}

/// The reader lists what it knows when it meets what it does not.
#[test]
fn example_shows_every_key_that_is_known() {
    let text = uncommented();
    for header in [
        "",
        "[node]",
        "[admin]",
        "[ha]",
        "[[ha.group]]",
        "[firewall]",
        "[[service]]",
        "[service.health]",
        "[[service.backend]]",
        "[[service.quic]]",
    ] {
        let unknown = if header.is_empty() {
            format!("zzzzzzzzzz = 1\n{text}")
        } else {
            text.replace(header, &format!("{header}\nzzzzzzzzzz = 1"))
        };
        let mistakes = mistakes(&unknown);
        let (_, known) = mistakes.split_once("known here: ").expect("the list of keys");
        for key in known.lines().take(1).flat_map(|known| known.split(", ")) {
            let shown = [format!("{key} = "), format!("[{key}]"), format!(".{key}]")];
            assert!(shown.iter().any(|shown| text.contains(shown)), "`{key}` of `{header}`");
        }
    }
}
