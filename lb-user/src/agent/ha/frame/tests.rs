//! Every beat comes back; everything else is refused.

use proptest::{prelude::*, sample::Index};

use super::*;

const SECRET: [u8; 32] = [7; 32];

fn codec() -> Codec {
    Codec::new(&Key::from(SECRET), "edge")
}

/// A frame with any body, made with the key.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut frame = [&MAGIC[..], &[VERSION], body].concat();
    frame.extend(hmac::sign(&codec().key, &frame).as_ref());
    frame
}

/// The body of a frame.
fn body(frame: &[u8]) -> &[u8] {
    &frame[MAGIC.len() + 1..frame.len() - TAG]
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    any::<(u64, u64)>().prop_map(|(boot, sequence)| Stamp { boot, sequence })
}

fn any_group() -> impl Strategy<Value = GroupBeat> {
    let term = 0..=HIGHEST;
    (any::<(u64, u64, bool, bool)>(), term, prop::sample::select(&STANCES[..])).prop_map(
        |((id, digest, preferred, fit), term, stance)| GroupBeat {
            id,
            digest,
            term,
            stance,
            preferred,
            fit,
        },
    )
}

fn any_time() -> impl Strategy<Value = Duration> {
    (0..=LONGEST.as_micros() as u64).prop_map(Duration::from_micros)
}

fn any_beat() -> impl Strategy<Value = Beat> {
    (
        "[a-zA-Z0-9._-]{1,64}",
        any_stamp(),
        any::<(bool, u8)>(),
        [any_time(), any_time()],
        [prop::option::of(any_stamp()), prop::option::of(any_stamp())],
        prop::collection::vec(any_group(), 0..=GROUPS),
    )
        .prop_map(
            |(node, stamp, (answer, priority), [interval, grant], [heard, echo], groups)| Beat {
                node,
                stamp,
                answer,
                interval,
                heard,
                grant,
                echo,
                priority,
                groups,
            },
        )
}

/// As long as a beat gets.
fn longest() -> Beat {
    let stamp = Stamp { boot: u64::MAX, sequence: u64::MAX };
    let group = GroupBeat {
        id: u64::MAX,
        digest: u64::MAX,
        term: HIGHEST,
        stance: Stance::Active,
        preferred: true,
        fit: true,
    };
    Beat {
        node: "n".repeat(NAME_LENGTH),
        stamp,
        answer: true,
        interval: LONGEST,
        heard: Some(stamp),
        grant: LONGEST,
        echo: Some(stamp),
        priority: 254,
        groups: vec![group; GROUPS],
    }
}

