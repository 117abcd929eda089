//! The only code that talks to the loaded program and its maps.

pub mod load;
pub mod tables;
