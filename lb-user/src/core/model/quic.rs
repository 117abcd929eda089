//! `[[service.quic]]`: connection IDs that say which server they belong to.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
    path::PathBuf,
};

use lb_common::quic::{Block, LONGEST_SERVER_ID};

/// One configuration of connection IDs, as servers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// The rotation bits that name it, unique within the service; below
    /// [`lb_common::quic::CONFIGS`].
    pub id: u8,
    /// Octets of a server ID, 1 to [`LONGEST_SERVER_ID`].
    pub server_id_length: u8,
    /// Octets of the nonce, from [`lb_common::quic::SHORTEST_NONCE`] on; together 19 at
    /// most.
    pub nonce_length: u8,
    /// Where the key is that both are encrypted with; `None`: they are not.
    pub key_file: Option<PathBuf>,
}

/// A key of AES-128.
pub type Key = [u8; 16];

/// Keys of configurations by their files.
pub type Keys = BTreeMap<PathBuf, Key>;

/// A server ID: 1 to [`LONGEST_SERVER_ID`] octets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(Vec<u8>);

impl ServerId {
    /// Of its hexadecimal digits; `None`: there are none, too many, or half an octet.
    #[must_use]
    pub fn parse(digits: &str) -> Option<Self> {
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let pairs = digits.as_bytes().chunks(2).map(str::from_utf8);
        let octets = pairs.map(|pair| u8::from_str_radix(pair.ok()?, 16).ok());
        let octets: Vec<_> = octets.collect::<Option<_>>()?;
        let fits = digits.len().is_multiple_of(2) && octets.len() <= LONGEST_SERVER_ID.into();
        fits.then_some(Self(octets))
    }

    /// How many octets.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.len() as u8
    }

    /// The octets, zeros behind them.
    #[must_use]
    pub fn block(&self) -> Block {
        let mut bytes = [0; 16];
        bytes[..self.0.len()].copy_from_slice(&self.0);
        let number = u128::from_be_bytes(bytes);
        [(number >> 64) as u64, number as u64]
    }
}

/// Its hexadecimal digits.
impl Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = String::new();
        self.0.iter().try_for_each(|octet| write!(digits, "{octet:02x}"))?;
        f.write_str(&digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_id_is_its_digits() {
        for digits in ["00", "ed793a51", "0102030405060708090a0b0c0d0e0f"] {
            assert_eq!(ServerId::parse(digits).unwrap().to_string(), digits);
        }
        assert_eq!(ServerId::parse("ED79"), ServerId::parse("ed79"));
        let id = ServerId::parse("0102030405060708090a").unwrap();
        assert_eq!(id.length(), 10);
        assert_eq!(id.block(), [0x0102_0304_0506_0708, 0x090a << 48]);
    }

    #[test]
    fn anything_else_is_none() {
        for digits in ["", "1", "123", "zz", "+1", "0x12", "äa", &"00".repeat(16)] {
            assert_eq!(ServerId::parse(digits), None, "{digits}");
        }
    }
}
