//! The line that a backend says of itself to an `agent` probe: words separated
//! by spaces, tabs or commas, then `#` and a message (HAProxy 3.0
//! Configuration Manual, section 5.2, "agent-check").

use super::reason::{Reason, said};
use crate::core::{health::Report, weight::AdminState};

/// What a line says: whether the backend is up, and of itself. A backend that
/// says neither `up` nor `down` answers, so it is up. Of words that contradict
/// each other the last counts.
pub(super) fn read(line: &[u8]) -> (Result<(), Reason>, Option<Report>) {
    match parse(line) {
        Ok((health, report)) => (health, Some(report)),
        Err(reason) => (Err(reason), None),
    }
}

fn parse(line: &[u8]) -> Result<(Result<(), Reason>, Report), Reason> {
    let line = String::from_utf8_lossy(line);
    let (words, message) = line.split_once('#').unwrap_or((&line, ""));
    let words = words.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty());
    let mut health = None;
    let mut report = Report::default();
    for word in words {
        match word.to_ascii_lowercase().as_str() {
            "up" => health = Some(Ok(())),
            down @ ("down" | "fail" | "failed" | "stopped") => {
                let message = said(message.as_bytes());
                health = Some(Err(Reason::Backend(match message.as_str() {
                    "" => format!("says `{down}`"),
                    message => format!("says `{down}`: {message}"),
                })));
            }
            "ready" => report.admin = Some(AdminState::Ready),
            "drain" => report.admin = Some(AdminState::Drain),
            "maint" => report.admin = Some(AdminState::Maint),
            other => {
                let percent = other.strip_suffix('%').and_then(|number| number.parse().ok());
                let unknown = || {
                    let word = said(word.as_bytes());
                    Reason::Backend(format!("says `{word}`, expected up, down, drain or 75%"))
                };
                report.percent = Some(percent.ok_or_else(unknown)?);
            }
        }
    }
    match health {
        None if report == Report::default() => Err("says nothing".into()),
        health => Ok((health.unwrap_or(Ok(())), report)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(percent: u16) -> Report {
        Report { percent: Some(percent), admin: None }
    }

    fn admin(admin: AdminState) -> Report {
        Report { percent: None, admin: Some(admin) }
    }

    fn failure(line: &str) -> String {
        let Err(Reason::Backend(text)) = read(line.as_bytes()).0 else { panic!("{line}") };
        text
    }

    #[test]
    fn words_set_weight_and_state() {
        let silent = Report::default();
        for (line, report) in [
            ("up", silent),
            ("75%", percent(75)),
            ("up,0%\n", percent(0)),
            ("up\t200%\r\n", percent(200)),
            ("drain", admin(AdminState::Drain)),
            ("MAINT", admin(AdminState::Maint)),
            ("drain ready # back", admin(AdminState::Ready)),
            ("down, up", silent),
            (" ready  50%", Report { percent: Some(50), admin: Some(AdminState::Ready) }),
        ] {
            assert_eq!(read(line.as_bytes()), (Ok(()), Some(report)), "{line}");
        }
    }

    #[test]
    fn a_backend_may_say_that_it_is_down_and_why() {
        assert_eq!(failure("down"), "says `down`");
        assert_eq!(failure("stopped #disk full\n"), "says `stopped`: disk full");
        assert_eq!(failure("fail#100%"), "says `fail`: 100%");
        assert_eq!(read(b"down 10%").1, Some(percent(10)));
    }

    #[test]
    fn what_is_not_understood_is_a_failure() {
        assert_eq!(failure("up sideways"), "says `sideways`, expected up, down, drain or 75%");
        assert_eq!(failure(""), "says nothing");
        assert_eq!(failure("# only a remark"), "says nothing");
        for line in ["%", "-1%", "70000%", "1.5%", "\u{1b}[2J", "upp"] {
            assert!(failure(line).starts_with("says `"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read(line: Vec<u8>) {
            if let Err(Reason::Backend(reason)) = read(&line).0 {
                prop_assert!(!reason.contains(char::is_control));
            }
        }

        #[test]
        fn any_words_are_read(line in "((up|down|drain|ready|[0-9]{1,6}%|#)[ ,\t]){0,6}") {
            let (outcome, report) = read(line.as_bytes());
            prop_assert!(outcome.is_err() || report.is_some());
        }
    }
}
