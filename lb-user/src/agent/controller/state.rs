//! What the controller holds, and the changes it makes.

mod force;
mod health;
mod interfaces;
mod probes;
mod publish;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lb_common::{addr, notice::Notice, table::TableRef};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tracing::field::display;

pub(super) use self::force::{Direction, Origin};
use self::interfaces::{by_name, look_up};
use super::{Complaint, Error, change::Unconfirmed, source::Source};
use crate::{
    agent::{disk::Disk, ha, metrics::Tally, probe::Prober, store::Kept},
    core::{
        fleet::Fleet,
        model::{Model, Node, quic::Keys},
        nexthop::Network,
        plan::{self, Host, ServiceId, identity::ServiceIdentity},
        replica::Version,
        sync::Names,
    },
    dataplane::{
        attach::Attachment,
        load::{DataPlane, Options},
        pins::{PACKET_PATH, PinDir},
        rings::{LogTask, Notices},
    },
    sys::{
        forwarding,
        link::{self, Interface, Mode as AttachMode},
        memory,
        route::Watcher,
    },
};

/// How long a bank is left alone after it was in force: packets in flight may
/// still read it for some microseconds.
const REST: Duration = Duration::from_millis(50);

/// After which services whose tables found no room are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long new backends' next hops are waited for before publishing.
const RESOLVING: Duration = Duration::from_secs(1);

/// How long a service's previous table is consulted after the last change:
/// twice the time in which a new connection has to send its second packet.
const RETIRE: Duration = Duration::from_secs(120);

/// Ticks in which the whole affinity table is swept.
const SWEEP_TICKS: u32 = 60;

/// The agent's view of what is in force.
pub(super) struct State {
    pub(super) model: Model,
    /// Health, orders and weights of the backends.
    pub(super) fleet: Fleet,
    /// Services whose changed weights could not be put in force.
    unweighed: BTreeSet<ServiceIdentity>,
    unweighed_since: Instant,
    /// Tables that gave way in place, and when.
    resting: Vec<(TableRef, Instant)>,
    /// When previous tables were retired.
    retired: Instant,
    pub(super) network: Arc<Network>,
    watcher: Watcher,
    pub(super) data_plane: DataPlane,
    /// Interfaces by name, while attached.
    pub(super) attached: BTreeMap<String, u32>,
    /// When the current bank was published.
    published: Instant,
    /// When a service's table last changed, while an earlier one is in use.
    tables_changed: BTreeMap<ServiceId, Instant>,
    /// Added to the network's epoch: an earlier agent counted, too.
    epoch_base: u32,
    unattached: BTreeSet<(IpAddr, u32)>,
    missing: BTreeSet<String>,
    /// How interfaces are attached, by name.
    pub(super) modes: BTreeMap<String, AttachMode>,
    /// The share of the tables to sweep next.
    sweeps: u32,
    started: Instant,
    /// What `model` is made of.
    pub(super) origin: Origin,
    pub(super) source: Source,
    pub(super) disk: Disk,
    /// Keys of the QUIC configurations in force.
    pub(super) quic_keys: Keys,
    /// What the store has, or is to have.
    pub(super) kept: Kept,
    /// It does not have it yet.
    pub(super) unsaved: bool,
    /// What the peer offered last and could not be taken, why, and when.
    pub(super) untaken: Option<(Version, String, Instant)>,
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// When to try again to end a denial.
    pub(super) expire_again: Option<Duration>,
    /// What is in force is not what it should be: it stopped half-way.
    torn: bool,
    /// Flows are being listed of drains that are over.
    listing: bool,
    /// Much memory may have been used and freed.
    pub(super) spent: Arc<AtomicBool>,
    prober: Prober,
    /// Turns of those who search the affinity table.
    pub(super) scans: Arc<Semaphore>,
    /// The turn of who plans.
    pub(super) plans: Arc<Semaphore>,
    /// This node of a pair.
    pub(super) ha: Option<ha::Member>,
    /// What the peer is told that it goes by.
    pub(super) sharing: Option<watch::Sender<Option<Arc<ha::Ours>>>>,
    /// What is counted here.
    pub(super) tally: Tally,
    /// Who the backends of its groups are.
    pub(super) names: watch::Sender<Arc<Names>>,
    /// Whether probes of services in mode `dsr` go to the VIP.
    probing_vips: bool,
    /// Why they do not.
    rewriting: Complaint,
}

/// What an agent starts from.
pub(super) struct Beginning {
    pub(super) source: Source,
    pub(super) origin: Origin,
    pub(super) direction: Direction,
    pub(super) disk: Disk,
    pub(super) kept: Kept,
    /// See [`Options::place_seed`].
    pub(super) place_seed: Option<[u64; 2]>,
    pub(super) prober: Prober,
}

