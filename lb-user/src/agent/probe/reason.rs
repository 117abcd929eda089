//! Why a probe did not succeed, in words for `lb backend list`: short,
//! lower-case, and nothing in them that a terminal would obey.

use std::{error::Error as _, fmt::Display, io, iter};

use tokio_rustls::rustls::{self, CertificateError};

use crate::core::health::Outcome;

/// Most of what a backend said that is shown, in bytes.
const SHOWN: usize = 200;

/// Why a probe did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The backend does not serve, or cannot be reached.
    Backend(String),
    /// This host could not make the probe.
    Host(String),
}

impl Reason {
    /// Why this host cannot make a probe, whatever the error: no packet has left.
    pub(super) fn of_host(error: io::Error) -> Self {
        Self::Host(phrase(&error))
    }

    /// The same in other words.
    pub(super) fn map(self, words: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Backend(text) => Self::Backend(words(text)),
            Self::Host(text) => Self::Host(words(text)),
        }
    }

    /// Of a system error, in the system's words, "connection refused", without
    /// its number. What this host lacks is no word of the backend's; but EACCES
    /// is what Linux makes of ICMPv6 "administratively prohibited" (RFC 4443,
    /// section 3.1).
    fn of_system(error: &io::Error) -> Self {
        let text = phrase(error);
        match error.raw_os_error() {
            Some(
                libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::ENOSPC
                | libc::EPERM,
            ) => Self::Host(text),
            _ => Self::Backend(text),
        }
    }
}

impl From<Reason> for Outcome {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Backend(text) => Self::Failure(text),
            Reason::Host(text) => Self::Inconclusive(text),
        }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::Backend(text.into())
    }
}

impl From<io::Error> for Reason {
    /// Of the system, or of TLS where it is TLS that failed.
    fn from(error: io::Error) -> Self {
        of_io(&error)
    }
}

impl From<hyper::Error> for Reason {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() {
            return "connection closed before an answer".into();
        } else if error.is_parse() {
            return Self::Backend(format!("answer is not HTTP: {}", phrase(&error)));
        }
        let causes = iter::successors(error.source(), |&cause| cause.source());
        let cause = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).next();
        cause.map_or_else(|| Self::Backend(phrase(&error)), of_io)
    }
}

fn of_io(error: &io::Error) -> Reason {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or_else(|| Reason::of_system(error), tls)
}

/// Of a failure of TLS.
fn tls(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::InvalidMessage(_) => "answer is not TLS".into(),
        rustls::Error::AlertReceived(alert) => Reason::Backend(format!("tls refused: {alert:?}")),
        other => Reason::Backend(format!("tls: {}", phrase(other))),
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
            Reason::Backend(format!("certificate is for {names}, expected {}", expected.to_str()))
        }
        E::BadSignature => "certificate not signed by the trusted authority of that name".into(),
        E::Revoked => "certificate revoked".into(),
        // What `openssl req -x509` makes unless told otherwise. The type of
        // this error is webpki's, which rustls does not hand on.
        E::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            "certificate is an authority's (CA:TRUE), not a server's".into()
        }
        other => Reason::Backend(format!("certificate: {}", phrase(other))),
    }
}

/// An error as a phrase: lower-case, without the number of a system error.
pub(super) fn phrase(error: &dyn Display) -> String {
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
        let refused = Reason::from(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert_eq!(refused, "connection refused".into());
        let many = Reason::from(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(many, Reason::Host("too many open files".into()));
    }

    #[test]
    fn what_this_host_lacks_says_nothing_of_the_backend() {
        let outcome = |error| Outcome::from(Reason::from(io::Error::from_raw_os_error(error)));
        for lack in [
            libc::EADDRINUSE,
            libc::EADDRNOTAVAIL,
            libc::EAGAIN,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EPERM,
        ] {
            assert!(matches!(outcome(lack), Outcome::Inconclusive(_)), "{lack}");
        }
        for failure in [
            libc::EACCES,
            libc::ECONNREFUSED,
            libc::ECONNRESET,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ETIMEDOUT,
        ] {
            assert!(matches!(outcome(failure), Outcome::Failure(_)), "{failure}");
        }
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
