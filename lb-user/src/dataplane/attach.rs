//! Attaches the program to interfaces by links that outlive the agent.

mod links;

use std::io;

use lb_common::maps;

pub(super) use self::links::Attachable;
use self::links::allows;
use super::{
    load::{DataPlane, LoadError, program},
    pins::PinError,
};
use crate::{
    core::model::XdpMode,
    sys::link::{self, Attached, Interface, Mode, Whole},
};

/// The program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such interface, or the kernel does not tell.
    #[error(transparent)]
    Interface(#[from] link::Error),
    /// Somebody else's program is there.
    #[error(
        "interface `{interface}` already has an XDP program ({program}), expected none: find it \
         with `bpftool net show dev {interface}`, remove it with `ip link set dev {interface} xdp \
         off`, or with the program that holds its link"
    )]
    Foreign {
        /// The interface's name.
        interface: String,
        /// Its id, or what is known of it.
        program: String,
    },
    /// The program reads Ethernet headers.
    #[error("interface `{0}` carries no Ethernet frames, expected one that does")]
    NotEthernet(String),
    /// The driver has no native XDP.
    #[error(
        "the driver of interface `{0}` has no native XDP, expected XDP mode \"auto\" or \"generic\" \
         with it (`node.xdp_mode`)"
    )]
    NotNative(String),
    /// A veth with too few receive queues.
    #[error(
        "interface `{0}` has fewer receive queues than its peer has transmit queues, expected as \
         many: create a veth pair with equal `numrxqueues` and `numtxqueues`"
    )]
    Queues(String),
    /// Frames do not fit one page.
    #[error(
        "the MTU of interface `{interface}` is {mtu}, expected at most what its driver takes with \
         native XDP (3506 on many): `ip link set dev {interface} mtu 1500`"
    )]
    Mtu {
        /// The interface's name.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// The kernel lets a program be at a part only before one is at the whole.
    #[error(
        "interface `{0}` is a part of one that has an XDP program, expected one without: name \
         either, and have `lb detach` take the program from the other first"
    )]
    Upper(String),
    /// The kernel runs the program at a bond's parts when it is attached to the bond.
    #[error(
        "interface `{interface}` is a part of the bond `{bond}`, expected the bond itself: the \
         kernel runs its program at each part"
    )]
    Bonded {
        /// The interface's name.
        interface: String,
        /// The bond's.
        bond: String,
    },
    /// Which tag a frame needs is the bridge's business.
    #[error(
        "interface `{interface}` is a port of the bridge `{bridge}`, which filters VLANs, expected \
         one that does not (`ip link set dev {bridge} type bridge vlan_filtering 0`), or the \
         bridge itself"
    )]
    FiltersVlans {
        /// The interface's name.
        interface: String,
        /// The bridge's.
        bridge: String,
    },
    /// Frames for other hosts come by, too.
    #[error(
        "interface `{interface}` is a port of the bridge `{bridge}`, where what is for other hosts \
         comes by as well, expected the bridge itself (`--xdp-mode auto` or `generic`)"
    )]
    Port {
        /// The interface's name.
        interface: String,
        /// The bridge's.
        bridge: String,
    },
    /// The kernel refused for another reason.
    #[error("the kernel refused to attach to interface `{interface}`")]
    Refused {
        /// The interface's name.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The link cannot be kept.
    #[error("cannot pin the link of interface `{interface}`")]
    Pin {
        /// The interface's name.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// See [`PinError`].
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The program is not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl AttachError {
    /// Whether another interface, or the same with other settings, would do.
    #[must_use]
    pub fn is_operators(&self) -> bool {
        match self {
            Self::Interface(error) => matches!(error, link::Error::NoSuchName(_)),
            Self::Foreign { .. }
            | Self::NotEthernet(_)
            | Self::NotNative(_)
            | Self::Queues(_)
            | Self::Mtu { .. }
            | Self::Upper(_)
            | Self::Bonded { .. }
            | Self::Port { .. }
            | Self::FiltersVlans { .. } => true,
            _ => false,
        }
    }
}

impl AttachError {
    /// Whether generic mode may do where native does not.
    fn generic_may_do(&self) -> bool {
        match self {
            Self::NotNative(_) | Self::Queues(_) | Self::Mtu { .. } => true,
            Self::Refused { source, .. } => source.raw_os_error() == Some(libc::EINVAL),
            _ => false,
        }
    }
}

/// Fails where what an interface is a part of leaves nothing to the data plane.
///
/// # Errors
/// [`AttachError::Bonded`], [`AttachError::FiltersVlans`], or the kernel does not tell.
pub async fn check_whole(interface: &Interface) -> Result<(), AttachError> {
    let name = interface.name.clone();
    match interface.part_of {
        None => {}
        Some(Whole::Bond(index)) => {
            let bond = link::by_index(index).await?.name;
            return Err(AttachError::Bonded { interface: name, bond });
        }
        Some(Whole::Bridge(index)) => {
            let bridge = link::by_index(index).await?;
            if bridge.filters_vlans {
                return Err(AttachError::FiltersVlans { interface: name, bridge: bridge.name });
            }
        }
    }
    Ok(())
}

/// The same for a program that takes each frame for its host's.
pub(super) async fn check_host(interface: &Interface) -> Result<(), AttachError> {
    check_whole(interface).await?;
    if let Some(Whole::Bridge(index)) = interface.part_of {
        let bridge = link::by_index(index).await?.name;
        return Err(AttachError::Port { interface: interface.name.clone(), bridge });
    }
    Ok(())
}

/// An interface the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// How; `None`: the kernel does not tell.
    pub mode: Option<Mode>,
    /// How it was attached before, by a link of ours; `None`: it was not.
    pub before: Option<Mode>,
}

impl Attachment {
    /// Whether the link was there before and only its program was replaced.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.before.is_some() && self.before == self.mode
    }
}

