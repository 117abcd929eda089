//! Attaches the program to interfaces by links that outlive the agent.

use std::{io, path::Path, time::Duration};

use aya::programs::{
    ProgramError, XdpMode as AyaMode,
    links::{FdLink, PinnedLink},
    xdp::{XdpError, XdpLink},
};
use lb_common::maps;
use tokio::time::{Instant, sleep};

use super::{
    load::{DataPlane, LoadError, program},
    pins::PinError,
};
use crate::{
    core::model::XdpMode,
    sys::link::{self, Attached, Interface, Mode},
};

/// How long the kernel may take to detach a link that nothing holds any more.
const DETACHING: Duration = Duration::from_secs(1);

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
    /// Whether another interface, or the same with other settings, would do.
    #[must_use]
    pub fn is_operators(&self) -> bool {
        match self {
            Self::Interface(error) => matches!(error, link::Error::NoSuchName(_)),
            Self::Foreign { .. }
            | Self::NotEthernet(_)
            | Self::NotNative(_)
            | Self::Queues(_)
            | Self::Mtu { .. } => true,
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
        let mut attachments = Vec::new();
        for interface in interfaces {
            match self.attach_one(interface.index, mode).await {
                Ok(attachment) => attachments.push(attachment),
                Err(error) => {
                    self.take_back(&attachments).await?;
                    return Err(error);
                }
            }
        }
        Ok(attachments)
    }

    /// Undoes what [`Self::attach`] did, but for the program under adopted links.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn take_back(&mut self, attachments: &[Attachment]) -> Result<(), AttachError> {
        for attachment in attachments.iter().filter(|made| !made.is_adopted()) {
            match attachment.before {
                Some(mode) => drop(self.attach_one(attachment.ifindex, like(mode)).await?),
                None => self.detach(attachment.ifindex)?,
            }
        }
        Ok(())
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

    async fn attach_one(&mut self, ifindex: u32, mode: XdpMode) -> Result<Attachment, AttachError> {
        let mut found = link::by_index(ifindex).await?;
        if found.mac.is_none() {
            return Err(AttachError::NotEthernet(found.name));
        }
        self.ports.insert(ifindex, ifindex, None, 0).map_err(|error| AttachError::Refused {
            interface: found.name.clone(),
            source: io::Error::other(error),
        })?;
        let before = self.adopt(&found)?;
        if let Some(now) = before.filter(|&now| !allows(mode, now)) {
            tracing::info!(
                interface = found.name,
                %now,
                "attached in another mode than `node.xdp_mode`, attaching anew"
            );
            self.pins.remove(&self.pins.link(ifindex))?;
            found = bare(ifindex).await?;
            if let Err(error) = self.attach_anew(&found, mode) {
                self.attach_anew(&found, like(now))?;
                return Err(error);
            }
        } else if before.is_none() {
            self.attach_anew(&found, mode)?;
        }
        let mode = link::by_index(ifindex).await?.xdp.map(|xdp| xdp.mode);
        Ok(Attachment { interface: found.name, ifindex, mode, before })
    }

    /// Puts our program under the link that is pinned for the interface and
    /// says how it is attached; `None` where there is none, or it is another
    /// interface's: one that is gone, or has this number in another network
    /// namespace.
    fn adopt(&mut self, interface: &Interface) -> Result<Option<Mode>, AttachError> {
        let (ifindex, pin) = (interface.index, self.pins.link(interface.index));
        if !pin.exists() {
            return Ok(None);
        }
        match self.replace(&pin, interface) {
            Ok(mode) => Ok(Some(mode)),
            Err(error) => {
                let interface = &interface.name;
                tracing::info!(interface, ifindex, %error, "a pinned link is of no use, dropped");
                self.pins.remove(&pin)?;
                Ok(None)
            }
        }
    }

    fn replace(&mut self, pin: &Path, interface: &Interface) -> io::Result<Mode> {
        let link = pinned(pin)?;
        let under = link.info().map_err(io::Error::other)?.program_id();
        let here = interface.xdp.filter(|xdp| xdp.program == Some(under));
        let here = here.ok_or_else(|| io::Error::other("the interface is not the link's"))?;
        let link = XdpLink::try_from(link).map_err(io::Error::other)?;
        let program = program(&mut self.ebpf, maps::PROGRAM).map_err(io::Error::other)?;
        let id = program.attach_to_link(link).map_err(into_io)?;
        // Its pin keeps it; without a descriptor of ours, removing the pin detaches.
        drop(program.take_link(id).map_err(into_io)?);
        Ok(here.mode)
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

/// Whether a program that is attached like `now` is as `mode` says.
fn allows(mode: XdpMode, now: Mode) -> bool {
    match mode {
        XdpMode::Auto => true,
        XdpMode::Native => now != Mode::Generic,
        XdpMode::Generic => now == Mode::Generic,
    }
}

/// What to ask for to get `mode` again.
fn like(mode: Mode) -> XdpMode {
    if mode == Mode::Generic { XdpMode::Generic } else { XdpMode::Native }
}

fn pinned(pin: &Path) -> io::Result<FdLink> {
    PinnedLink::from_pin(pin).map(FdLink::from).map_err(io::Error::other)
}

/// The interface once the kernel has detached a link without a pin, which it
/// does a moment later; as it is if it takes longer.
async fn bare(ifindex: u32) -> Result<Interface, link::Error> {
    let deadline = Instant::now() + DETACHING;
    loop {
        let interface = link::by_index(ifindex).await?;
        if interface.xdp.is_none() || Instant::now() > deadline {
            return Ok(interface);
        }
        sleep(DETACHING / 200).await;
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
