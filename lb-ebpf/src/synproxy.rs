//! The SYN proxy, see [`lb_common::synproxy`]: what becomes of the packets of a service
//! with `syn_cookies_above`.
//!
//! - A SYN above the rate is answered with a cookie and a window of 0, so that the client
//!   sends nothing yet. Nothing is kept.
//! - The packet that confirms the cookie becomes the SYN that the backend is to see, and
//!   goes on as any SYN does.
//! - The backend's answer becomes a packet that opens the window. It has one byte, in the
//!   place of the SYN: the client knows that already, and acknowledges it at once
//!   (RFC 9293, section 3.10.7.4), whether it has something to send or not. So the backend
//!   gets the client's own acknowledgement. (Who drops such a segment to the letter, with
//!   its window, asks for the window when it has something to send; Linux takes it.)
//!
//! A program of its own, called where a service wants it, so that the others pay for a test
//! of a field.

pub(crate) mod backend;
pub(crate) mod client;
mod segment;
mod table;

use aya_ebpf::{
    bindings::xdp_md, helpers::bpf_ktime_get_tai_ns, macros::xdp, programs::XdpContext,
};
use lb_common::{cookie, hash, service::Service, stats::Counter, synproxy::Proxied};

pub(crate) use self::segment::Options;
use crate::{
    env::Env,
    family::{Family, V4, V6},
    forward::{self, nat},
    handshake,
    maps::SYNPROXY_PATH,
    packet::{Frame, load},
    parse::{self, Packet, TCP},
    select, service,
    verdict::{PASS, Verdict},
};

/// Positions in a TCP header (RFC 9293, section 3.1).
const SEQUENCE: usize = 4;
/// See [`SEQUENCE`].
const ACKNOWLEDGEMENT: usize = 8;
/// See [`SEQUENCE`].
const WINDOW: usize = 14;

/// Goes on with a packet of a service that has, or had, SYN cookies; returns if it is of
/// another, or if that is not possible.
#[inline(always)]
pub(crate) fn go_on(env: &Env, proto: u8, service: &Service) {
    if service.syn_rate != 0 && proto == TCP && !env.explains {
        // SAFETY: nothing here needs dropping.
        unsafe { SYNPROXY_PATH.tail_call(&XdpContext::new(env.ctx), 0) };
    }
}

/// Entry: one TCP packet, of a client or in mode `nat` of a backend, which has passed the
/// firewall and whose service may be served.
#[xdp]
fn lb_synproxy(ctx: XdpContext) -> u32 {
    let ctx = ctx.ctx;
    // One call after the other, so that neither has the other's stack to bear.
    let verdict = match parse::link(Frame::new(&XdpContext::new(ctx))) {
        Some((parse::IPV4, _)) => Answer(lb_judge_v4(ctx)).or_else(|answer| match answer {
            Answer::REPLY => lb_proxied_reply_v4(ctx),
            Answer(translation) => lb_synproxy_v4(ctx, translation),
        }),
        Some((parse::IPV6, _)) => Answer(lb_judge_v6(ctx)).or_else(|answer| match answer {
            Answer::REPLY => lb_proxied_reply_v6(ctx),
            Answer(translation) => lb_synproxy_v6(ctx, translation),
        }),
        _ => Verdict::drop(Counter::Internal),
    };
    crate::act(ctx, verdict)
}

/// What is known before a backend is selected, in one register: a verdict, or by what the
/// packet is to be translated ([`Proxied`], 0: by nothing).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Answer(pub u64);

impl Answer {
    /// Bit of a verdict. (A [`Proxied`] has it where it does not matter any more.)
    const VERDICT: u64 = 1 << 47;
    /// The packet goes on as it is.
    const GO_ON: Self = Self(0);
    /// The same of a backend's, where it is not known already that it is one. (No
    /// [`Proxied`] is in this stage.)
    const REPLY: Self = Self(3 << 32);

    #[inline(always)]
    fn or_reply(self) -> Self {
        if self.0 == Self::GO_ON.0 { Self::REPLY } else { self }
    }

    #[inline(always)]
    fn verdict(verdict: Verdict) -> Self {
        Self(verdict.to_raw() | Self::VERDICT)
    }

    #[inline(always)]
    fn translate(by: Proxied) -> Self {
        Self(by.0 & !Self::VERDICT)
    }

