//! Whether the kernel forwards packets.

use std::{fs, io, net::IpAddr};

/// The setting for the family of `address`, as sysctl(8) names it.
#[must_use]
pub const fn sysctl(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "net.ipv4.ip_forward",
        IpAddr::V6(_) => "net.ipv6.conf.all.forwarding",
    }
}

/// Whether `setting`, from [`sysctl`], is on in the network namespace of the
/// calling thread.
///
/// # Errors
/// The kernel does not tell, as of a family that it does not know.
pub fn is_on(setting: &str) -> io::Result<bool> {
    read(&setting.replace('.', "/"))
}

/// Whether the kernel forwards IPv6 from `interface`, in the network namespace
/// of the calling thread: what makes it a router to its neighbours.
///
/// # Errors
/// The kernel does not tell: there is no such interface, or no IPv6 at it.
pub fn is_router(interface: &str) -> io::Result<bool> {
    read(&format!("net/ipv6/conf/{interface}/forwarding"))
}

fn read(setting: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(format!("/proc/sys/{setting}"))?.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_kernel() {
        for address in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0_u16; 8])] {
            let setting = sysctl(address);
            let text = fs::read_to_string(format!("/proc/sys/{}", setting.replace('.', "/")));
            assert_eq!(is_on(setting).unwrap(), text.unwrap() == "1\n", "{setting}");
        }
        assert!(is_on("net.ipv4.no_such_setting").is_err());
    }
}
