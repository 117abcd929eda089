//! `http` and `https` probes.

use std::{ops::RangeInclusive, sync::Arc};

use hyper::{
    Request,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{peer::Peer, reason::Reason, tls::Trust};
use crate::core::model::health;

/// Longest head of an answer, in bytes.
const HEAD: usize = 16 * 1024;

/// A request, ready to be sent again and again.
pub(super) struct Http {
    peer: Peer,
    request: Request<String>,
    expect: Vec<RangeInclusive<u16>>,
    tls: Option<(Arc<Trust>, ServerName<'static>)>,
}

impl Http {
    /// What these settings ask for; `tls` is how to speak TLS, for `https`.
    pub(super) fn new(
        peer: Peer,
        settings: &health::Http,
        tls: Option<Arc<Trust>>,
    ) -> Result<Self, Reason> {
        let host = settings.host.clone().unwrap_or_else(|| peer.address.to_string());
        let request = Request::get(&settings.path)
            .header(HOST, &host)
            .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(String::new())
            .map_err(|error| Reason::Backend(format!("cannot make the request: {error}")))?;
        let name = || match settings.host.clone() {
            None => Ok(ServerName::from(peer.address.ip())),
            Some(host) => ServerName::try_from(host).map_err(|_| {
                Reason::Backend("`host` is no name that a certificate can have".into())
            }),
        };
        let tls = tls.map(|tls| Ok::<_, Reason>((tls, name()?))).transpose()?;
        Ok(Self { peer, request, expect: settings.expect_status.clone(), tls })
    }

    /// Waits until it is known by what certificates are checked, or why not.
    pub(super) async fn ready(&self) {
        if let Some((trust, _)) = &self.tls {
            trust.looked().await;
        }
    }

    /// Asks once.
    pub(super) async fn ask(&self) -> Result<(), Reason> {
        let status = match &self.tls {
            None => self.status(self.peer.connect().await?).await?,
            Some((trust, name)) => {
                let tls = TlsConnector::from(trust.config()?);
                let stream = self.peer.connect().await?;
                self.status(tls.connect(name.clone(), stream).await?).await?
            }
        };
        if self.expect.iter().any(|range| range.contains(&status)) {
            return Ok(());
        }
        let expected: Vec<String> = self.expect.iter().map(range).collect();
        Err(Reason::Backend(format!("status {status}, expected {}", expected.join(", "))))
    }

    /// The status of the answer. The body is left unread.
    async fn status<S>(&self, stream: S) -> Result<u16, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let response = sender.send_request(self.request.clone());
        tokio::pin!(response);
        let response = tokio::select! {
            biased;
            response = &mut response => response,
            // The connection may end first: then it has told the request why.
            // It is reset when it is dropped, so there is no need for a FIN.
            _ = connection.without_shutdown() => response.await,
        };
        Ok(response?.status().as_u16())
    }
}

/// As the configuration writes it.
fn range(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