impl State {
    /// Loads or adopts the data plane, publishes the configuration, attaches.
    pub(super) async fn start(
        beginning: Beginning,
        model: Model,
        log_level: u8,
    ) -> Result<(Self, watch::Receiver<Arc<Network>>), Error> {
        let Beginning { source, origin, direction, disk, kept, place_seed, prober } = beginning;
        let awaited = match direction {
            Direction::Onward => &[][..],
            Direction::Back => &model.node.interfaces,
        };
        let interfaces = look_up(&model.node, awaited).await?;
        let pins = PinDir::open(&model.node.pin_dir, &PACKET_PATH)?;
        let (watcher, mut network) = Watcher::start().await?;
        let Node { flows, hash_seed, .. } = model.node;
        let options = Options { flows, hash_seed, place_seed, log_level };
        let data_plane = DataPlane::load(pins, &options)?;
        let epoch_base = data_plane.tables.config.read(0).route_epoch.wrapping_add(1);
        let mut state = Self {
            network: network.borrow_and_update().clone(),
            model,
            fleet: Fleet::new(),
            unweighed: BTreeSet::new(),
            unweighed_since: Instant::now(),
            resting: Vec::new(),
            retired: Instant::now(),
            watcher,
            data_plane,
            attached: BTreeMap::new(),
            published: Instant::now(),
            tables_changed: BTreeMap::new(),
            epoch_base,
            unattached: BTreeSet::new(),
            missing: BTreeSet::new(),
            modes: BTreeMap::new(),
            sweeps: 0,
            started: Instant::now(),
            origin,
            source,
            disk,
            kept,
            quic_keys: Keys::new(),
            unsaved: false,
            untaken: None,
            unconfirmed: None,
            expire_again: None,
            torn: false,
            listing: false,
            spent: Arc::default(),
            prober,
            scans: Arc::new(Semaphore::new(super::answer::SCANS)),
            plans: Arc::new(Semaphore::new(1)),
            ha: None,
            sharing: None,
            tally: Tally::default(),
            names: watch::Sender::default(),
            probing_vips: false,
            rewriting: Complaint::default(),
        };
        // When an earlier agent changed them is not known.
        let adopted = state.data_plane.tables.outline().services.into_keys();
        state.tables_changed.extend(adopted.map(|service| (service, state.published)));
        state.fleet = state.fleet_for(&state.model, &state.origin.edits);
        state.presume_down();
        match state.bring_up(&interfaces, &mut network).await {
            Ok(attachments) => {
                state.probe_backends();
                state.announce(&attachments, "data plane ready");
                Ok((state, network))
            }
            Err(error) => {
                if state.data_plane.created {
                    state.data_plane.undo()?;
                }
                Err(error)
            }
        }
    }

    async fn bring_up(
        &mut self,
        interfaces: &[Interface],
        network: &mut watch::Receiver<Arc<Network>>,
    ) -> Result<Vec<Attachment>, Error> {
        let model = self.model.clone();
        let mode = model.node.xdp_mode;
        self.attached = by_name(interfaces);
        // What an earlier agent left is in force: it is changed once nothing
        // can be refused any more. A new data plane has nothing to say yet.
        let adopting = !self.data_plane.created;
        let mut attachments = Vec::new();
        if adopting {
            attachments = self.data_plane.attach(interfaces, mode).await?;
            self.note_modes(&attachments);
        }
        self.resolve_backends(&model, &backend_addresses(&model), network).await;
        if let Err(error) = self.publish(&model).await {
            self.data_plane.take_back(&attachments).await?;
            return Err(error);
        }
        if !adopting {
            attachments = self.attach(interfaces, mode).await?;
            self.follow_next_hops()?;
        }
        self.detach_others();
        Ok(attachments)
    }

    /// Notes how interfaces are attached.
    fn note_modes(&mut self, attachments: &[Attachment]) {
        for Attachment { interface, mode, .. } in attachments {
            self.modes.extend(mode.map(|mode| (interface.clone(), mode)));
        }
    }

    fn announce(&self, attachments: &[Attachment], what: &str) {
        for attachment in attachments {
            let Attachment { interface, ifindex, mode, .. } = attachment;
            let (mode, adopted) = (mode.map(display), attachment.is_adopted());
            tracing::info!(interface, ifindex, mode, adopted, "attached");
        }
        warn_of_forwarding(&self.model);
        let services = self.model.services.len();
        let backends: usize = self.model.services.iter().map(|s| s.backends.len()).sum();
        let generation = self.generation();
        let adopted = !self.data_plane.created;
        tracing::info!(generation, services, backends, adopted, "{what}");
    }

    /// Begins to listen to the packet path.
    pub(super) fn listen(&mut self, log_level: u8) -> io::Result<(Notices, Option<LogTask>)> {
        let notices = self.data_plane.notices()?.ok_or(io::ErrorKind::AlreadyExists)?;
        let log = (log_level > 0).then(|| self.data_plane.forward_log()).transpose()?;
        Ok((notices, log))
    }

