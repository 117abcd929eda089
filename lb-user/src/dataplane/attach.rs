//! Attaches the program to interfaces by links that outlive the agent.

use std::{io, path::Path};

use aya::programs::{
    ProgramError, XdpMode as AyaMode,
    links::{FdLink, LinkError, PinnedLink},
    xdp::{XdpError, XdpLink},
};
use lb_common::maps;

use super::{
    load::{DataPlane, LoadError, program},
    pins::PinError,
};
use crate::{
    core::model::XdpMode,
    sys::link::{self, Interface, Mode},
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
    /// The driver has no native XDP.
    #[error(
        "the driver of interface `{0}` has no native XDP, expected `node.xdp_mode` = \"auto\" or \
         \"generic\" with it"
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
    /// Whether generic mode may do where native does not.
    fn generic_may_do(&self) -> bool {
        match self {
            Self::NotNative(_) | Self::Queues(_) | Self::Mtu { .. } => true,
            Self::Refused { source, .. } => source.raw_os_error() == Some(libc::EINVAL),
            _ => false,
        }
    }
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
    /// Whether the link was there before and only its program was replaced.
    pub adopted: bool,
}

impl DataPlane {
    /// Attaches to all of `interfaces`, adopting links that are there; on
    /// failure the links made by this call are removed again.
    ///
    /// # Errors
    /// One of them does not exist or cannot be attached to.
    pub async fn attach(
        &mut self,
        interfaces: &[Interface],
        mode: XdpMode,
    ) -> Result<Vec<Attachment>, AttachError> {
        let mut attachments = Vec::new();
        for interface in interfaces {
            match self.attach_one(interface, mode).await {
                Ok(attachment) => attachments.push(attachment),
                Err(error) => {
                    for made in attachments.iter().filter(|made| !made.adopted) {
                        self.detach(made.ifindex)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(attachments)
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

    async fn attach_one(
        &mut self,
        interface: &Interface,
        mode: XdpMode,
    ) -> Result<Attachment, AttachError> {
        let ifindex = interface.index;
        self.ports.insert(ifindex, ifindex, None, 0).map_err(|error| AttachError::Refused {
            interface: interface.name.clone(),
            source: io::Error::other(error),
        })?;
        let adopted = self.adopt(ifindex)?;
        if !adopted {
            self.attach_anew(interface, mode)?;
        }
        let now = link::by_index(ifindex).await?;
        let mode = now.xdp.map(|xdp| xdp.mode);
        Ok(Attachment { interface: interface.name.clone(), ifindex, mode, adopted })
    }

    /// Puts our program under a link that is pinned; `false` where there is
    /// none, or the interface it was for is gone.
    fn adopt(&mut self, ifindex: u32) -> Result<bool, AttachError> {
        let pin = self.pins.link(ifindex);
        if !pin.exists() {
            return Ok(false);
        }
        match self.replace(&pin) {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::info!(ifindex, %error, "a pinned link leads nowhere, attaching anew");
                self.pins.remove(&pin)?;
                Ok(false)
            }
        }
    }

    fn replace(&mut self, pin: &Path) -> Result<(), AttachError> {
        let stale = |error: LinkError| AttachError::Refused {
            interface: pin.display().to_string(),
            source: io::Error::other(error),
        };
        let link = FdLink::from(PinnedLink::from_pin(pin).map_err(stale)?);
        let link = XdpLink::try_from(link).map_err(stale)?;
        let program = program(&mut self.ebpf, maps::PROGRAM)?;
        let refused = |error| AttachError::Refused {
            interface: pin.display().to_string(),
            source: into_io(error),
        };
        let id = program.attach_to_link(link).map_err(refused)?;
        // Its pin keeps it; without a descriptor of ours, removing the pin detaches.
        drop(program.take_link(id).map_err(refused)?);
        Ok(())
    }

    fn attach_anew(&mut self, interface: &Interface, mode: XdpMode) -> Result<(), AttachError> {
        if let Some(xdp) = interface.xdp {
            return Err(foreign(interface, xdp.program));
        }
        match mode {
            XdpMode::Native => self.create_link(interface, AyaMode::Driver),
            XdpMode::Generic => self.create_link(interface, AyaMode::Skb),
            XdpMode::Auto => match self.create_link(interface, AyaMode::Driver) {
                Err(error) if error.generic_may_do() => {
                    let reason = with_source(&error);
                    tracing::warn!(
                        interface = interface.name,
                        reason,
                        "falling back to generic XDP"
                    );
                    self.create_link(interface, AyaMode::Skb)
                }
                done => done,
            },
        }
    }

    fn create_link(&mut self, interface: &Interface, mode: AyaMode) -> Result<(), AttachError> {
        let pin = self.pins.link(interface.index);
        let program = program(&mut self.ebpf, maps::PROGRAM)?;
        let refused = |error| refusal(interface, into_io(error));
        let id = program.attach_to_if_index(interface.index, mode).map_err(refused)?;
        let link = program.take_link(id).map_err(refused)?;
        let not_pinned = |source| AttachError::Pin { interface: interface.name.clone(), source };
        let link = FdLink::try_from(link).map_err(|error| not_pinned(io::Error::other(error)))?;
        link.pin(&pin).map_err(|error| not_pinned(io::Error::other(error)))?;
        Ok(())
    }
}

/// What the kernel's answer means to an operator.
fn refusal(interface: &Interface, source: io::Error) -> AttachError {
    let name = interface.name.clone();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            foreign(interface, interface.xdp.and_then(|xdp| xdp.program))
        }
        Some(libc::EOPNOTSUPP) => AttachError::NotNative(name),
        Some(libc::ENOSPC) => AttachError::Queues(name),
        Some(libc::ERANGE) => AttachError::Mtu { interface: name, mtu: interface.mtu },
        Some(libc::ENODEV) => link::Error::NoSuchName(name).into(),
        _ => AttachError::Refused { interface: name, source },
    }
}

fn foreign(interface: &Interface, program: Option<u32>) -> AttachError {
    let program = program.map_or_else(|| "more than one".to_owned(), |id| format!("id {id}"));
    AttachError::Foreign { interface: interface.name.clone(), program }
}

/// The kernel's own answer, where there is one.
fn into_io(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::IOError(error) => error,
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error
            .raw_os_error()
            .map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error),
        other => io::Error::other(other),
    }
}

fn with_source(error: &AttachError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
