//! Drivers: wait, ask the core, act.

pub mod admin;
mod aside;
pub mod controller;
mod disk;
pub mod ha;
pub mod log;
pub mod metrics;
pub mod probe;
pub mod quic;
pub mod store;
pub mod thread;
