//! The balancer under test: a lab without servers, a real agent in its
//! balancer, and the program that the agent pinned.

mod expect;
mod leases;
pub(crate) mod pinned;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    addr::from_bytes,
    backend::{Backend, flags},
    bridge::Station,
    config::Config,
    flow::Bucket,
    limits, maps,
    route::Blocks,
    service::Service,
    stats::{BackendStats, Counter},
    table::Line,
    trace::Record,
};
use lb_tests::harness::{self, Agent, Ha, Lab, Pins, Result, lb_binary};

use self::pinned::{array, data, per_cpu, program};
use super::{
    frame::hex,
    network::{BACKENDS, L1, backend, quiet},
    setup::Setup,
};

/// Ids of backends that are looked for; no test has more.
const IDS: u32 = 128;
/// How long the agent may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the program said (`enum xdp_action` of `linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Drop,
    Pass,
    Transmit,
    Redirect,
}

/// What a frame came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) action: Action,
    pub(crate) frame: Vec<u8>,
    /// Counters that went up, by name.
    pub(crate) counted: BTreeMap<&'static str, u64>,
    /// Traffic of backends, by address; flows are left out.
    pub(crate) traffic: Vec<Traffic>,
}

/// What was counted for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) backend: IpAddr,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) replies: u64,
    pub(crate) reply_bytes: u64,
}

/// The running balancer. Its methods are called in the balancer's namespace.
pub(crate) struct Subject<'a> {
    pub(crate) lab: &'a Lab,
    /// `None`: the data plane is alone.
    agent: Option<Agent>,
    path: PathBuf,
    program: Xdp,
    clock: Xdp,
    /// See [`Self::explaining`].
    explain: OnceLock<Xdp>,
    ingress: [u32; 2],
    /// One more than the highest id of a backend that serves.
    ids: AtomicU32,
    counters: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, BackendStats>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) config: Array<MapData, Config>,
    pub(super) services: Array<MapData, Service>,
    pub(super) tables: Array<MapData, Line>,
    pub(super) flows: Array<MapData, Bucket>,
}

