//! `lb explain`.

use std::net::SocketAddr;

use super::{
    Failure, Session,
    client::Request,
    table::{Cell, Paint, Table, words},
};
use crate::api::{Explanation, Question};

/// Show what the loaded data plane does with a packet, step by step
///
/// A packet made for the purpose runs through the program and the maps that
/// are in force. Nothing is sent, no flow is made.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb explain 198.51.100.7:40000 203.0.113.10:443 --syn
  lb explain '[2001:db8::7]:40000' '[2001:db8:1::10]:53' --proto udp")]
pub(super) struct Explain {
    /// Where the packet comes from
    #[arg(value_name = "CLIENT:PORT")]
    client: SocketAddr,
    /// Where it goes to
    #[arg(value_name = "VIP:PORT")]
    vip: SocketAddr,
    /// Its protocol
    #[arg(long, value_name = "PROTOCOL", value_parser = ["tcp", "udp"], default_value = "tcp")]
    proto: String,
    /// It opens a connection (TCP SYN)
    #[arg(long)]
    syn: bool,
    /// Interface it comes in by [default: the first]
    #[arg(long, value_name = "NAME", value_parser = super::agent::interface)]
    interface: Option<String>,
}

impl Explain {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        let question = Question {
            client: self.client.ip(),
            client_port: self.client.port(),
            vip: self.vip.ip(),
            vip_port: self.vip.port(),
            protocol: self.proto,
            syn: self.syn,
            interface: self.interface,
        };
        let answer = lb.client.send(Request::post(&["explain"]).json(&question))?;
        lb.console.answer(&answer, |console, explanation| console.table(&table(explanation)))
    }
}

fn table(explanation: &Explanation) -> Table {
    let mut table = Table::new([words("STEP"), words("ANSWER")]);
    for step in &explanation.steps {
        table.row([Cell::new(&step.step), Cell::new(&step.answer)]);
    }
    let verdict = &explanation.verdict;
    let reason = explanation.reason.as_ref().map(|reason| format!(" ({reason})"));
    let paint = if verdict == "drop" { Paint::Bad } else { Paint::Plain };
    let verdict = Cell::new(format_args!("{verdict}{}", reason.unwrap_or_default()));
    table.row([Cell::new("verdict"), verdict.paint(paint)]);
    table
}
