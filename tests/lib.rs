//! Labs of network namespaces in which `lb` runs as an operator would run it.
//!
//! The tests that need root are one binary, `suite.rs`; `cargo xtask run` uses
//! the same harness for its demonstration.

pub mod harness;