proptest! {
    #[test]
    fn every_beat_comes_back(beat in any_beat()) {
        let frame = codec().encode(&beat);
        prop_assert!((LEAST_BYTES..=MOST_BYTES).contains(&frame.len()));
        prop_assert_eq!(codec().decode(&frame), Ok(beat));
    }

    #[test]
    fn a_flipped_bit_is_refused(beat in any_beat(), at: Index, bit in 0..8_u32) {
        let mut frame = codec().encode(&beat);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        let expected = match at {
            0..4 => FrameError::Foreign,
            4 => FrameError::Version(frame[4]),
            _ => FrameError::Key,
        };
        prop_assert_eq!(codec().decode(&frame), Err(expected));
    }

    #[test]
    fn a_part_of_a_frame_is_refused(beat in any_beat(), at: Index) {
        let frame = codec().encode(&beat);
        prop_assert!(codec().decode(&frame[..at.index(frame.len())]).is_err());
    }

    #[test]
    fn more_than_a_frame_is_refused(
        beat in any_beat(),
        more in prop::collection::vec(any::<u8>(), 1..1500),
    ) {
        let frame = [codec().encode(&beat), more].concat();
        let error = codec().decode(&frame).expect_err("too much");
        let long = frame.len() > MOST_BYTES;
        prop_assert_eq!(error, if long { FrameError::Length(frame.len()) } else { FrameError::Key });
    }

    #[test]
    fn any_bytes_are_refused(
        head in prop::sample::select(vec![&b""[..], b"lbHA", b"lbHA\x01"]),
        bytes in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        prop_assert!(codec().decode(&[head, &bytes].concat()).is_err());
    }

    #[test]
    fn another_pairs_frame_is_refused(beat in any_beat(), at in 0..32_usize, bit in 0..8_u32) {
        let mut secret = SECRET;
        secret[at] ^= 1 << bit;
        let others = [
            Codec::new(&Key::from(secret), "edge"),
            Codec::new(&Key::from(SECRET), "edge2"),
        ];
        for other in others {
            prop_assert_eq!(codec().decode(&other.encode(&beat)), Err(FrameError::Key));
        }
    }

    /// Even who has the key can say nothing in two ways.
    #[test]
    fn a_body_with_the_right_tag_is_refused_or_the_frame_of_what_it_says(
        beat in any_beat(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        length: Index,
    ) {
        let mut changed = body(&codec().encode(&beat)).to_vec();
        for (at, value) in changes {
            let at = at.index(changed.len());
            changed[at] = value;
        }
        // Mostly whole, and at times cut.
        changed.truncate(length.index(4 * changed.len()));
        let frame = sealed(&changed);
        if let Ok(beat) = codec().decode(&frame) {
            prop_assert_eq!(codec().encode(&beat), frame);
        }
    }
}

#[test]
fn the_longest_beat_fits_a_datagram_that_no_path_cuts() {
    let frame = codec().encode(&longest());
    assert_eq!((frame.len(), MOST_BYTES), (561, 561));
    assert_eq!(codec().decode(&frame), Ok(longest()));
}

/// What is on the wire changes with the version only.
#[test]
fn a_frame_is_laid_out_as_stated() {
    let group = GroupBeat {
        id: 0x0102,
        digest: 0x1112,
        term: 0x0304,
        stance: Stance::Resigned,
        preferred: true,
        fit: true,
    };
    let beat = Beat {
        node: "lb-a".to_owned(),
        stamp: Stamp { boot: 0x0506, sequence: 0x0708 },
        answer: false,
        interval: Duration::from_millis(50),
        heard: Some(Stamp { boot: 0x090a, sequence: 0x0b0c }),
        grant: Duration::from_micros(0x0102_0304),
        echo: Some(Stamp { boot: 0x0d0e, sequence: 0x0f10 }),
        priority: 100,
        groups: vec![group],
    };
    let frame = codec().encode(&beat);
    let expected = [
        &b"lbHA\x01\x06\x64\x04\x01\0\0\xc3\x50\x01\x02\x03\x04"[..],
        b"\0\0\0\0\0\0\x05\x06\0\0\0\0\0\0\x07\x08",
        b"\0\0\0\0\0\0\x09\x0a\0\0\0\0\0\0\x0b\x0c",
        b"\0\0\0\0\0\0\x0d\x0e\0\0\0\0\0\0\x0f\x10",
        b"lb-a",
        b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x11\x12\0\0\0\0\0\0\x03\x04\x0e",
    ]
    .concat();
    assert_eq!(frame[..frame.len() - TAG], expected);
}

#[test]
fn what_a_frame_cannot_say_is_refused() {
    let longest = codec().encode(&longest());
    let longest = body(&longest);
    let with = |at: usize, value: u8| {
        let mut body = longest.to_vec();
        body[at] = value;
        sealed(&body)
    };
    let last = longest.len() - 1;
    let name = 12 + 3 * STAMP;
    // Of the last group; its state follows.
    let term = last - 8;
    let wrong = [
        with(0, ANSWER | HEARD | ECHO | 8),
        with(0, ANSWER | HEARD),
        with(0, ANSWER | ECHO),
        with(2, 0),
        with(2, NAME_LENGTH as u8 - 1),
        with(2, NAME_LENGTH as u8 + 1),
        with(3, GROUPS as u8 + 1),
        with(3, 0),
        with(4, 0xff),
        with(8, 0xff),
        with(name, 0xff),
        with(term, 1),
        with(last, 16),
    ];
    for frame in wrong {
        assert_eq!(codec().decode(&frame), Err(FrameError::Malformed), "{frame:02x?}");
    }
}

#[test]
fn a_datagram_of_another_kind_says_what_it_is_not() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "no heartbeat"),
        (b"lbH", "no heartbeat"),
        (b"lbHA", "4 bytes, expected 66 to 561"),
        (b"lbHA\x01", "5 bytes, expected 66 to 561"),
        (b"lbHA\x02", "version 2, expected 1"),
    ];
    for (datagram, expected) in cases {
        assert_eq!(codec().decode(datagram).expect_err("no frame").to_string(), expected);
    }
    let other = Codec::new(&Key::from([8; 32]), "edge").encode(&longest());
    let error = codec().decode(&other).expect_err("another pair");
    assert_eq!(error.to_string(), "another pair's key or name");
}
