//! Single values.

use super::*;

fn read<T>(read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>, toml: &str) -> Result<T, String> {
    let value = DeValue::parse(toml).expect("a value").into_inner();
    read(&value).map_err(|wrong| wrong.rule)
}

#[test]
fn ports_are_a_number_a_range_or_any() {
    assert_eq!(read(ports, "443"), Ok(443..=443));
    assert_eq!(read(ports, "0x1bb"), Ok(443..=443));
    assert_eq!(read(ports, "\"8000-8100\""), Ok(8000..=8100));
    assert_eq!(read(ports, "\"any\""), Ok(1..=65535));
    for wrong in ["0", "65536", "-1", "\"\"", "\"-\"", "\"0-5\"", "\"1-\"", "true", "\"http\""] {
        let rule = "must be a port 1 to 65535, a range or \"any\"".to_owned();
        assert_eq!(read(ports, wrong), Err(rule), "{wrong}");
    }
}

#[test]
fn port_rules_have_a_protocol() {
    assert_eq!(read(port_rule, "\"tcp/22\""), Ok((Protocol::Tcp, 22..=22)));
    assert_eq!(read(port_rule, "\"udp/8000-8100\""), Ok((Protocol::Udp, 8000..=8100)));
    assert_eq!(read(port_rule, "\"tcp/any\""), Ok((Protocol::Tcp, 1..=65535)));
    for wrong in ["22", "\"22\"", "\"icmp/8\"", "\"tcp/\"", "\"tcp/0\"", "\"tcp/22/23\""] {
        let rule = "must be a protocol and a port or range of ports".to_owned();
        assert_eq!(read(port_rule, wrong), Err(rule), "{wrong}");
    }
}

#[test]
fn times_are_hinted_at_as_they_can_be_written() {
    let hint = |read: &dyn Fn(&DeValue<'_>) -> Result<Duration, Wrong>, toml: &str| {
        let value = DeValue::parse(toml).expect("a value").into_inner();
        let wrong = read(&value).expect_err("no time");
        assert_eq!(wrong.rule, "must be a time with its unit");
        wrong.hint.expect("a hint")
    };
    let heartbeat = time(Duration::from_millis(25)..=Duration::from_secs(1));
    for (toml, expected) in [
        ("1", "for seconds write \"1s\""),
        ("50", "for milliseconds write \"50ms\""),
        ("\"50\"", "for milliseconds write \"50ms\""),
        ("5", "such as \"500ms\""),
        ("-50", "such as \"500ms\""),
        ("0.05", "such as \"500ms\""),
        ("\"soon\"", "such as \"500ms\""),
    ] {
        assert_eq!(hint(&heartbeat, toml), expected, "{toml}");
    }
    assert_eq!(hint(&duration, "0x10"), "for seconds write \"16s\"");
    assert_eq!(hint(&duration, "true"), "such as \"500ms\", \"30s\" or \"1h 30m\"");
    let short = time(Duration::from_secs(2)..=Duration::from_secs(3));
    assert_eq!(hint(&short, "50"), "such as \"3s\"");
}

#[test]
fn interface_names_are_those_the_kernel_takes() {
    for name in ["eth0", "enp0s31f6", "br-0.100", "123456789012345"] {
        assert_eq!(interface_name(name), Ok(()));
    }
    for name in ["", "1234567890123456", ".", "..", "a/b", "a b", "a:b", "a\n"] {
        assert!(interface_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn likely_word_is_near_or_begins_alike() {
    let known = ["name", "vip", "protocol", "port", "affinity_timeout"];
    for (word, likely) in [
        ("nmae", Some("name")),
        ("Port", Some("port")),
        ("ports", Some("port")),
        ("prot", Some("protocol")),
        ("affinity-timeout", Some("affinity_timeout")),
        ("timeout", None),
        ("x", None),
        ("", None),
    ] {
        assert_eq!(similar(word, &known), likely, "{word}");
    }
}
