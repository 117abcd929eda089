//! Single values: each function reads one kind of value from TOML, or says
//! which rule it breaks and what to write instead.

pub mod ha;
pub mod probe;

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use humantime::format_duration;
use ipnet::IpNet;
use lb_common::limits::NAT_SOURCES;
use toml::de::DeValue;

use super::read::Wrong;
use crate::core::model::Protocol;

/// Longest name of a service, backend or node.
pub const NAME_LENGTH: usize = 64;

/// Longest name of an interface (`IFNAMSIZ` without its terminator).
const INTERFACE_LENGTH: usize = 15;

/// Longest path of a Unix socket.
const SOCKET_LENGTH: usize = 107;

/// Text in quotes.
pub fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| Wrong::new("must be text").hint("put it in double quotes"))
}

/// A whole number in `range`.
pub fn number(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Result<u32, Wrong> {
    move |value| {
        let rule = format!("must be {} to {}", range.start(), range.end());
        let DeValue::Integer(integer) = value else {
            let hint = match value {
                DeValue::String(_) => "a whole number, without quotes",
                _ => "a whole number",
            };
            return Err(Wrong::new(rule).hint(hint));
        };
        u32::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| Wrong::new(rule))
    }
}

/// "off", or what `value` takes.
pub fn unless_off<T>(
    value: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
) -> impl Fn(&DeValue<'_>) -> Result<Option<T>, Wrong> {
    move |given| match given {
        DeValue::String(word) if word == "off" => Ok(None),
        _ => value(given)
            .map(Some)
            .map_err(|wrong| Wrong { rule: format!("{}, or \"off\"", wrong.rule), ..wrong }),
    }
}

/// `true` or `false`.
pub fn flag(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| Wrong::new("must be true or false").hint("without quotes"))
}

/// As in `"nat", "dsr" or "ipip"`.
fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match &quoted[..] {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => quoted.concat(),
    }
}

/// One of a few words.
pub fn word<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let names: Vec<&str> = words.iter().map(|&(name, _)| name).collect();
        let all = alternatives(&names);
        let text = value
            .as_str()
            .ok_or_else(|| Wrong::new(format!("must be {all}")).hint("text in double quotes"))?;
        let found = words.iter().find(|(name, _)| *name == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let wrong = Wrong::new(format!("must be {all}"));
            match similar(text, &names) {
                Some(likely) => wrong.hint(format!("did you mean \"{likely}\"?")),
                None => wrong,
            }
        })
    }
}

/// The name of a node, service, backend, zone or group.
pub fn name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?;
    is_name(name).then(|| name.to_owned()).ok_or_else(Wrong::name)
}

/// Whether names may be like this.
pub fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=NAME_LENGTH).contains(&text.len()) && text.chars().all(allowed)
}

/// The name of a network interface, by the kernel's rules.
pub fn interface(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?;
    interface_name(name).map(|()| name.to_owned())
}

/// Whether the kernel could have an interface of this name.
pub fn interface_name(name: &str) -> Result<(), Wrong> {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > INTERFACE_LENGTH {
        return Err(Wrong::new(format!("must be 1 to {INTERFACE_LENGTH} bytes long")));
    }
    if name == "." || name == ".." || name.contains(forbidden) {
        return Err(Wrong::new("must be the name of an interface")
            .hint("as `ip link` shows it, without `/`, `:` and spaces"));
    }
    Ok(())
}

/// An absolute path; `example` is one.
pub fn path(example: &'static str) -> impl Fn(&DeValue<'_>) -> Result<PathBuf, Wrong> {
    move |value| {
        let text = text(value)?;
        if !text.starts_with('/') || text.contains('\0') {
            return Err(
                Wrong::new("must be an absolute path").hint(format!("such as \"{example}\""))
            );
        }
        Ok(PathBuf::from(text))
    }
}

/// The path of a Unix socket (`sun_path` of unix(7), with its terminator).
pub fn socket(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = path("/run/lb/lb.sock")(value)?;
    if path.as_os_str().len() > SOCKET_LENGTH {
        return Err(Wrong::new(format!("must be {SOCKET_LENGTH} bytes at most")));
    }
    Ok(path)
}

/// The directory of pins: absolute, and such that the BPF file system takes it.
pub fn pin_dir(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let text = text(value)?;
    let mut parts = text.split('/').skip(1).filter(|part| !part.is_empty()).peekable();
    if !text.starts_with('/') || parts.peek().is_none() || text.contains('\0') {
        return Err(Wrong::new("must be an absolute path").hint("such as \"/sys/fs/bpf/lb\""));
    }
    if parts.any(|part| part.contains('.')) {
        return Err(Wrong::new("must be a path without dots")
            .hint("the BPF file system refuses names with a dot"));
    }
    Ok(PathBuf::from(text))
}

