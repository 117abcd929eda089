//! Arrays shared with the packet path, as memory.
//!
//! Packets and agent access the same cache lines at the same time, so every
//! access is an atomic one of an aligned word; an entry of several words is
//! not read or written at once, and its reader must not need that.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use bytemuck::Pod;

/// A memory-mapped array of `T`, whose size is a multiple of 8 bytes.
pub struct Mapped<T> {
    base: NonNull<u8>,
    entries: u32,
    value: PhantomData<T>,
}

// SAFETY: the memory is reached through atomics only and lives as long as the
// value; nothing in it belongs to a thread.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Maps the array behind `fd`, a `BPF_F_MMAPABLE` map of `entries` entries
    /// of `T`.
    ///
    /// # Errors
    /// The kernel's answer to `mmap`.
    pub fn of_map(fd: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        Self::map(fd.as_raw_fd(), libc::MAP_SHARED, entries)
    }

    /// Private memory of `entries` zero entries: a map for tests.
    ///
    /// # Errors
    /// The kernel's answer to `mmap`.
    #[cfg(test)]
    pub fn anonymous(entries: u32) -> io::Result<Self> {
        Self::map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, entries)
    }

    fn map(fd: i32, flags: i32, entries: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() > 0) };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let bytes = Self::bytes(entries);
        // SAFETY: a new mapping where the kernel chooses; nothing is replaced.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, entries, value: PhantomData })
    }
}

impl<T> Mapped<T> {
    fn bytes(entries: u32) -> usize {
        entries as usize * size_of::<T>()
    }

    /// Entries.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// The 64-bit word at byte `offset` of an entry.
    ///
    /// # Panics
    /// No such entry, or no aligned word there.
    #[must_use]
    pub fn word64(&self, index: u32, offset: usize) -> &AtomicU64 {
        let at = self.at(index, offset, 8);
        // SAFETY: `at` is inside the mapping (the kernel rounds it up to whole
        // pages), aligned for the word, and only ever accessed atomically.
        unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) }
    }

    /// The 32-bit word at byte `offset` of an entry.
    ///
    /// # Panics
    /// No such entry, or no aligned word there.
    #[must_use]
    pub fn word32(&self, index: u32, offset: usize) -> &AtomicU32 {
        let at = self.at(index, offset, 4);
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) }
    }

    fn at(&self, index: u32, offset: usize, size: usize) -> NonNull<u8> {
        assert!(index < self.entries, "entry {index} of {}", self.entries);
        assert!(offset + size <= size_of::<T>() && offset.is_multiple_of(size));
        // SAFETY: in bounds of the mapping, as asserted.
        unsafe { self.base.add(Self::bytes(index) + offset) }
    }
}

impl<T: Pod> Mapped<T> {
    /// Reads an entry, word by word.
    ///
    /// # Panics
    /// No such entry.
    #[must_use]
    pub fn read(&self, index: u32) -> T {
        let mut value = T::zeroed();
        for (word, bytes) in bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(8).enumerate() {
            let read = self.word64(index, word * 8).load(Ordering::Relaxed);
            bytes.copy_from_slice(&read.to_ne_bytes());
        }
        value
    }

    /// Writes an entry, word by word; words that have their value already are
    /// left alone, so their cache line stays shared with the packet path.
    ///
    /// # Panics
    /// No such entry.
    pub fn write(&self, index: u32, value: &T) {
        let (words, _) = bytemuck::bytes_of(value).as_chunks::<8>();
        for (word, bytes) in words.iter().enumerate() {
            let at = self.word64(index, word * 8);
            let new = u64::from_ne_bytes(*bytes);
            if at.load(Ordering::Relaxed) != new {
                at.store(new, Ordering::Release);
            }
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping; no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), Self::bytes(self.entries)) };
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{backend::Backend, table::Line};

    use super::*;

    #[test]
    fn entries_come_back_as_written() {
        let lines = Mapped::<Line>::anonymous(3).unwrap();
        let line = Line { slots: std::array::from_fn(|i| i as u16 + 1) };
        lines.write(1, &line);
        assert_eq!(lines.read(1), line);
        assert_eq!((lines.read(0), lines.read(2)), (Line::ZERO, Line::ZERO));
    }

    #[test]
    fn a_word_is_the_field_at_its_offset() {
        let backends = Mapped::<Backend>::anonymous(2).unwrap();
        backends.word32(1, std::mem::offset_of!(Backend, flags)).store(5, Ordering::Relaxed);
        assert_eq!(backends.read(1), Backend { flags: 5, ..Backend::ZERO });
    }

    #[test]
    #[should_panic(expected = "entry 2 of 2")]
    fn there_is_nothing_past_the_end() {
        let _ = Mapped::<Backend>::anonymous(2).unwrap().read(2);
    }
}
