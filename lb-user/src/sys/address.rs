//! Addresses that the host has for a time: the kernel takes back what is not
//! held anew, whatever becomes of the agent.

use std::{collections::HashSet, io, net::IpAddr, time::Duration};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo},
};

use super::{
    link,
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
    /// The interface is not there, or the kernel does not tell about it.
    #[error(transparent)]
    Interface(#[from] link::Error),
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
        /// Where.
        interface: String,
    },
    /// The kernel does not add the address.
    #[error("cannot give interface `{interface}` the address `{address}`")]
    Hold {
        /// Which.
        address: IpNet,
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not remove the address.
    #[error("cannot take the address `{address}` from interface `{interface}`")]
    Release {
        /// Which.
        address: IpNet,
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Addresses that the host holds for a time.
#[derive(Debug)]
pub struct Addresses {
    requests: Requests,
    /// Known to be ours, with the indices of their interfaces.
    held: HashSet<(u32, IpNet)>,
}

impl Addresses {
    /// Of the network namespace of the calling thread, which must be in a
    /// runtime.
    ///
    /// # Errors
    /// If there is no netlink socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { requests: Requests::open().map_err(Error::Open)?, held: HashSet::new() })
    }

    /// Makes sure that nobody else gave the host one of `addresses`, at any
    /// interface: the kernel answers for an address at all of them, so both
    /// nodes would. Other people's addresses are those without a lifetime, or
    /// with the mark of another.
    ///
    /// # Errors
    /// [`Error::Foreign`] names the first.
    pub async fn refuse_foreign(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let requests = self.requests()?;
        let messages = requests.address_messages().await.map_err(Error::Read)?;
        let foreign = messages
            .iter()
            .filter(|message| !is_ours(message))
            .find_map(|message| own(message).filter(|(_, own)| addresses.contains(&own.addr())));
        let Some((index, address)) = foreign else { return Ok(()) };
        let interface = link::numbered(requests, index).await?.name;
        Err(Error::Foreign { address, interface })
    }

    /// Gives `interface` an address, or holds it for longer: for `valid`,
    /// rounded up to seconds, which the kernel measures by a second or so.
    ///
    /// An IPv6 address can be used at once, without duplicate address detection
    /// (RFC 4862, section 5.4), and is deprecated from the start, so that the
    /// host does not choose it for connections of its own, which would end when
    /// it moves (RFC 6724, section 5, rule 3). The kernel makes a route to the
    /// prefix, if that is more than the address.
    ///
    /// # Errors
    /// The interface does not exist, [`Self::refuse_foreign`], or the kernel's
    /// answer.
    pub async fn hold(
        &mut self,
        interface: &str,
        address: IpNet,
        valid: Duration,
    ) -> Result<(), Error> {
        // It may be another interface than the last time.
        let index = link::named(self.requests()?, interface).await?.index;
        if !self.held.contains(&(index, address)) {
            self.refuse_foreign(&[address.addr()]).await?;
        }
        let order = self.requests.set_address(held_for(index, address, valid));
        let failed = |source| Error::Hold { address, interface: interface.to_owned(), source };
        order.await.map_err(failed)?;
        self.held.insert((index, address));
        Ok(())
    }

    /// Takes an address that was held from `interface`, by an earlier run of
    /// the agent, too. Not an error: the address or the interface is not there
    /// (any more), or somebody else configured the address.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn release(&mut self, interface: &str, address: IpNet) -> Result<(), Error> {
        let index = match link::named(self.requests()?, interface).await {
            Err(link::Error::NoSuchName(_)) => return Ok(()),
            found => found?.index,
        };
        if !self.held.contains(&(index, address)) && !self.finds(index, address).await? {
            return Ok(());
        }
        match self.requests.delete_address(message(index, address)).await {
            Err(error) if !is_gone(&error) => {
                let interface = interface.to_owned();
                return Err(Error::Release { address, interface, source: error });
            }
            _ => self.held.remove(&(index, address)),
        };
        Ok(())
    }

    /// Whether the kernel has this address as ours.
    async fn finds(&self, index: u32, address: IpNet) -> Result<bool, Error> {
        let messages = self.requests.address_messages().await.map_err(Error::Read)?;
        Ok(messages
            .iter()
            .any(|message| is_ours(message) && own(message) == Some((index, address))))
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
    ends
}

/// Names an address at an interface.
fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

/// [`message`] with all that makes an address ours.
fn held_for(index: u32, address: IpNet, valid: Duration) -> AddressMessage {
    let mut flags = AddressFlags::empty();
    // The kernel would make one to the address itself, in vain.
    flags.set(AddressFlags::Noprefixroute, address.prefix_len() == address.max_prefix_len());
    flags.set(AddressFlags::Nodad, address.addr().is_ipv6());
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = seconds(valid);
    // The kernel does not look at this when it chooses an IPv4 address.
    lifetimes.ifa_preferred = if address.addr().is_ipv4() { lifetimes.ifa_valid } else { 0 };
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
        let mut message = message(7, "192.0.2.1/24".parse().unwrap());
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
        for address in ["192.0.2.1/32", "192.0.2.1/24", "2001:db8::1/128", "2001:db8::1/64"] {
            let address = address.parse().unwrap();
            let message = held_for(7, address, Duration::from_secs(3));
            assert!(is_ours(&message), "{address}");
            assert_eq!(own(&message), Some((7, address)));
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
    }
}
