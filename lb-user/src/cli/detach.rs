//! `lb detach`.

use std::path::{Path, PathBuf};

use super::{Failure, Status, count, require_capabilities, say, warn, with_causes};
use crate::{
    config,
    dataplane::pins::{self, Detached, PinError},
    sys::route,
};

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
    pub(super) fn run(self) -> Result<(), Failure> {
        let pin_dir = match (self.config, self.pin_dir) {
            (Some(file), _) => configured(&file)?,
            (None, Some(pin_dir)) => pin_dir,
            (None, None) => config::file::PIN_DIR.into(),
        };
        require_capabilities()?;
        let outcome = match pins::detach(&pin_dir)? {
            Detached::Nothing => "nothing was attached".to_owned(),
            Detached::Removed(links) => {
                format!("detached from {}", count(links.len(), "interface"))
            }
        };
        say(format!("{}: {outcome}", pin_dir.display()));
        forget_neighbours();
        Ok(())
    }
}

/// The kernel need not keep the backends' neighbours resolved any more. That
/// it does is harmless, so a failure is only told.
fn forget_neighbours() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let released = match runtime {
        Ok(runtime) => runtime.block_on(route::release_all()).map_err(|error| with_causes(&error)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = released {
        warn(format!("the kernel goes on looking after the backends' neighbours: {error}"));
    }
}

/// `node.pin_dir` of a configuration file.
fn configured(file: &Path) -> Result<PathBuf, Failure> {
    // A file that leaves the interfaces to `lb agent --interface` will do.
    let interface = "none".to_owned();
    Ok(config::load(file, &[interface])?.node.pin_dir)
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        Self::new(Status::Refused, with_causes(&error))
    }
}
