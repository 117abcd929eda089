//! Texts that nobody would write.

use proptest::prelude::*;

use super::{ALONE, example, parse};

/// What a slip of the hand, or of a template, puts into a file.
fn insertion() -> impl Strategy<Value = String> {
    prop_oneof![
        "[\\x00-\\x7f]{0,6}",
        "\\PC{0,4}",
        Just("\n[[service]]\n".to_owned()),
        Just("\n[service]\n".to_owned()),
        Just("\n[[service.backend]]\naddress = \"::ffff:1.2.3.4\"\n".to_owned()),
        Just("\n[node]\n".to_owned()),
        Just("\nport = \"1-2\"\n".to_owned()),
        Just("\nservice = [[], {}, 1]\n".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("[".repeat(200)),
        Just("a.".repeat(200)),
    ]
}

/// Cuts `length` characters at `at` (both as shares of the text) and inserts.
fn mutated(text: &str, at: f64, length: usize, insertion: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let start = (at * characters.len() as f64) as usize;
    let end = (start + length).min(characters.len());
    let (head, tail) = (&characters[..start], &characters[end..]);
    head.iter().copied().chain(insertion.chars()).chain(tail.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn mutated_file_is_a_model_or_a_list_of_mistakes_with_their_lines(
        text in prop::sample::select(vec![example::EXAMPLE.to_owned(), example::uncommented()]),
        edits in prop::collection::vec((0.0..1.0, 0_usize..40, insertion()), 1..6),
    ) {
        let text = edits.iter().fold(text, |text, (at, length, insertion)| {
            mutated(&text, *at, *length, insertion)
        });
        if let Err(mistakes) = parse(&text, ALONE) {
            prop_assert!(!mistakes.is_empty());
            for mistake in mistakes {
                let lines = 1..=text.lines().count() + 1;
                prop_assert!(mistake.line.is_some_and(|line| lines.contains(&line)), "{mistake}");
                prop_assert!(!mistake.path.is_empty() && !mistake.rule.is_empty(), "{mistake}");
            }
        }
    }

    #[test]
    fn any_text_is_judged(text in "\\PC*") {
        let _ = parse(&text, ALONE);
    }
}
