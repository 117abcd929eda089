//! All tests that need root, in one binary.

mod cli;
mod packet;
mod regression;
mod sys;
mod traffic;
