//! What `cargo xtask bench` and its eBPF programs agree on.

#![no_std]

use bytemuck::{Pod, Zeroable};

/// Bytes of every frame of a packet measurement.
pub const FRAME: usize = 96;

/// Ports per client address; flows take every port of an address before the
/// next address.
pub const PORTS_PER_ADDRESS: u32 = 64;
/// The first port of every client.
pub const FIRST_PORT: u16 = 1024;
/// Difference between two ports of a client: they spread over the port range.
pub const PORT_STRIDE: u16 = 977;

/// How the driver picks the flow of the next packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Flow `index`, then `index + step` modulo `flows`: with a step that has
    /// no divisor in common with `flows`, every flow once per round.
    Walk = 0,
    /// Any of `flows`, at random.
    Scatter = 1,
    /// A flow never seen before: 29 bits of address and 16 of port at random.
    Fresh = 2,
}

/// The driver's orders and its place in the sequence, the one entry of
/// `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Control {
    /// The frame, with the client's address and port zero and checksums
    /// that do not cover them yet.
    pub template: [u8; FRAME],
    /// Packets so far: what random flows are made of.
    pub count: u64,
    /// An [`Order`].
    pub order: u32,
    /// Number of flows.
    pub flows: u32,
    /// Stride of [`Order::Walk`].
    pub step: u32,
    /// Next flow of [`Order::Walk`].
    pub index: u32,
    /// First client address, or the last four bytes of it (host byte order).
    pub first_address: u32,
    /// The other end's port (network byte order).
    pub other_port: u32,
}

/// Where a bare forwarder sends a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Hop {
    /// Destination and source address of the Ethernet header.
    pub macs: [u8; 12],
    /// IPv4 address (network byte order).
    pub addr: u32,
}

/// Backends of a bare forwarder.
pub const BACKENDS: usize = 3;

/// All a bare forwarder knows, the one entry of `BARE`. The index of a hop in
/// `PORTS`, the device map, is its position here, the client's is
/// [`BACKENDS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Bare {
    /// The backends.
    pub backends: [Hop; BACKENDS],
    /// The client.
    pub client: Hop,
    /// The VIP (network byte order).
    pub vip: u32,
    /// The service's port (network byte order).
    pub port: u16,
    /// The backends' port (network byte order).
    pub backend_port: u16,
}

/// The flow's port (host byte order).
#[inline(always)]
#[must_use]
pub const fn port_of(flow: u32) -> u16 {
    FIRST_PORT + (flow % PORTS_PER_ADDRESS) as u16 * PORT_STRIDE
}

/// How far the flow's address is from the first.
#[inline(always)]
#[must_use]
pub const fn address_of(flow: u32) -> u32 {
    flow / PORTS_PER_ADDRESS
}

/// Mixes the bits of `x` (the finalizer of `SplitMix64`, a bijection).
#[inline(always)]
#[must_use]
pub const fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
