//! The command line: outputs, exit statuses, bad input, and edits that are
//! made at once, at bad moments, or without room for them.

mod access;
mod confirm;
mod crash;
mod disk;
mod editors;
mod firewall;
mod input;
mod look;
mod metrics;
mod mmdb;
mod pages;
mod pair;
mod refusal;
mod reload;
mod shared;
mod watch;

use std::{fs, path::PathBuf, time::Duration};

use lb_tests::harness::{Config, Lab, Mode, NAT_V4, Protocol, Result, Service};

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

/// Another file than the agent's own.
fn other(lab: &Lab, config: &Config) -> PathBuf {
    let path = lab.path("new.toml");
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn names(lab: &Lab) -> Result<Vec<String>> {
    Ok(lab.backends_by(WEB, "name")?.into_keys().collect())
}