    /// Follows a change of neighbours, routes, links or own addresses.
    pub(super) async fn follow(&mut self, network: Arc<Network>) -> Result<(), Error> {
        let own_addresses = network.host_addresses != self.network.host_addresses;
        self.network = network;
        if own_addresses {
            self.torn = true;
            return self.mend().await;
        }
        self.follow_next_hops()
    }

    /// Brings the backends' next hops up to what is known.
    fn follow_next_hops(&mut self) -> Result<(), Error> {
        let host = self.host()?;
        let backends = self.data_plane.tables.all_backends();
        let plan = plan::follow(&self.network, &backends, &host);
        self.carry_out(&plan)?;
        self.complain_of_unattached(plan);
        self.follow_routes();
        Ok(())
    }

    /// Gives back what large changes and answers needed for a while.
    pub(super) fn give_back_memory(&self) {
        if self.spent.swap(false, Ordering::Relaxed) {
            memory::give_back();
        }
    }

    /// What the peer is to know of the affinity table.
    pub(super) fn flows(&self) -> ha::Flows {
        let changes = Arc::clone(&self.data_plane.changes);
        ha::Flows { changes, names: self.names.subscribe() }
    }

    /// Asks for the neighbours that packets did not know, and learns what ways carry.
    pub(super) fn heed(&self, notices: &[Notice]) {
        for notice in notices {
            let address = addr::from_bytes(notice.addr);
            match notice.mtu {
                0 => self.watcher.resolve(address, notice.ifindex),
                mtu => self.watcher.carries(address, mtu),
            }
        }
    }

    /// Sweeps this tick's share of the affinity table, of bindings, and of connections that
    /// SYN cookies opened.
    pub(super) fn sweep(&mut self) -> Result<(), Error> {
        let now = self.data_plane.now()?;
        let tables = &self.data_plane.tables;
        let share = |of: u32| {
            let size = of.div_ceil(SWEEP_TICKS);
            let start = of.min(self.sweeps * size);
            start..of.min(start + size)
        };
        let cleared = tables.flows.sweep(share(tables.flows.entries()), now);
        let released = tables.bindings.sweep(share(tables.bindings.entries()), now);
        let ended = tables.proxied.sweep(share(tables.proxied.entries()), now);
        tracing::trace!(share = self.sweeps, cleared, released, ended, "swept");
        self.sweeps = (self.sweeps + 1) % SWEEP_TICKS;
        Ok(())
    }

    pub(super) fn host(&self) -> Result<Host, Error> {
        let attached = self.attached.values().copied().collect();
        let merges = self.modes.values().any(|mode| *mode == AttachMode::Generic);
        let (ephemeral, quic_keys) = (link::ephemeral_ports()?, self.quic_keys.clone());
        Ok(Host { attached, ephemeral, merges, quic_keys })
    }

    fn watch_backends(&self) {
        self.watcher.watch_addresses(backend_addresses(&self.model));
    }

    /// Has the next hops of `model`'s backends resolved, beside those in
    /// force, and waits a moment for the `awaited`: what is adopted goes on
    /// without a gap, and what is new is served from its first packet on.
    async fn resolve_backends(
        &mut self,
        model: &Model,
        awaited: &BTreeSet<IpAddr>,
        network: &mut watch::Receiver<Arc<Network>>,
    ) {
        self.watcher.watch_addresses(&backend_addresses(model) | &backend_addresses(&self.model));
        let all = |network: &Arc<Network>| {
            awaited.iter().all(|address| network.next_hops.contains_key(address))
        };
        let _ = timeout(RESOLVING, network.wait_for(all)).await;
        self.network = network.borrow_and_update().clone();
        for address in awaited.iter().filter(|a| !self.network.next_hops.contains_key(a)) {
            tracing::warn!(%address, "the next hop towards this backend is not resolved yet");
        }
    }
}

/// Replies of modes `nat` and `fullnat` take the kernel's way where the data plane does not
/// know the next hop.
fn warn_of_forwarding(model: &Model) {
    let nat = model.services.iter().filter(|service| service.mode.is_nat());
    let settings: BTreeSet<_> = nat.map(|service| forwarding::sysctl(service.vip)).collect();
    for setting in settings {
        // A family that the kernel does not know has no setting.
        if matches!(forwarding::is_on(setting), Ok(false)) {
            tracing::warn!(
                "`{setting}` is 0, expected 1: replies of services of modes `nat` and `fullnat` need \
                 it, run `sysctl -w {setting}=1`"
            );
        }
    }
}

fn backend_addresses(model: &Model) -> BTreeSet<IpAddr> {
    model.services.iter().flat_map(|s| &s.backends).map(|backend| backend.address).collect()
}
