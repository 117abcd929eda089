//! Addresses that the host has for a time: the kernel takes back what is not
//! held anew, whatever becomes of the agent.
//!
//! They are held by themselves, without their network. With one, the kernel might
//! take the host's own address in that network for secondary to one that is held,
//! and remove it along with that.

use std::{collections::HashMap, io, net::IpAddr, time::Duration};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo},
};

use super::{
    link::{self, Interface},
    route::{self, OUR_PROTOCOL, Requests},
};

/// A lifetime without end (linux/if_addr.h).
const FOREVER: u32 = u32::MAX;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket for addresses")]
    Open(#[source] io::Error),
    /// The host's addresses cannot be read.
    #[error("cannot read the host's addresses")]
    Read(#[source] io::Error),
    /// Somebody else gave the host an address that is to move.
    #[error(
        "`{address}` is configured at interface `{interface}`, but moves between the nodes of \
         the pair: remove it there, as with `ip address del {address} dev {interface}`"
    )]
    Foreign {
        /// The address, as it is configured.
        address: IpNet,
        /// Where; a number if it has gone meanwhile.
        interface: String,
    },
    /// The kernel does not add the address.
    #[error("cannot give interface `{interface}` the address `{address}`")]
    Hold {
        /// Which.
        address: IpAddr,
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not remove the address.
    #[error("cannot take the address `{address}` from interface number {ifindex}")]
    Release {
        /// Which.
        address: IpAddr,
        /// Where.
        ifindex: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An address at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    ifindex: u32,
    net: IpNet,
    ours: bool,
}

/// The addresses that the host had at a moment.
#[derive(Clone, Debug, Default)]
pub struct Present(HashMap<IpAddr, Vec<Entry>>);

impl Present {
    fn of(messages: &[AddressMessage]) -> Self {
        let mut all = HashMap::<_, Vec<_>>::new();
        for message in messages {
            if let Some((ifindex, net)) = own(message) {
                let entry = Entry { ifindex, net, ours: is_ours(message) };
                all.entry(net.addr()).or_default().push(entry);
            }
        }
        Self(all)
    }

    /// Whether an address is held at this interface.
    #[must_use]
    pub fn is_held(&self, interface: &Interface, address: IpAddr) -> bool {
        self.entries(address).any(|entry| entry.ours && entry.ifindex == interface.index)
    }

    /// Whether an address is held anywhere.
    #[must_use]
    pub fn has_held(&self, address: IpAddr) -> bool {
        self.entries(address).any(|entry| entry.ours)
    }

    fn entries(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.0.get(&address).into_iter().flatten()
    }
}

/// Has the kernel add and remove addresses.
#[derive(Debug)]
pub struct Addresses {
    requests: Requests,
}

impl Addresses {
    /// Of the network namespace of the calling thread, which must be in a
    /// runtime.
    ///
    /// # Errors
    /// If there is no netlink socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { requests: Requests::open().map_err(Error::Open)? })
    }

    /// The addresses that the host has now.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn present(&mut self) -> Result<Present, Error> {
        let messages = self.requests()?.address_messages().await.map_err(Error::Read)?;
        Ok(Present::of(&messages))
    }

    /// Makes sure that nobody else gave the host this address, at any interface:
    /// the kernel answers for an address at all of them, so both nodes would.
    /// Other people's addresses are those without a lifetime, or with the mark
    /// of another, or with a network.
    ///
    /// # Errors
    /// [`Error::Foreign`].
    pub async fn refuse_foreign(
        &mut self,
        present: &Present,
        address: IpAddr,
    ) -> Result<(), Error> {
        let Some(entry) = present.entries(address).find(|entry| !entry.ours) else {
            return Ok(());
        };
        let found = link::numbered(self.requests()?, entry.ifindex).await;
        let interface = found.map_or_else(|_| entry.ifindex.to_string(), |found| found.name);
        Err(Error::Foreign { address: entry.net, interface })
    }

    /// Gives `interface` an address, or holds it for longer: for `valid`,
    /// rounded up to seconds, which the kernel measures by a second or so. If
    /// somebody else gave the interface that address, it becomes one that is
    /// held: see [`Self::refuse_foreign`] first.
    ///
    /// An IPv6 address can be used at once, without duplicate address detection
    /// (RFC 4862, section 5.4), and is deprecated from the start, so that the
    /// host does not choose it for connections of its own, which would end when
    /// it moves (RFC 6724, section 5, rule 3).
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn hold(
        &mut self,
        interface: &Interface,
        address: IpAddr,
        valid: Duration,
    ) -> Result<(), Error> {
        let order = self.requests()?.set_address(held_for(interface.index, address, valid));
        let failed = |source| Error::Hold { address, interface: interface.name.clone(), source };
        order.await.map_err(failed)
    }

    /// Takes an address from all interfaces where it is held, by an earlier run
    /// of the agent, too. Not an error: it or the interface is not there (any
    /// more).
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn release(&mut self, present: &Present, address: IpAddr) -> Result<(), Error> {
        for &Entry { ifindex, .. } in present.entries(address).filter(|entry| entry.ours) {
            match self.requests()?.delete_address(message(ifindex, address)).await {
                Err(source) if !is_gone(&source) => {
                    return Err(Error::Release { address, ifindex, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The socket, a new one if the kernel has ended the connection.
    fn requests(&mut self) -> Result<&Requests, Error> {
        if self.requests.is_lost() {
            self.requests = Requests::open().map_err(Error::Open)?;
        }
        Ok(&self.requests)
    }
}

/// Whether the kernel refuses to remove what is not there.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV))
}

/// The address that a message from the kernel tells of, and its interface.
fn own(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let (address, index) = route::address(message)?;
    Some((index, IpNet::new(address, message.header.prefix_len).ok()?))
}

/// Whether we gave the host this address. Kernels before 5.18 keep no marks;
/// there it is enough that its lifetime ends.
fn is_ours(message: &AddressMessage) -> bool {
    let mut ends = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Protocol(by) if *by != AddressProtocol::Other(OUR_PROTOCOL) => {
                return false;
            }
            AddressAttribute::CacheInfo(lifetimes) => ends = lifetimes.ifa_valid != FOREVER,
            _ => {}
        }
    }
    ends && own(message).is_some_and(|(_, net)| net.prefix_len() == net.max_prefix_len())
}

/// Names an address at an interface.
fn message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    (message.header.family, message.header.prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// [`message`] with all that makes an address ours.
fn held_for(index: u32, address: IpAddr, valid: Duration) -> AddressMessage {
    // The kernel would make a route to the address itself, in vain.
    let mut flags = AddressFlags::Noprefixroute;
    flags.set(AddressFlags::Nodad, address.is_ipv6());
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = seconds(valid);
    // The kernel does not look at this when it chooses an IPv4 address.
    lifetimes.ifa_preferred = if address.is_ipv4() { lifetimes.ifa_valid } else { 0 };
    let mut message = message(index, address);
    message.attributes.extend([
        AddressAttribute::Flags(flags),
        AddressAttribute::CacheInfo(lifetimes),
        AddressAttribute::Protocol(AddressProtocol::Other(OUR_PROTOCOL)),
    ]);
    message
}

/// Whole seconds, rounded up, as a lifetime that ends: the kernel refuses 0.
fn seconds(valid: Duration) -> u32 {
    let seconds = valid.as_nanos().div_ceil(1_000_000_000).max(1);
    u32::try_from(seconds).map_or(FOREVER - 1, |seconds| seconds.min(FOREVER - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(attributes: &[AddressAttribute]) -> AddressMessage {
        let mut message = message(7, "192.0.2.1".parse().unwrap());
        message.attributes.extend_from_slice(attributes);
        message
    }

    fn valid(seconds: u32) -> AddressAttribute {
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_valid = seconds;
        AddressAttribute::CacheInfo(lifetimes)
    }

    #[test]
    fn a_lifetime_is_whole_seconds_and_ends() {
        let millis = Duration::from_millis;
        let cases = [(0, 1), (1, 1), (1000, 1), (1001, 2), (u64::MAX, FOREVER - 1)];
        assert_eq!(cases.map(|(valid, _)| seconds(millis(valid))), cases.map(|(_, end)| end));
        assert_eq!(seconds(Duration::from_secs(FOREVER.into())), FOREVER - 1);
    }

    #[test]
    fn what_is_held_is_recognised() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = address.parse().unwrap();
            let message = held_for(7, address, Duration::from_secs(3));
            assert!(is_ours(&message), "{address}");
            assert_eq!(own(&message), Some((7, address.into())));
        }
    }

    #[test]
    fn addresses_of_others_are_recognised() {
        let by = |number| AddressAttribute::Protocol(AddressProtocol::from(number));
        assert!(!is_ours(&with(&[])));
        assert!(!is_ours(&with(&[valid(FOREVER)])));
        assert!(!is_ours(&with(&[valid(FOREVER), by(OUR_PROTOCOL)])));
        // From a router's advertisement.
        assert!(!is_ours(&with(&[valid(3600), by(2)])));
        assert!(is_ours(&with(&[valid(3600)])));
        // In a network, as from a DHCP server.
        let mut leased = with(&[valid(3600)]);
        leased.header.prefix_len = 24;
        assert!(!is_ours(&leased));
    }
}