impl Subject<'_> {
    /// Starts a balancer with `setup` and runs `test` in its namespace.
    pub(crate) fn with(setup: &Setup, test: impl FnOnce(&Subject<'_>) + Send) -> Result<()> {
        Self::with_own(setup, |subject| test(&subject))
    }

    /// The same for a test that does without the agent, or starts another.
    pub(crate) fn with_own(setup: &Setup, test: impl FnOnce(Subject<'_>) + Send) -> Result<()> {
        let lab = Lab::new(0)?;
        let ingress = quiet(&lab)?;
        let path = lab.write(&lab.config([]))?;
        lab.balancer.within(|| {
            let subject = Subject::start(&lab, path, ingress, setup)?;
            test(subject);
            Ok(())
        })?
    }
}

impl<'a> Subject<'a> {
    fn start(lab: &'a Lab, path: PathBuf, ingress: [u32; 2], setup: &Setup) -> Result<Self> {
        write(lab, &path, setup);
        let agent = Agent::start(&lb_binary(), &lab.balancer, &path)?;
        let pins = pin_dir(lab);
        let subject = Self {
            lab,
            agent: Some(agent),
            path,
            program: program(&pins, maps::PROGRAM),
            clock: program(&pins, maps::CLOCK_PROGRAM),
            explain: OnceLock::new(),
            ingress,
            ids: AtomicU32::new(1),
            counters: per_cpu(&pins, maps::COUNTERS),
            stats: per_cpu(&pins, maps::BACKEND_STATS),
            backends: array(&pins, maps::BACKENDS),
            config: array(&pins, maps::CONFIG),
            services: array(&pins, maps::SERVICES),
            tables: array(&pins, maps::TABLES),
            flows: array(&pins, maps::FLOWS),
        };
        subject.wait_for_next_hops();
        Ok(subject)
    }

    /// Makes the agent read another configuration.
    pub(crate) fn reload(&self, setup: &Setup) {
        let before = self.generation();
        write(self.lab, &self.path, setup);
        self.agent().reload().expect("the agent lives");
        let done = eventually(|| self.generation() != before);
        assert!(done, "no new generation: {}", self.agent().log());
        self.wait_for_next_hops();
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the agent runs")
    }

    /// What the agent has pinned.
    pub(super) fn pins(&self) -> Pins {
        Pins::new(pin_dir(self.lab))
    }

    fn generation(&self) -> u64 {
        self.pins().generation().expect("the configuration is pinned")
    }

    fn wait_for_next_hops(&self) {
        let has_hop = |entry: &Backend| {
            let address = from_bytes(entry.addr);
            let mut known = (1..=BACKENDS).map(|number| backend(address.is_ipv4(), number));
            entry.flags & flags::RESOLVED != 0 || !known.any(|known| known == address)
        };
        let entries = || {
            let entries = (1..IDS).map(|id| (id, self.backends.get(&id, 0).expect("an entry")));
            entries.filter(|(_, entry)| entry.flags & flags::SERVING != 0)
        };
        let done = eventually(|| entries().all(|(_, entry)| has_hop(&entry)));
        assert!(done, "a backend has no next hop: {}", self.agent().log());
        let highest = entries().map(|(id, _)| id).max().unwrap_or_default();
        assert!(highest + 1 < IDS, "more backends than are looked for");
        self.ids.store(highest + 1, Ordering::Relaxed);
    }

    /// The data plane's current second.
    pub(crate) fn second(&self) -> u16 {
        let (second, _) = self.test_run(&self.clock, &[0; 64]);
        u16::try_from(second).expect("the clock runs")
    }

    /// Runs the frame through the program. It comes in by the interface that
    /// it is addressed to, by `l0` if by none.
    pub(crate) fn run(&self, frame: impl Into<Vec<u8>>) -> Outcome {
        let (counters, stats) = (self.counters(), self.stats());
        let (action, frame) = self.run_uncounted(frame);
        let now = self.counters();
        let counted = Counter::ALL.iter().zip(counters.iter().zip(&now));
        let counted = counted
            .filter(|(_, (before, after))| before != after)
            .map(|(counter, (before, after))| (counter.name(), after - before));
        let traffic =
            stats.iter().zip(self.stats()).zip(1..).filter_map(|((before, after), id)| {
                let traffic = Traffic {
                    backend: self.backend_address(id),
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                    replies: after.reply_packets - before.reply_packets,
                    reply_bytes: after.reply_bytes - before.reply_bytes,
                };
                (traffic.packets + traffic.replies > 0).then_some(traffic)
            });
        Outcome { action, frame, counted: counted.collect(), traffic: traffic.collect() }
    }

    /// The same without a look at counters, for many frames.
    pub(crate) fn run_uncounted(&self, frame: impl Into<Vec<u8>>) -> (Action, Vec<u8>) {
        let frame = frame.into();
        let (verdict, out) = self.test_run(&self.program, &frame);
        (action(verdict, &frame), out)
    }

    /// Runs the frame through the program that explains: what it would come
    /// to, and what was found on the way.
    pub(super) fn explain(&self, frame: impl Into<Vec<u8>>) -> (Action, Vec<u8>, Record) {
        let mut trace: Array<MapData, Record> = array(&pin_dir(self.lab), maps::TRACE);
        trace.set(0, Record::ZERO, 0).expect("the entry of TRACE");
        let frame = frame.into();
        let (verdict, out) = self.test_run(self.explain.get_or_init(|| self.explaining()), &frame);
        (action(verdict, &frame), out, trace.get(&0, 0).expect("the entry of TRACE"))
    }

    /// The program that explains, which an agent loads when it is asked to explain first.
    fn explaining(&self) -> Xdp {
        let question = ["explain", "10.1.0.2:5555", "203.0.113.10:80"];
        self.lab.json(&question).expect("the agent answers");
        program(&pin_dir(self.lab), maps::EXPLAIN_PROGRAM)
    }

    fn test_run(&self, program: &Xdp, frame: &[u8]) -> (u32, Vec<u8>) {
        let ingress = self.ingress[usize::from(frame.starts_with(&L1))];
        // `struct xdp_md` of `linux/bpf.h`: data, data_end, data_meta,
        // ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ingress, 0, 0];
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).expect("the kernel runs the program");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// Sum over all CPUs of a counter.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        sum(&self.counters.get(&(counter as u32), 0).expect("an entry of COUNTERS"))
    }

    fn counters(&self) -> Vec<u64> {
        Counter::ALL.iter().map(|&counter| self.counter(counter)).collect()
    }

    /// Of backends by id, from 1 on.
    pub(super) fn stats(&self) -> Vec<BackendStats> {
        let one = |id| {
            let values = self.stats.get(&id, 0).expect("an entry of BACKEND_STATS");
            values.iter().copied().sum()
        };
        (1..self.ids.load(Ordering::Relaxed)).map(one).collect()
    }

    /// How many flows were entered into the affinity table.
    pub(crate) fn entered(&self) -> u64 {
        self.stats().iter().map(|stats| stats.flows).sum()
    }

    /// When refusals are due, by CPU, to be written to.
    pub(super) fn refusals(&self) -> PerCpuArray<MapData, u64> {
        per_cpu(&pin_dir(self.lab), maps::REFUSALS)
    }

    /// Whether services take no new flows, since they have as many as they may.
    pub(super) fn full(&self) -> Vec<bool> {
        let bank = self.config.get(&0, 0).expect("the entry of CONFIG").active & 1;
        let entries = (1..IDS).map(|id| {
            let index = bank * limits::SERVICES + id;
            self.services.get(&index, 0).expect("an entry of SERVICES")
        });
        let in_use = entries.filter(|entry| entry.proto != 0);
        in_use.map(|entry| entry.full_until != 0).collect()
    }

    /// Empties the affinity table.
    pub(super) fn forget_flows(&self) {
        let mut flows = self.writable(maps::FLOWS);
        for bucket in 0..flows.len() {
            flows.set(bucket, Bucket::ZERO, 0).expect("a bucket of FLOWS");
        }
    }

    /// Routes by source.
    pub(super) fn routes(&self) -> LpmTrie<MapData, [u32; 5], Blocks> {
        let data = data(&pin_dir(self.lab), maps::ROUTES);
        LpmTrie::try_from(Map::LpmTrie(data)).expect("a trie of this type")
    }

    /// Has frames leave by `l0` and to backends with tags, see
    /// [`lb_common::nexthop::vlan`], as if the agent had found VLANs there.
    pub(super) fn set_vlan(&self, vlan: u16) {
        let map = Map::HashMap(data(&pin_dir(self.lab), maps::VLANS));
        let mut vlans = HashMap::<_, u32, u32>::try_from(map).expect("a map of this type");
        vlans.insert(self.ingress[0], u32::from(vlan), 0).expect("room in VLANS");
        let mut backends = self.writable::<Backend>(maps::BACKENDS);
        for id in 1..self.ids.load(Ordering::Relaxed) {
            let entry = self.backends.get(&id, 0).expect("an entry of BACKENDS");
            backends.set(id, Backend { vlan, ..entry }, 0).expect("an entry of BACKENDS");
        }
    }

    /// Indexes of `l0` and `l1`.
    pub(super) fn ports(&self) -> [u32; 2] {
        self.ingress
    }

    /// Has the data plane know these stations and no others, as if the agent had found them.
    pub(super) fn set_stations(&self, stations: impl IntoIterator<Item = (Station, u32)>) {
        let map = Map::HashMap(data(&pin_dir(self.lab), maps::STATIONS));
        let mut known = HashMap::<_, Station, u32>::try_from(map).expect("a map of this type");
        for key in known.keys().collect::<Vec<_>>() {
            let key = key.expect("a key of STATIONS");
            known.remove(&key).expect("an entry of STATIONS");
        }
        for (station, port) in stations {
            known.insert(station, port, 0).expect("room in STATIONS");
        }
        let mut config = self.config.get(&0, 0).expect("the entry of CONFIG");
        config.bridged = 1;
        // Ways to clients are remembered.
        config.route_epoch += 1;
        self.writable(maps::CONFIG).set(0, config, 0).expect("the entry of CONFIG");
    }

    /// An array by its name, to be written to.
    pub(super) fn writable<T: aya::Pod>(&self, name: &str) -> Array<MapData, T> {
        array(&pin_dir(self.lab), name)
    }

    /// The backend's address.
    pub(crate) fn backend_address(&self, id: u32) -> IpAddr {
        let entry = self.backends.get(&id, 0).expect("an entry of BACKENDS");
        from_bytes(entry.addr)
    }
}

