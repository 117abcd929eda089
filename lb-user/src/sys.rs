//! The kernel's other interfaces: links, routes, neighbours, capabilities, limits.

pub mod capability;
pub mod descriptors;
pub mod forwarding;
pub mod link;
pub mod route;
