//! `lb service`.

use std::net::IpAddr;

use clap::builder::NonEmptyStringValueParser as Name;

use super::{
    Failure, Session, Status, backend,
    client::Request,
    keys::{self, Assignment, set},
    table::{Cell, Paint, Table, numbers, words},
    units::bytes,
};
use crate::api::{self, Service, ServiceDetail};

/// List, add, change and remove virtual services
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb service list
  lb service add web --vip 203.0.113.10 --port 443 health.kind=tcp
  lb service set web --policy latency health.kind=http health.path=/healthz
  lb service set web split.blue=95 split.green=5
  lb service set web 'route=[{from=[\"198.51.100.0/24\"], group=\"eu\"}]'
  lb service remove web")]
pub(super) struct Command {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// List all services
    List,
    /// Show a service: its traffic, its backends, its configuration
    Show {
        /// Name of the service
        #[arg(value_parser = Name::new())]
        name: String,
    },
    /// Add a service
    ///
    /// What is not said is as it is by default in the configuration file.
    Add {
        /// Its name, unique
        #[arg(value_parser = Name::new())]
        name: String,
        /// Address clients connect to
        #[arg(long, value_name = "ADDRESS")]
        vip: IpAddr,
        /// Port, range of ports such as `8000-8100`, or `any`
        #[arg(long, value_parser = Name::new())]
        port: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change a service
    Set {
        /// Name of the service
        #[arg(value_parser = Name::new())]
        name: String,
        /// Address clients connect to
        #[arg(long, value_name = "ADDRESS")]
        vip: Option<IpAddr>,
        /// Port, range of ports such as `8000-8100`, or `any`
        #[arg(long, value_parser = Name::new())]
        port: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove a service and its backends
    Remove {
        /// Name of the service
        #[arg(value_parser = Name::new())]
        name: String,
    },
}

/// Keys of `[[service]]`.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Protocol
    #[arg(long, value_parser = ["tcp", "udp"])]
    protocol: Option<String>,
    /// How packets reach the backends
    #[arg(long, value_parser = ["nat", "fullnat", "dsr", "ipip", "gue"])]
    mode: Option<String>,
    /// What weights follow besides configuration and health: nothing, how fast backends
    /// answer clients (or probes), how many flows they have
    #[arg(long, value_parser = ["static", "latency", "least-flows"])]
    policy: Option<String>,
    /// What stays with its backend: each flow, all of a client, or nothing (UDP)
    #[arg(long, value_parser = ["flow", "client", "none"])]
    affinity: Option<String>,
    /// How long an idle flow keeps its backend
    #[arg(long, value_name = "DURATION")]
    affinity_timeout: Option<String>,
    /// How long a backend that came up takes to get its whole weight
    #[arg(long, value_name = "DURATION")]
    slow_start: Option<String>,
    /// Fewer backends up: the service is down
    #[arg(long, value_name = "N")]
    min_up: Option<u32>,
    /// What clients get where no backend is left
    #[arg(long, value_name = "ANSWER", value_parser = ["drop", "reject"])]
    on_empty: Option<String>,
    /// Any key of the configuration file, such as `health.kind=http`
    ///
    /// Dots lead into tables. The value is read as TOML, and where it is
    /// none, as text: `health.rise=2`, `health.path=/healthz`,
    /// `health.expect_status='"200"'`.
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<Assignment>,
}

impl Settings {
    fn table(self, vip: Option<IpAddr>, port: Option<String>) -> Result<api::Table, Failure> {
        let mut table = api::Table::new();
        set(&mut table, "vip", vip.map(|vip| vip.to_string()));
        let port = port.map(|port| match port.parse::<u16>() {
            Ok(port) => port.into(),
            Err(_) => serde_json::Value::from(port),
        });
        set(&mut table, "port", port);
        set(&mut table, "protocol", self.protocol);
        set(&mut table, "mode", self.mode);
        set(&mut table, "policy", self.policy);
        set(&mut table, "affinity", self.affinity);
        set(&mut table, "affinity_timeout", self.affinity_timeout);
        set(&mut table, "slow_start", self.slow_start);
        set(&mut table, "min_up", self.min_up);
        set(&mut table, "on_empty", self.on_empty);
        keys::assign(&mut table, self.keys)?;
        Ok(table)
    }
}

impl Command {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        match self.order {
            Order::List => {
                let answer = lb.client.send::<Vec<Service>>(Request::get(&["services"]))?;
                lb.console.answer(&answer, |console, services| {
                    console.list(&table(services), "no service")
                })
            }
            Order::Show { name } => show(lb, &name),
            Order::Add { name, vip, port, settings } => {
                let mut table = api::Table::new();
                set(&mut table, "name", Some(name.as_str()));
                table.extend(settings.table(Some(vip), Some(port))?);
                lb.change(Request::post(&["services"]).json(&table), format_args!("{name}: added"))
            }
            Order::Set { name, vip, port, settings } => {
                let table = settings.table(vip, port)?;
                if table.is_empty() {
                    return Err(Failure::new(Status::Usage, "nothing to set")
                        .hint("such as `--policy latency` or `health.kind=http`"));
                }
                let outcome = format!("{name}: {}", keys::in_words(&table));
                lb.change(Request::patch(&["services", &name]).json(&table), outcome)
            }
            Order::Remove { name } => {
                lb.change(Request::delete(&["services", &name]), format_args!("{name}: removed"))
            }
        }
    }
}