/// 128 bits as 32 hexadecimal digits, the first 16 in the first word.
pub fn seed(value: &DeValue<'_>) -> Result<Option<[u64; 2]>, Wrong> {
    let wrong = || {
        Wrong::new("must be 32 hexadecimal digits")
            .hint("make one with `openssl rand -hex 16`, equal on every balancer of a VIP")
    };
    let text = value.as_str().ok_or_else(wrong)?;
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let bits = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
    Ok(Some([(bits >> 64) as u64, bits as u64]))
}

/// A time such as "500ms" or "1h 30m".
pub fn duration(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    duration_within(&(Duration::ZERO..=Duration::MAX), value)
}

/// A time within `range`.
pub fn time(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Duration, Wrong> {
    move |value| {
        let time = duration_within(&range, value)?;
        let [least, most] = [range.start(), range.end()].map(|&time| format_duration(time));
        let rule = || Wrong::new(format!("must be {least} to {most}"));
        range.contains(&time).then_some(time).ok_or_else(rule)
    }
}

/// A time of any length; what is hinted at is in `range`, so that nobody is sent from
/// one mistake to the next.
fn duration_within(
    range: &RangeInclusive<Duration>,
    value: &DeValue<'_>,
) -> Result<Duration, Wrong> {
    let parse = |text: &str| humantime::parse_duration(text).ok();
    if let Some(time) = value.as_str().and_then(parse) {
        return Ok(time);
    }
    let fits = |text: &String| parse(text).is_some_and(|time| range.contains(&time));
    let number: Option<u64> = match value {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        DeValue::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let with_unit = number.and_then(|number| {
        let units = [("seconds", format!("{number}s")), ("milliseconds", format!("{number}ms"))];
        units.into_iter().find(|(_, written)| fits(written))
    });
    let hint = match with_unit {
        Some((unit, written)) => format!("for {unit} write \"{written}\""),
        None => {
            let usual = ["500ms", "30s", "1h 30m"].map(str::to_owned).into_iter().filter(fits);
            let longest = format_duration(*range.end()).to_string();
            let examples: Vec<_> = usual.map(|text| format!("\"{text}\"")).collect();
            match &examples[..] {
                [] => format!("such as \"{longest}\""),
                [one] => format!("such as {one}"),
                [first @ .., last] => format!("such as {} or {last}", first.join(", ")),
            }
        }
    };
    Err(Wrong::new("must be a time with its unit").hint(hint))
}

/// An IP address. IPv4 inside IPv6 (`::ffff:192.0.2.1`) is refused: it is the
/// same address in another family, and packets have only one.
pub fn address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    let text = text(value)?;
    let rule = "must be an IPv4 or IPv6 address";
    match text.parse() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => {
                Err(Wrong::new("must not be IPv4 written as IPv6").hint(format!("write \"{v4}\"")))
            }
            None => Ok(IpAddr::V6(v6)),
        },
        Ok(v4) => Ok(v4),
        Err(_) => Err(match (text.parse::<std::net::SocketAddr>(), text.split_once('/')) {
            (Ok(socket), _) => Wrong::new(rule).hint(format!(
                "write \"{}\", and `port = {}`",
                socket.ip(),
                socket.port()
            )),
            (_, Some((address, _))) => {
                Wrong::new(rule).hint(format!("without prefix length: \"{address}\""))
            }
            _ => Wrong::new(rule).hint("such as \"192.0.2.10\" or \"2001:db8::10\""),
        }),
    }
}

/// A prefix without host bits; an address alone stands for itself.
pub fn prefix(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    prefix_of(text(value)?)
}

/// As [`prefix`], of its text.
pub fn prefix_of(text: &str) -> Result<IpNet, Wrong> {
    let parsed =
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let net = parsed.ok_or_else(|| {
        Wrong::new("must be an address and a prefix length")
            .hint("such as \"192.0.2.0/24\" or \"2001:db8::/32\"")
    })?;
    if let IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(Wrong::new("must not be IPv4 written as IPv6"));
    }
    if net.addr() == net.network() {
        return Ok(net);
    }
    Err(Wrong::new("must have no bits set beyond its prefix length").hint(format!(
        "write \"{}\" for the network, \"{}\" for the one address",
        net.trunc(),
        IpNet::from(net.addr()),
    )))
}

/// A prefix that clients can have: the packet path serves nobody else, whatever is
/// allowed (`Family::impossible_source` of `lb-ebpf`).
pub fn source_prefix(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    let net = prefix(value)?;
    let nobodys = match net {
        IpNet::V4(v4) => {
            matches!((v4.addr().octets()[0], v4.prefix_len()), (0 | 127, 8..) | (224.., 3..))
        }
        IpNet::V6(v6) => {
            let (addr, length) = (v6.addr(), v6.prefix_len());
            let single = length == 128 && (addr.is_unspecified() || addr.is_loopback());
            single || length >= 8 && addr.is_multicast()
        }
    };
    if nobodys {
        let wrong = Wrong::new("must be a prefix of addresses that a host can have");
        return Err(wrong.hint("packets from these are dropped, whatever is allowed"));
    }
    Ok(net)
}

