//! The agent of lb, as a library: see `ARCHITECTURE.md` for what may touch what.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod dataplane;
pub mod sys;
