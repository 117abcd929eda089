//! One balancer of a pair.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use super::{Agent, Config, Error, Mac, Netns, Pins, Result};

/// Port of heartbeats.
const HEARTBEATS: u16 = 4790;

/// A balancer of a [`super::PairLab`]. No agent runs in it yet.
#[derive(Debug)]
pub struct Node {
    /// `lb-a` or `lb-b`, which is also its ports' name at both switches.
    pub name: &'static str,
    /// Where it lives; `l0` is in the front network, `l1` in the back one.
    pub netns: Netns,
    /// Last part of its own addresses.
    pub(super) last: u8,
    pub(super) binary: PathBuf,
    /// Its files.
    pub(super) dir: PathBuf,
    pub(super) pin_dir: PathBuf,
}

impl Node {
    /// Its own address in the front network.
    #[must_use]
    pub fn front(&self) -> IpAddr {
        Ipv4Addr::new(10, 3, 0, self.last).into()
    }

    /// Its own address in the back network.
    #[must_use]
    pub fn back(&self) -> IpAddr {
        Ipv4Addr::new(10, 2, 0, self.last).into()
    }

    /// Where it listens for heartbeats.
    #[must_use]
    pub fn listens(&self) -> Vec<SocketAddr> {
        [self.front(), self.back()].map(|address| (address, HEARTBEATS).into()).to_vec()
    }

    /// An address of the client's: what the client sends from it to a VIP, the
    /// router hands to this node, whoever has the VIP.
    #[must_use]
    pub fn steered(&self) -> IpAddr {
        Ipv4Addr::new(10, 1, 0, 60 + self.last).into()
    }

    /// Address of its interface `l1`: source of all that it sends to backends.
    #[must_use]
    pub fn mac(&self) -> Mac {
        [2, 0, 0, 0, 1, self.last]
    }

    /// A command of `lb` inside.
    #[must_use]
    pub fn lb(&self) -> Command {
        self.netns.command(&self.binary)
    }

    /// Its agent's admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("lb.sock")
    }

    /// Its pins.
    #[must_use]
    pub fn pins(&self) -> Pins {
        Pins::new(&self.pin_dir)
    }

    /// A path in its directory, which goes with the lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Has all of `lb` that starts inside from now on count its clocks from another
    /// moment: they are ahead of everybody else's (time_namespaces(7)).
    ///
    /// # Errors
    /// Its directory cannot be written to.
    pub fn shift_clocks(&mut self, ahead: Duration) -> Result<()> {
        let (script, seconds) = (self.path("lb"), ahead.as_secs());
        let text = format!(
            "#!/bin/sh\nexec unshare --time --monotonic {seconds} --boottime {seconds} -- \
             '{}' \"$@\"\n",
            self.binary.display()
        );
        let allow = |()| fs::set_permissions(&script, fs::Permissions::from_mode(0o700));
        let written = fs::write(&script, text).and_then(allow);
        written.map_err(Error::io(format!("write `{}`", script.display())))?;
        self.binary = script;
        Ok(())
    }

    /// Writes its configuration and starts the agent with it.
    ///
    /// # Errors
    /// Those of [`Agent::start`].
    pub fn start_agent(&self, config: &Config) -> Result<Agent> {
        let path = self.path("lb.toml");
        let failed = Error::io(format!("write `{}`", path.display()));
        fs::write(&path, config.to_string()).map_err(failed)?;
        Agent::start(&self.binary, &self.netns, &path)
    }
}
