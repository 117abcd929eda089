//! The only code that talks to the loaded program and its maps: carries plans
//! out, decides nothing.

pub mod attach;
pub mod bindings;
pub mod changes;
pub mod clock;
pub mod decap;
pub mod explain;
#[cfg(test)]
pub mod fake;
pub mod flows;
pub mod kernel;
pub mod leases;
pub mod load;
pub mod mmap;
pub mod pins;
pub mod probe;
pub mod quic;
pub mod read;
pub mod rings;
pub mod routes;
pub mod stations;
pub mod synproxy;
pub mod tables;
pub mod vlans;
