//! What the nodes say to each other about what they share: JSON, in parts that fit
//! a [`Message`].

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::{
    channel::{Error, Incoming, Outgoing},
    message::{MOST_PART, Message},
};
use crate::core::{
    edit::Edits,
    replica::{Base, Conflict, Content, Offer, Version},
};

/// Most bytes of one: as a configuration file.
const MOST_BYTES: usize = 64 << 20;

/// What the caller says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// What it goes by.
    Offer(Offer),
    /// All of that.
    All(Document),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answered {
    /// See [`super::Answer`].
    Agreed(Version),
    /// With the base, or without.
    Wanted { base: bool },
    /// See [`super::Answer`].
    Wait,
    /// See [`super::Answer`].
    Failed(String),
}

/// A content, with its base unless that is known.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    base: Option<Base>,
    edits: Edits,
    conflicts: Vec<Conflict>,
}

impl Document {
    pub(super) fn new(content: &Content, with_base: bool) -> Self {
        let Content { base, edits, conflicts } = content.clone();
        Self { base: with_base.then(|| Base::clone(&base)), edits, conflicts }
    }

    /// The content that was offered; `base`: what the receiver has.
    pub(super) fn content(self, offer: &Offer, base: Arc<Base>) -> Result<Content, Error> {
        let base = self.base.map_or(base, Arc::new);
        let content = Content { base, edits: self.edits, conflicts: self.conflicts };
        if content.digest() == offer.digest { Ok(content) } else { Err(Error::Malformed) }
    }
}

/// Says all of it.
pub(super) async fn say<T: Serialize>(to: &mut Outgoing, what: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(what).map_err(|_| Error::Malformed)?;
    let mut parts = bytes.chunks(MOST_PART).peekable();
    while let Some(part) = parts.next() {
        to.say(&Message::Part { last: parts.peek().is_none(), bytes: part.to_vec() }).await?;
    }
    Ok(())
}

/// Hears all of it.
pub(super) async fn hear<T: DeserializeOwned>(from: &mut Incoming) -> Result<T, Error> {
    let mut whole = Vec::new();
    loop {
        let Message::Part { last, bytes } = from.hear().await? else {
            return Err(Error::Malformed);
        };
        if whole.len() + bytes.len() > MOST_BYTES {
            return Err(Error::Malformed);
        }
        whole.extend(bytes);
        if last {
            return serde_json::from_slice(&whole).map_err(|_| Error::Malformed);
        }
    }
}
