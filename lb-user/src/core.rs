//! Pure rules: no sockets, files, clock, randomness or kernel.

pub mod edit;
pub mod fleet;
pub mod ha;
pub mod handshake;
pub mod health;
pub mod maglev;
pub mod model;
pub mod nexthop;
pub mod plan;
pub mod replica;
pub mod route;
pub mod split;
pub mod sync;
pub mod weight;