    /// The verdict, or what `go_on` makes of another answer.
    #[inline(always)]
    pub(crate) fn or_else(self, go_on: impl FnOnce(Self) -> u64) -> Verdict {
        let raw = if self.0 & Self::VERDICT != 0 { self.0 & !Self::VERDICT } else { go_on(self) };
        Verdict::from_raw(raw)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_judge_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return judge::<V4>(&env, packet).0;
    }
    Answer::verdict(Verdict::drop(Counter::Internal)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_judge_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return judge::<V6>(&env, packet).0;
    }
    Answer::verdict(Verdict::drop(Counter::Internal)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_synproxy_v4(ctx: *mut xdp_md, translation: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return either(send::<V4>(&env, packet, Proxied(translation)));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_synproxy_v6(ctx: *mut xdp_md, translation: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return either(send::<V6>(&env, packet, Proxied(translation)));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_proxied_reply_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return either(send_back::<V4>(&env, packet));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_proxied_reply_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return either(send_back::<V6>(&env, packet));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[inline(always)]
fn either(verdict: Result<Verdict, Verdict>) -> u64 {
    match verdict {
        Ok(verdict) | Err(verdict) => verdict.to_raw(),
    }
}

/// Sends a client's packet on that has been judged.
#[inline(always)]
fn send<F: Family>(env: &Env, packet: Packet<F>, by: Proxied) -> Result<Verdict, Verdict> {
    let packet = &parse::tcp(packet).map_err(Verdict::drop)?;
    let found = service::of(env, packet).ok_or(Verdict::drop(Counter::Internal))?;
    handshake::begin(env, packet, &found);
    let chosen = match select::select(env, packet, &found) {
        Ok(chosen) => chosen,
        Err(verdict) => return Err(client::refused(env, packet, &found, verdict)),
    };
    if by.0 != 0 {
        client::translate(env, packet, by);
    }
    Ok(forward::to_backend(env, packet, &found, &chosen))
}

/// Sends a backend's packet on that has been translated.
#[inline(always)]
fn send_back<F: Family>(env: &Env, packet: Packet<F>) -> Result<Verdict, Verdict> {
    let packet = &parse::tcp(packet).map_err(Verdict::drop)?;
    let (owner, service) = nat::replying(env, packet).ok_or(Verdict::drop(Counter::Internal))?;
    Ok(nat::send_reply(env, packet, &owner, service).unwrap_or(PASS))
}

#[inline(always)]
fn judge<F: Family>(env: &Env, packet: Packet<F>) -> Answer {
    let packet = match parse::tcp(packet) {
        Ok(packet) => packet,
        Err(reason) => return Answer::verdict(Verdict::drop(reason)),
    };
    // In the order in which the packet path asks.
    if service::exact(env, &packet).is_none()
        && let Some((_, service)) = nat::replying(env, &packet)
    {
        if backend::stays(env, &packet, service) {
            return Answer::REPLY;
        }
        let port = if service.port != 0 { service.port } else { packet.source_port() };
        let ports = hash::ports(packet.destination_port(), port);
        let client = F::words(packet.destination);
        return backend::judge(env, &packet, (client, ports), service).or_reply();
    }
    match service::of(env, &packet) {
        Some(found) => client::judge(env, &packet, &found),
        None => Answer::GO_ON,
    }
}

/// What is to be added to the client's number of a backend's byte; `ports` as the client
/// sends them.
#[inline(always)]
pub(crate) fn offset(env: &Env, client: [u64; 2], ports: u32, service: &Service) -> u32 {
    if service.syn_rate == 0 {
        return 0;
    }
    let value = table::find(table::key(env, client, ports, service)).value;
    if value.is_opening() { 0 } else { value.number() }
}

#[inline(always)]
fn acknowledged<F: Family>(packet: &Packet<F>) -> u32 {
    number(packet.l4 + ACKNOWLEDGEMENT)
}

/// A number of 32 bits in host byte order.
#[inline(always)]
fn number(at: usize) -> u32 {
    u32::from_be(load(at))
}

/// The period of cookies.
#[inline(always)]
fn period() -> u32 {
    // SAFETY: no arguments; since Linux 6.1.
    cookie::period(unsafe { bpf_ktime_get_tai_ns() })
}
