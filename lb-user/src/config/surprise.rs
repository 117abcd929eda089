//! What is legal in a configuration and yet may not be what was meant.

mod pair;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::core::model::{
    Admin, Backend, Firewall, Model, OnDown, OnEmpty, Protocol, Service,
    health::{Http, Probe, Tls, Udp},
};

/// Where SSH listens.
const SSH: u16 = 22;

/// Says what may surprise whoever wrote this, one sentence each.
#[must_use]
pub fn surprises(model: &Model) -> Vec<String> {
    let mut surprises = Vec::new();
    if model.services.is_empty() {
        surprises.push("no service: nothing is balanced".to_owned());
    }
    for service in &model.services {
        surprises.extend(no_backend_takes_flows(service));
        surprises.extend(all_backups(service));
        surprises.extend(nobody_goes_down(service));
        surprises.extend(silence_is_success(service));
        surprises.extend(outside_the_split(service));
        surprises.extend(unchecked(service));
        surprises.extend(unnamed(service));
        surprises.extend(replies_denied(service, &model.firewall));
        surprises.extend(model.ha.iter().filter_map(|ha| pair::served_by_both(service, ha)));
    }
    surprises.extend(firewall(&model.firewall));
    surprises.extend(read_from_elsewhere(&model.admin));
    surprises.extend(model.ha.iter().flat_map(|ha| pair::surprises(ha, &model.node)));
    surprises
}

fn no_backend_takes_flows(service: &Service) -> Option<String> {
    let name = &service.name;
    let fate = match service.on_empty {
        OnEmpty::Drop => "dropped",
        OnEmpty::Reject => "refused",
    };
    if service.backends.is_empty() {
        return Some(format!("service `{name}`: no backend: its packets are {fate}"));
    }
    let drained = service.backends.iter().all(|backend| backend.weight == 0);
    drained.then(|| format!("service `{name}`: every weight is 0: new flows are {fate}"))
}

fn all_backups(service: &Service) -> Option<String> {
    let all = !service.backends.is_empty() && service.backends.iter().all(|backend| backend.backup);
    all.then(|| {
        let name = &service.name;
        format!("service `{name}`: every backend is a backup: they serve as if none were")
    })
}

/// Without probes, what waits for a backend to go down waits for ever.
fn nobody_goes_down(service: &Service) -> Option<String> {
    let key = if service.backends.iter().any(|backend| backend.backup) {
        "backup"
    } else if service.min_up > 1 {
        "min_up"
    } else if service.on_down == OnDown::Reset {
        "on_down"
    } else {
        return None;
    };
    (service.health.probe == Probe::None).then(|| {
        let name = &service.name;
        format!("service `{name}`: `{key}` is set, but no probe: no backend is ever down by itself")
    })
}

/// Who lacks the VIP is silent.
fn silence_is_success(service: &Service) -> Option<String> {
    let any = matches!(service.health.probe, Probe::Udp(Udp { expect: None, .. }));
    (any && service.is_probed_for_vip()).then(|| {
        let name = &service.name;
        format!(
            "service `{name}`: `health.expect` is not set: silence is success, so that a backend \
             without the VIP is up"
        )
    })
}

fn outside_the_split(service: &Service) -> impl Iterator<Item = String> + '_ {
    let outside = service.backends.iter().filter(|backend| {
        let group = backend.group.as_ref();
        let routed = |group: &String| service.routes.iter().any(|route| route.group == *group);
        !service.split.is_empty()
            && group.is_none_or(|group| !service.split.contains_key(group) && !routed(group))
    });
    outside.map(|backend| {
        let (service, backend) = (&service.name, &backend.name);
        format!(
            "service `{service}`: backend `{backend}` is in no group of `split` or `route`: \
             it gets no flows"
        )
    })
}

fn unchecked(service: &Service) -> Option<String> {
    let Probe::Http(Http { tls: Some(Tls { verify: false, ca_file: Some(_) }), .. }) =
        &service.health.probe
    else {
        return None;
    };
    let name = &service.name;
    Some(format!("service `{name}`: `health.verify` is false: `health.ca_file` is not used"))
}

