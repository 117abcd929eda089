//! Threads of the kernel, as `/proc` tells them (proc(5)).

use std::{collections::BTreeSet, fs};

use anyhow::Result;

/// Threads of the kernel whose names begin like this.
pub(super) fn kernel_threads(prefix: &str) -> Result<BTreeSet<u32>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        name.starts_with(prefix).then_some(pid)
    });
    Ok(pids.collect())
}
