//! What the kernel had to look at before it admitted the programs.

use lb_common::maps;
use lb_tests::harness::Result;

use super::{setup::Setup, subject::Subject};

/// Instructions that the verifier looks at, at most (`BPF_COMPLEXITY_LIMIT_INSNS`,
/// kernel/bpf/verifier.c), of which half is for what is still to come, and for kernels
/// that prune less.
const MOST: u32 = 1_000_000 / 2;

#[test]
fn every_program_is_admitted_with_room_to_grow() -> Result<()> {
    Subject::with(&Setup::new([]), |subject| {
        let pins = subject.pins();
        for program in maps::PROGRAMS {
            let verified = pins.verified(program).expect("it is pinned");
            println!("{program}: {verified} instructions verified");
            assert!((1..=MOST).contains(&verified), "{program}: {verified}");
        }
    })
}
