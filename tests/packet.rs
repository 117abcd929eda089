//! One frame through the loaded program: its verdict, the whole frame that
//! comes out, what was counted, and what the affinity table holds then.
//!
//! The program is the one that a real agent loaded, configured and pinned in a
//! lab's balancer. Expected frames are built from scratch by [`frame`], never
//! by updating what went in.

mod affinity;
mod attack;
mod bridge;
mod case;
mod changes;
mod check;
mod client;
mod damage;
mod decap;
mod expiry;
mod explain;
mod flood;
mod forward;
mod fragment;
pub(crate) mod frame;
mod fullnat;
mod fuzz;
mod handshake;
mod headers;
mod host;
mod icmp;
mod lease;
mod network;
mod next_hop;
mod policy;
mod quic;
mod races;
mod refuse;
mod reload;
mod route;
mod scapy;
mod setup;
mod shared;
mod split;
mod subject;
mod synproxy;
mod table;
mod too_big;
mod tunnel;
mod untracked;
mod verifier;
mod vlan;
