//! All tests that need root, in one binary.

mod cli;
mod ha;
mod packet;
mod regression;
mod sys;
mod traffic;