impl DataPlane {
    /// Attaches to all of `interfaces`, adopting links that are there and are
    /// of the right mode; on failure all is as it was before this call.
    ///
    /// # Errors
    /// One of them does not exist or cannot be attached to.
    pub async fn attach(
        &mut self,
        interfaces: &[Interface],
        mode: XdpMode,
    ) -> Result<Vec<Attachment>, AttachError> {
        for interface in interfaces.iter().filter(|one| !self.pins.link(one.index).exists()) {
            check_whole(interface).await?;
        }
        for Interface { index, name, .. } in interfaces {
            self.ports.insert(*index, *index, None, 0).map_err(|error| AttachError::Refused {
                interface: name.clone(),
                source: io::Error::other(error),
            })?;
        }
        let outcome = self.program()?.attach(interfaces, mode).await;
        if outcome.is_err() {
            self.forget_ports(interfaces.iter().map(|interface| interface.index));
        }
        outcome
    }

    /// Undoes what [`Self::attach`] did, but for the program under adopted links.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn take_back(&mut self, attachments: &[Attachment]) -> Result<(), AttachError> {
        let outcome = self.program()?.take_back(attachments).await;
        self.forget_ports(attachments.iter().map(|made| made.ifindex));
        outcome
    }

    /// Nothing is redirected any more to those of these interfaces that have no link.
    fn forget_ports(&mut self, interfaces: impl Iterator<Item = u32>) {
        for ifindex in interfaces.filter(|ifindex| !self.pins.link(*ifindex).exists()) {
            // The kernel forgets it by itself when the interface goes.
            let _ = self.ports.remove(ifindex);
        }
    }

    fn program(&mut self) -> Result<Attachable<'_>, LoadError> {
        Ok(Attachable { pins: &self.pins, program: program(&mut self.ebpf, maps::PROGRAM)? })
    }

    /// Whether our program runs at the interface, in a way that `mode` allows.
    #[must_use]
    pub fn serves(&self, interface: &Interface, mode: XdpMode) -> bool {
        let ours = |xdp: &Attached| xdp.program == Some(self.program_id);
        interface.xdp.as_ref().is_some_and(|xdp| ours(xdp) && allows(mode, xdp.mode))
    }

    /// Detaches from one interface; it may be gone already.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), PinError> {
        // The kernel forgets the port by itself when the interface goes.
        let _ = self.ports.remove(ifindex);
        self.pins.remove(&self.pins.link(ifindex))
    }

    /// Indexes of the interfaces with a pinned link, gone interfaces included.
    ///
    /// # Errors
    /// The pin directory cannot be read.
    pub fn links(&self) -> Result<Vec<u32>, PinError> {
        self.pins.links()
    }
}
