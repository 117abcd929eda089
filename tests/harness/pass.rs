//! Programs that let everything pass: a native XDP program, and one of traffic
//! control.
//!
//! The kernel delivers frames that were sent by `XDP_TX` or redirected to a
//! veth only if the *peer* runs NAPI, which a native XDP program turns on;
//! without it the frames count as sent and arrive at nobody. A real NIC's
//! cable has no such needs.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use super::{Error, Netns, Result};

/// Commands and constants of bpf(2), `linux/bpf.h` and `linux/if_link.h`.
mod bpf {
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const LINK_CREATE: libc::c_int = 28;
    pub(super) const PROG_TYPE_XDP: u32 = 6;
    pub(super) const PROG_TYPE_SCHED_CLS: u32 = 3;
    pub(super) const ATTACH_XDP: u32 = 37;
    pub(super) const ATTACH_TCX_INGRESS: u32 = 46;
    pub(super) const ATTACH_TCX_EGRESS: u32 = 47;
    pub(super) const XDP_HAS_FRAGS: u32 = 1 << 5;
    pub(super) const XDP_DRIVER_MODE: u32 = 1 << 2;
    /// `r0 = XDP_PASS; exit` (RFC 9669, sections 4.1 and 4.3).
    pub(super) const XDP_PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    /// `r0 = TCX_PASS; exit`.
    pub(super) const TCX_PASS: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
}

/// The first members of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The first members of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The XDP program, attached for as long as this lives: a link that is not pinned
/// dies with its process.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Attaches to `interface` in `netns`.
    ///
    /// # Errors
    /// There is no such interface, it has fewer receive queues than its peer
    /// has transmit queues, or another program is attached.
    pub fn attach(netns: &Netns, interface: &str) -> Result<Self> {
        let failed =
            || Error::io(format!("attach XDP_PASS to `{interface}` of `{}`", netns.name()));
        let program = load(bpf::PROG_TYPE_XDP, &bpf::XDP_PASS, bpf::XDP_HAS_FRAGS);
        let program = program.map_err(failed())?;
        let link = || link(&program, interface, bpf::ATTACH_XDP, bpf::XDP_DRIVER_MODE);
        Ok(Self { _link: netns.within(link)?.map_err(failed())? })
    }
}

/// A program of traffic control, attached for as long as this lives. What it
/// lets pass no program behind it sees.
#[derive(Debug)]
pub struct TcPass {
    _links: [OwnedFd; 2],
}

impl TcPass {
    /// Attaches to both directions of `interface` in `netns`.
    ///
    /// # Errors
    /// There is no such interface, or it takes no more programs.
    pub fn attach(netns: &Netns, interface: &str) -> Result<Self> {
        let failed =
            || Error::io(format!("attach TCX_PASS to `{interface}` of `{}`", netns.name()));
        let program = load(bpf::PROG_TYPE_SCHED_CLS, &bpf::TCX_PASS, 0).map_err(failed())?;
        let link =
            |direction| netns.within(|| link(&program, interface, direction, 0))?.map_err(failed());
        Ok(Self { _links: [link(bpf::ATTACH_TCX_INGRESS)?, link(bpf::ATTACH_TCX_EGRESS)?] })
    }
}

fn load(prog_type: u32, code: &[u64], prog_flags: u32) -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr().addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        prog_flags,
        ..Default::default()
    };
    call(bpf::PROG_LOAD, &attr)
}

fn link(program: &OwnedFd, interface: &str, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a string that ends with a zero byte.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if ifindex == 0 {
        return Err(io::Error::last_os_error());
    }
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type,
        flags,
    };
    call(bpf::LINK_CREATE, &attr)
}

/// bpf(2) with a command that returns a descriptor.
fn call<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is `#[repr(C)]`, lays out the first members of `union
    // bpf_attr` for this command, and the kernel reads only the given length.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just given us this descriptor.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
