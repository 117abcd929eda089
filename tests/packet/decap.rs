//! `lb decap`: the client's packet comes out of the one that it travelled in.

use std::{fs, net::IpAddr};

use aya::{
    maps::{MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::decap::{COUNTERS_MAP, Counter, PROGRAM};
use lb_tests::harness::{DSR_V4, DSR_V6, Lab, Mode, Result, decap, decap_pins, unwrap_for};

use super::{
    case::from_client,
    frame::{Body, Frame, MORE_FRAGMENTS, Packet, QINQ, UDP, VLAN, hex},
    network::backend,
    subject::{
        Action, action,
        pinned::{per_cpu, program},
    },
    tunnel::{GUE, Way},
};

/// The loaded program.
struct Decap {
    program: Xdp,
    counters: PerCpuArray<MapData, u64>,
}

impl Decap {
    /// Runs `test` with a program that unwraps for two VIPs.
    fn with(test: impl FnOnce(&Self)) -> Result<()> {
        let lab = Lab::new(0)?;
        unwrap_for(&lab.balancer, "l0", &[DSR_V4, DSR_V6])?;
        let pins = decap_pins(&lab.balancer);
        test(&Self { program: program(&pins, PROGRAM), counters: per_cpu(&pins, COUNTERS_MAP) });
        Ok(())
    }

    fn count(&self, counter: Counter) -> u64 {
        self.counters.get(&(counter as u32), 0).expect("an entry").iter().sum()
    }

    /// What becomes of a frame, and what was counted.
    fn run(&self, frame: &[u8]) -> (Action, Vec<u8>, Vec<Counter>) {
        let before = Counter::ALL.map(|counter| self.count(counter));
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = self.program.test_run(options).expect("the kernel runs the program");
        out.truncate(result.data_size_out as usize);
        let counted = Counter::ALL.into_iter().zip(before);
        let counted = counted.filter(|(counter, before)| self.count(*counter) != *before);
        (action(result.return_value, frame), out, counted.map(|(counter, _)| counter).collect())
    }

    #[track_caller]
    fn unwraps(&self, what: &str, frame: &[u8], expected: &[u8], counter: Counter) {
        let (action, found, counted) = self.run(frame);
        let got = (action, hex(&found), counted);
        assert_eq!(got, (Action::Pass, hex(expected), vec![counter]), "{what}");
    }

    #[track_caller]
    fn leaves(&self, what: &str, frame: &[u8]) {
        let (action, found, counted) = self.run(frame);
        assert_eq!((action, hex(&found), counted), (Action::Pass, hex(frame), vec![]), "{what}");
    }

    #[track_caller]
    fn drops(&self, what: &str, frame: &[u8], counter: Counter) {
        let (action, _, counted) = self.run(frame);
        assert_eq!((action, counted), (Action::Drop, vec![counter]), "{what}");
    }
}

fn counter(mode: Mode) -> Counter {
    if mode == Mode::Gue { Counter::Gue } else { Counter::Ipip }
}

/// A packet around some bytes.
fn around(way: Way, source: IpAddr, inner: &[u8]) -> Packet {
    let body = if way.mode == Mode::Gue {
        let ports = [0xc123_u16.to_be_bytes(), GUE.to_be_bytes()].concat();
        let length = (8 + inner.len() as u16).to_be_bytes();
        Body::Other(UDP, [&ports[..], &length, &[0, 0], inner].concat())
    } else {
        Body::Other(if way.v4 { 4 } else { 41 }, inner.to_vec())
    };
    Packet::new(source, backend(way.outer_v4, 1), body)
}

fn source(v4: bool) -> IpAddr {
    if v4 { [10, 255, 7, 9].into() } else { [0xfd00, 0xff, 0, 7, 1, 2, 3, 4].into() }
}

fn wrapped(way: Way, inner: &Packet) -> Frame {
    from_client(around(way, source(way.outer_v4), &inner.bytes()))
}

/// The packet alone, in a frame of the same link.
fn bare(frame: &Frame, inner: &Packet) -> Frame {
    frame.with(|frame| frame.packet = inner.clone())
}

#[test]
fn the_packet_inside_goes_on_as_it_is() -> Result<()> {
    Decap::with(|decap| {
        for way in Way::all() {
            let inner = way.request().packet;
            let frame = wrapped(way, &inner);
            for tags in [&[][..], &[(VLAN, 7)], &[(QINQ, 8), (VLAN, 9)]] {
                let frame = frame.with(|frame| frame.tags = tags.to_vec());
                let expected = bare(&frame, &inner).bytes();
                decap.unwraps(&way.name(), &frame.bytes(), &expected, counter(way.mode));
                let padded = [frame.bytes(), vec![0; 9]].concat();
                let expected = [expected, vec![0; 9]].concat();
                decap.unwraps(&way.name(), &padded, &expected, counter(way.mode));
            }
        }
    })
}

/// RFC 6040, section 4.2, figure 4; by what the packet inside says, then by what the
/// one around says. `None`: dropped.
const ECN: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn congestion_on_the_way_is_known_inside() -> Result<()> {
    let class = |packet: &Packet, class: u8| {
        packet.with(|packet| {
            packet.class = class;
            packet.label = u32::from(class) << 20 | packet.label & 0xf_ffff;
        })
    };
    Decap::with(|decap| {
        for way in Way::all() {
            for (inside, row) in (0..).zip(ECN) {
                for (outside, outcome) in (0..).zip(row) {
                    let what = format!("{}: {inside} in {outside}", way.name());
                    let inner = class(&way.request().packet, 0x28 | inside);
                    let mut frame = wrapped(way, &inner);
                    frame.packet = class(&frame.packet, 0xb8 | outside);
                    match outcome {
                        Some(ecn) => {
                            let expected = bare(&frame, &class(&inner, 0x28 | ecn)).bytes();
                            decap.unwraps(&what, &frame.bytes(), &expected, counter(way.mode));
                        }
                        None => decap.drops(&what, &frame.bytes(), Counter::Congestion),
                    }
                }
            }
        }
    })
}

#[test]
fn only_those_who_may_send_such_are_heard() -> Result<()> {
    Decap::with(|decap| {
        for way in Way::all() {
            let inner = way.request().packet;
            let stranger: IpAddr = if way.outer_v4 {
                [10, 255, 8, 1].into()
            } else {
                [0xfd00, 0xff, 0, 8, 0, 0, 0, 1].into()
            };
            let frame = from_client(around(way, stranger, &inner.bytes()));
            decap.drops(&way.name(), &frame.bytes(), Counter::BadSource);
        }
    })
}

#[test]
fn what_is_none_of_ours_is_left_to_the_kernel() -> Result<()> {
    Decap::with(|decap| {
        for way in Way::all() {
            let name = way.name();
            let request = way.request();
            decap.leaves(&name, &request.bytes());
            let other: IpAddr = if way.v4 {
                [203, 0, 113, 99].into()
            } else {
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99].into()
            };
            let inner = request.packet.with(|packet| packet.destination = other);
            decap.leaves(&format!("{name}: another VIP"), &wrapped(way, &inner).bytes());
            let frame = wrapped(way, &request.packet);
            if way.outer_v4 {
                let options = frame.with(|frame| frame.packet.options = vec![1; 4]);
                decap.leaves(&format!("{name}: options"), &options.bytes());
                for fragment in [MORE_FRAGMENTS, 5] {
                    let fragment = frame.with(|frame| frame.packet.fragment = fragment);
                    decap.leaves(&format!("{name}: fragment"), &fragment.bytes());
                }
            }
            let mut strange = frame.bytes();
            if way.mode == Mode::Gue {
                strange[frame.l4() + 3] ^= 1;
                decap.leaves(&format!("{name}: another port"), &strange);
                let mut variant = frame.bytes();
                variant[frame.l4() + 8] = 0;
                decap.leaves(&format!("{name}: variant 0"), &variant);
            }
            for end in 0..frame.l4() {
                decap.leaves(&format!("{name}: {end} bytes"), &frame.bytes()[..end.max(14)]);
            }
        }
    })
}

#[test]
fn no_packet_that_is_not_whole_comes_out() -> Result<()> {
    Decap::with(|decap| {
        for way in Way::all() {
            let request = way.request();
            let frame = wrapped(way, &request.packet);
            let bytes = frame.bytes();
            let inner = bytes.len() - request.packet.bytes().len();
            // Variant 1 of GUE is known by the first byte inside.
            for end in inner + 1..bytes.len() {
                let what = format!("{}: {end} of {} bytes", way.name(), bytes.len());
                decap.drops(&what, &bytes[..end], Counter::Malformed);
            }
            if way.mode == Mode::Ipip {
                let mut version = bytes.clone();
                version[inner] = 0x55;
                decap.drops(&way.name(), &version, Counter::Malformed);
            }
        }
    })
}

#[test]
fn it_is_given_anew_and_taken_away() -> Result<()> {
    let lab = Lab::new(0)?;
    let lb = |words: &[&str]| {
        let mut decap = decap(&lab.balancer);
        decap.args(words).output().expect("lb runs")
    };
    let text = |words: &[&str]| String::from_utf8(lb(words).stdout).expect("text");
    let error = |words: &[&str]| String::from_utf8(lb(words).stderr).expect("text");
    let shown = || -> serde_json::Value { text(&["--json"]).parse().expect("JSON") };
    assert!(error(&[]).starts_with("error: nothing is unwrapped here\nhint: "), "{}", error(&[]));
    assert!(text(&["--detach"]).ends_with(": nothing was attached\n"));

    let usual = ["--vip", "203.0.113.20", "--source", "10.255.7.1/24"];
    let refused = error(&[&["--interface", "none"], &usual[..]].concat());
    assert!(refused.contains("interface `none` does not exist"), "{refused}");
    let refused = error(&[&["--interface", "l0", "--interface", "lo"], &usual[..]].concat());
    assert!(refused.contains("interface `lo` carries no Ethernet frames"), "{refused}");
    assert!(!decap_pins(&lab.balancer).exists(), "a refusal leaves nothing behind");

    let said = text(&[&["--interface", "l0"], &usual[..]].concat());
    let expected = "l0: attached (native XDP)\npackets to 1 VIP from 10.255.7.0/24 are unwrapped\n";
    assert_eq!(said, expected);
    let first = shown();
    assert_eq!(first["interfaces"], serde_json::json!(["l0"]));
    assert_eq!(first["vips"], serde_json::json!(["203.0.113.20"]));
    assert_eq!(first["sources"], serde_json::json!(["10.255.7.0/24"]));
    assert_eq!((&first["port"], &first["packets"]["gue"]), (&GUE.into(), &0.into()));

    let anew = ["--interface", "l1", "--vip", "2001:db8::20", "--source", "fd00::/64"];
    lb(&[&anew[..], &["--port", "6081"]].concat());
    let second = shown();
    assert_eq!(second["interfaces"], serde_json::json!(["l1"]));
    assert_eq!(second["vips"], serde_json::json!(["2001:db8::20"]));
    assert_eq!((&second["sources"][0], &second["port"]), (&"fd00::/64".into(), &6081.into()));
    assert!(text(&[]).contains("\nVIPs         2001:db8::20\n"), "{}", text(&[]));
    let refused = error(&[&["--interface", "lo"], &usual[..]].concat());
    assert!(refused.contains("interface `lo` carries no Ethernet frames"), "{refused}");
    assert_eq!(shown(), second, "a refusal changes nothing");

    assert!(text(&["--detach"]).ends_with(": detached from 1 interface\n"));
    assert!(fs::read_dir(decap_pins(&lab.balancer)).is_err());
    Ok(())
}
