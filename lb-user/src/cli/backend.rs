//! `lb backend`.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use clap::builder::NonEmptyStringValueParser as Name;

use super::{
    Failure, Session, Status,
    client::Request,
    keys::{self, set},
    table::{Cell, Paint, Table, numbers, words},
    units::{bytes, duration, micros, seconds},
};
use crate::api::{self, AdminOrder, Backend};

/// List, add, change, drain and remove backends
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb backend list web
  lb backend add web web-3 10.0.0.13:8443 --weight 50
  lb backend set web web-3 --weight 100
  lb backend drain web web-3 --deadline 10m
  lb backend ready web web-3
  lb backend remove web web-3")]
pub(super) struct Command {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// List backends, of all services or of one
    List {
        /// Name of the service
        #[arg(value_parser = Name::new())]
        service: Option<String>,
    },
    /// Add a backend to a service
    ///
    /// What is not said is as it is by default in the configuration file.
    Add {
        #[command(flatten)]
        which: Which,
        /// Address, with the port where it is not the service's: `10.0.0.11`,
        /// `10.0.0.11:8443`, `[2001:db8::11]:8443`
        #[arg(value_name = "ADDRESS[:PORT]")]
        endpoint: Endpoint,
        #[command(flatten)]
        settings: Settings,
        /// Serve only while no other backend can
        #[arg(long)]
        backup: bool,
    },
    /// Change a backend
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        settings: Settings,
        /// Whether it serves only while no other backend can
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_missing_value = "true")]
        backup: Option<bool>,
    },
    /// Serve: new flows and existing ones
    Ready {
        #[command(flatten)]
        which: Which,
    },
    /// Take no new flows; existing ones go on
    Drain {
        #[command(flatten)]
        which: Which,
        /// End what flows are left after so long
        #[arg(long, value_name = "DURATION", value_parser = seconds)]
        deadline: Option<u64>,
    },
    /// Serve nothing at all, from now on
    Maint {
        #[command(flatten)]
        which: Which,
    },
    /// Remove a backend from its service
    Remove {
        #[command(flatten)]
        which: Which,
    },
}

/// A backend, by name.
#[derive(Debug, clap::Args)]
struct Which {
    /// Name of the service
    #[arg(value_parser = Name::new())]
    service: String,
    /// Name of the backend
    #[arg(value_parser = Name::new())]
    name: String,
}

impl Which {
    fn path(&self) -> [&str; 4] {
        ["services", &self.service, "backends", &self.name]
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

/// Keys of `[[service.backend]]`.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Share of new flows, relative to the other backends'
    #[arg(long, value_name = "N")]
    weight: Option<u16>,
    /// Where it is
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Group it belongs to, for `split` and `route` of the service
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// IDs by which QUIC connection IDs name it, in hexadecimal digits
    #[arg(long, value_name = "HEX", value_delimiter = ',')]
    server_ids: Option<Vec<String>>,
}

impl Settings {
    fn put(self, table: &mut api::Table) {
        set(table, "weight", self.weight);
        set(table, "zone", self.zone);
        set(table, "group", self.group);
        set(table, "server_ids", self.server_ids);
    }
}

/// `ADDRESS[:PORT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            return Ok(Self { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(endpoint) if endpoint.port() > 0 => {
                Ok(Self { address: endpoint.ip(), port: Some(endpoint.port()) })
            }
            _ => Err("expected an address, or address and port, such as `10.0.0.11:8443` or \
                      `[2001:db8::11]:8443`"),
        }
    }
}

