mod changes;
mod files;
mod looks;
mod peer;
mod reach;

use clap::{CommandFactory as _, error::ErrorKind};

use super::*;

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_usage_is_refused() {
    let cases = [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("agent", ErrorKind::MissingRequiredArgument),
        ("agent --config f --interface a/b", ErrorKind::ValueValidation),
        ("agent --config f --packet-log debug", ErrorKind::InvalidValue),
        ("check", ErrorKind::MissingRequiredArgument),
        ("detach --config f --pin-dir d", ErrorKind::ArgumentConflict),
        ("balance", ErrorKind::InvalidSubcommand),
        ("service", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("service show", ErrorKind::MissingRequiredArgument),
        ("service add web --port 80", ErrorKind::MissingRequiredArgument),
        ("service add web --vip web --port 80", ErrorKind::ValueValidation),
        ("service set web --policy best", ErrorKind::InvalidValue),
        ("service set web policy", ErrorKind::ValueValidation),
        ("backend add web web-1", ErrorKind::MissingRequiredArgument),
        ("backend add web web-1 web-1.example", ErrorKind::ValueValidation),
        ("backend set web web-1 --weight 65536", ErrorKind::ValueValidation),
        ("backend drain web", ErrorKind::MissingRequiredArgument),
        ("backend drain web web-1 --deadline 10", ErrorKind::ValueValidation),
        ("backend ready web web-1 --deadline 10m", ErrorKind::UnknownArgument),
        ("firewall deny 192.0.2.1/24", ErrorKind::ValueValidation),
        ("firewall undeny 192.0.2.0/24 --for 10m", ErrorKind::UnknownArgument),
        ("flow flush", ErrorKind::MissingRequiredArgument),
        ("flow list --limit 0", ErrorKind::ValueValidation),
        ("flow list --limit 10001", ErrorKind::ValueValidation),
        ("flow list --client web", ErrorKind::ValueValidation),
        ("ha", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("ha keygen a b", ErrorKind::UnknownArgument),
        ("witness --pair edge", ErrorKind::MissingRequiredArgument),
        ("plan", ErrorKind::MissingRequiredArgument),
        ("reload f --confirmed", ErrorKind::ArgumentConflict),
        ("explain 198.51.100.7 203.0.113.10:443", ErrorKind::ValueValidation),
        ("explain 198.51.100.7:1 203.0.113.10:443 --proto sctp", ErrorKind::InvalidValue),
        ("stats --watch 0", ErrorKind::ValueValidation),
        ("completions tcsh", ErrorKind::InvalidValue),
        ("man", ErrorKind::MissingRequiredArgument),
    ];
    for (words, kind) in cases {
        let words = std::iter::once("lb").chain(words.split_whitespace());
        let error = Cli::try_parse_from(words.clone()).expect_err("wrong usage");
        let found = (error.kind(), error.exit_code());
        assert_eq!(found, (kind, Status::Usage as i32), "{:?}", words.collect::<Vec<_>>());
    }
}

#[test]
fn global_options_stand_anywhere() {
    for words in ["lb --json --socket s status", "lb status --socket s --json"] {
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        assert!(cli.global.json && cli.global.socket.as_os_str() == "s", "{words}");
    }
}

#[test]
fn failure_is_an_error_line_and_a_hint_line() {
    let failure = Failure::new(Status::Refused, "no").hint("say yes");
    assert_eq!(failure.to_string(), "error: no\nhint: say yes");
}

#[test]
fn bad_configuration_shows_every_mistake_above_the_error() {
    let mistake = config::Mistake {
        line: Some(3),
        path: "node.flows".to_owned(),
        value: Some("0".to_owned()),
        rule: "must be more".to_owned(),
        hint: None,
    };
    let errors =
        config::Errors::Mistakes { file: "lb.toml".to_owned(), mistakes: vec![mistake; 2] };
    let failure = Failure::from(errors);
    assert_eq!(failure.status, Status::BadConfiguration);
    assert_eq!(
        failure.to_string(),
        "lb.toml:3: node.flows: 0: must be more
lb.toml:3: node.flows: 0: must be more
error: lb.toml: 2 mistakes, nothing was changed"
    );
}
