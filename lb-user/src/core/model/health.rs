//! `[service.health]`: how backends are probed.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// How often a backend is probed, and how many outcomes change its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What a probe does.
    pub probe: Probe,
    /// From the begin of one probe to the begin of the next.
    pub interval: Duration,
    /// After which a probe has failed; at most the interval.
    pub timeout: Duration,
    /// Successes in a row after which a backend is up.
    pub rise: u32,
    /// Failures in a row after which a backend is down.
    pub fall: u32,
    /// Port probed; `None`: the port that the backend's traffic goes to.
    pub port: Option<u16>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            port: None,
        }
    }
}

/// What a probe does, and what it calls success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nothing: backends are taken to be up.
    None,
    /// Connects.
    Tcp,
    /// Requests a page.
    Http(Http),
    /// Sends a datagram and waits for one: the answer, or for want of an
    /// answer no ICMP "port unreachable".
    Udp(Udp),
    /// Asks for a name.
    Dns(Dns),
    /// Runs a program; exit status 0 is success.
    Exec(Vec<String>),
    /// Connects and reads a line of state and weight from the backend.
    Agent,
}

/// `kind = "http"` and `"https"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Path and query.
    pub path: String,
    /// `Host` header and name that the certificate is to have; `None`: the
    /// backend's address.
    pub host: Option<String>,
    /// Status codes that are success.
    pub expect_status: Vec<RangeInclusive<u16>>,
    /// `None`: in plain text.
    pub tls: Option<Tls>,
}

/// How the certificate of an `https` backend is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// `false`: not at all, so that anybody on the way can pass for the backend.
    pub verify: bool,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// `kind = "udp"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer must begin with; `None`: no answer is needed.
    pub expect: Option<Vec<u8>>,
}

/// `kind = "dns"`, over UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Name asked for; any answer but SERVFAIL and REFUSED is success.
    pub name: String,
    /// Type of record, such as "A".
    pub record: String,
}
