//! What the nodes say to each other in a [`super::channel`].
//!
//! The first byte is the kind, numbers are in network byte order (big-endian):
//!
//! | kind | from | what follows |
//! |---|---|---|
//! | 1 hello | sender | fingerprint of `node.hash_seed` (8), `node.flows` (4), name of the node |
//! | 2 welcome | receiver | number of its memory (8): as long as it is the same, what was confirmed before need not be told again |
//! | 3 refused | receiver | why, in words |
//! | 4 names | sender | backends: number (2), identity (40) |
//! | 5 begin | sender | all flows are going to be told |
//! | 6 flows | sender | sequence (8), 1 if a pass tells them and 0 if they changed (1), records: key (8), number of the backend (2), state and, at bit 7, whether the key is exact (1), seconds left (2) |
//! | 7 told | sender | sequence (8): all flows were told since `begin`, or the `told` before; the groups that this node served meanwhile, by the ids of heartbeats (8 each): whatever else the receiver has of theirs is over |
//! | 8 heard | receiver | sequence (8): all up to this one have been looked at; 1 if all flows told since `begin` could be entered, else 0 (1) |
//! | 9 share | caller | name of the node: this connection is about the configuration |
//! | 10 part | both | 1 if it is the last and 0 if more follow (1), bytes |
//! | 11 bindings | sender | ports of mode `fullnat`: sequence (8), as for flows (1), records: client (16), its ports (4), source (16), port (2), number of the backend (2), state (1), seconds left (2); addresses of IPv4 as `::ffff:a.b.c.d` |
//! | 12 connections | sender | connections that SYN cookies opened, of one group: sequence (8), as for flows (1), id of the group (8), records: key (8), [`Proxied`] without group and time (8), seconds left, 0: it is over (2) |

use lb_common::{addr, flow::FlowState, synproxy::Proxied};

use crate::core::{
    plan::{BackendId, identity::BackendIdentity},
    sync::{Record, binding},
};

/// Most bytes of a message: what one of Noise's has room for, without its tag.
pub(super) const MOST_BYTES: usize = 65_535 - 16;
/// Most bytes of a part.
pub(super) const MOST_PART: usize = MOST_BYTES - 2;
/// Most records of a message.
pub(super) const MOST_RECORDS: usize = 2048;
/// Most bindings of a message.
pub(super) const MOST_BINDINGS: usize = 1024;
/// Most connections of a message.
pub(super) const MOST_CONNECTIONS: usize = 2048;
/// Most names of a message.
pub(super) const MOST_NAMES: usize = 1024;

/// Bytes of a name and of a record.
const NAME: usize = 2 + 40;
const RECORD: usize = 13;
const BINDING: usize = 43;
const CONNECTION: usize = 18;
const EXACT: u8 = 1 << 7;

/// A connection that a SYN cookie opened, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// Its key, which is the same on both nodes.
    pub(super) key: u64,
    /// What its entry says, but for group and time.
    pub(super) value: Proxied,
    /// Seconds left to live; 0: it is over.
    pub(super) left: u16,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Hello { seed: u64, flows: u32, node: String },
    Welcome { memory: u64 },
    Refused { reason: String },
    Names(Vec<(BackendId, BackendIdentity)>),
    Begin,
    Flows { sequence: u64, pass: bool, records: Vec<Record> },
    Bindings { sequence: u64, pass: bool, records: Vec<binding::Record> },
    Connections { sequence: u64, pass: bool, group: u64, records: Vec<Connection> },
    Told { sequence: u64, groups: Vec<u64> },
    Heard { sequence: u64, whole: bool },
    Share { node: String },
    Part { last: bool, bytes: Vec<u8> },
}

