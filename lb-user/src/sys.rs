//! The kernel's other interfaces: links, routes, neighbours, capabilities,
//! memory.

pub mod capability;
pub mod forwarding;
pub mod link;
pub mod memory;
pub mod route;