impl Command {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        match self.order {
            Order::List { service } => {
                let request = Request::get(&["backends"]).query("service", service);
                let answer = lb.client.send::<Vec<Backend>>(request)?;
                lb.console.answer(&answer, |console, backends| {
                    console.list(&table(backends), "no backend")
                })
            }
            Order::Add { which, endpoint, settings, backup } => {
                let mut table = api::Table::new();
                set(&mut table, "name", Some(which.name.as_str()));
                set(&mut table, "address", Some(endpoint.address.to_string()));
                set(&mut table, "port", endpoint.port);
                settings.put(&mut table);
                set(&mut table, "backup", backup.then_some(true));
                let request = Request::post(&["services", &which.service, "backends"]);
                lb.change(request.json(&table), format_args!("{which}: added"))
            }
            Order::Set { which, settings, backup } => {
                let mut table = api::Table::new();
                settings.put(&mut table);
                set(&mut table, "backup", backup);
                if table.is_empty() {
                    return Err(
                        Failure::new(Status::Usage, "nothing to set").hint("such as `--weight 50`")
                    );
                }
                let outcome = format!("{which}: {}", keys::in_words(&table));
                lb.change(Request::patch(&which.path()).json(&table), outcome)
            }
            Order::Ready { which } => order(lb, &which, "ready", None),
            Order::Drain { which, deadline } => order(lb, &which, "drain", deadline),
            Order::Maint { which } => order(lb, &which, "maint", None),
            Order::Remove { which } => {
                lb.change(Request::delete(&which.path()), format_args!("{which}: removed"))
            }
        }
    }
}

fn order(
    lb: &mut Session<'_>,
    which: &Which,
    state: &str,
    deadline_s: Option<u64>,
) -> Result<(), Failure> {
    let body = AdminOrder { state: state.to_owned(), deadline_s };
    let path = [&which.path()[..], &["admin"]].concat();
    let end = deadline_s.map(|left| format!(", its flows end in {}", duration(left)));
    let outcome = format!("{which}: {state}{}", end.unwrap_or_default());
    lb.change(Request::put(&path).json(&body), outcome)
}

pub(super) fn table(backends: &[Backend]) -> Table {
    let mut table = Table::new([
        words("SERVICE"),
        words("BACKEND"),
        words("ADDRESS"),
        numbers("WEIGHT"),
        numbers("EFFECTIVE"),
        words("ADMIN"),
        words("HEALTH"),
        words("ZONE"),
        words("GROUP"),
        words("BACKUP"),
        numbers("FLOWS"),
        numbers("PACKETS"),
        numbers("BYTES"),
        numbers("LATENCY"),
        numbers("HANDSHAKE"),
        words("REASON"),
    ]);
    for backend in backends {
        let address = match backend.port {
            Some(port) => SocketAddr::new(backend.address, port).to_string(),
            None => backend.address.to_string(),
        };
        let left = backend.deadline_s.map(|left| format!(" ({} left)", duration(left)));
        let admin = Cell::new(format_args!("{}{}", backend.admin, left.unwrap_or_default()));
        table.row([
            Cell::new(&backend.service),
            Cell::new(&backend.name),
            Cell::new(address),
            Cell::new(backend.weight),
            Cell::new(backend.effective_weight),
            admin.paint(if backend.admin == "ready" { Paint::Plain } else { Paint::Held }),
            Cell::new(&backend.health).paint(match backend.health.as_str() {
                "down" => Paint::Bad,
                _ => Paint::Plain,
            }),
            Cell::maybe(backend.zone.as_ref()),
            Cell::maybe(backend.group.as_ref()),
            Cell::maybe(backend.backup.then_some("yes")),
            Cell::new(backend.flows),
            Cell::new(backend.packets),
            Cell::new(bytes(backend.bytes)),
            Cell::maybe(backend.latency_us.map(micros)),
            Cell::maybe(backend.handshake_us.map(micros)),
            Cell::new(&backend.reason),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_with_or_without_a_port() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:80", "10.0.0.1", Some(80)),
            ("2001:db8::1", "2001:db8::1", None),
            ("2001:db8::1:80", "2001:db8::1:80", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:80", "2001:db8::1", Some(80)),
        ];
        for (text, address, port) in cases {
            let endpoint = Endpoint { address: address.parse().unwrap(), port };
            assert_eq!(text.parse(), Ok(endpoint), "{text}");
        }
        for wrong in ["", "web-1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.0/24"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
