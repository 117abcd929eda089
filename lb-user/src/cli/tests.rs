use clap::{CommandFactory as _, error::ErrorKind};

use super::*;

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_usage_is_refused() {
    let cases: [(&[&str], ErrorKind); 7] = [
        (&["lb"], ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        (&["lb", "agent"], ErrorKind::MissingRequiredArgument),
        (&["lb", "agent", "--config", "f", "--interface", "a/b"], ErrorKind::ValueValidation),
        (&["lb", "agent", "--config", "f", "--packet-log", "debug"], ErrorKind::InvalidValue),
        (&["lb", "check"], ErrorKind::MissingRequiredArgument),
        (&["lb", "detach", "--config", "f", "--pin-dir", "d"], ErrorKind::ArgumentConflict),
        (&["lb", "balance"], ErrorKind::InvalidSubcommand),
    ];
    for (arguments, kind) in cases {
        let error = Cli::try_parse_from(arguments).expect_err("wrong usage");
        assert_eq!((error.kind(), error.exit_code()), (kind, Status::Usage as i32));
    }
}

#[test]
fn failure_is_an_error_line_and_a_hint_line() {
    let missing = CapabilityError::Missing(vec![Capability::Bpf, Capability::Perfmon]);
    let failure = Failure::from(missing);
    assert_eq!(failure.status, Status::Refused);
    assert_eq!(
        failure.to_string(),
        "error: missing CAP_BPF, CAP_PERFMON
hint: run it as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"
    );
}

#[test]
fn bad_configuration_shows_every_mistake_above_the_error() {
    let mistake = config::Mistake {
        line: 3,
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
