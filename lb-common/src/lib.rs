//! The contract between the packet path and the agent: every map type, the
//! arithmetic both sides must compute alike, sizes and names.
//!
//! No `std`, no allocation, no I/O. Addresses and ports that come from or go
//! into a frame are kept in **network byte order as they lie in memory**, so
//! neither side swaps bytes on the packet path.
#![no_std]

mod pod;

pub mod addr;
pub mod aes;
pub mod backend;
pub mod binding;
pub mod bridge;
pub mod change;
pub mod config;
pub mod cookie;
pub mod csum;
pub mod decap;
pub mod firewall;
pub mod flow;
pub mod fragment;
pub mod handshake;
pub mod hash;
pub mod lease;
pub mod limits;
pub mod maps;
pub mod nexthop;
pub mod notice;
pub mod pace;
pub mod probe;
pub mod quic;
pub mod rate;
pub mod route;
pub mod service;
pub mod stats;
pub mod synproxy;
pub mod table;
pub mod tcp;
pub mod trace;
pub mod tunnel;
