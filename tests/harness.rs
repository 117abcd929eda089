//! Namespaces, labs, servers and clients as guards: whatever one of these
//! types made is gone when it is dropped, and [`sweep`] removes what a
//! process left that could not drop.
//!
//! Nothing here knows anything of the agent's inside: the harness starts the
//! binary, signals it, and reads the maps it pins.

mod agent;
mod ask;
mod capture;
mod command;
mod config;
mod decap;
mod echo;
mod error;
mod fleet;
mod flood;
mod flows;
mod http;
mod keepalived;
mod lab;
mod line;
mod many;
mod metrics;
mod mount;
mod netns;
mod nginx;
mod node;
mod owner;
mod pair;
mod pass;
mod pins;
mod probe;
mod process;
mod usage;
mod wait;

pub use agent::{Agent, lb_binary};
pub use capture::{Capture, Mac, Seen};
pub use command::{Output, finish, run, tool};
pub use config::{Config, Group, Ha, Mode, Protocol, Service};
pub use decap::{TUNNEL_SOURCES, decap, decap_pins, tunnel_sources, unwrap_for};
pub use echo::{Echo, answers_udp, ask_udp, spread_udp};
pub use error::{Error, Result};
pub use fleet::{crowd, fleet};
pub use flood::{Flood, Kind as FloodKind, anywhere};
pub use flows::{Flows, Survey};
pub use http::{Load, LoadReport, RunningLoad, curl, spread};
pub use keepalived::Keepalived;
pub use lab::{
    Backend, CLIENT_V4, CLIENT_V6, DSR_V4, DSR_V6, Lab, NAT_V4, NAT_V6, OTHER_NAT_V4, OTHER_NAT_V6,
    source_addresses,
};
pub use line::LineServer;
pub use many::Talks;
pub use metrics::{METRICS, Metrics, http_get};
pub use mount::Mount;
pub use netns::Netns;
pub use nginx::Nginx;
pub use node::Node;
pub use owner::sweep;
pub use pair::{GATEWAY_V4, GATEWAY_V6, Network, PairLab, Turn, Watch};
pub use pass::{TcPass, XdpPass};
pub use pins::{Pins, Traffic};
pub use probe::{Prober, Probes};
pub use process::Process;
pub use usage::{private_memory, processor_time};
pub use wait::eventually;
