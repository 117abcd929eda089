//! What the packet path is to know of the QUIC servers of a service.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use lb_common::quic::{Block, CidConfig};

use super::{
    model::{
        Backend, Service,
        quic::{Keys, QuicConfig},
    },
    plan::BackendId,
};

/// A set, as `QUIC_CONFIGS` and `QUIC_SERVERS` hold it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct QuicSet {
    /// Configurations by their rotation bits.
    pub configs: BTreeMap<u8, CidConfig>,
    /// Backends by length and octets of their server IDs.
    pub servers: BTreeMap<(u8, Block), BackendId>,
}

/// Tells no keys.
impl fmt::Debug for QuicSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { configs, servers } = self;
        let configs: Vec<_> = configs.keys().collect();
        f.debug_struct("QuicSet").field("configs", &configs).field("servers", servers).finish()
    }
}

impl QuicSet {
    /// That of a service whose backends have these ids; `None`: it has no
    /// configuration.
    ///
    /// # Errors
    /// The key in this file is not among `keys`.
    pub fn of(
        service: &Service,
        id: impl Fn(&Backend) -> BackendId,
        keys: &Keys,
    ) -> Result<Option<Self>, PathBuf> {
        if service.quic.is_empty() {
            return Ok(None);
        }
        let config = |config: &QuicConfig| {
            let (server_id_length, nonce_length) = (config.server_id_length, config.nonce_length);
            let plain = CidConfig { server_id_length, nonce_length, ..CidConfig::ZERO };
            let entry = match &config.key_file {
                Some(file) => plain.with_key(*keys.get(file).ok_or_else(|| file.clone())?),
                None => plain,
            };
            Ok((config.id, entry))
        };
        let servers = service.backends.iter().flat_map(|backend| {
            let named = id(backend);
            backend.server_ids.iter().map(move |id| ((id.length(), id.block()), named))
        });
        let configs = service.quic.iter().map(config).collect::<Result<_, PathBuf>>()?;
        Ok(Some(Self { configs, servers: servers.collect() }))
    }
}
