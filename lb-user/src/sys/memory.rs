//! The process's own memory.

/// Gives the system back what was freed. The C library keeps what lies below
/// anything that is still in use: without this the agent would hold, once a
/// large file was read a second time, half as much again as it needs.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches only memory that nobody has
    // (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0)
    };
}
