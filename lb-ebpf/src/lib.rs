//! What the packet path and `lb decap` have in common: frames and Ethernet.
#![no_std]

pub mod link;
pub mod packet;
