//! Builds Maglev tables of 1,000 backends by the agent's own code, and prints
//! how many microseconds each took, a line each. A program of its own, since
//! xtask must build before the toolchain is there that the agent needs.

use std::{
    env,
    hint::black_box,
    io::{self, Write as _},
    time::Instant,
};

use lb_user::core::maglev::{Candidate, size, table};

/// Backends of a table.
const BACKENDS: u16 = 1000;

/// How many tables, if the first argument does not say.
const TABLES: usize = 20;

fn main() -> io::Result<()> {
    let tables = env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(TABLES);
    let candidates: Vec<_> = (1..=BACKENDS)
        .map(|id| Candidate {
            identity: (u32::from(id) * 7919).to_be_bytes(),
            id,
            // Like weights of a real fleet: not all the same.
            weight: 50 + id % 7 * 25,
        })
        .collect();
    let mut out = io::stdout().lock();
    for number in 0..tables {
        let seed = [number as u64, 2];
        let begin = Instant::now();
        black_box(table(black_box(&candidates), size(candidates.len()), seed));
        writeln!(out, "{}", begin.elapsed().as_micros())?;
    }
    Ok(())
}