impl Message {
    /// Its bytes, if its parts keep their limits.
    pub(super) fn encode(&self) -> Vec<u8> {
        let text = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
        let number = |kind: u8, number: u64| [&[kind][..], &number.to_be_bytes()].concat();
        match self {
            Self::Hello { seed, flows, node } => {
                [&number(1, *seed), &flows.to_be_bytes()[..], node.as_bytes()].concat()
            }
            Self::Welcome { memory } => number(2, *memory),
            Self::Refused { reason } => text(3, reason),
            Self::Names(names) => {
                let mut bytes = vec![4];
                for (id, identity) in names {
                    bytes.extend(id.to_be_bytes());
                    bytes.extend(identity.bytes());
                }
                bytes
            }
            Self::Begin => vec![5],
            Self::Flows { sequence, pass, records } => {
                let mut bytes = number(6, *sequence);
                bytes.reserve(1 + records.len() * RECORD);
                bytes.push(u8::from(*pass));
                for Record { key, exact, backend, state, left } in records {
                    bytes.extend(key.to_be_bytes());
                    bytes.extend(backend.to_be_bytes());
                    bytes.push(*state as u8 | if *exact { EXACT } else { 0 });
                    bytes.extend(left.to_be_bytes());
                }
                bytes
            }
            Self::Bindings { sequence, pass, records } => {
                let mut bytes = number(11, *sequence);
                bytes.reserve(1 + records.len() * BINDING);
                bytes.push(u8::from(*pass));
                records.iter().for_each(|record| put_binding(&mut bytes, record));
                bytes
            }
            Self::Connections { sequence, pass, group, records } => {
                let mut bytes = number(12, *sequence);
                bytes.reserve(9 + records.len() * CONNECTION);
                bytes.push(u8::from(*pass));
                bytes.extend(group.to_be_bytes());
                for Connection { key, value, left } in records {
                    bytes.extend(key.to_be_bytes());
                    bytes.extend(value.0.to_be_bytes());
                    bytes.extend(left.to_be_bytes());
                }
                bytes
            }
            Self::Told { sequence, groups } => {
                let groups = groups.iter().map(|id| id.to_be_bytes()).collect::<Vec<_>>();
                [&number(7, *sequence)[..], groups.as_flattened()].concat()
            }
            Self::Heard { sequence, whole } => {
                [&number(8, *sequence)[..], &[u8::from(*whole)]].concat()
            }
            Self::Share { node } => text(9, node),
            Self::Part { last, bytes } => [&[10, u8::from(*last)][..], bytes].concat(),
        }
    }

    /// The message of these bytes; `None`: there is none like that.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, body) = bytes.split_first()?;
        let text = |body: &[u8]| Some(str::from_utf8(body).ok()?.to_owned());
        Some(match kind {
            1 => {
                let (seed, body) = body.split_first_chunk()?;
                let (flows, node) = body.split_first_chunk()?;
                let (seed, flows) = (u64::from_be_bytes(*seed), u32::from_be_bytes(*flows));
                Self::Hello { seed, flows, node: text(node)? }
            }
            2 => Self::Welcome { memory: u64::from_be_bytes(body.try_into().ok()?) },
            3 => Self::Refused { reason: text(body)? },
            4 => {
                let (names, []) = body.as_chunks() else { return None };
                Self::Names(names.iter().map(name).collect::<Option<_>>()?)
            }
            5 if body.is_empty() => Self::Begin,
            6 | 11 | 12 => {
                let (sequence, body) = body.split_first_chunk()?;
                let (&pass @ 0..=1, body) = body.split_first()? else { return None };
                let (sequence, pass) = (u64::from_be_bytes(*sequence), pass == 1);
                if kind == 6 {
                    let (records, []) = body.as_chunks() else { return None };
                    let records = records.iter().map(record).collect::<Option<_>>()?;
                    Self::Flows { sequence, pass, records }
                } else if kind == 11 {
                    let (records, []) = body.as_chunks() else { return None };
                    let records = records.iter().map(binding).collect::<Option<_>>()?;
                    Self::Bindings { sequence, pass, records }
                } else {
                    let (group, body) = body.split_first_chunk()?;
                    let (records, []) = body.as_chunks() else { return None };
                    let (group, records) = (u64::from_be_bytes(*group), records.iter());
                    let records = records.map(connection).collect();
                    Self::Connections { sequence, pass, group, records }
                }
            }
            7 => {
                let (sequence, groups) = body.split_first_chunk()?;
                let (groups, []) = groups.as_chunks() else { return None };
                let groups = groups.iter().map(|id| u64::from_be_bytes(*id)).collect();
                Self::Told { sequence: u64::from_be_bytes(*sequence), groups }
            }
            8 => {
                let (sequence, body) = body.split_first_chunk()?;
                let &[whole @ 0..=1] = body else { return None };
                Self::Heard { sequence: u64::from_be_bytes(*sequence), whole: whole == 1 }
            }
            9 => Self::Share { node: text(body)? },
            10 => {
                let (&last @ 0..=1, bytes) = body.split_first()? else { return None };
                Self::Part { last: last == 1, bytes: bytes.to_vec() }
            }
            _ => return None,
        })
    }
}

