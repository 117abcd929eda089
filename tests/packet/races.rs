//! CPUs that share a small affinity table: racing costs a recomputation,
//! never a wrong backend.

use std::{net::IpAddr, thread};

use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    affinity::{flagged, spread},
    case::{Case, client_number},
    check::assert_valid,
    frame::{ACK, FIN, Frame, RST, SYN},
    subject::{Action, Subject},
};

/// Threads at once; more than the CPUs, to be interrupted amidst.
const THREADS: usize = 4;
/// Flows of each case, far more than the table has slots.
const FLOWS: u32 = 1500;
/// Packets of each thread.
const PACKETS: usize = 40_000;

#[test]
fn cpus_that_race_never_send_a_flow_to_a_wrong_backend() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3, 4]).flows(64), |subject| {
        let mut flows = Vec::new();
        for case in Case::all().into_iter().filter(|case| case.mode == Mode::Nat) {
            for number in 0..FLOWS {
                let request = case.request_from(client_number(case.v4, number), 31);
                let to = subject.choice(&request).current;
                flows.push((variants(case, &request), to));
            }
        }
        thread::scope(|scope| {
            let flows = &flows;
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || hammer(subject, flows, thread as u64 + 1)))
                .collect();
            for thread in threads {
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
    })
}

/// The frames of one flow in a random order.
fn variants(case: Case, request: &Frame) -> Vec<Vec<u8>> {
    let flags = [SYN, ACK, ACK, ACK, ACK, FIN | ACK, RST];
    if case.protocol == Protocol::Tcp {
        flags.iter().map(|&flags| flagged(request, flags).bytes()).collect()
    } else {
        vec![request.bytes()]
    }
}

fn hammer(subject: &Subject<'_>, flows: &[(Vec<Vec<u8>>, IpAddr)], seed: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    for packet in 0..PACKETS {
        // Often the same few flows, so that threads meet in their entries.
        let flow = if next(2) == 0 { next(flows.len()) } else { next(40) * (flows.len() / 40) };
        let (frames, to) = &flows[flow];
        let frame = &frames[next(frames.len())];
        let (action, out) = subject.run_uncounted(frame.clone());
        assert_eq!(action, Action::Redirect, "packet {packet}");
        assert_eq!(destination(&out), *to, "packet {packet} of flow {flow}");
        if packet % 64 == 0 {
            assert_valid(&out);
        }
    }
}

fn destination(frame: &[u8]) -> IpAddr {
    if frame[12..14] == [0x08, 0] {
        let octets: [u8; 4] = frame[30..34].try_into().expect("an IPv4 header");
        octets.into()
    } else {
        let octets: [u8; 16] = frame[38..54].try_into().expect("an IPv6 header");
        octets.into()
    }
}
