//! `[service.health]`: one table whose keys depend on its `kind`.

use std::{ops::RangeInclusive, time::Duration};

use super::Field;
use crate::{
    config::{
        read::{Located, Section, Wrong},
        value::{
            flag, number, path, port,
            probe::{bytes, command, dns_name, host, page, record, statuses},
            time, word,
        },
    },
    core::model::health::{Dns, Health, Http, Probe, Tls, Udp},
};

/// From one probe to the next.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// The least that a probe may take.
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

/// Outcomes in a row.
const OUTCOMES: RangeInclusive<u32> = 1..=100;

/// A value of `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Http,
    Https,
    Udp,
    Dns,
    Exec,
    Agent,
}

const KINDS: &[(&str, Kind)] = &[
    ("none", Kind::None),
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("udp", Kind::Udp),
    ("dns", Kind::Dns),
    ("exec", Kind::Exec),
    ("agent", Kind::Agent),
];

/// The keys that not every kind has, and the kinds that have them.
const OWNERS: &[(&str, &[Kind])] = &[
    ("path", &[Kind::Http, Kind::Https]),
    ("host", &[Kind::Http, Kind::Https]),
    ("expect_status", &[Kind::Http, Kind::Https]),
    ("verify", &[Kind::Https]),
    ("ca_file", &[Kind::Https]),
    ("send", &[Kind::Udp]),
    ("expect", &[Kind::Udp]),
    ("name", &[Kind::Dns]),
    ("record", &[Kind::Dns]),
    ("command", &[Kind::Exec]),
];

impl Kind {
    /// As it is written, in quotes.
    fn quoted(self) -> String {
        let name = KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name);
        format!("\"{name}\"")
    }
}

pub(super) fn read(mut table: Section<'_>) -> Field<Health> {
    let place = table.place();
    let Health { interval, timeout, rise, fall, .. } = Health::default();
    let kind = table.optional("kind", Kind::None, word(KINDS));
    let interval = table.optional("interval", interval, time(INTERVALS));
    let most = interval.as_ref().map_or(*INTERVALS.end(), |interval| interval.value);
    // A short interval shortens the default.
    let timeout = table.optional("timeout", timeout.min(most), |value| {
        let hint = "a probe ends before the next begins";
        time(LEAST_TIMEOUT..=most)(value).map_err(|wrong| match &wrong.hint {
            Some(_) => wrong,
            None => wrong.hint(hint),
        })
    });
    let rise = table.optional("rise", rise, number(OUTCOMES));
    let fall = table.optional("fall", fall, number(OUTCOMES));
    let port = table.optional("port", None, |value| port(value).map(Some));
    let probe = probe(&mut table, kind.map(|kind| kind.value));
    table.finish();
    let value = Health {
        probe: probe?,
        interval: interval?.value,
        timeout: timeout?.value,
        rise: rise?.value,
        fall: fall?.value,
        port: port?.value,
    };
    Some(Located { place, value })
}

/// Reads the keys of this kind and refuses those of others; passes over all
/// where the kind itself is wrong.
fn probe(table: &mut Section<'_>, kind: Option<Kind>) -> Option<Probe> {
    let probe = kind.and_then(|kind| match kind {
        Kind::None => Some(Probe::None),
        Kind::Tcp => Some(Probe::Tcp),
        Kind::Http => http(table).map(Probe::Http),
        Kind::Https => {
            let (http, tls) = (http(table), tls(table));
            Some(Probe::Http(Http { tls: Some(tls?), ..http? }))
        }
        Kind::Udp => {
            let send = table.optional("send", Vec::new(), bytes);
            let expect = table.optional("expect", None, |value| bytes(value).map(Some));
            Some(Probe::Udp(Udp { send: send?.value, expect: expect?.value }))
        }
        Kind::Dns => {
            let name = table.required("name", "a name that the server knows", dns_name);
            let record = table.optional("record", "A".to_owned(), record);
            Some(Probe::Dns(Dns { name: name?.value, record: record?.value }))
        }
        Kind::Exec => {
            let example = "such as [\"/usr/local/bin/check\", \"--fast\"]";
            table.required("command", example, command).map(|command| Probe::Exec(command.value))
        }
        Kind::Agent => Some(Probe::Agent),
    });
    for (key, owners) in OWNERS {
        match kind {
            Some(kind) if owners.contains(&kind) => {}
            Some(kind) => {
                let owners: Vec<_> = owners.iter().map(|owner| owner.quoted()).collect();
                let rule = format!("must be left out with kind {}", kind.quoted());
                let hint = format!("it belongs to kind {}", owners.join(" or "));
                table.refuse(key, Wrong::new(rule).hint(hint));
            }
            None => table.pass(key),
        }
    }
    probe
}

fn http(table: &mut Section<'_>) -> Option<Http> {
    let path = table.optional("path", "/".to_owned(), page);
    let host = table.optional("host", None, |value| host(value).map(Some));
    let expect_status = table.optional("expect_status", vec![200..=399], statuses);
    Some(Http {
        path: path?.value,
        host: host?.value,
        expect_status: expect_status?.value,
        tls: None,
    })
}

fn tls(table: &mut Section<'_>) -> Option<Tls> {
    let verify = table.optional("verify", true, flag);
    let ca_file =
        table.optional("ca_file", None, |value| path("/etc/lb/backends.pem")(value).map(Some));
    Some(Tls { verify: verify?.value, ca_file: ca_file?.value })
}
