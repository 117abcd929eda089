//! Frames as scapy builds them are those that the harness builds: two that were written
//! apart agree about every length and checksum.

use std::time::Duration;

use lb_tests::harness::{Mode, Protocol, Result, run, tool};

use super::{
    case::{Case, PORT, client, from_client},
    frame::{Body, Extension, Frame, Icmp, MORE_FRAGMENTS, Packet, QINQ, UDP, Udp, VLAN, hex},
    fullnat::way::Way,
    network::backend,
    tunnel::GUE,
};

/// Scapy takes its time to begin.
const PATIENCE: Duration = Duration::from_secs(60);

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An expression of scapy's for a frame.
fn expression(frame: &Frame) -> String {
    let mut text = format!("Ether(dst='{}', src='{}')", mac(frame.to), mac(frame.from));
    for (kind, control) in &frame.tags {
        let tag = if *kind == QINQ { "Dot1AD" } else { "Dot1Q" };
        text += &format!("/{tag}(vlan={control})");
    }
    text + &packet(&frame.packet)
}

fn packet(packet: &Packet) -> String {
    let Packet { source, destination, hops, .. } = packet;
    // Scapy knows the numbers of what it builds itself.
    let number = match packet.body {
        Body::Other(proto, _) => Some(proto),
        _ => None,
    };
    let mut text = if source.is_ipv4() {
        let flags = packet.fragment >> 13;
        let offset = packet.fragment & 0x1fff;
        let options = match packet.options.len() {
            0 => String::new(),
            length => format!(", options=[IPOption(b'\\x01')] * {length}"),
        };
        let proto = named("proto", number);
        format!(
            "/IP(src='{source}', dst='{destination}', ttl={hops}, tos={}, id={}, flags={flags}, \
             frag={offset}{options}{proto})",
            packet.class, packet.identification
        )
    } else {
        let (class, label) = (packet.label >> 20, packet.label & 0xf_ffff);
        let ends = format!("src='{source}', dst='{destination}'");
        let next = if packet.extensions.is_empty() { named("nh", number) } else { String::new() };
        format!("/IPv6({ends}, hlim={hops}, tc={class}, fl={label}{next})")
    };
    for extension in &packet.extensions {
        let rest = &extension.rest;
        text += &match extension.kind {
            44 => {
                let word = u16::from_be_bytes([rest[1], rest[2]]);
                let id = u32::from_be_bytes([rest[3], rest[4], rest[5], rest[6]]);
                let (offset, more, next) = (word >> 3, word & 1, named("nh", number));
                format!("/IPv6ExtHdrFragment(offset={offset}, m={more}, id={id}{next})")
            }
            Extension::HOP_BY_HOP => "/IPv6ExtHdrHopByHop()".to_owned(),
            _ => "/IPv6ExtHdrDestOpt()".to_owned(),
        };
    }
    text + &body(packet)
}

/// One more argument.
fn named(name: &str, number: Option<u8>) -> String {
    number.map(|number| format!(", {name}={number}")).unwrap_or_default()
}

fn bytes(bytes: &[u8]) -> String {
    format!("bytes.fromhex('{}')", hex(bytes))
}

fn body(packet: &Packet) -> String {
    match &packet.body {
        Body::Tcp(tcp) => format!(
            "/TCP(sport={}, dport={}, seq={}, ack={}, flags={}, window={}, \
             options=[('MSS', 1460), ('NOP', None), ('WScale', 7)])/Raw({})",
            tcp.source,
            tcp.destination,
            tcp.sequence,
            tcp.acknowledged,
            tcp.flags,
            tcp.window,
            bytes(&tcp.payload)
        ),
        Body::Udp(udp) => {
            let none = if udp.checksum { "" } else { ", chksum=0" };
            let ports = format!("sport={}, dport={}{none}", udp.source, udp.destination);
            format!("/UDP({ports})/Raw({})", bytes(&udp.payload))
        }
        Body::Icmp(icmp) => {
            let Icmp { kind, code, .. } = icmp;
            let rest = [&icmp.rest[..], &icmp.payload].concat();
            // The words behind the checksum have other names in each message.
            let first = if packet.source.is_ipv4() {
                format!("/ICMP(type={kind}, code={code}")
            } else {
                format!("/ICMPv6Unknown(type={kind}, code={code}, msgbody={})", bytes(&rest))
            };
            if packet.source.is_ipv4() {
                let mtu = u16::from_be_bytes([icmp.rest[2], icmp.rest[3]]);
                format!("{first}, nexthopmtu={mtu})/Raw({})", bytes(&icmp.payload))
            } else {
                first
            }
        }
        Body::Other(4, inner) => format!("/IP({})", bytes(inner)),
        Body::Other(41, inner) => format!("/IPv6({})", bytes(inner)),
        // Of a later fragment: no header is where one would be.
        Body::Other(_, inner) => format!("/Raw({})", bytes(inner)),
    }
}

