//! What a version of the shared configuration says.

use std::{
    fmt::{self, Debug, Display},
    sync::Arc,
};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use crate::core::edit::{Edits, Keys};

/// SHA-256 of something, whatever the order of its keys. As text: hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The part of a file that both nodes share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Base {
    services: Vec<Keys>,
    firewall: Keys,
    #[serde(skip)]
    digest: Digest,
}

/// What is shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content<B = Arc<Base>> {
    /// Of the file.
    pub base: B,
    /// Over it.
    pub edits: Edits,
    /// What was changed on both nodes while they did not hear each other, and did
    /// not stay.
    pub conflicts: Vec<Conflict>,
}

/// A change that gave way to another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    /// UNIX second at which it was found.
    pub at: u64,
    /// What was changed, such as `edits.services.web.backends.b1.keys.weight`.
    pub path: String,
    /// What stays; `None`: nothing.
    pub kept: Option<Value>,
    /// What gave way; `None`: that it was removed.
    pub dropped: Option<Value>,
    /// The node where that was ordered.
    pub node: String,
}

impl Base {
    /// Of the keys of `[[service]]` each, and of `[firewall]`.
    #[must_use]
    pub fn new(services: Vec<Keys>, firewall: Keys) -> Self {
        let digest = Digest::of(&json!([services, firewall]));
        Self { services, firewall, digest }
    }

    /// Keys of `[[service]]`, in the order of the file.
    #[must_use]
    pub fn services(&self) -> &[Keys] {
        &self.services
    }

    /// Keys of `[firewall]`.
    #[must_use]
    pub fn firewall(&self) -> &Keys {
        &self.firewall
    }

    /// Of all of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Parts {
            services: Vec<Keys>,
            firewall: Keys,
        }
        let Parts { services, firewall } = Parts::deserialize(deserializer)?;
        Ok(Self::new(services, firewall))
    }
}

impl Content {
    /// Of all of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&json!([self.base.digest(), self.edits, self.conflicts]))
    }
}

impl<B> Content<B> {
    /// The same with a base of another kind.
    ///
    /// # Errors
    /// Those of `convert`.
    pub fn try_map<C, E>(self, convert: impl FnOnce(B) -> Result<C, E>) -> Result<Content<C>, E> {
        let Self { base, edits, conflicts } = self;
        Ok(Content { base: convert(base)?, edits, conflicts })
    }
}

impl Digest {
    /// Of a value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let mut context = Context::new(&SHA256);
        feed(&mut context, value);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

/// As JSON with sorted keys: nothing else has the same text.
fn feed(context: &mut Context, value: &Value) {
    match value {
        Value::Object(table) => {
            let mut keys: Vec<_> = table.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            context.update(b"{");
            for (key, value) in keys {
                feed(context, &Value::from(key.as_str()));
                context.update(b":");
                feed(context, value);
                context.update(b",");
            }
            context.update(b"}");
        }
        Value::Array(values) => {
            context.update(b"[");
            for value in values {
                feed(context, value);
                context.update(b",");
            }
            context.update(b"]");
        }
        plain => context.update(plain.to_string().as_bytes()),
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let parsed = pairs.len() == bytes.len() && rest.is_empty() && {
            pairs.iter().zip(&mut bytes).all(|(&[high, low], byte)| {
                match (digit(high), digit(low)) {
                    (Some(high), Some(low)) => {
                        *byte = high << 4 | low;
                        true
                    }
                    _ => false,
                }
            })
        };
        if parsed {
            Ok(Self(bytes))
        } else {
            Err(de::Error::custom("expected 64 hexadecimal digits"))
        }
    }
}
