//! Access to the frame: the only raw packet pointers.
//!
//! A frame is addressed by absolute positions (`usize`), so that the verifier
//! sees plain pointer arithmetic. [`Frame::holds`] must have said yes to a
//! range before [`load`] or [`store`] touch it; the verifier rejects the
//! program otherwise, so a mistake here cannot load, let alone crash.

use aya_ebpf::programs::XdpContext;

/// Where the frame lies.
#[derive(Clone, Copy)]
pub struct Frame {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Frame {
    /// The frame of this run.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Whether `length` bytes from `at` are in the frame.
    #[inline(always)]
    pub fn holds(&self, at: usize, length: usize) -> bool {
        at + length <= self.end
    }

    /// Bytes from `at` to the end of the frame.
    #[inline(always)]
    pub fn left(&self, at: usize) -> usize {
        self.end - at
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn length(&self) -> u64 {
        (self.end - self.start) as u64
    }
}

/// Loads a value as it lies in memory (network byte order stays).
///
/// The access is not aligned in general: the machine can do that, and the
/// verifier would refuse it where it could not. `read_unaligned` would become
/// one load per byte.
#[inline(always)]
pub fn load<T: Copy>(at: usize) -> T {
    // SAFETY: the verifier proves that the range is inside the frame.
    unsafe { *(at as *const T) }
}

/// Stores a value as it lies in memory.
#[inline(always)]
pub fn store<T: Copy>(at: usize, value: T) {
    // SAFETY: as for `load`.
    unsafe { *(at as *mut T) = value }
}

/// Sends a frame back where it came from: its first 12 bytes, which must be in
/// the frame at `from`, go to `to` with the Ethernet addresses exchanged.
#[inline(always)]
pub fn turn_around(from: usize, to: usize) {
    let destination: [u16; 3] = [load(from), load(from + 2), load(from + 4)];
    let source: [u16; 3] = [load(from + 6), load(from + 8), load(from + 10)];
    let mut i = 0;
    while i < 3 {
        store(to + 2 * i, source[i]);
        store(to + 6 + 2 * i, destination[i]);
        i += 1;
    }
}

/// Loads a 16-bit number in host byte order.
#[inline(always)]
pub fn number16(at: usize) -> u16 {
    u16::from_be(load(at))
}
