//! A program's links: made, adopted where they are pinned, and taken back.

use std::{io, path::Path, time::Duration};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::{FdLink, PinnedLink},
    xdp::{XdpError, XdpLink},
};
use tokio::time::{Instant, sleep};

use super::{AttachError, Attachment};
use crate::{
    core::model::XdpMode,
    dataplane::pins::PinDir,
    sys::link::{self, Interface, Mode},
};

/// How long the kernel may take to detach a link that nothing holds any more.
const DETACHING: Duration = Duration::from_secs(1);

/// A program that can be attached, and where its links are pinned.
pub(in crate::dataplane) struct Attachable<'a> {
    pub(in crate::dataplane) pins: &'a PinDir,
    pub(in crate::dataplane) program: &'a mut Xdp,
}

impl Attachable<'_> {
    /// See [`super::super::load::DataPlane::attach`].
    pub(in crate::dataplane) async fn attach(
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

    /// See [`super::super::load::DataPlane::take_back`].
    pub(super) async fn take_back(
        &mut self,
        attachments: &[Attachment],
    ) -> Result<(), AttachError> {
        for attachment in attachments.iter().filter(|made| !made.is_adopted()) {
            match attachment.before {
                Some(mode) => drop(self.attach_one(attachment.ifindex, like(mode)).await?),
                None => self.pins.remove(&self.pins.link(attachment.ifindex))?,
            }
        }
        Ok(())
    }

    async fn attach_one(&mut self, ifindex: u32, mode: XdpMode) -> Result<Attachment, AttachError> {
        let mut found = link::by_index(ifindex).await?;
        if found.mac.is_none() {
            return Err(AttachError::NotEthernet(found.name));
        }
        let before = self.adopt(&found)?;
        if let Some(now) = before.filter(|&now| !allows(mode, now)) {
            tracing::info!(
                interface = found.name,
                %now,
                "attached in another mode than is asked for, attaching anew"
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
        let id = self.program.attach_to_link(link).map_err(into_io)?;
        // Its pin keeps it; without a descriptor of ours, removing the pin detaches.
        drop(self.program.take_link(id).map_err(into_io)?);
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
        let refused = |error| refusal(interface, into_io(error));
        let id = self.program.attach_to_if_index(interface.index, mode).map_err(refused)?;
        let link = self.program.take_link(id).map_err(refused)?;
        let not_pinned = |source| AttachError::Pin { interface: interface.name.clone(), source };
        let link = FdLink::try_from(link).map_err(|error| not_pinned(io::Error::other(error)))?;
        link.pin(&pin).map_err(|error| not_pinned(io::Error::other(error)))?;
        Ok(())
    }
}

/// Whether a program that is attached like `now` is as `mode` says.
pub(super) fn allows(mode: XdpMode, now: Mode) -> bool {
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
        Some(libc::EEXIST) if interface.part_of.is_some() && interface.xdp.is_none() => {
            AttachError::Upper(name)
        }
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
