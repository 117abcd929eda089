//! What the packet path is to know of the QUIC servers of a service.

use std::collections::BTreeMap;

use lb_common::quic::{Block, CidConfig};

use super::{
    model::{Backend, Service},
    plan::BackendId,
};

/// A set, as `QUIC_CONFIGS` and `QUIC_SERVERS` hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuicSet {
    /// Configurations by their rotation bits.
    pub configs: BTreeMap<u8, CidConfig>,
    /// Backends by length and octets of their server IDs.
    pub servers: BTreeMap<(u8, Block), BackendId>,
}

impl QuicSet {
    /// That of a service whose backends have these ids; `None`: it has no
    /// configuration.
    #[must_use]
    pub fn of(service: &Service, id: impl Fn(&Backend) -> BackendId) -> Option<Self> {
        if service.quic.is_empty() {
            return None;
        }
        let configs = service.quic.iter().map(|config| {
            let (server_id_length, nonce_length) = (config.server_id_length, config.nonce_length);
            (config.id, CidConfig { server_id_length, nonce_length, ..CidConfig::ZERO })
        });
        let servers = service.backends.iter().flat_map(|backend| {
            let named = id(backend);
            backend.server_ids.iter().map(move |id| ((id.length(), id.block()), named))
        });
        Some(Self { configs: configs.collect(), servers: servers.collect() })
    }
}
