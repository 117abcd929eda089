//! Whether this host has the files that probes need.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    agent::aside::aside,
    config::local::{self, LocalFile},
    core::model::Model,
};

/// How long files are looked at: on a disk that hangs that would be for ever.
const PATIENCE: Duration = Duration::from_millis(200);

/// Says which files are missing, as far as that is known soon.
pub(super) async fn lacks(model: &Model) -> Vec<String> {
    let files = local::files(model);
    let Ok(look) = aside(move || files.iter().filter_map(LocalFile::lack).collect()) else {
        return Vec::new();
    };
    timeout(PATIENCE, look).await.ok().and_then(Result::ok).unwrap_or_default()
}
