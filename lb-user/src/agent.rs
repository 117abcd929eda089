//! Drivers: wait, ask the core, act.

pub mod controller;
pub mod log;
pub mod store;
