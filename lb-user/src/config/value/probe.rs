//! Values of `[service.health]`.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::{text, word};
use crate::config::read::Wrong;

/// Introduces bytes in hexadecimal.
const HEX: &str = "hex:";

/// Longest datagram of a probe: fits a frame whatever is around it.
const DATAGRAM: usize = 1024;

/// Longest name of the DNS, in text, and longest of its labels (RFC 1035,
/// section 2.3.4).
const DNS_NAME: usize = 253;
/// See [`DNS_NAME`].
const DNS_LABEL: usize = 63;

/// What goes into a request's first lines as it is: no space ends it there.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Path and query of a page.
pub fn page(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    if text.starts_with('/') && is_token(text) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new("must be a path from \"/\" without spaces").hint("such as \"/healthz\""))
}

/// A host, for the `Host` header.
pub fn host(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    if !text.is_empty() && is_token(text) && !text.contains('/') {
        return Ok(text.to_owned());
    }
    Err(Wrong::new("must be the name of a host").hint("such as \"www.example.com\""))
}

/// Status codes: "200-399", "200,204,300-399", or one as a number.
pub fn statuses(value: &DeValue<'_>) -> Result<Vec<RangeInclusive<u16>>, Wrong> {
    let wrong = || {
        Wrong::new("must be status codes 100 to 599 and ranges of them")
            .hint("such as \"200-399\" or \"200,204,300-399\"")
    };
    let text = match value {
        DeValue::Integer(integer) => integer.as_str(),
        value => value.as_str().ok_or_else(wrong)?,
    };
    let code =
        |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code)).ok_or(());
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u16, u16) = (code(first)?, code(last)?);
        (first <= last).then_some(first..=last).ok_or(())
    };
    text.split(',').map(range).collect::<Result<_, ()>>().map_err(|()| wrong())
}

/// Bytes of a datagram: text as it is, or "hex:0d0a".
pub fn bytes(value: &DeValue<'_>) -> Result<Vec<u8>, Wrong> {
    let text = text(value)?;
    let bytes = match text.strip_prefix(HEX) {
        Some(digits) => from_hex(digits).ok_or_else(|| {
            Wrong::new("must be pairs of hexadecimal digits after \"hex:\"")
                .hint("such as \"hex:0d0a\"")
        })?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.len() > DATAGRAM {
        return Err(Wrong::new(format!("must be {DATAGRAM} bytes at most")));
    }
    Ok(bytes)
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
            _ => None,
        })
        .collect()
}

/// Writes bytes so that [`bytes`] reads them.
#[must_use]
pub fn show_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) => text.to_owned(),
        _ => bytes.iter().fold(HEX.to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// A name of the DNS.
pub fn dns_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    let relative = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| (1..=DNS_LABEL).contains(&label.len()) && is_token(label);
    if text == "." || (relative.len() <= DNS_NAME && relative.split('.').all(label)) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new("must be a name of the DNS").hint("such as \"www.example.com\""))
}

/// A type of record.
pub fn record(value: &DeValue<'_>) -> Result<String, Wrong> {
    const RECORDS: &[(&str, &str)] = &[
        ("A", "A"),
        ("AAAA", "AAAA"),
        ("CNAME", "CNAME"),
        ("MX", "MX"),
        ("NS", "NS"),
        ("PTR", "PTR"),
        ("SOA", "SOA"),
        ("SRV", "SRV"),
        ("TXT", "TXT"),
    ];
    word(RECORDS)(value).map(str::to_owned)
}

/// A program by its absolute path, and its arguments.
pub fn command(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    let wrong = || {
        Wrong::new("must be a list: the absolute path of a program, then its arguments")
            .hint("such as [\"/usr/local/bin/check\", \"--fast\"]")
    };
    let list = value.as_array().ok_or_else(wrong)?;
    let words = list.iter().map(|word| word.get_ref().as_str().map(str::to_owned));
    let command: Vec<String> = words.collect::<Option<_>>().ok_or_else(wrong)?;
    let absolute = command.first().is_some_and(|program| program.starts_with('/'));
    if !absolute || command.iter().any(|word| word.contains('\0')) {
        return Err(wrong());
    }
    Ok(command)
}
