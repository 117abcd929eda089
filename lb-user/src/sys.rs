//! The kernel's other interfaces: links, routes, neighbours, capabilities.

pub mod capability;
pub mod forwarding;
pub mod link;
pub mod route;
