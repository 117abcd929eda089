//! The kernel's other interfaces: links, routes, neighbours, capabilities, limits,
//! memory, peers.

pub mod capability;
pub mod descriptors;
pub mod forwarding;
pub mod link;
pub mod memory;
pub mod peer;
pub mod route;
