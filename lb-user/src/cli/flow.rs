//! `lb flow`.

use std::net::{IpAddr, SocketAddr};

use super::{
    Failure, Session,
    client::Request,
    count,
    table::{Cell, Table, numbers, words},
    units::duration,
};
use crate::api::{Flow, FlowCount};

/// List, count and forget flows of the affinity table
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb flow list --service web --limit 20
  lb flow count --backend web-1
  lb flow flush --client 198.51.100.7")]
pub(super) struct Command {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// List flows
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Count flows
    Count {
        #[command(flatten)]
        filter: Filter,
    },
    /// Forget flows: the next packet of each is given a backend anew
    Flush {
        #[command(flatten)]
        filter: Filter,
        /// All of them
        #[arg(long, conflicts_with = "Filter", required_unless_present = "Filter")]
        all: bool,
    },
}

/// Which flows; those that all filters apply to.
#[derive(Debug, clap::Args)]
#[group(multiple = true)]
struct Filter {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Of this client (IPv4, services with one port: of other flows the table has hashes)
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// To this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

impl Filter {
    fn apply(self, request: Request) -> Request {
        request
            .query("service", self.service)
            .query("client", self.client)
            .query("backend", self.backend)
    }
}

impl Command {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        match self.order {
            Order::List { filter, limit } => {
                let request = filter.apply(Request::get(&["flows"])).query("limit", Some(limit));
                let answer = lb.client.send::<Vec<Flow>>(request)?;
                lb.console.answer(&answer, |console, flows| {
                    console.list(&table(flows), "no flow")?;
                    if flows.len() >= limit as usize {
                        console.tell("note: there may be more, see `--limit`");
                    }
                    Ok(())
                })
            }
            Order::Count { filter } => {
                let request = filter.apply(Request::get(&["flows", "count"]));
                let answer = lb.client.send::<FlowCount>(request)?;
                lb.console.answer(&answer, |console, count| console.say(count.flows))
            }
            Order::Flush { filter, all: _ } => {
                let request = filter.apply(Request::delete(&["flows"]));
                let answer = lb.client.send::<FlowCount>(request)?;
                lb.console.answer(&answer, |console, flushed| {
                    console.say(format_args!("{} flushed", count(flushed.flows, "flow")))
                })
            }
        }
    }
}

fn table(flows: &[Flow]) -> Table {
    let mut table = Table::new([
        words("SERVICE"),
        words("CLIENT"),
        words("BACKEND"),
        words("STATE"),
        numbers("IDLE"),
    ]);
    for flow in flows {
        let client = flow.client.map(|address| match flow.client_port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        });
        table.row([
            Cell::new(&flow.service),
            Cell::maybe(client),
            Cell::new(&flow.backend),
            Cell::new(&flow.state),
            Cell::new(duration(flow.idle_s)),
        ]);
    }
    table
}