/// All kinds of frames that other tests use.
fn frames() -> Vec<Frame> {
    let mut frames = Vec::new();
    for case in Case::all() {
        let request = case.request();
        let v4 = case.v4;
        frames.push(case.forwarded(&request, 1));
        frames.push(request.with(|frame| frame.tags = vec![(VLAN, 7)]));
        frames.push(request.with(|frame| frame.tags = vec![(QINQ, 8), (VLAN, 9)]));
        frames.push(request.with(|frame| {
            (frame.packet.class, frame.packet.label, frame.packet.hops) = (0xb9, 0xb90_4321, 3);
        }));
        frames.push(request.with(|frame| *frame.packet.body.payload() = vec![0xa5; 1311]));
        frames.push(request.with(|frame| {
            if v4 {
                frame.packet.options = vec![1; 8];
            } else {
                let kinds = [Extension::HOP_BY_HOP, Extension::DESTINATION];
                frame.packet.extensions = kinds.map(|kind| Extension::options(kind, 0)).to_vec();
            }
        }));
        if case.protocol == Protocol::Udp && v4 {
            frames.push(request.with(|frame| {
                if let Body::Udp(udp) = &mut frame.packet.body {
                    udp.checksum = false;
                }
            }));
        }
        let quote = case.answer(1).packet.quote(8);
        let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
        let icmp = Icmp { kind, code, rest: [0, 0, 5, 0], payload: quote };
        frames.push(from_client(Packet::new(client(v4), case.vip(), Body::Icmp(icmp))));
        if case.mode == Mode::Dsr {
            let inner = request.packet.bytes();
            let proto = if v4 { 4 } else { 41 };
            for outer in [true, false] {
                let wrapped = |body| {
                    let mut packet = Packet::new(client(outer), backend(outer, 1), body);
                    packet.fragment = 0;
                    from_client(packet)
                };
                let ports = (0xc123, GUE);
                let gue = Udp {
                    source: ports.0,
                    destination: ports.1,
                    checksum: true,
                    payload: inner.clone(),
                };
                frames.push(wrapped(Body::Udp(gue)));
                frames.push(wrapped(Body::Other(proto, inner.clone())));
            }
        }
        // The first fragment of one that goes on.
        frames.push(request.with(|frame| {
            let inner = [1, 2, 3, 4, 0, 80, 0, 40, 0, 0, 5, 6, 7, 8, 9, 10].to_vec();
            if v4 {
                frame.packet.fragment = MORE_FRAGMENTS | 3;
            } else {
                frame.packet.extensions = vec![Extension::fragment(3, true)];
            }
            frame.packet.body = Body::Other(UDP, inner);
        }));
    }
    for way in Way::all() {
        let bound = (backend(way.v4, 9), 50_000);
        let forwarded = way.forwarded(&way.request(client(way.v4), PORT), bound, 1);
        let answer = way.answer(bound, 1);
        let quote = forwarded.packet.quote(8);
        let (kind, code) = if way.v4 { (3, 4) } else { (2, 0) };
        let icmp = Icmp { kind, code, rest: [0, 0, 5, 0], payload: quote };
        let error = from_client(Packet::new(client(way.v4), bound.0, Body::Icmp(icmp)));
        frames.extend([forwarded, way.answered(&answer, (client(way.v4), PORT)), answer, error]);
    }
    frames
}

#[test]
fn scapy_builds_the_same_frames() -> Result<()> {
    let frames = frames();
    let mut script = "from scapy.all import *\n".to_owned();
    for frame in &frames {
        script += &format!("print(bytes({}).hex())\n", expression(frame));
    }
    let built = run(tool("/usr/bin/python3").arg("-c").arg(script), PATIENCE)?.stdout;
    assert_eq!(built.lines().count(), frames.len());
    for (frame, built) in frames.iter().zip(built.lines()) {
        assert_eq!(hex(&frame.bytes()), built, "{}", expression(frame));
    }
    Ok(())
}
