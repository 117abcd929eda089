//! An ICMP error is of two kinds, as in [`crate::icmp`]. One to a source quotes what a
//! backend got, and goes to the client. One to a VIP quotes what a client got, and goes
//! to the backend: from the source, since the backend may have no route to, and expect
//! nothing from, whoever found the error.

use lb_common::{binding, csum, hash, stats::Counter};

use super::{HOST, Owner, bind, owner, port_of, unbound};
use crate::{
    count,
    env::Env,
    family::Family,
    forward::{self, nat},
    icmp::{self, Deltas},
    nexthop::{self, Way},
    packet::store,
    parse::Packet,
    select, service, synproxy,
    verdict::{PASS, Verdict},
};

/// An error to one of the sources, about what a backend was sent.
#[inline(always)]
pub(super) fn to_client<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    number: u32,
) -> Result<Verdict, Verdict> {
    let stranger = || match unbound(env, packet).to_raw() {
        HOST => PASS,
        verdict => Verdict::from_raw(verdict),
    };
    let quote = icmp::quoted(packet).ok_or_else(stranger)?;
    // An error goes to whoever sent what it quotes.
    if quote.source != packet.destination {
        return Err(stranger());
    }
    let peer = (quote.destination, quote.destination_port());
    let owner =
        owner::<F>(env, quote.proto, (number, quote.source_port()), peer).ok_or_else(stranger)?;
    let Owner { ref bound, service } = owner;
    let (client, vip) = (F::from_words(bound.flow.client), F::from_bytes(&service.vip));
    let to_client = Packet { destination: client, ..*packet };
    let way = nexthop::towards_client(env, &to_client, &service.vip);
    if let Way::None = way {
        return Err(Verdict::drop(Counter::NoNextHop));
    }
    // A router on the way speaks for itself, the backend for the VIP.
    let speaker = if packet.source == quote.destination { vip } else { packet.source };
    rewrite(packet, &quote, (speaker, client), (client, vip), bound.flow.ports)?;
    count::replied(env, bound.value.backend(), packet.frame.length());
    Ok(nat::leave(env, packet.frame, way))
}

/// An error to a VIP, about what a client was sent.
#[inline(always)]
pub(super) fn to_backend<F: Family>(env: &Env, packet: &Packet<F>) -> Result<Verdict, Verdict> {
    let unmatched = Verdict::drop(Counter::IcmpUnmatched);
    let quote = icmp::quoted(packet).ok_or(unmatched)?;
    // The same flow, as the client sends it.
    let sent = Packet::<F> {
        source: quote.destination,
        destination: quote.source,
        ports: quote.ports.rotate_left(16),
        ..quote
    };
    let found = service::of(env, &sent).ok_or(unmatched)?;
    let flow = binding::Flow {
        client: F::words(sent.source),
        ports: sent.ports,
        service: found.id.into(),
    };
    let (index, bound) = bind::find(&flow, env.now()).ok_or(unmatched)?;
    let id = bound.value.backend();
    let chosen = select::serving(id, found.id).ok_or(unmatched)?;
    let backend = chosen.backend;
    let source = F::nat_source(env.generation, binding::source(index));
    let to = F::from_bytes(&backend.addr);
    let port = port_of(backend, sent.destination_port());
    let ports = hash::ports(port, binding::port(index).to_be());
    let offset = synproxy::offset(env, flow.client, flow.ports, found.service);
    icmp::renumber(packet, &quote, offset);
    rewrite(packet, &quote, (source, to), (to, source), ports)?;
    Ok(forward::leave(env, packet.frame, &chosen))
}

/// Rewrites an error, one hop older, and what it quotes; addresses are source and
/// destination, `ports` those of the quoted packet.
#[inline(always)]
fn rewrite<F: Family>(
    packet: &Packet<F>,
    quote: &Packet<F>,
    outer: (F::Addr, F::Addr),
    inner: (F::Addr, F::Addr),
    ports: u32,
) -> Result<(), Verdict> {
    if !F::may_go_on(packet.l3) {
        return Err(Verdict::drop(Counter::TtlExceeded));
    }
    let of = |packet: &Packet<F>, to: (F::Addr, F::Addr)| {
        F::delta(packet.source, to.0) + F::delta(packet.destination, to.1)
    };
    let (around, quoted) = (of(packet, outer), of(quote, inner));
    F::set_addresses(packet.l3, outer.0, outer.1);
    F::age(packet.l3, csum::aged(csum::fold(around)));
    F::set_addresses(quote.l3, inner.0, inner.1);
    store(quote.l4, ports);
    let port = csum::delta32(quote.ports, ports);
    let deltas = Deltas {
        addr: csum::fold(quoted),
        l4: csum::fold(quoted + port),
        port,
        outer: csum::fold(around),
    };
    icmp::translate_quote(packet, quote, &deltas);
    Ok(())
}
