//! What the kernel had to look at before it admitted the programs.

use lb_common::maps;
use lb_tests::harness::{Mode, Result};

use super::{
    case::Case,
    fullnat::way::Way,
    quic::{PLAIN, quic},
    setup::Setup,
    subject::Subject,
};

/// Instructions that the verifier looks at, at most (`BPF_COMPLEXITY_LIMIT_INSNS`,
/// kernel/bpf/verifier.c), of which half is for what is still to come, and for kernels
/// that prune less.
const MOST: u32 = 1_000_000 / 2;

/// Programs that only some services or commands need.
const OTHERS: [&str; 4] =
    [maps::FULLNAT_PROGRAM, maps::QUIC_PROGRAM, maps::SYNPROXY_PROGRAM, maps::EXPLAIN_PROGRAM];

#[test]
fn every_program_is_loaded_when_it_is_needed_and_admitted_with_room_to_grow() -> Result<()> {
    Subject::with(&Setup::new([]), |subject| {
        let pins = subject.pins();
        let loaded = || maps::PROGRAMS.into_iter().filter(|one| pins.verified(one).is_ok());
        assert!(loaded().all(|program| !OTHERS.contains(&program)));

        let mut setup = Way::setup(&[1]);
        let others = quic(&[1], &[PLAIN]).services.into_iter();
        setup.services[0] = setup.services[0].clone().line("syn_cookies_above = 9");
        setup.services.extend(others.filter(|service| service.mode == Mode::Dsr));
        subject.reload(&setup);
        subject.explain(&Case::all()[0].request());
        assert_eq!(loaded().count(), maps::PROGRAMS.len());
        for program in maps::PROGRAMS {
            let verified = pins.verified(program).expect("it is pinned");
            println!("{program}: {verified} instructions verified");
            assert!((1..=MOST).contains(&verified), "{program}: {verified}");
        }
    })
}
