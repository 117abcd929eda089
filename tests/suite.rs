//! All tests that need root, in one binary.

mod cli;
mod regression;
mod traffic;