/// What a server without an ID issues is routed by addresses and ports alone.
fn unnamed(service: &Service) -> impl Iterator<Item = String> + '_ {
    let pairs = service.quic.iter().flat_map(|quic| {
        let lacks = |backend: &&Backend| {
            backend.server_ids.iter().all(|id| id.length() != quic.server_id_length)
        };
        service.backends.iter().filter(lacks).map(move |backend| (quic, backend))
    });
    pairs.map(|(quic, backend)| {
        let (service, backend) = (&service.name, &backend.name);
        let (id, length) = (quic.id, quic.server_id_length);
        format!(
            "service `{service}`: backend `{backend}` has no ID of {length} octets in \
             `server_ids`: connection IDs of configuration {id} never name it"
        )
    })
}

/// Packets from a denied source are dropped, a backend's replies as well.
fn replies_denied<'m>(
    service: &'m Service,
    firewall: &'m Firewall,
) -> impl Iterator<Item = String> + 'm {
    service.backends.iter().filter_map(|backend| {
        let net = denying(firewall, backend.address)?;
        let (service, backend) = (&service.name, &backend.name);
        Some(format!(
            "service `{service}`: backend `{backend}` is within `{net}` of \
             `firewall.deny_sources`: what it sends through this host is dropped"
        ))
    })
}

/// Nobody who reads metrics is asked who they are.
fn read_from_elsewhere(admin: &Admin) -> Option<String> {
    let address = admin.http.filter(|address| !address.ip().is_loopback())?;
    Some(format!(
        "`admin.http` is `{address}`, no loopback address: whoever reaches it may read all metrics"
    ))
}

fn denying(firewall: &Firewall, address: IpAddr) -> Option<&IpNet> {
    firewall.deny_sources.iter().find(|net| net.contains(&address))
}

