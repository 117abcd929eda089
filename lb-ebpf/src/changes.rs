//! Marks buckets of the affinity table for the agent, see [`lb_common::change`].

use core::ptr::{self, write_volatile};

use lb_common::change::{BUCKETS, Mark};

use crate::{
    affinity::{self, Position},
    maps::CHANGES,
};

/// Marks the bucket that has an entry, which is stored already.
#[inline(always)]
pub(crate) fn mark(at: &Position, mark: Mark) {
    lb_mark(at.key, at.buckets(), u64::from(mark == Mark::Exception));
}

/// A global function: the verifier judges it once, and packets that change no
/// state keep their registers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_mark(key: u64, buckets: u64, exception: u64) -> u64 {
    let bucket = affinity::bucket_of(key, buckets);
    if let Some(line) = CHANGES.get_ptr_mut(bucket / BUCKETS) {
        // SAFETY: a map element; the byte is one of its own.
        unsafe {
            let marks = if exception != 0 {
                ptr::addr_of_mut!((*line).exceptions)
            } else {
                ptr::addr_of_mut!((*line).changed)
            };
            write_volatile(marks.cast::<u8>().add((bucket % BUCKETS) as usize), 1);
        }
    }
    0
}
