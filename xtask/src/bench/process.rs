//! What a process takes, as `/proc` tells it (proc(5)).

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

/// How the kernel calls the memory of BPF maps in `smaps`.
const MAPS: &str = "anon_inode:bpf-map";

/// Processor time of all threads of a process so far, the kernel's on its
/// behalf included; in steps of a tick, 10 ms as a rule.
pub(super) fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
    // SAFETY: takes a number, returns one.
    let second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks = ticks_of(&stat).with_context(|| format!("`{path}`: `{stat}`"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / second as f64))
}

/// Sum of fields 14 and 15: in its own code, and in the kernel.
fn ticks_of(stat: &str) -> Option<u64> {
    // The second field is a name in parentheses that may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok());
    ticks.sum()
}

/// Threads of the kernel whose names begin like this.
pub(super) fn kernel_threads(prefix: &str) -> Result<BTreeSet<u32>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        name.starts_with(prefix).then_some(pid)
    });
    Ok(pids.collect())
}

/// Bytes of memory that only this process uses, without the maps that it has
/// in its address space: the kernel keeps those, with or without it.
pub(super) fn private_memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
    let bytes = private_of(&smaps);
    ensure!(bytes > 0, "`{path}` tells of no memory");
    Ok(bytes)
}

/// Adds up `Private_Clean`, `Private_Dirty` and `Private_Hugetlb` of all
/// mappings but those of BPF maps.
fn private_of(smaps: &str) -> u64 {
    let (mut total, mut is_map) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !first.ends_with(':') {
            // A mapping begins: addresses, access, offset, device, inode, name.
            is_map = line.contains(MAPS);
        } else if first.starts_with("Private_") && !is_map {
            let kibibytes: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            total += kibibytes << 10;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) S (b) S 1 7 7 0 -1 4194560 9 0 0 0 250 1050 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks_of(stat), Some(1300));
    }

    #[test]
    fn maps_are_not_the_process_s_own_memory() {
        let smaps = "\
7f00-7f01 rw-p 00000000 00:00 0                  [heap]
Private_Clean:         4 kB
Private_Dirty:         8 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr
7f01-7f02 rw-s 00000000 00:0f 42                 anon_inode:bpf-map
Private_Dirty:      1024 kB
7f02-7f03 r-xp 00000000 08:01 7                  /usr/bin/lb
Shared_Clean:         64 kB
Private_Clean:        16 kB
";
        assert_eq!(private_of(smaps), 28 << 10);
    }
}
