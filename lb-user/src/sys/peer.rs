//! Who is at the other end of a Unix socket.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    ptr,
};

/// The supplementary groups that the peer had when it connected:
/// `SO_PEERGROUPS` of socket(7), since Linux 4.13. Its primary group, which
/// `SO_PEERCRED` tells, need not be among them.
///
/// # Errors
/// The kernel's answer: it is no Unix socket, say.
pub fn groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    // Most users have fewer; where there are more, the kernel says how many.
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `groups`, which
        // has as many, and any bytes are numbers.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                ptr::from_mut(&mut length),
            )
        };
        let error = (answer != 0).then(io::Error::last_os_error);
        groups.resize(length as usize / size_of::<libc::gid_t>(), 0);
        match error {
            None => return Ok(groups),
            Some(error) if error.raw_os_error() != Some(libc::ERANGE) => return Err(error),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_peer_in_this_process_has_its_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut expected: Vec<_> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut found = groups(&one).unwrap();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_is_at_no_unix_socket_is_not_told() {
        assert!(groups(&TcpListener::bind("127.0.0.1:0").unwrap()).is_err());
    }
}