fn connection(bytes: &[u8; CONNECTION]) -> Connection {
    let [k0, k1, k2, k3, k4, k5, k6, k7, value @ .., l0, l1] = *bytes;
    Connection {
        key: u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
        value: Proxied(u64::from_be_bytes(value)),
        left: u16::from_be_bytes([l0, l1]),
    }
}

fn name(bytes: &[u8; NAME]) -> Option<(BackendId, BackendIdentity)> {
    let [high, low, identity @ ..] = bytes;
    Some((u16::from_be_bytes([*high, *low]), BackendIdentity::from_bytes(identity)?))
}

fn record(bytes: &[u8; RECORD]) -> Option<Record> {
    let [key @ .., b0, b1, state, l0, l1] = *bytes;
    Some(Record {
        key: u64::from_be_bytes(key),
        exact: state & EXACT != 0,
        backend: u16::from_be_bytes([b0, b1]),
        state: FlowState::from_number(state & !EXACT)?,
        left: u16::from_be_bytes([l0, l1]),
    })
}

fn put_binding(bytes: &mut Vec<u8>, record: &binding::Record) {
    let binding::Record { client, ports, source, port, backend, state, left } = *record;
    bytes.extend(addr::to_bytes(client));
    // Loaded from a frame, so they are in network byte order.
    bytes.extend(ports.to_ne_bytes());
    bytes.extend(addr::to_bytes(source));
    bytes.extend(port.to_be_bytes());
    bytes.extend(backend.to_be_bytes());
    bytes.push(state as u8);
    bytes.extend(left.to_be_bytes());
}

