//! What only the system's C library gives.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// Processor time of this thread, which other processes on a shared machine
/// do not lengthen.
pub(super) struct CpuTime(Duration);

impl CpuTime {
    /// The time used so far.
    pub(super) fn now() -> Result<Self> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for the write.
        let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        if done != 0 {
            return Err(io::Error::last_os_error()).context("read the thread's processor time");
        }
        Ok(Self(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)))
    }

    /// The time used since `self`.
    pub(super) fn elapsed(&self) -> Result<Duration> {
        Ok(Self::now()?.0 - self.0)
    }
}

/// Keeps this thread on the processor it runs on: tables that a measurement
/// finds in this processor's cache must not stay behind.
pub(super) fn stay_on_this_cpu() -> Result<()> {
    // SAFETY: no arguments, no effects.
    let cpu = unsafe { libc::sched_getcpu() };
    // SAFETY: a bit set, for which zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set; the index is a processor's number.
    unsafe { libc::CPU_SET(usize::try_from(cpu).unwrap_or(0), &mut set) };
    // SAFETY: `set` lives through the call, 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error()).context("stay on one processor");
    }
    Ok(())
}

/// The memory of a BPF array that was made with `BPF_F_MMAPABLE`.
pub(super) struct ArrayMemory {
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, whichever thread looks at it.
unsafe impl Send for ArrayMemory {}

impl ArrayMemory {
    /// Maps `length` bytes of the array behind `fd`.
    pub(super) fn map(fd: BorrowedFd<'_>, length: usize) -> Result<Self> {
        let (access, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, how, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("map a BPF array into memory");
        }
        Ok(Self { start: NonNull::new(start).context("mapped at address 0")?, length })
    }

    /// The aligned word at a byte of the array, as it is now.
    ///
    /// # Panics
    /// It is outside, or not aligned.
    pub(super) fn word(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.length, "word {offset}");
        // SAFETY: inside the mapping and aligned, as asserted; whoever else
        // writes it stores whole words.
        unsafe { self.start.as_ptr().byte_add(offset).cast::<u64>().read_volatile() }
    }

    /// Makes every entry zero.
    pub(super) fn clear(&mut self) {
        // SAFETY: the mapping has this length and may be written; whoever else
        // uses it, the packet path, takes any content.
        unsafe { std::ptr::write_bytes(self.start.as_ptr().cast::<u8>(), 0, self.length) };
    }
}

impl Drop for ArrayMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM end the bench at its next
/// [`go_on`], so that all guards clean up.
pub(super) fn catch_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic variable.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Fails if the user wants to stop.
pub(super) fn go_on() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
