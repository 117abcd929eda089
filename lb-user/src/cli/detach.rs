//! `lb detach`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Failure, Status, console::Console, count, require, with_causes};
use crate::{
    config,
    dataplane::pins::{self, Detached, PACKET_PATH, PinError},
    sys::{capability::Capability, route},
};

/// To look at pinned maps, and to tell the kernel of neighbours.
const NEEDED: [Capability; 2] = [Capability::Bpf, Capability::NetAdmin];

/// Remove the data plane: links, programs and maps
///
/// Stopping the agent leaves the data plane in place and forwarding; this
/// takes it away, and with it every flow's affinity. Stop the agent first.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Detach {
    /// The agent's configuration file, for its `node.pin_dir`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory where the data plane is pinned [default: /sys/fs/bpf/lb]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
}

impl Detach {
    pub(super) fn run(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let pin_dir = match (self.config, self.pin_dir) {
            (Some(file), _) => configured(&file)?,
            (None, Some(pin_dir)) => pin_dir,
            (None, None) => config::file::PIN_DIR.into(),
        };
        require(&NEEDED)?;
        let detached = pins::detach(&pin_dir, &PACKET_PATH)?;
        forget_neighbours(console);
        say(console, &pin_dir, &detached)
    }
}

/// Says what was detached.
pub(super) fn say(
    console: &mut Console<'_>,
    pin_dir: &Path,
    detached: &Detached,
) -> Result<(), Failure> {
    let pin_dir = pin_dir.display();
    match detached {
        Detached::Nothing => console.say(format_args!("{pin_dir}: nothing was attached")),
        Detached::Removed(links) => {
            let links = count(links.len() as u64, "interface");
            console.say(format_args!("{pin_dir}: detached from {links}"))
        }
    }
}

/// The kernel need not keep the backends' neighbours resolved any more. That
/// it does is harmless, so a failure is only told.
fn forget_neighbours(console: &mut Console<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let released = match runtime {
        Ok(runtime) => runtime.block_on(route::release_all()).map_err(|error| with_causes(&error)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = released {
        console.tell(format_args!(
            "warning: the kernel goes on looking after the backends' neighbours: {error}"
        ));
    }
}

/// A configuration file, as far as it matters here: one that the agent would
/// refuse will do.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pinned {
    node: Node,
}

/// `[node]`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Node {
    pin_dir: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Self { pin_dir: config::file::PIN_DIR.into() }
    }
}

/// `node.pin_dir` of a configuration file.
fn configured(file: &Path) -> Result<PathBuf, Failure> {
    let text = config::read_file(file)?;
    let pinned: Pinned = toml::from_str(&text).map_err(|error| {
        let error =
            format!("{}: no `node.pin_dir` to be found: {}", file.display(), error.message());
        Failure::new(Status::BadConfiguration, error).hint("say it with `--pin-dir`")
    })?;
    Ok(pinned.node.pin_dir)
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        Self::new(Status::Refused, with_causes(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_the_agent_would_refuse_tells_where_the_pins_are() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lb.toml");
        fs::write(&file, "[node]\npin_dir = \"/sys/fs/bpf/a\"\nflows = 0\n[new]\n").unwrap();
        assert_eq!(configured(&file).unwrap(), Path::new("/sys/fs/bpf/a"));
        fs::write(&file, "[node]\n").unwrap();
        assert_eq!(configured(&file).unwrap(), Path::new(config::file::PIN_DIR));
        for wrong in ["[node", "[node]\npin_dir = 5"] {
            fs::write(&file, wrong).unwrap();
            let failure = configured(&file).unwrap_err();
            assert_eq!(failure.status, Status::BadConfiguration);
        }
    }
}