fn binding(bytes: &[u8; BINDING]) -> Option<binding::Record> {
    let (client, rest) = bytes.split_first_chunk()?;
    let (ports, rest) = rest.split_first_chunk()?;
    let (source, rest) = rest.split_first_chunk()?;
    let &[p0, p1, b0, b1, state, l0, l1] = rest else { return None };
    Some(binding::Record {
        client: addr::from_bytes(*client),
        ports: u32::from_ne_bytes(*ports),
        source: addr::from_bytes(*source),
        port: u16::from_be_bytes([p0, p1]),
        backend: u16::from_be_bytes([b0, b1]),
        state: FlowState::from_number(state)?,
        left: u16::from_be_bytes([l0, l1]),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        model::{Mode, ha::GROUPS},
        plan::identity::ServiceIdentity,
    };

    fn any_identity() -> impl Strategy<Value = BackendIdentity> {
        let mode = prop::sample::select(Mode::ALL.to_vec());
        (any::<([u8; 16], u16, u16, u8, [u8; 16], u16)>(), mode).prop_map(
            |((vip, first, last, proto, addr, port), mode)| BackendIdentity {
                service: ServiceIdentity { vip: addr::to_bytes(vip.into()), first, last, proto },
                addr: addr::to_bytes(addr.into()),
                port,
                mode,
            },
        )
    }

    fn any_record() -> impl Strategy<Value = Record> {
        any::<(u64, bool, u16, u16)>().prop_flat_map(|(key, exact, backend, left)| {
            use FlowState::{Closing, Embryonic, Established, Exception};
            prop::sample::select(vec![Embryonic, Established, Closing, Exception])
                .prop_map(move |state| Record { key, exact, backend, state, left })
        })
    }

    fn any_binding() -> impl Strategy<Value = binding::Record> {
        let address = || any::<u128>().prop_map(|bits| addr::from_bytes(bits.to_be_bytes()));
        (any_record(), address(), address(), any::<(u32, u16)>()).prop_map(
            |(Record { backend, state, left, .. }, client, source, (ports, port))| {
                binding::Record { client, ports, source, port, backend, state, left }
            },
        )
    }

    fn any_connection() -> impl Strategy<Value = Connection> {
        any::<(u64, u64, u16)>().prop_map(|(key, value, left)| {
            let value = Proxied(value);
            Connection { key, value, left }
        })
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let name = ".{0,64}";
        prop_oneof![
            (any::<u64>(), any::<u32>(), name).prop_map(|(seed, flows, node)| Message::Hello {
                seed,
                flows,
                node
            }),
            any::<u64>().prop_map(|memory| Message::Welcome { memory }),
            name.prop_map(|reason| Message::Refused { reason }),
            prop::collection::vec((any::<u16>(), any_identity()), 0..8).prop_map(Message::Names),
            Just(Message::Begin),
            (any::<u64>(), any::<bool>(), prop::collection::vec(any_record(), 0..8))
                .prop_map(|(sequence, pass, records)| Message::Flows { sequence, pass, records }),
            (any::<u64>(), any::<bool>(), prop::collection::vec(any_binding(), 0..8)).prop_map(
                |(sequence, pass, records)| Message::Bindings { sequence, pass, records }
            ),
            (any::<(u64, bool, u64)>(), prop::collection::vec(any_connection(), 0..8)).prop_map(
                |((sequence, pass, group), records)| Message::Connections {
                    sequence,
                    pass,
                    group,
                    records
                }
            ),
            (any::<u64>(), prop::collection::vec(any::<u64>(), 0..GROUPS))
                .prop_map(|(sequence, groups)| Message::Told { sequence, groups }),
            any::<(u64, bool)>().prop_map(|(sequence, whole)| Message::Heard { sequence, whole }),
            ".{0,64}".prop_map(|node| Message::Share { node }),
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..64))
                .prop_map(|(last, bytes)| Message::Part { last, bytes }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_comes_back_as_it_was(message in any_message()) {
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn full_messages_fit() {
        let identity = BackendIdentity::from_bytes(&[1; 40]).unwrap();
        let (exact, state) = (true, FlowState::Closing);
        let record = Record { key: 1, exact, backend: 1, state, left: 1 };
        let records = vec![record; MOST_RECORDS];
        let Record { backend, state, left, .. } = record;
        let (client, source) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let bound = binding::Record { client, ports: 1, source, port: 1, backend, state, left };
        let bound = vec![bound; MOST_BINDINGS];
        let full = [
            Message::Names(vec![(1, identity); MOST_NAMES]),
            Message::Flows { sequence: 1, pass: true, records },
            Message::Bindings { sequence: 1, pass: true, records: bound },
            Message::Connections {
                sequence: 1,
                pass: true,
                group: 1,
                records: vec![Connection { key: 1, value: Proxied(1), left: 1 }; MOST_CONNECTIONS],
            },
            Message::Part { last: true, bytes: vec![1; MOST_PART] },
        ];
        for message in full {
            let bytes = message.encode();
            assert!(bytes.len() <= MOST_BYTES, "{} bytes", bytes.len());
        }
    }
}
