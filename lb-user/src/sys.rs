//! The kernel's other interfaces: links, addresses, routes, neighbours,
//! capabilities, limits, memory, peers, priorities.

pub mod address;
pub mod announce;
pub mod capability;
pub mod descriptors;
pub mod forwarding;
pub mod link;
pub mod memory;
pub mod peer;
pub mod priority;
pub mod route;
