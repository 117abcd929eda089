//! The configuration file: [`file`] mirrors the TOML, [`check`] turns the
//! mirror into a [`crate::core::model::Model`] or a list of every mistake.

pub mod check;
pub mod file;
