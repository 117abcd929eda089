//! Every beat comes back; everything else is refused.

use proptest::{prelude::*, sample::Index};

use super::{super::key::Key, *};

const SECRET: [u8; 32] = [7; 32];
/// Where a body has the fingerprint.
const NEWEST: usize = 12;

fn codec() -> Codec {
    codec_of(SECRET, "edge")
}

fn codec_of(secret: [u8; 32], pair: &str) -> Codec {
    Codec::new(&Key::from(secret).into(), pair)
}

fn key() -> Fingerprint {
    Key::from(SECRET).fingerprint()
}

fn encode(beat: &Beat) -> Vec<u8> {
    codec().encode(beat, key())
}

/// What a node reads that has the same key.
fn frame_of(beat: Beat) -> Frame {
    Frame { beat, key: key(), newest: key() }
}

/// A frame with any body, made with the key.
fn sealed(body: &[u8]) -> Vec<u8> {
    sealed_as(VERSION, body)
}

fn sealed_as(version: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = [&MAGIC[..], &[version], body].concat();
    frame.extend(hmac::sign(&codec().seals[0].1, &frame).as_ref());
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

fn any_time(longest: Duration) -> impl Strategy<Value = Duration> {
    (0..=longest.as_micros() as u64).prop_map(Duration::from_micros)
}

fn any_beat() -> impl Strategy<Value = Beat> {
    (
        "[a-zA-Z0-9._-]{1,64}",
        any_stamp(),
        any::<(bool, u8)>(),
        (any_time(LONGEST_INTERVAL), any_time(LONGEST)),
        ([prop::option::of(any_stamp()), prop::option::of(any_stamp())], any::<u64>()),
        prop::collection::vec(any_group(), 0..=GROUPS),
    )
        .prop_map(
            |(
                node,
                stamp,
                (answer, priority),
                (interval, grant),
                ([heard, echo], witness),
                groups,
            )| Beat {
                node,
                stamp,
                answer,
                interval,
                heard,
                grant,
                echo,
                witness,
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
        interval: LONGEST_INTERVAL,
        heard: Some(stamp),
        grant: LONGEST,
        echo: Some(stamp),
        witness: u64::MAX,
        priority: 254,
        groups: vec![group; GROUPS],
    }
}

proptest! {
    #[test]
    fn every_beat_comes_back(beat in any_beat()) {
        let frame = encode(&beat);
        prop_assert!((LEAST_BYTES..=MOST_BYTES).contains(&frame.len()));
        prop_assert_eq!(codec().decode(&frame), Ok(frame_of(beat)));
    }

    #[test]
    fn a_flipped_bit_is_refused(beat in any_beat(), at: Index, bit in 0..8_u32) {
        let mut frame = encode(&beat);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        let expected = match at {
            0..4 => FrameError::Foreign,
            _ => FrameError::Key,
        };
        prop_assert_eq!(codec().decode(&frame), Err(expected));
    }

    #[test]
    fn a_part_of_a_frame_is_refused(beat in any_beat(), at: Index) {
        let frame = encode(&beat);
        prop_assert!(codec().decode(&frame[..at.index(frame.len())]).is_err());
    }

    #[test]
    fn more_than_a_frame_is_refused(
        beat in any_beat(),
        more in prop::collection::vec(any::<u8>(), 1..1500),
    ) {
        let frame = [encode(&beat), more].concat();
        let error = codec().decode(&frame).expect_err("too much");
        let length = frame.len();
        let long = FrameError::Length { length, least: LEAST_BYTES, most: MOST_BYTES };
        prop_assert_eq!(error, if length > MOST_BYTES { long } else { FrameError::Key });
    }

    #[test]
    fn any_bytes_are_refused(
        head in prop::sample::select(vec![&b""[..], b"lbHA", b"lbHA\x02"]),
        bytes in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        prop_assert!(codec().decode(&[head, &bytes].concat()).is_err());
    }

    #[test]
    fn another_pairs_frame_is_refused(beat in any_beat(), at in 0..32_usize, bit in 0..8_u32) {
        let mut secret = SECRET;
        secret[at] ^= 1 << bit;
        let others = [
            codec_of(secret, "edge"),
            codec_of(SECRET, "edge2"),
        ];
        for other in others {
            prop_assert_eq!(codec().decode(&other.encode(&beat, key())), Err(FrameError::Key));
        }
    }

    /// Even who has the key can say nothing in two ways.
    #[test]
    fn a_body_with_the_right_tag_is_refused_or_the_frame_of_what_it_says(
        beat in any_beat(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        length: Index,
    ) {
        let mut changed = body(&encode(&beat)).to_vec();
        for (at, value) in changes {
            let at = at.index(changed.len());
            changed[at] = value;
        }
        // Mostly whole, and at times cut.
        changed.truncate(length.index(4 * changed.len()));
        let frame = sealed(&changed);
        if let Ok(Frame { beat, newest, .. }) = codec().decode(&frame) {
            // Whatever it says of its sender's newest key.
            let mut again = body(&encode(&beat)).to_vec();
            again[NEWEST..NEWEST + 8].copy_from_slice(&newest.0.to_be_bytes());
            prop_assert_eq!(sealed(&again), frame);
        }
    }

    #[test]
    fn a_frame_of_another_version_is_known_by_its_key_whatever_it_says(
        version in prop::sample::select(vec![0, 1, 3, 255]),
        body in prop::collection::vec(any::<u8>(), 1..1000),
        changed: Index,
    ) {
        let mut frame = sealed_as(version, &body);
        let serves = body[0] & SERVES != 0;
        prop_assert_eq!(codec().decode(&frame), Err(FrameError::Version { version, serves }));
        frame[5 + changed.index(body.len())] ^= 1;
        prop_assert_eq!(codec().decode(&frame), Err(FrameError::Key));
    }
}

#[test]
fn the_longest_beat_fits_a_datagram_that_no_path_cuts() {
    let frame = encode(&longest());
    assert_eq!((frame.len(), MOST_BYTES), (577, 577));
    assert_eq!(codec().decode(&frame), Ok(frame_of(longest())));
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
        witness: 0x1314,
        priority: 100,
        groups: vec![group],
    };
    let frame = encode(&beat);
    let expected = [
        &b"lbHA\x02\x06\x64\x04\x01\0\0\xc3\x50\x01\x02\x03\x04"[..],
        &key().0.to_be_bytes(),
        b"\0\0\0\0\0\0\x13\x14",
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
    let longest = encode(&longest());
    let longest = body(&longest);
    let with = |at: usize, value: u8| {
        let mut body = longest.to_vec();
        body[at] = value;
        sealed(&body)
    };
    let last = longest.len() - 1;
    let name = NEWEST + 16 + 3 * STAMP;
    // Of the last group; its state follows.
    let term = last - 8;
    let wrong = [
        with(0, ANSWER | HEARD | ECHO | SERVES | 16),
        with(0, ANSWER | HEARD | ECHO),
        with(0, ANSWER | HEARD | SERVES),
        with(0, ANSWER | ECHO | SERVES),
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
    let long = [&b"lbHA\x01"[..], &[0; MOST_BYTES_EVER]].concat();
    let cases: [(&[u8], &str); 7] = [
        (b"", "no heartbeat"),
        (b"lbH", "no heartbeat"),
        (b"lbHA", "4 bytes, expected 82 to 577"),
        (b"lbHA\x02", "5 bytes, expected 82 to 577"),
        (b"lbHA\x01", "5 bytes, expected 38 to 1232"),
        (&long, "1237 bytes, expected 38 to 1232"),
        (&sealed_as(1, &[0]), "version 1, expected 2"),
    ];
    for (datagram, expected) in cases {
        assert_eq!(codec().decode(datagram).expect_err("no frame").to_string(), expected);
    }
    let other = codec_of([8; 32], "edge").encode(&longest(), key());
    let error = codec().decode(&other).expect_err("another pair");
    assert_eq!(error.to_string(), "another pair's key or name");
}
