//! Capabilities of this process, see capabilities(7).

use std::{fmt, io};

/// Where Linux tells a process about itself.
const STATUS: &str = "/proc/self/status";

/// What there is to be had of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Load programs, create maps, open pins.
    Bpf,
    /// Attach programs, mark probes, follow routes and neighbours.
    NetAdmin,
    /// Send frames as they are: addresses that move are announced by such.
    NetRaw,
    /// Without it the verifier treats the program as an unprivileged user's:
    /// it inserts speculation barriers, which cost time on every packet, and
    /// forbids to compare pointers, which the packet path does to find the
    /// end of a frame. So the program is refused, or slow.
    Perfmon,
}

impl Capability {
    /// The bit in the kernel's sets (linux/capability.h).
    const fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }

    /// Whether `set` has it. `CAP_SYS_ADMIN` stands for the two that were
    /// split from it in Linux 5.8.
    const fn is_in(self, set: u64) -> bool {
        const SYS_ADMIN: u32 = 21;
        let inherits = matches!(self, Self::Bpf | Self::Perfmon);
        set >> self.bit() & 1 == 1 || inherits && set >> SYS_ADMIN & 1 == 1
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "CAP_BPF",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::Perfmon => "CAP_PERFMON",
        })
    }
}

/// Why a process may not go on.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The kernel did not say which capabilities there are.
    #[error("`{STATUS}`: {0}")]
    Unreadable(#[from] io::Error),
    /// Its answer has no set of effective capabilities.
    #[error("`{STATUS}`: no `CapEff` in hexadecimal digits")]
    Unknown,
    /// Some are missing.
    #[error("missing {}", list(.0))]
    Missing(Vec<Capability>),
}

/// Makes sure that this process has all of `needed`.
///
/// # Errors
/// Names those it has not.
pub fn require(needed: &[Capability]) -> Result<(), CapabilityError> {
    let status = std::fs::read_to_string(STATUS)?;
    let set = effective(&status).ok_or(CapabilityError::Unknown)?;
    let missing = missing(needed, set);
    if missing.is_empty() { Ok(()) } else { Err(CapabilityError::Missing(missing)) }
}

/// The effective set in the text of `/proc/PID/status` (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

fn missing(needed: &[Capability], set: u64) -> Vec<Capability> {
    needed.iter().copied().filter(|capability| !capability.is_in(set)).collect()
}

fn list(capabilities: &[Capability]) -> String {
    capabilities.iter().map(Capability::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Capability; 4] =
        [Capability::Bpf, Capability::NetAdmin, Capability::NetRaw, Capability::Perfmon];

    #[test]
    fn effective_set_is_read_from_the_kernels_text() {
        let status = "Name:\tlb\nCapPrm:\t0000000000000000\nCapEff:\t000000c000001000\n";
        assert_eq!(effective(status), Some(0xc0_0000_1000));
        assert_eq!(effective("Name:\tlb\n"), None);
        assert_eq!(effective("CapEff:\tmany\n"), None);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(&ALL, 0xc0_0000_3000), []);
        assert_eq!(missing(&ALL, 0xc0_0000_1000), [Capability::NetRaw]);
        let error = CapabilityError::Missing(missing(&ALL, 1 << 39));
        assert_eq!(error.to_string(), "missing CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON");
    }

    #[test]
    fn the_units_agent_has_what_it_needs() {
        let unit = include_str!("../../lb.service");
        let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let set: Vec<_> = set.unwrap().split(' ').collect();
        // The last is for `sys::priority`.
        let needed = ALL.map(|one| one.to_string()).into_iter().chain(["CAP_SYS_NICE".into()]);
        assert!(needed.into_iter().all(|one| set.contains(&one.as_str())), "{set:?}");
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_only() {
        assert_eq!(missing(&ALL, 1 << 21), [Capability::NetAdmin, Capability::NetRaw]);
    }
}