#[track_caller]
pub(crate) fn action(verdict: u32, frame: &[u8]) -> Action {
    match verdict {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Transmit,
        4 => Action::Redirect,
        other => panic!("verdict {other} on {}", hex(frame)),
    }
}

/// Waits as long as the agent may take.
pub(crate) fn eventually(condition: impl FnMut() -> bool) -> bool {
    harness::eventually(PATIENCE, condition)
}

fn pin_dir(lab: &Lab) -> PathBuf {
    lab.config([]).pin_dir
}

fn write(lab: &Lab, path: &Path, setup: &Setup) {
    let harness::Config { pin_dir, state_dir, socket, .. } = lab.config([]);
    let ha = setup.ha.clone().map(|ha| Ha { key_file: key_file(lab), ..ha });
    let setup = Setup { ha, pin_dir, state_dir, socket, ..setup.clone() };
    fs::write(path, setup.to_string()).expect("the lab's directory can be written");
}

/// Makes the pair's key.
fn key_file(lab: &Lab) -> PathBuf {
    let path = lab.path("pair.key");
    fs::write(&path, "5a".repeat(32)).expect("the lab's directory can be written");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, private).expect("the file is there");
    path
}

fn sum(values: &PerCpuValues<u64>) -> u64 {
    values.iter().sum()
}
