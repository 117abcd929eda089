//! `lb status`.

use super::{
    Failure, Session,
    client::Request,
    count,
    table::{Cell, Table, words},
    units::{duration, percent},
};
use crate::api::{self, Interface};

/// Show the node: version, generation, interfaces, flows, pair
#[derive(Debug, clap::Args)]
pub(super) struct Status;

impl Status {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        let answer = lb.client.send(Request::get(&["status"]))?;
        lb.console.answer(&answer, |console, status| {
            console.table(&table(status))?;
            let own = env!("CARGO_PKG_VERSION");
            if status.version != own {
                console.tell(format_args!("note: this `lb` is of version {own}"));
            }
            Ok(())
        })
    }
}

fn table(status: &api::Status) -> Table {
    let mut table = Table::new([words("KEY"), words("VALUE")]);
    let mut row = |name: &str, value: String| table.row([Cell::new(name), Cell::new(value)]);
    row("node", status.node.clone());
    row("version", status.version.clone());
    row("generation", status.generation.to_string());
    row("uptime", duration(status.uptime_s));
    let interfaces: Vec<_> = status.interfaces.iter().map(interface).collect();
    row("interfaces", interfaces.join(", "));
    row("flows", flows(status.flows, status.flow_capacity));
    if status.edits > 0 {
        let edits = count(status.edits, "edit");
        row("edits", format!("{edits} that the configuration file does not have"));
    }
    if let Some(left) = status.confirm_s {
        let left = duration(left);
        row("reload", format!("taken back in {left} unless confirmed: `lb reload --confirmed`"));
    }
    match &status.ha {
        None => row("pair", "none, a single balancer".to_owned()),
        Some(api::HaSummary { role, peer, connected, .. }) => {
            let peer = match (peer, connected) {
                (Some(peer), true) => format!("peer {peer}"),
                (Some(peer), false) => format!("peer {peer} is silent"),
                (None, _) => "no peer heard".to_owned(),
            };
            row("pair", format!("{role}, {peer}"));
        }
    }
    table
}

fn interface(interface: &Interface) -> String {
    format!("{} ({})", interface.name, interface.xdp_mode.as_deref().unwrap_or("away"))
}

fn flows(flows: u64, capacity: u64) -> String {
    let share = percent(flows as f64 / capacity.max(1) as f64);
    format!("{flows} of {capacity} ({share})")
}
