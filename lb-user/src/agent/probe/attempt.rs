//! One probe of one target.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, timeout},
};

use super::{
    Target,
    dns::Dns,
    exec::Exec,
    http::Http,
    line,
    peer::Peer,
    reason::{Reason, said},
    tls::Configs,
};
use crate::core::{
    health::{Observation, Outcome, Report},
    model::health::{Probe, Udp},
};

/// Longest line that an `agent` backend says, in bytes.
const LINE: usize = 256;

/// A probe, ready to be made again and again.
pub(super) struct Attempt {
    kind: Kind,
    timeout: Duration,
    /// Whom it asks for, if not for the backend itself.
    vip: Option<IpAddr>,
}

enum Kind {
    Tcp(Peer),
    Http(Box<Http>),
    Udp(Peer, Udp),
    Dns(Dns),
    Exec(Exec),
    Agent(Peer),
    /// Cannot be made at all.
    Unfit(Reason),
}

impl Attempt {
    /// What the target asks for; `None`: nothing.
    pub(super) fn new(target: &Target, configs: &mut Configs) -> Option<Self> {
        let kind = Kind::new(target, configs).unwrap_or_else(|reason| Some(Kind::Unfit(reason)))?;
        Some(Self { kind, timeout: target.health.timeout, vip: target.vip() })
    }

    /// Makes it; `late` is how long it had to wait for its turn, if that is
    /// worth telling.
    pub(super) async fn make(&self, late: Option<Duration>) -> Observation {
        self.kind.ready().await;
        let begin = Instant::now();
        // In a box, so that a target takes little memory between its probes.
        let (outcome, report) = match timeout(self.timeout, Box::pin(self.kind.once())).await {
            Ok(found) => found,
            Err(_) => (self.silence(), None),
        };
        let outcome = match (outcome, late) {
            (Ok(()), _) => Outcome::Success(begin.elapsed()),
            (Err(Reason::Backend(text)), Some(late)) => Outcome::Failure(format!(
                "{text}; begun {late:.1?} late: many probes or a busy host"
            )),
            (Err(reason), _) => reason.into(),
        };
        Observation { outcome, report }
    }

    /// What it means that nothing was heard until the timeout. Success then took
    /// all of it, which says nothing of the backend's speed.
    fn silence(&self) -> Result<(), Reason> {
        match &self.kind {
            Kind::Udp(_, Udp { expect: None, .. }) => Ok(()),
            _ => {
                let silent = format!("no answer within {:?}", self.timeout);
                Err(Reason::Backend(match self.vip {
                    None => silent,
                    Some(vip) => format!("{silent} for the VIP {vip}: is it configured there?"),
                }))
            }
        }
    }
}

impl Kind {
    fn new(target: &Target, configs: &mut Configs) -> Result<Option<Self>, Reason> {
        let peer = || {
            let port = target.port.ok_or("no port to probe, expected `health.port`")?;
            Ok::<_, Reason>(Peer {
                address: SocketAddr::new(target.address, port),
                mark: target.mark,
                vip: target.vip(),
            })
        };
        Ok(Some(match &target.health.probe {
            Probe::None => return Ok(None),
            Probe::Tcp => Self::Tcp(peer()?),
            Probe::Http(http) => {
                let tls = http.tls.as_ref().map(|tls| configs.get(tls));
                Self::Http(Box::new(Http::new(peer()?, http, tls)?))
            }
            Probe::Udp(udp) => Self::Udp(peer()?, udp.clone()),
            Probe::Dns(dns) => Self::Dns(Dns::new(peer()?, dns)?),
            Probe::Exec(program) => Self::Exec(Exec {
                program: program.clone(),
                name: target.name.clone(),
                address: target.address,
                port: target.port,
            }),
            Probe::Agent => Self::Agent(peer()?),
        }))
    }

    /// Waits a little for what this host is slow at: that is not the backend's
    /// time.
    async fn ready(&self) {
        if let Self::Http(http) = self {
            http.ready().await;
        }
    }

    async fn once(&self) -> (Result<(), Reason>, Option<Report>) {
        let outcome = match self {
            Self::Tcp(peer) => peer.connect().await.map(drop),
            Self::Http(http) => http.ask().await,
            Self::Udp(peer, udp) => datagram(*peer, udp).await,
            Self::Dns(dns) => dns.ask().await,
            Self::Exec(exec) => exec.run().await,
            Self::Agent(peer) => match hear(*peer).await {
                Ok(line) => return line::read(&line),
                Err(reason) => Err(reason),
            },
            Self::Unfit(reason) => Err(reason.clone()),
        };
        (outcome, None)
    }
}

/// Sends what is to be sent and looks at the answer.
async fn datagram(peer: Peer, udp: &Udp) -> Result<(), Reason> {
    let expect = udp.expect.as_deref().unwrap_or_default();
    let mut answer = vec![0; expect.len()];
    let length = peer.exchange(&udp.send, &mut answer).await?;
    if answer[..length] == *expect {
        return Ok(());
    }
    let answer = said(&answer[..length]);
    Err(Reason::Backend(format!("answer begins with `{answer}`, not as expected")))
}

/// What the backend says of itself: a line, or all until it closes.
async fn hear(peer: Peer) -> Result<Vec<u8>, Reason> {
    let mut stream = peer.connect().await?;
    let mut line = Vec::with_capacity(LINE);
    loop {
        let mut bytes = [0; LINE];
        let length = stream.read(&mut bytes).await?;
        let end = bytes[..length].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        line.extend_from_slice(&bytes[..end.unwrap_or(length)]);
        if line.len() > LINE {
            return Err(Reason::Backend(format!("says more than {LINE} bytes in a line")));
        } else if end.is_some() || length == 0 {
            return Ok(line);
        }
    }
}
