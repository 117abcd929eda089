//! Which threads come first on a busy machine.

use std::io;

/// Niceness of threads that others wait for; everybody else's is 0 (sched(7)).
const URGENT: i32 = -10;

/// Has the calling thread come before others wherever they compete for a processor.
///
/// # Errors
/// `EACCES` where the process has no `CAP_SYS_NICE` (setpriority(2)).
pub fn come_first() -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread (setpriority(2), "C library/kernel
    // differences").
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, URGENT) } != 0;
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_comes_first_alone() {
        // SAFETY: as above.
        let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let usual = niceness();
        let urgent = thread::spawn(move || come_first().map(|()| niceness())).join().unwrap();
        match urgent {
            Ok(urgent) => assert_eq!(urgent, URGENT),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!(niceness(), usual);
    }
}
