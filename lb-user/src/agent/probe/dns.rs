//! `dns` probes: one question over UDP (RFC 1035, section 4).

use std::hash::{BuildHasher as _, RandomState};

use domain::base::{Message, MessageBuilder, Name, Rtype, iana::Rcode};

use super::{peer::Peer, reason::Reason};
use crate::core::model::health;

/// Longest message over UDP without EDNS (RFC 1035, section 2.3.4).
const LONGEST: usize = 512;

/// A question, ready to be asked again and again.
pub(super) struct Dns {
    peer: Peer,
    question: Message<Vec<u8>>,
}

impl Dns {
    /// What these settings ask for.
    pub(super) fn new(peer: Peer, settings: &health::Dns) -> Result<Self, Reason> {
        let (name, record) = (&settings.name, &settings.record);
        let unfit = |what: &str, text: &str| Reason::Backend(format!("`{text}` is no {what}"));
        let name: Name<Vec<u8>> = name.parse().map_err(|_| unfit("name in the DNS", name))?;
        let record: Rtype = record.parse().map_err(|_| unfit("type of record", record))?;
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((name, record)).map_err(|error| Reason::Backend(error.to_string()))?;
        Ok(Self { peer, question: message.into_message() })
    }

    /// Asks once. Any answer but SERVFAIL and REFUSED is success.
    pub(super) async fn ask(&self) -> Result<(), Reason> {
        let mut question = self.question.clone();
        // The keys of a hasher are the standard library's random numbers.
        question.header_mut().set_id(RandomState::new().hash_one(()) as u16);
        let mut answer = [0; LONGEST];
        let length = self.peer.exchange(question.as_slice(), &mut answer).await?;
        let answer = Message::from_slice(&answer[..length]).map_err(|_| "answer is not DNS")?;
        let header = answer.header();
        if !answer.is_answer(&question) {
            return Err("answer to another question".into());
        } else if header.tc() {
            return Err("answer truncated".into());
        }
        match header.rcode() {
            rcode @ (Rcode::SERVFAIL | Rcode::REFUSED) => {
                Err(Reason::Backend(format!("answer {rcode}")))
            }
            _ => Ok(()),
        }
    }
}
