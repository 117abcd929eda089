//! `lb firewall`.

use ipnet::IpNet;

use super::{
    Failure, Session,
    client::Request,
    table::{Cell, Table, words},
    units::{duration, seconds},
};
use crate::api::{AllowOrder, DenyOrder, Firewall};

/// List and change what is let in: open ports, denied sources
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb firewall list
  lb firewall allow tcp/22
  lb firewall deny 192.0.2.0/24 --for 10m
  lb firewall undeny 192.0.2.0/24")]
pub(super) struct Command {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// List open ports and denied sources
    List,
    /// Open a port to the host, whatever `firewall.host` says
    Allow {
        /// Protocol and port or range: `tcp/443`, `udp/6000-6100`
        rule: String,
    },
    /// Leave a port to `firewall.host` again
    Disallow {
        /// As it was allowed: `tcp/443`
        rule: String,
    },
    /// Drop every packet of a source
    Deny {
        /// Address or prefix
        #[arg(value_name = "CIDR", value_parser = prefix)]
        prefix: IpNet,
        /// For so long [default: until `undeny`]
        #[arg(long = "for", value_name = "DURATION", value_parser = seconds)]
        seconds: Option<u64>,
    },
    /// Drop the packets of a source no longer
    Undeny {
        /// As it was denied
        #[arg(value_name = "CIDR", value_parser = prefix)]
        prefix: IpNet,
    },
}

/// Reads a prefix, or an address as the prefix of one address.
fn prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse() {
        return Ok(IpNet::new_assert(address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let prefix: IpNet =
        text.parse().map_err(|_| "expected an address or a prefix, such as `192.0.2.0/24`")?;
    if prefix.trunc() == prefix {
        Ok(prefix)
    } else {
        Err(format!("has bits set behind its length, expected `{}`", prefix.trunc()))
    }
}

impl Command {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        match self.order {
            Order::List => list(lb),
            Order::Allow { rule } => allow(lb, rule, true),
            Order::Disallow { rule } => allow(lb, rule, false),
            Order::Deny { prefix, seconds } => {
                let time = seconds.map(|left| format!(" for {}", duration(left)));
                let outcome = format!("{prefix}: denied{}", time.unwrap_or_default());
                let order = DenyOrder { prefix: prefix.to_string(), deny: true, for_s: seconds };
                deny(lb, &order, &outcome)
            }
            Order::Undeny { prefix } => {
                let order = DenyOrder { prefix: prefix.to_string(), deny: false, for_s: None };
                deny(lb, &order, &format!("{prefix}: not denied any more"))
            }
        }
    }
}

fn list(lb: &mut Session<'_>) -> Result<(), Failure> {
    let answer = lb.client.send(Request::get(&["firewall"]))?;
    lb.console.answer(&answer, |console, firewall| console.table(&table(firewall)))
}

fn allow(lb: &mut Session<'_>, rule: String, allow: bool) -> Result<(), Failure> {
    let outcome = format!("{rule}: {}", if allow { "allowed" } else { "not allowed any more" });
    let request = Request::put(&["firewall", "allow"]).json(&AllowOrder { rule, allow });
    lb.change(request, outcome)
}

fn deny(lb: &mut Session<'_>, order: &DenyOrder, outcome: &str) -> Result<(), Failure> {
    lb.change(Request::put(&["firewall", "deny"]).json(order), outcome)
}

fn table(firewall: &Firewall) -> Table {
    let mut table = Table::new([words("RULE"), words("WHAT"), words("LEFT")]);
    let mut row = |rule: &str, what: &str, left: Option<u64>| {
        table.row([Cell::new(rule), Cell::new(what), Cell::maybe(left.map(duration))]);
    };
    row(&firewall.host, "host", None);
    if let Some(limit) = firewall.new_flows_per_source {
        let what = format!("{} new flows/s of a source, {} at once", limit.rate, limit.burst);
        row("limit", &what, None);
    }
    for rule in &firewall.allow {
        row("allow", rule, None);
    }
    for denied in &firewall.deny {
        row("deny", &denied.prefix, denied.left_s);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_prefix_without_host_bits() {
        assert_eq!(prefix("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(prefix("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
        assert_eq!(prefix("192.0.2.0/24").unwrap().to_string(), "192.0.2.0/24");
        assert!(prefix("192.0.2.1/24").unwrap_err().contains("`192.0.2.0/24`"));
        assert!(prefix("web").is_err() && prefix("192.0.2.0/33").is_err());
    }
}
