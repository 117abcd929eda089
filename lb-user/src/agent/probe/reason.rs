//! Why a probe failed, in words for `lb backend list`: short, lower-case, and
//! nothing in them that a terminal would obey.

use std::{error::Error as _, fmt::Display, io, iter};

use tokio_rustls::rustls::{self, CertificateError};

/// Most of what a backend said that is shown, in bytes.
const SHOWN: usize = 200;

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason(pub(super) String);

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<io::Error> for Reason {
    /// The system's words, "connection refused", without its number; those of
    /// TLS where it is TLS that failed.
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        inner.map_or_else(|| Self(phrase(&error)), tls)
    }
}

impl From<hyper::Error> for Reason {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() {
            return "connection closed before an answer".into();
        } else if error.is_parse() {
            return Self(format!("answer is not HTTP: {}", phrase(&error)));
        }
        let causes = iter::successors(error.source(), |&cause| cause.source());
        let cause = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).next();
        let inner = cause.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref());
        inner.map_or_else(|| Self(cause.map_or_else(|| phrase(&error), |cause| phrase(cause))), tls)
    }
}

/// Of a failure of TLS.
fn tls(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::InvalidMessage(_) => "answer is not TLS".into(),
        rustls::Error::AlertReceived(alert) => Reason(format!("tls refused: {alert:?}")),
        other => Reason(format!("tls: {}", phrase(other))),
    }
}

fn certificate(error: &CertificateError) -> Reason {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "certificate expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "certificate not valid yet".into(),
        E::UnknownIssuer => "certificate signed by nobody trusted: by itself, or `ca_file` lacks \
                             its authority"
            .into(),
        E::NotValidForName => "certificate is for another name".into(),
        E::NotValidForNameContext { expected, presented } => {
            // webpki names them like `DnsName("web.test")`.
            let names = presented.join(", ").replace("DnsName(\"", "").replace("\")", "");
            let names = said(names.as_bytes());
            Reason(format!("certificate is for {names}, expected {}", expected.to_str()))
        }
        E::BadSignature => "certificate not signed by the trusted authority of that name".into(),
        E::Revoked => "certificate revoked".into(),
        // What `openssl req -x509` makes unless told otherwise. The type of
        // this error is webpki's, which rustls does not hand on.
        E::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            "certificate is an authority's (CA:TRUE), not a server's".into()
        }
        other => Reason(format!("certificate: {}", phrase(other))),
    }
}

/// An error as a phrase: lower-case, without the number of a system error.
fn phrase(error: &dyn Display) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// The first line of what a backend said, at most [`SHOWN`] bytes of it, fit
/// for a terminal.
pub(super) fn said(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    let visible = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    shown.trim().chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn system_errors_are_phrases() {
        let reason = |number| Reason::from(io::Error::from_raw_os_error(number)).0;
        assert_eq!(reason(libc::ECONNREFUSED), "connection refused");
        assert_eq!(reason(libc::EHOSTUNREACH), "no route to host");
    }

    #[test]
    fn only_the_first_line_is_shown() {
        assert_eq!(said(b" disk full \r\nsecond"), "disk full");
        assert_eq!(said(b""), "");
        assert_eq!(said(b"\x1b[31mred\x07"), "\u{fffd}[31mred\u{fffd}");
    }

    proptest! {
        #[test]
        fn whatever_is_said_can_be_shown(bytes: Vec<u8>) {
            let text = said(&bytes);
            prop_assert!(!text.contains(char::is_control));
            prop_assert!(text.chars().count() <= SHOWN);
        }
    }
}
