//! The kernel's other interfaces: links, routes, neighbours, capabilities, limits,
//! peers.

pub mod capability;
pub mod descriptors;
pub mod forwarding;
pub mod link;
pub mod peer;
pub mod route;
