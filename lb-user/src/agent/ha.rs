//! The pair of balancers: its key, and the frames that its nodes exchange.

pub mod frame;
pub mod key;
