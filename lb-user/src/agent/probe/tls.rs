//! How `https` probes speak TLS. One configuration serves all targets with the
//! same settings: the system's certificates alone take hundreds of kilobytes.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::reason::Reason;
use crate::core::model::health::Tls;

/// The configurations in use, by their settings.
#[derive(Default)]
pub(super) struct Configs(HashMap<Tls, Known>);

struct Known {
    stamp: Stamp,
    config: Result<Arc<ClientConfig>, Reason>,
}

impl Configs {
    /// Forgets configurations whose `ca_file` is not the one that was read,
    /// and gives their settings.
    pub(super) fn renew(&mut self) -> Vec<Tls> {
        let renewed = self.0.extract_if(|settings, known| known.stamp != Stamp::of(settings));
        renewed.map(|(settings, _)| settings).collect()
    }

    /// Forgets all but these.
    pub(super) fn keep<'a>(&mut self, used: impl Iterator<Item = &'a Tls>) {
        let used: HashSet<&Tls> = used.collect();
        self.0.retain(|settings, _| used.contains(settings));
    }

    /// How many are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.0.len()
    }

    /// The configuration for these settings.
    pub(super) fn get(&mut self, settings: &Tls) -> Result<Arc<ClientConfig>, Reason> {
        if let Some(known) = self.0.get(settings) {
            return known.config.clone();
        }
        // Before reading: what is written meanwhile is then found new.
        let stamp = Stamp::of(settings);
        let config = config(settings).map(Arc::new);
        self.0.insert(settings.clone(), Known { stamp, config: config.clone() });
        config
    }
}

/// Tells a `ca_file` from one that replaced it.
#[derive(PartialEq, Eq)]
struct Stamp(Option<(SystemTime, u64)>);

impl Stamp {
    fn of(settings: &Tls) -> Self {
        let file = settings.ca_file.as_ref().and_then(|file| fs::metadata(file).ok());
        Self(file.and_then(|file| Some((file.modified().ok()?, file.len()))))
    }
}

fn config(settings: &Tls) -> Result<ClientConfig, Reason> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Reason::Backend(format!("tls: {error}")))?;
    let builder = match (settings.verify, &settings.ca_file) {
        (false, _) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        }
        (true, Some(file)) => builder.with_root_certificates(from_file(file)?),
        (true, None) => builder.with_root_certificates(of_the_system()?),
    };
    let mut config = builder.with_no_client_auth();
    // A resumed session would not show the certificate again, so that one that
    // expires would go unnoticed.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn from_file(file: &Path) -> Result<RootCertStore, Reason> {
    let name = |what| format!("`ca_file`: {what}");
    let unusable = |what| Reason::Backend(name(what));
    let text = fs::read(file).map_err(|error| Reason::from(error).map(name))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unusable("no certificate in it".into())) } else { Ok(roots) }
}

fn of_the_system() -> Result<RootCertStore, Reason> {
    let mut roots = RootCertStore::empty();
    // Systems carry odd certificates: the others are as good without them.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let none = "this system trusts no certificates, expected `ca_file`";
    if roots.is_empty() { Err(none.into()) } else { Ok(roots) }
}

/// Takes any certificate, so anybody on the way can pass for the backend. That
/// the peer has the key of the certificate it shows is still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
