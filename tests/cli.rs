//! The command line: outputs, exit statuses, bad input, and edits that are
//! made at once, at bad moments, or without room for them.

mod crash;
mod disk;
mod editors;
mod firewall;
mod input;
mod look;
mod mmdb;
mod refusal;
mod reload;

use std::time::Duration;

use lb_tests::harness::{Config, Lab, Mode, NAT_V4, Protocol, Service};

/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(10);
/// Name of the service of [`web`].
const WEB: &str = "nat-tcp-v4-10-80";
/// Its address.
const URL: &str = "http://203.0.113.10/";

/// One service at [`NAT_V4`] port 80, at all backends, without probes.
fn web(lab: &Lab) -> Config {
    let service = Service::new(NAT_V4, Protocol::Tcp, 80, Mode::Nat);
    lab.config([service.with(&lab.backends)])
}

/// What a table has, by words; cells that hold several are so many.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}
