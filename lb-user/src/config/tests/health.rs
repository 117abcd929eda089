//! `[service.health]`.

use std::{path::Path, time::Duration};

use super::{mistakes, model, service};
use crate::core::model::health::{Dns, Health, Http, Probe, Tls, Udp};

fn health(lines: &str) -> String {
    service("") + "[service.health]\n" + lines
}

fn probed(lines: &str) -> Health {
    model(&health(lines)).services.remove(0).health
}

#[test]
fn every_kind_of_probe_is_read() {
    let http = |tls| {
        Probe::Http(Http { path: "/".to_owned(), host: None, expect_status: vec![200..=399], tls })
    };
    assert_eq!(probed(""), Health::default());
    assert_eq!(probed("kind = \"tcp\"").probe, Probe::Tcp);
    assert_eq!(probed("kind = \"http\"").probe, http(None));
    let tls = Tls { verify: true, ca_file: None };
    assert_eq!(probed("kind = \"https\"").probe, http(Some(tls)));
    assert_eq!(
        probed(
            "kind = \"https\"\npath = \"/x?y=1\"\nhost = \"a.example\"\nverify = false
             ca_file = \"/ca.pem\"\nexpect_status = \"200,204,300-399\""
        )
        .probe,
        Probe::Http(Http {
            path: "/x?y=1".to_owned(),
            host: Some("a.example".to_owned()),
            expect_status: vec![200..=200, 204..=204, 300..=399],
            tls: Some(Tls { verify: false, ca_file: Some(Path::new("/ca.pem").into()) }),
        })
    );
    assert_eq!(
        probed("kind = \"udp\"\nsend = \"ping\"\nexpect = \"hex:0D0a\"").probe,
        Probe::Udp(Udp { send: b"ping".to_vec(), expect: Some(b"\r\n".to_vec()) })
    );
    assert_eq!(
        probed("kind = \"dns\"\nname = \"example.com\"").probe,
        Probe::Dns(Dns { name: "example.com".to_owned(), record: "A".to_owned() })
    );
    assert_eq!(
        probed("kind = \"exec\"\ncommand = [\"/bin/check\", \"-v\"]").probe,
        Probe::Exec(vec!["/bin/check".to_owned(), "-v".to_owned()])
    );
    let agent = probed("kind = \"agent\"\nport = 9000\ninterval = \"2s\"\nrise = 1\nfall = 5");
    assert_eq!((agent.probe, agent.port), (Probe::Agent, Some(9000)));
    assert_eq!((agent.interval, agent.rise, agent.fall), (Duration::from_secs(2), 1, 5));
}

#[test]
fn short_interval_shortens_the_default_of_timeout() {
    let timeout = |lines: &str| probed(lines).timeout;
    assert_eq!(timeout("interval = \"2s\""), Duration::from_millis(500));
    assert_eq!(timeout("interval = \"200ms\""), Duration::from_millis(200));
}

#[test]
fn values_of_probes_are_held_to_their_rules() {
    let cases = [
        ("kind = \"ping\"\npath = 1", "kind: \"ping\": must be \"none\", \"tcp\","),
        (
            "kind = \"tcp\"\npath = \"/\"",
            "path: \"/\": must be left out with kind \"tcp\"\
             \n  hint: it belongs to kind \"http\" or \"https\"",
        ),
        (
            "kind = \"http\"\nverify = false",
            "verify: false: must be left out with kind \"http\"\
             \n  hint: it belongs to kind \"https\"",
        ),
        ("interval = \"2h\"", "interval: \"2h\": must be 10ms to 1h"),
        (
            "interval = \"1s\"\ntimeout = \"2s\"",
            "timeout: \"2s\": must be 1ms to 1s\n  hint: a probe ends before the next begins",
        ),
        ("rise = 0", "rise: 0: must be 1 to 100"),
        ("kind = \"http\"\npath = \"x\"", "path: \"x\": must be a path from \"/\" without spaces"),
        ("kind = \"http\"\npath = \"/a b\"", "must be a path from \"/\" without spaces"),
        ("kind = \"http\"\nhost = \"a b\"", "host: \"a b\": must be the name of a host"),
        ("kind = \"http\"\nexpect_status = \"600\"", "must be status codes 100 to 599"),
        ("kind = \"http\"\nexpect_status = \"300-200\"", "must be status codes 100 to 599"),
        ("kind = \"http\"\nexpect_status = \"200,\"", "must be status codes 100 to 599"),
        ("kind = \"https\"\nca_file = \"ca.pem\"", "ca_file: \"ca.pem\": must be an absolute path"),
        (
            "kind = \"udp\"\nsend = \"hex:0\"",
            "send: \"hex:0\": must be pairs of hexadecimal digits",
        ),
        ("kind = \"udp\"\nsend = \"hex:zz\"", "must be pairs of hexadecimal digits"),
        ("kind = \"dns\"", "health.name: missing, must be set"),
        ("kind = \"dns\"\nname = \"a..b\"", "name: \"a..b\": must be a name of the DNS"),
        ("kind = \"dns\"\nname = \"a\"\nrecord = \"B\"", "record: \"B\": must be \"A\", \"AAAA\""),
        ("kind = \"exec\"", "health.command: missing, must be set"),
        (
            "kind = \"exec\"\ncommand = [\"check\"]",
            "must be a list: the absolute path of a program",
        ),
        ("kind = \"exec\"\ncommand = []", "must be a list: the absolute path of a program"),
        ("kind = \"agent\"", "health.port: missing, must be set"),
    ];
    for (lines, expected) in cases {
        let mistakes = mistakes(&health(lines));
        assert!(mistakes.contains(expected), "{mistakes}");
        assert_eq!(mistakes.matches("must ").count(), 1, "{mistakes}");
    }
}

#[test]
fn probe_of_a_service_with_several_ports_names_one() {
    let several = |lines: &str| health(lines).replace("port = 80", "port = \"80-90\"");
    let expected = "9: service[0].health.port: missing, must be set\
                    \n  hint: the service has several ports: name the one to probe\n";
    assert_eq!(mistakes(&several("kind = \"tcp\"")), expected);
    assert_eq!(model(&several("kind = \"tcp\"\nport = 81")).services[0].health.port, Some(81));
    model(&several("kind = \"exec\"\ncommand = [\"/bin/true\"]"));
}