fn show(lb: &mut Session<'_>, name: &str) -> Result<(), Failure> {
    let answer = lb.client.send::<ServiceDetail>(Request::get(&["services", name]))?;
    lb.console.answer(&answer, |console, detail| {
        console.table(&table(std::slice::from_ref(&detail.service)))?;
        console.say("")?;
        console.list(&backend::table(&detail.members), "no backend")?;
        console.say("")?;
        console.table(&config(&detail.config))?;
        if detail.service.full {
            console.tell("note: `max_flows` is reached: new flows are refused");
        }
        if detail.edited {
            console.tell("note: edits changed it; the configuration file has it otherwise");
        }
        Ok(())
    })
}

fn table(services: &[Service]) -> Table {
    let mut table = Table::new([
        words("SERVICE"),
        words("VIP"),
        words("PROTOCOL"),
        words("PORT"),
        words("MODE"),
        words("POLICY"),
        words("AFFINITY"),
        numbers("UP"),
        numbers("FLOWS"),
        numbers("PACKETS"),
        numbers("BYTES"),
    ]);
    for service in services {
        let up = Cell::new(format_args!("{}/{}", service.up, service.backends));
        let flows = match service.max_flows {
            0 => Cell::new(service.flows),
            most => Cell::new(format_args!("{}/{most}", service.flows)),
        };
        let flows = if service.full { flows.paint(Paint::Bad) } else { flows };
        let paint = match service.up {
            0 => Paint::Bad,
            up if up < service.backends => Paint::Held,
            _ => Paint::Plain,
        };
        table.row([
            Cell::new(&service.name),
            Cell::new(service.vip),
            Cell::new(&service.protocol),
            Cell::new(&service.port),
            Cell::new(&service.mode),
            Cell::new(&service.policy),
            Cell::new(&service.affinity),
            up.paint(paint),
            flows,
            Cell::new(service.packets),
            Cell::new(bytes(service.bytes)),
        ]);
    }
    table
}

/// The keys as `lb service set` takes them. Backends have a table of their own.
fn config(config: &api::Table) -> Table {
    let mut table = Table::new([words("KEY"), words("VALUE")]);
    for (key, value) in keys::flat(config).into_iter().filter(|(key, _)| key != "backend") {
        table.row([Cell::new(key), Cell::new(value)]);
    }
    table
}