/// Where packets that wrap others come from: those of flows differ in the bits behind
/// the prefix, of IPv6 in its lower half.
pub fn tunnel_source(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    let net = of_hosts(prefix(value)?)?;
    match net {
        IpNet::V4(v4) if v4.prefix_len() < 8 => Err(Wrong::new("must be a /8 or longer")),
        IpNet::V6(v6) if v6.prefix_len() < 64 => Err(Wrong::new("must be a /64 or longer")),
        net => Ok(net),
    }
}

/// Refuses what no host can have.
fn of_hosts(net: IpNet) -> Result<IpNet, Wrong> {
    let possible = match net {
        IpNet::V4(v4) => !matches!(v4.addr().octets()[0], 0 | 127 | 224..),
        IpNet::V6(v6) => !v6.addr().is_multicast() && v6.addr().segments()[..4] != [0; 4],
    };
    let wrong = || Wrong::new("must be a prefix of addresses that a host can have");
    possible.then_some(net).ok_or_else(wrong)
}

/// Where clients' packets come from in mode `fullnat`: few addresses, since each has
/// ports for many flows.
pub fn nat_source(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    let net = of_hosts(prefix(value)?)?;
    let least = net.max_prefix_len() - NAT_SOURCES.trailing_zeros() as u8;
    if net.prefix_len() < least {
        let rule = format!("must be an address, or a prefix of {NAT_SOURCES} at most");
        return Err(Wrong::new(rule).hint(format!("a /{least} or longer")));
    }
    Ok(net)
}

/// How to write ports.
pub const PORTS_HINT: &str = "such as 443, \"8000-8100\" or \"any\"";

/// Ports of a service: N, "8000-8100" or "any".
pub fn ports(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Wrong> {
    let wrong = || Wrong::new("must be a port 1 to 65535, a range or \"any\"").hint(PORTS_HINT);
    match value {
        DeValue::Integer(_) => port(value).map(|port| port..=port).map_err(|_| wrong()),
        DeValue::String(text) => port_range(text, wrong),
        _ => Err(wrong()),
    }
}

/// One port.
pub fn port(value: &DeValue<'_>) -> Result<u16, Wrong> {
    number(1..=u32::from(u16::MAX))(value).map(|port| port as u16)
}

/// A backend's weight.
pub fn weight(value: &DeValue<'_>) -> Result<u16, Wrong> {
    number(0..=u32::from(u16::MAX))(value).map(|weight| weight as u16)
}

fn port_range(text: &str, wrong: impl Fn() -> Wrong) -> Result<RangeInclusive<u16>, Wrong> {
    if text == "any" {
        return Ok(1..=u16::MAX);
    }
    let number = |text: &str| text.parse().ok().filter(|&port: &u16| port > 0).ok_or_else(&wrong);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    if first > last {
        return Err(Wrong::new("must have the lower port first")
            .hint(format!("the range is {last}-{first}")));
    }
    Ok(first..=last)
}

/// Ports of one protocol.
pub type PortRule = (Protocol, RangeInclusive<u16>);

/// Ports of one protocol: "tcp/22", "udp/8000-8100", "tcp/any".
pub fn port_rule(value: &DeValue<'_>) -> Result<PortRule, Wrong> {
    port_rule_of(value.as_str().unwrap_or_default())
}

/// As [`port_rule`], of its text.
pub fn port_rule_of(text: &str) -> Result<PortRule, Wrong> {
    let wrong = || {
        Wrong::new("must be a protocol and a port or range of ports")
            .hint("such as \"tcp/22\", \"udp/8000-8100\" or \"tcp/any\"")
    };
    let (protocol, ports) = text.split_once('/').ok_or_else(wrong)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(wrong()),
    };
    Ok((protocol, port_range(ports, wrong)?))
}

/// The one of `known` that `word` probably means.
pub fn similar<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let begun = || known.iter().copied().find(|known| word.len() >= 3 && known.starts_with(word));
    let likely = known.iter().copied().min_by_key(|known| distance(word, known))?;
    // One edit, and one more for every four letters: more is another word.
    let near = distance(word, likely) <= 1 + word.chars().count() / 4;
    begun().or(near.then_some(likely))
}

/// Edits between two words: insertions, removals, replacements and swaps of
/// neighbours ("optimal string alignment"), letters of either case alike.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| text.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>();
    // No key is longer: the rest of a hostile one makes no difference.
    let (a, b) = (fold(&a.chars().take(64).collect::<String>()), fold(b));
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(x != y);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
