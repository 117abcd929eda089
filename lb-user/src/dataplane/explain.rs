//! What the loaded program would do with a frame, and why.

use std::io;

use aya::{TestRun as _, TestRunOptions, programs::ProgramError};
use lb_common::{
    flow::{FlowState, FlowValue},
    maps,
    stats::Counter,
    table::TableRef,
    trace::{Record, steps},
};

use super::load::{DataPlane, program};
use crate::core::plan::{BackendId, ServiceId};

/// The way of a frame through the packet path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The service it is for, or whose reply it is; `None`: no service's.
    pub service: Option<ServiceId>,
    /// The backend it goes to or comes from.
    pub backend: Option<BackendId>,
    /// Whether a backend sent it to a client (mode `nat`).
    pub reply: bool,
    /// What the affinity table has of its flow.
    pub entry: Option<Entry>,
    /// What the lookup tables said, where they were asked.
    pub lookup: Option<Lookup>,
    /// Whether a packet like this enters its flow into the affinity table.
    pub recorded: bool,
    /// Whether its flow has, or would take, a source port of ours (mode `fullnat`).
    pub binds: bool,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame as it leaves.
    pub frame: Vec<u8>,
}

/// An entry of the affinity table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its backend.
    pub backend: BackendId,
    /// The flow's state; `None`: a number that is no state's.
    pub state: Option<FlowState>,
    /// Seconds left to live; negative: it is over, and the entry not obeyed.
    pub left: i16,
    /// Whether it is obeyed where its backend serves: not over, and not in the
    /// midst of a change by another CPU.
    pub live: bool,
}

/// What the lookup tables have for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The current table.
    pub table: TableRef,
    /// The flow's slot in it, counted through all its blocks.
    pub slot: u32,
    /// The backend there.
    pub current: Option<BackendId>,
    /// The table before it; the same where there is none.
    pub previous_table: TableRef,
    /// The backend in the flow's slot there.
    pub previous: Option<BackendId>,
    /// Whether the previous table's backend was taken.
    pub from_previous: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel gets it; why, if that has a counter.
    Pass(Option<Counter>),
    /// It is dropped; why.
    Drop(Option<Counter>),
    /// It goes out of the interface it came in by; an answer of the
    /// balancer's own has a counter.
    Transmit(Option<Counter>),
    /// It goes out of the interface with this index.
    Redirect(u32),
}

impl DataPlane {
    /// Runs the frame through the loaded program as if it came in by the
    /// interface with index `ifindex`. Flows, counters and everything else that
    /// packets write stay as they are. One run at a time.
    ///
    /// # Errors
    /// The kernel's answer: `ENODEV` where there is no such interface, `EINVAL`
    /// for a frame shorter than an Ethernet header.
    pub fn explain(&mut self, frame: &[u8], ifindex: u32) -> io::Result<Trace> {
        self.load_once(maps::EXPLAIN_PROGRAM).map_err(io::Error::other)?;
        let program = program(&mut self.ebpf, maps::EXPLAIN_PROGRAM).map_err(io::Error::other)?;
        self.trace.write(0, &Record::ZERO);
        // `struct xdp_md` of `linux/bpf.h`: data, data_end, data_meta,
        // ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let context: Vec<u8> = context.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let mut out = vec![0; frame.len() + ROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let run = program.test_run(options).map_err(into_io)?;
        out.truncate(run.data_size_out as usize);
        Ok(trace(&self.trace.read(0), out))
    }
}

/// Bytes that an answer may be longer than its question: the headers of an
/// ICMPv6 error.
const ROOM: usize = 48;

fn trace(record: &Record, frame: Vec<u8>) -> Trace {
    let has = |step| record.steps & step != 0;
    let some = |id: u16| (id != 0).then_some(id);
    let lookup = Lookup {
        table: record.table,
        slot: record.slot,
        current: some(record.current_backend),
        previous_table: record.previous,
        previous: some(record.previous_backend),
        from_previous: has(steps::FROM_PREVIOUS),
    };
    Trace {
        service: some(record.service),
        backend: some(record.backend),
        reply: has(steps::REPLY),
        entry: has(steps::KNOWN | steps::STALE).then(|| {
            let value = FlowValue(record.entry);
            Entry {
                backend: value.backend(),
                state: FlowState::from_number(value.state()),
                left: value.left(record.now),
                live: has(steps::KNOWN),
            }
        }),
        lookup: has(steps::LOOKED_UP).then_some(lookup),
        recorded: has(steps::RECORDS),
        binds: has(steps::BINDS),
        verdict: verdict(record.verdict),
        frame,
    }
}

fn verdict(word: u64) -> Verdict {
    let value = word as u32;
    let counter = Counter::from_number(value);
    match word >> 32 {
        0 => Verdict::Pass(counter),
        1 => Verdict::Drop(counter),
        // A forwarded frame is counted with its backend; 0 is no answer's number.
        2 => Verdict::Transmit(counter.filter(|_| value != 0)),
        _ => Verdict::Redirect(value),
    }
}

/// The kernel's own answer, where there is one.
pub(super) fn into_io(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let entry = FlowValue::new(7, 1, FlowState::Closing, 98);
        let record = Record {
            verdict: 3 << 32 | 5,
            steps: steps::STALE | steps::LOOKED_UP | steps::FROM_PREVIOUS | steps::BINDS,
            service: 2,
            backend: 4,
            entry: entry.0,
            now: 100,
            slot: 9,
            current_backend: 3,
            previous_backend: 4,
            ..Record::ZERO
        };
        let trace = trace(&record, Vec::new());
        assert_eq!((trace.service, trace.backend, trace.reply), (Some(2), Some(4), false));
        let stale = Entry { backend: 7, state: Some(FlowState::Closing), left: -2, live: false };
        assert_eq!(trace.entry, Some(stale));
        let lookup = trace.lookup.expect("a lookup");
        assert_eq!((lookup.current, lookup.previous), (Some(3), Some(4)));
        assert!(lookup.from_previous && !trace.recorded && trace.binds);
        assert_eq!(trace.verdict, Verdict::Redirect(5));
    }

    #[test]
    fn verdicts_have_their_counters() {
        let reason = Counter::NoBackend;
        assert_eq!(verdict(1 << 32 | reason as u64), Verdict::Drop(Some(reason)));
        assert_eq!(verdict(0), Verdict::Pass(Some(Counter::Passed)));
        assert_eq!(verdict(2 << 32), Verdict::Transmit(None));
        let echo = Counter::EchoReplied;
        assert_eq!(verdict(2 << 32 | echo as u64), Verdict::Transmit(Some(echo)));
        assert_eq!(trace(&Record::ZERO, Vec::new()).entry, None);
    }
}