fn firewall(firewall: &Firewall) -> impl Iterator<Item = String> + '_ {
    let closed = (firewall.guard_host && firewall.allow.is_empty()).then(|| {
        "`firewall.host` is \"drop\" and `firewall.allow` is empty: no port of this host is open"
            .to_owned()
    });
    let ssh = |rule: &(Protocol, std::ops::RangeInclusive<u16>)| {
        rule.0 == Protocol::Tcp && rule.1.contains(&SSH)
    };
    let ssh_closed = (closed.is_none() && firewall.guard_host && !firewall.allow.iter().any(ssh))
        .then(|| {
            "`firewall.host` is \"drop\" and `firewall.allow` has no `tcp/22`: SSH to this host is \
             closed"
                .to_owned()
        });
    let everybody = firewall.deny_sources.iter().filter(|net| net.prefix_len() == 0);
    let everybody = everybody.map(|net| {
        let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        format!("`firewall.deny_sources` has `{net}`: every {family} client is dropped")
    });
    closed.into_iter().chain(ssh_closed).chain(everybody)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, parse};

    pub(super) fn surprises_of(text: &str) -> Vec<String> {
        let interfaces = ["eth0".to_owned()];
        let surroundings = Surroundings { host_name: "host", interfaces: &interfaces };
        surprises(&parse(text, surroundings).expect("no mistake"))
    }

    pub(super) const SERVICE: &str =
        "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n";
    pub(super) const BACKEND: &str = "[[service.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n";

    #[test]
    fn ordinary_configuration_surprises_nobody() {
        assert_eq!(surprises_of(&format!("{SERVICE}{BACKEND}")), [""; 0]);
    }

    #[test]
    fn services_that_serve_nobody_are_told() {
        assert_eq!(surprises_of(""), ["no service: nothing is balanced"]);
        assert_eq!(surprises_of(SERVICE), ["service `web`: no backend: its packets are dropped"]);
        assert_eq!(
            surprises_of(&format!("{SERVICE}{BACKEND}weight = 0\n")),
            ["service `web`: every weight is 0: new flows are dropped"]
        );
        let rejecting = format!("{SERVICE}on_empty = \"reject\"\n");
        assert_eq!(
            surprises_of(&rejecting),
            ["service `web`: no backend: its packets are refused"]
        );
        assert_eq!(
            surprises_of(&format!("{rejecting}{BACKEND}weight = 0\n")),
            ["service `web`: every weight is 0: new flows are refused"]
        );
    }

    #[test]
    fn firewalls_that_shut_too_much_are_told() {
        let firewall = "[firewall]\nhost = \"drop\"\ndeny_sources = [\"10.0.0.0/8\", \"::/0\"]\n";
        assert_eq!(
            surprises_of(&format!("{firewall}{SERVICE}{BACKEND}")),
            [
                "service `web`: backend `b` is within `10.0.0.0/8` of \
                 `firewall.deny_sources`: what it sends through this host is dropped",
                "`firewall.host` is \"drop\" and `firewall.allow` is empty: no port of this host is \
                 open",
                "`firewall.deny_sources` has `::/0`: every IPv6 client is dropped",
            ]
        );
    }

    #[test]
    fn metrics_for_others_are_told() {
        let http =
            |address| surprises_of(&format!("[admin]\nhttp = \"{address}\"\n{SERVICE}{BACKEND}"));
        for address in ["0.0.0.0:9464", "[2001:db8::2]:9464"] {
            let told = format!(
                "`admin.http` is `{address}`, no loopback address: whoever reaches it may read all \
                 metrics"
            );
            assert_eq!(http(address), [told]);
        }
        assert_eq!(http("127.0.0.1:9464"), [""; 0]);
        assert_eq!(http("[::1]:9464"), [""; 0]);
    }

    #[test]
    fn host_that_keeps_ssh_out_is_told() {
        let firewall = |allow: &str| {
            surprises_of(&format!(
                "[firewall]\nhost = \"drop\"\nallow = [{allow}]\n{SERVICE}{BACKEND}"
            ))
        };
        let closed = "`firewall.host` is \"drop\" and `firewall.allow` has no `tcp/22`: SSH to this \
                      host is closed";
        assert_eq!(firewall("\"tcp/443\", \"udp/22\""), [closed]);
        assert_eq!(firewall("\"tcp/20-30\""), [""; 0]);
    }

    #[test]
    fn probes_that_cannot_miss_a_vip_are_told() {
        let udp = |mode: &str, keys: &str| {
            surprises_of(&format!(
                "{SERVICE}protocol = \"udp\"\nmode = \"{mode}\"\n\
                 health = {{ kind = \"udp\", send = \"hi\"{keys} }}\n{BACKEND}"
            ))
        };
        let told = "service `web`: `health.expect` is not set: silence is success, so that a \
                    backend without the VIP is up";
        assert_eq!(udp("dsr", ""), [told]);
        assert_eq!(udp("dsr", ", expect = \"hi\""), [""; 0]);
        assert_eq!(udp("nat", ""), [""; 0]);
    }

    #[test]
    fn servers_that_no_connection_id_names_are_told() {
        let quic = |ids: &str| {
            surprises_of(&format!(
                "{SERVICE}protocol = \"udp\"\n{BACKEND}server_ids = [{ids}]\n\
                 [[service.quic]]\nid = 0\nserver_id_length = 2\nnonce_length = 5\n\
                 [[service.quic]]\nid = 3\nserver_id_length = 1\nnonce_length = 5\n"
            ))
        };
        let told = |length: u8, id: u8| {
            format!(
                "service `web`: backend `b` has no ID of {length} octets in `server_ids`: \
                 connection IDs of configuration {id} never name it"
            )
        };
        assert_eq!(quic(""), [told(2, 0), told(1, 3)]);
        assert_eq!(quic("\"0a\""), [told(2, 0)]);
        assert_eq!(quic("\"0a\", \"0b0c\""), [""; 0]);
    }

    #[test]
    fn keys_that_have_no_effect_are_told() {
        let cases = [
            (
                format!("{SERVICE}health.kind = \"tcp\"\n{BACKEND}backup = true\n"),
                "every backend is a backup: they serve as if none were",
            ),
            (
                format!("{SERVICE}on_down = \"reset\"\n{BACKEND}"),
                "`on_down` is set, but no probe: no backend is ever down by itself",
            ),
            (
                format!(
                    "{SERVICE}split.blue = 1\n{BACKEND}group = \"blue\"\n{}",
                    BACKEND.replace("\"b\"", "\"c\"").replace("10.0.0.1", "10.0.0.2")
                ),
                "backend `c` is in no group of `split` or `route`: it gets no flows",
            ),
            (
                format!(
                    "{SERVICE}health = {{ kind = \"https\", verify = false, ca_file = \"/ca\" }}\n\
                     {BACKEND}"
                ),
                "`health.verify` is false: `health.ca_file` is not used",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(surprises_of(&text), [format!("service `web`: {expected}")]);
        }
    }
}
