//! Services and clients by the thousand, without as many namespaces.

use std::net::{IpAddr, Ipv4Addr};

use super::{CLIENT_V4, Lab, Mode, NAT_V4, Protocol, Result, Service};

/// Addresses of the fleet's backends, all of them one server's.
const FLEET: &str = "10.128.0.0/16";
/// First of them.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
/// Addresses of the crowd, all of them the client's.
const CROWD: &str = "10.64.0.0/16";
/// First of them.
const FIRST_CLIENT: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// Port of the first service.
const FIRST_PORT: u16 = 10_000;
/// Port of the server.
const SERVER_PORT: u16 = 80;

/// `count` services of mode `nat` at [`NAT_V4`], ports 10000 and on, each with
/// `each` backends `b1`, `b2`, … of its own; `lines` are in the table of each.
/// [`Lab::answer_for_fleet`] gives them a server.
#[must_use]
pub fn fleet(count: u16, each: u16, lines: &str) -> Vec<Service> {
    let service = |number: u16| {
        let service = Service::new(NAT_V4, Protocol::Tcp, FIRST_PORT + number, Mode::Nat);
        let first = FIRST_ADDRESS + u32::from(number) * u32::from(each);
        let backends = (1..=each).map(|backend| (backend, address(first + u32::from(backend))));
        backends
            .fold(service, |service, (backend, address)| {
                service.with_one(&format!("b{backend}"), address)
            })
            .to_port(SERVER_PORT)
            .lines(lines)
    };
    (0..count).map(service).collect()
}

/// Addresses of `count` clients, which [`Lab::gather_crowd`] makes the client's.
#[must_use]
pub fn crowd(count: u16) -> Vec<IpAddr> {
    (1..=count).map(|number| address(FIRST_CLIENT + u32::from(number))).collect()
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(number).into()
}

impl Lab {
    /// Makes the first backend answer at all addresses of [`fleet`], as the
    /// next hop of the balancer towards them.
    ///
    /// # Errors
    /// `ip` fails.
    ///
    /// # Panics
    /// The lab has no backend.
    pub fn answer_for_fleet(&self) -> Result<()> {
        let server = &self.backends[0];
        server.netns.ip(&format!("route add local {FLEET} dev lo"))?;
        self.balancer.ip(&format!("route add {FLEET} via {}", server.address(true)))
    }

    /// Gives the client all addresses of [`crowd`].
    ///
    /// # Errors
    /// `ip` fails.
    pub fn gather_crowd(&self) -> Result<()> {
        self.client.ip(&format!("route add local {CROWD} dev lo"))?;
        self.balancer.ip(&format!("route add {CROWD} via {CLIENT_V4}"))
    }
}
