//! `lb stats`.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::{
    Failure, Session,
    client::Request,
    console::Console,
    table::{Cell, Column, Table, numbers, words},
    units::bytes,
};
use crate::api::{Stats as Counters, Traffic};

/// To the upper left corner, and clear what is below (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show counters, or what they gain in a second
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb stats                      counters since the data plane was loaded
  lb stats --watch              rates, every second
  lb stats --watch 5 --json     counters, every five seconds, a line each")]
pub(super) struct Stats {
    /// Show rates per second instead, again and again [default: 1]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = interval)]
    watch: Option<Duration>,
}

/// Reads the time between two looks.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|time| (Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(time))
        .ok_or_else(|| "expected seconds, 0.01 to 86400".to_owned())
}

impl Stats {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        let mut before: Option<(Instant, Counters)> = None;
        loop {
            let answer = lb.client.send::<Counters>(Request::get(&["stats"]))?;
            let now = Instant::now();
            let Some(interval) = self.watch else {
                return lb.console.answer(&answer, totals);
            };
            if lb.console.looks.json {
                lb.console.say(&answer.json)?;
            } else if let Some((then, earlier)) = before {
                let gained = answer.value.since(&earlier);
                rates(&mut lb.console, &gained, (now - then).as_secs_f64())?;
            }
            before = Some((now, answer.value));
            thread::sleep(interval);
        }
    }
}

fn totals(console: &mut Console<'_>, counters: &Counters) -> Result<(), Failure> {
    let headings = ["PACKETS", "BYTES", "REPLIES", "REPLY BYTES", "NEW FLOWS"];
    let number = |number: u64| number.to_string();
    console.list(&traffic(counters, headings, number, bytes), "no service")?;
    console.say("")?;
    console.table(&others(counters, "PACKETS", number))
}

fn rates(console: &mut Console<'_>, gained: &Counters, seconds: f64) -> Result<(), Failure> {
    if console.looks.terminal {
        console.write(CLEAR.as_bytes())?;
    }
    let headings = ["PACKETS/S", "BYTES/S", "REPLIES/S", "REPLY BYTES/S", "NEW FLOWS/S"];
    let rate = |number: u64| format!("{:.0}", number as f64 / seconds);
    let byte_rate = |number: u64| bytes((number as f64 / seconds) as u64);
    console.list(&traffic(gained, headings, rate, byte_rate), "no service")?;
    console.say("")?;
    console.table(&others(gained, "PACKETS/S", rate))?;
    if console.looks.terminal { Ok(()) } else { console.say("") }
}

impl Counters {
    /// What was counted since. Counters that are lower than they were began
    /// anew.
    fn since(&self, earlier: &Self) -> Self {
        let drops = |(reason, now): (&String, &u64)| {
            let before = earlier.drops.get(reason).copied().unwrap_or(0);
            (reason.clone(), gained(*now, before))
        };
        Self {
            services: gains(&self.services, &earlier.services),
            backends: gains(&self.backends, &earlier.backends),
            drops: self.drops.iter().map(drops).collect(),
            passed: gained(self.passed, earlier.passed),
            unrecorded: gained(self.unrecorded, earlier.unrecorded),
            reset: gained(self.reset, earlier.reset),
            moved: gained(self.moved, earlier.moved),
            quic_routed: gained(self.quic_routed, earlier.quic_routed),
            quic_unrouted: gained(self.quic_unrouted, earlier.quic_unrouted),
            syn_cookies_sent: gained(self.syn_cookies_sent, earlier.syn_cookies_sent),
            syn_cookies_confirmed: gained(
                self.syn_cookies_confirmed,
                earlier.syn_cookies_confirmed,
            ),
        }
    }
}

fn gained(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn gains(now: &[Traffic], before: &[Traffic]) -> Vec<Traffic> {
    let key = |traffic: &Traffic| (traffic.service.clone(), traffic.backend.clone());
    let before: BTreeMap<_, _> = before.iter().map(|traffic| (key(traffic), traffic)).collect();
    let gain = |now: &Traffic| match before.get(&key(now)) {
        None => now.clone(),
        Some(before) => Traffic {
            service: now.service.clone(),
            backend: now.backend.clone(),
            packets: gained(now.packets, before.packets),
            bytes: gained(now.bytes, before.bytes),
            reply_packets: gained(now.reply_packets, before.reply_packets),
            reply_bytes: gained(now.reply_bytes, before.reply_bytes),
            new_flows: gained(now.new_flows, before.new_flows),
        },
    };
    now.iter().map(gain).collect()
}

/// Each service, its backends below it.
fn traffic(
    counters: &Counters,
    headings: [&'static str; 5],
    number: impl Fn(u64) -> String,
    bytes: impl Fn(u64) -> String,
) -> Table {
    let columns = [words("SERVICE"), words("BACKEND")].into_iter();
    let columns: Vec<Column> = columns.chain(headings.map(numbers)).collect();
    let mut table = Table::new(columns);
    let mut members: BTreeMap<&str, Vec<&Traffic>> = BTreeMap::new();
    for backend in &counters.backends {
        members.entry(&backend.service).or_default().push(backend);
    }
    for service in &counters.services {
        let members = members.get(service.service.as_str()).into_iter().flatten().copied();
        for line in std::iter::once(service).chain(members) {
            table.row([
                Cell::new(&line.service),
                Cell::maybe(line.backend.as_ref()),
                Cell::new(number(line.packets)),
                Cell::new(bytes(line.bytes)),
                Cell::new(number(line.reply_packets)),
                Cell::new(bytes(line.reply_bytes)),
                Cell::new(number(line.new_flows)),
            ]);
        }
    }
    table
}

/// Drops by reason, and what is counted but for the whole node.
fn others(counters: &Counters, heading: &'static str, number: impl Fn(u64) -> String) -> Table {
    let mut table = Table::new([words("COUNTER"), numbers(heading)]);
    for (reason, &packets) in counters.drops.iter().filter(|(_, packets)| **packets > 0) {
        table.row([Cell::new(format_args!("dropped: {reason}")), Cell::new(number(packets))]);
    }
    table.row([Cell::new("passed"), Cell::new(number(counters.passed))]);
    table.row([Cell::new("unrecorded flows"), Cell::new(number(counters.unrecorded))]);
    table.row([Cell::new("reset flows"), Cell::new(number(counters.reset))]);
    table.row([Cell::new("moved flows"), Cell::new(number(counters.moved))]);
    for (what, packets) in [
        ("QUIC by ID", counters.quic_routed),
        ("QUIC without", counters.quic_unrouted),
        ("SYN cookies sent", counters.syn_cookies_sent),
        ("SYN cookies confirmed", counters.syn_cookies_confirmed),
    ] {
        if packets > 0 {
            table.row([Cell::new(what), Cell::new(number(packets))]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_began_anew_is_its_own_gain() {
        assert_eq!([gained(7, 5), gained(5, 5), gained(3, 5)], [2, 0, 3]);
    }

    #[test]
    fn intervals_are_seconds() {
        assert_eq!(interval("2"), Ok(Duration::from_secs(2)));
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e300", "2s"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
