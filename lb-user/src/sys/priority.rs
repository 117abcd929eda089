//! Which threads come first on a busy machine.

use std::io;

/// The lowest niceness there is (sched(7)): whatever a process began with, this is not more.
const URGENT: i32 = -20;

/// Has the calling thread come before others of its group of processes (a cgroup, or what
/// sched(7) calls an autogroup) wherever they compete for a processor.
///
/// # Errors
/// `EACCES` where the process has no `CAP_SYS_NICE` (setpriority(2)).
pub fn come_first() -> io::Result<()> {
    set(URGENT)
}

/// Takes that back, for a program that is started by such a thread; may be called between
/// fork and exec. Where the kernel refuses, the process has a niceness of its operator's,
/// who wants no more.
pub fn come_in_turn() {
    let _ = set(0);
}

fn set(niceness: i32) -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread (setpriority(2), "C library/kernel
    // differences").
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } != 0;
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_comes_first_alone_and_may_step_back() {
        // SAFETY: as above.
        let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let usual = niceness();
        let urgent = thread::spawn(move || {
            let urgent = come_first().map(|()| niceness());
            come_in_turn();
            (urgent, niceness())
        });
        let (urgent, after) = urgent.join().unwrap();
        match urgent {
            Ok(urgent) => assert_eq!(urgent, URGENT),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!(after, 0);
        assert_eq!(niceness(), usual);
    }
}
