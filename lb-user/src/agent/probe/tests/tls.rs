//! `https` probes, of servers with good and bad certificates.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::{NamedTempFile, tempdir};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use super::*;
use crate::core::model::health::{Http, Tls};

/// An authority, and the file that has its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn probe(&self) -> Probe {
        https(true, Some(self.file.path().into()))
    }

    /// A server with a certificate for `web.test` and 127.0.0.1 that is not
    /// quite right.
    async fn server(&self, spoil: impl FnOnce(&mut CertificateParams)) -> SocketAddr {
        let mut params = params();
        spoil(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        tls_server(certificate.der().clone(), key).await
    }
}

fn params() -> CertificateParams {
    CertificateParams::new(vec!["web.test".into(), "127.0.0.1".into()]).unwrap()
}

fn https(verify: bool, ca_file: Option<PathBuf>) -> Probe {
    Probe::Http(Http {
        path: "/".into(),
        host: Some("web.test".into()),
        expect_status: vec![200..=299],
        tls: Some(Tls { verify, ca_file }),
    })
}

async fn tls_server(certificate: CertificateDer<'static>, key: KeyPair) -> SocketAddr {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // The client refuses bad certificates.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            stream.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
            let _reset = stream.read(&mut [0]).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_good_certificate_is_taken() {
    let authority = Authority::new();
    let address = authority.server(|_| ()).await;
    success(address, authority.probe()).await;
    let Probe::Http(by_name) = authority.probe() else { unreachable!() };
    success(address, Probe::Http(Http { host: None, ..by_name })).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let old = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let address = authority.server(old).await;
    assert_eq!(failure(address, authority.probe()).await, "certificate expired");
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(4000, 1, 1);
    let address = authority.server(early).await;
    assert_eq!(failure(address, authority.probe()).await, "certificate not valid yet");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let other = CertificateParams::new(vec!["mail.test".into()]).unwrap();
    let address = authority.server(|params| *params = other).await;
    let reason = failure(address, authority.probe()).await;
    assert_eq!(reason, "certificate is for mail.test, expected web.test");
}

#[tokio::test]
async fn a_certificate_that_nobody_trusted_signed_is_refused() {
    let key = KeyPair::generate().unwrap();
    let mut params = params();
    params.distinguished_name.push(DnType::CommonName, "web");
    let own = params.self_signed(&key).unwrap();
    let address = tls_server(own.der().clone(), key).await;
    let untrusted = "certificate signed by nobody trusted: by itself, or `ca_file` lacks its \
                     authority";
    assert_eq!(failure(address, Authority::new().probe()).await, untrusted);
    // One that is itself in the file is trusted.
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), own.pem()).unwrap();
    success(address, https(true, Some(file.path().into()))).await;
}

#[tokio::test]
async fn the_certificate_of_an_authority_that_was_made_anew_is_refused() {
    let address = Authority::new().server(|_| ()).await;
    let reason = failure(address, Authority::new().probe()).await;
    assert_eq!(reason, "certificate not signed by the trusted authority of that name");
}

#[tokio::test]
async fn the_certificate_of_an_authority_is_no_servers() {
    let key = KeyPair::generate().unwrap();
    let mut params = params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap();
    let address = tls_server(own.der().clone(), key).await;
    let reason = failure(address, Authority::new().probe()).await;
    assert_eq!(reason, "certificate is an authority's (CA:TRUE), not a server's");
}

#[tokio::test]
async fn any_certificate_is_taken_where_it_is_not_verified() {
    let old = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let address = Authority::new().server(old).await;
    success(address, https(false, None)).await;
}

#[tokio::test]
async fn a_server_without_tls_says_so() {
    let address = server(|mut stream| async move {
        let _reset = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _reset = stream.read(&mut [0; 512]).await;
    })
    .await;
    assert_eq!(failure(address, https(false, None)).await, "answer is not TLS");
    assert_eq!(failure_soon(mute().await, https(false, None)).await, "no answer within 50ms");
}

/// One that is probed often.
fn often(address: SocketAddr, ca_file: &Path) -> Target {
    let target = target(0, address, https(true, Some(ca_file.into())));
    Target { health: Health { interval: SHORT, ..target.health }, ..target }
}

#[tokio::test]
async fn an_unusable_ca_file_is_no_failure_and_is_used_once_it_is_usable() {
    let authority = Authority::new();
    let address = authority.server(|_| ()).await;
    let file = NamedTempFile::new().unwrap();
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    prober.set(vec![often(address, file.path())]);
    let reason = why_not(events.recv().await.unwrap().observation);
    assert!(reason.contains("no certificate in it, expected"), "{reason}");
    fs::copy(authority.file.path(), file.path()).unwrap();
    // Nobody needs to say that there is something new.
    loop {
        let observation = events.recv().await.unwrap().observation;
        if succeeded(&observation) {
            break;
        }
        why_not(observation);
    }
}

#[tokio::test]
async fn another_authority_in_the_ca_file_is_trusted_instead() {
    let authority = Authority::new();
    let address = authority.server(|_| ()).await;
    let file = Authority::new().file;
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    prober.set(vec![often(address, file.path())]);
    why(events.recv().await.unwrap().observation);
    fs::copy(authority.file.path(), file.path()).unwrap();
    while !succeeded(&events.recv().await.unwrap().observation) {}
}

#[tokio::test]
async fn a_ca_file_that_nobody_ever_writes_holds_nobody_up() {
    let directory = tempdir().unwrap();
    let fifo = directory.path().join("ca.pem");
    mkfifo(&fifo, Mode::S_IRUSR).unwrap();
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    prober.set(vec![often(nobody().await, &fifo)]);
    let reason = why_not(events.recv().await.unwrap().observation);
    assert!(reason.contains("no regular file, expected"), "{reason}");
}

#[tokio::test]
async fn settings_that_no_target_has_any_more_are_forgotten() {
    let probe = |path: &str| https(true, Some(path.into()));
    let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
    let (mut prober, _events) = Prober::new(Handle::current(), 1);
    let (a, b) = (target(0, nowhere, probe("/a")), target(1, nowhere, probe("/b")));
    prober.set(vec![a.clone(), b]);
    assert_eq!(prober.configs.known(), 2);
    prober.set(vec![a]);
    assert_eq!(prober.configs.known(), 1);
}
