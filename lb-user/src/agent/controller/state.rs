//! What the controller holds, and the changes it makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_common::{addr, firewall::Unresolved};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::field::display;

use super::{Error, chain};
use crate::{
    core::{
        model::{Mode, Model, Node},
        nexthop::Network,
        plan::{self, CapacityError, Host, Operation, Plan},
        weight::Standings,
    },
    dataplane::{
        attach::Attachment,
        load::{DataPlane, Options},
        pins::PinDir,
        rings::{LogTask, Questions},
    },
    sys::{
        forwarding,
        link::{self, Interface},
        route::Watcher,
    },
};

/// How long a bank is left alone after it was in force: packets in flight may
/// still read it for some microseconds.
const REST: Duration = Duration::from_millis(50);

/// How long new backends' next hops are waited for before publishing.
const RESOLVING: Duration = Duration::from_secs(1);

/// How long a previous table is consulted after a change: twice the time in
/// which a new connection has to send its second packet.
const RETIRE: Duration = Duration::from_secs(120);

/// Ticks in which the whole affinity table is swept.
const SWEEP_TICKS: u32 = 60;

/// The agent's view of what is in force.
pub(super) struct State {
    model: Model,
    network: Arc<Network>,
    watcher: Watcher,
    data_plane: DataPlane,
    /// Interfaces by name, while attached.
    attached: BTreeMap<String, u32>,
    /// When the current bank was published.
    published: Instant,
    /// When tables last changed, while their predecessors are in use.
    tables_changed: Option<Instant>,
    /// Added to the network's epoch: an earlier agent counted, too.
    epoch_base: u32,
    unattached: BTreeSet<(IpAddr, u32)>,
    missing: BTreeSet<String>,
    swept: u32,
}

impl State {
    /// Loads or adopts the data plane, publishes the configuration, attaches.
    pub(super) async fn start(
        model: Model,
        log_level: u8,
    ) -> Result<(Self, watch::Receiver<Arc<Network>>), Error> {
        let interfaces = look_up(&model.node, &[]).await?;
        let pins = PinDir::open(&model.node.pin_dir)?;
        let (watcher, mut network) = Watcher::start().await?;
        let data_plane = DataPlane::load(pins, &options(&model.node, log_level))?;
        let epoch_base = data_plane.tables.config.read(0).route_epoch.wrapping_add(1);
        let mut state = Self {
            network: network.borrow_and_update().clone(),
            model,
            watcher,
            data_plane,
            attached: BTreeMap::new(),
            published: Instant::now(),
            tables_changed: Some(Instant::now()),
            epoch_base,
            unattached: BTreeSet::new(),
            missing: BTreeSet::new(),
            swept: 0,
        };
        match state.bring_up(&interfaces, &mut network).await {
            Ok(attachments) => {
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
        }
        self.resolve_backends(&model, network).await;
        if let Err(error) = self.publish(&model).await {
            self.data_plane.take_back(&attachments).await?;
            return Err(error);
        }
        if !adopting {
            attachments = self.data_plane.attach(interfaces, mode).await?;
        }
        self.detach_others();
        Ok(attachments)
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
        let config = self.data_plane.tables.config.read(0);
        let generation = config.generations[(config.active & 1) as usize].number;
        let adopted = !self.data_plane.created;
        tracing::info!(generation, services, backends, adopted, "{what}");
    }

    /// Begins to listen to the packet path.
    pub(super) fn listen(&mut self, log_level: u8) -> io::Result<(Questions, Option<LogTask>)> {
        let questions = self.data_plane.questions()?.ok_or(io::ErrorKind::AlreadyExists)?;
        let log = (log_level > 0).then(|| self.data_plane.forward_log()).transpose()?;
        Ok((questions, log))
    }

    /// Puts a new configuration in force, whole or not at all.
    pub(super) async fn reload(
        &mut self,
        model: Model,
        network: &mut watch::Receiver<Arc<Network>>,
    ) -> Result<(), Error> {
        self.check_fixed(&model.node)?;
        let interfaces = look_up(&model.node, &self.model.node.interfaces).await?;
        let new: Vec<_> = interfaces
            .iter()
            .filter(|interface| !self.data_plane.serves(interface, model.node.xdp_mode))
            .cloned()
            .collect();
        let attachments = self.data_plane.attach(&new, model.node.xdp_mode).await?;
        let before = std::mem::replace(&mut self.attached, by_name(&interfaces));
        self.resolve_backends(&model, network).await;
        match self.publish(&model).await {
            Ok(()) => {
                self.missing.retain(|name| model.node.interfaces.contains(name));
                self.model = model;
                self.watch_backends();
                self.detach_others();
                self.announce(&attachments, "configuration in force");
                Ok(())
            }
            Err(error) => {
                self.attached = before;
                self.watch_backends();
                self.data_plane.take_back(&attachments).await?;
                Err(error)
            }
        }
    }

    fn check_fixed(&self, node: &Node) -> Result<(), Error> {
        let config = self.data_plane.tables.config.read(0);
        let old = &self.model.node;
        if node.pin_dir != old.pin_dir {
            return Err(Error::Fixed("node.pin_dir"));
        }
        if lb_common::limits::flow_buckets(node.flows) != config.flow_mask + 1 {
            return Err(Error::Fixed("node.flows"));
        }
        if node.hash_seed.is_some_and(|seed| seed != config.slot_seed) {
            return Err(Error::Fixed("node.hash_seed"));
        }
        Ok(())
    }

    /// Follows a change of neighbours, routes, links or own addresses.
    pub(super) async fn follow(&mut self, network: Arc<Network>) -> Result<(), Error> {
        let own_addresses = network.host_addresses != self.network.host_addresses;
        self.network = network;
        if own_addresses {
            let model = self.model.clone();
            return self.publish(&model).await;
        }
        let host = self.host()?;
        let backends = self.data_plane.tables.all_backends();
        self.carry_out(plan::follow(&self.network, &backends, &host))?;
        self.set_route_epoch();
        Ok(())
    }

    /// Asks for the neighbours that packets did not know.
    pub(super) fn resolve(&self, questions: &[Unresolved]) {
        for question in questions {
            self.watcher.resolve(addr::from_bytes(question.addr), question.ifindex);
        }
    }

    /// Attaches again where an interface went away and came back. One that
    /// makes trouble keeps no other from it.
    pub(super) async fn look_after_interfaces(&mut self) -> Result<(), Error> {
        let (mut changed, mut troubles) = (false, Vec::new());
        for name in self.model.node.interfaces.clone() {
            match self.look_after(&name).await {
                Ok(attached) => changed |= attached,
                Err(error) => troubles.push(chain(&error)),
            }
        }
        if changed {
            self.detach_others();
            self.follow(self.network.clone()).await?;
        }
        if troubles.is_empty() { Ok(()) } else { Err(Error::Interfaces(troubles.join("; "))) }
    }

    /// Says whether the interface had to be attached to.
    async fn look_after(&mut self, name: &str) -> Result<bool, Error> {
        let interface = match link::by_name(name).await {
            Ok(interface) => interface,
            Err(link::Error::NoSuchName(_)) => {
                if self.missing.insert(name.to_owned()) {
                    tracing::warn!(interface = name, "the interface is gone, waiting for it");
                }
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let known = self.attached.get(name) == Some(&interface.index);
        if known && self.data_plane.serves(&interface, self.model.node.xdp_mode) {
            return Ok(false);
        }
        self.attach_again(interface).await?;
        Ok(true)
    }

    async fn attach_again(&mut self, interface: Interface) -> Result<(), Error> {
        let mode = self.model.node.xdp_mode;
        let attachments = self.data_plane.attach(std::slice::from_ref(&interface), mode).await?;
        self.missing.remove(&interface.name);
        for Attachment { interface, ifindex, mode, .. } in attachments {
            tracing::info!(interface, ifindex, mode = mode.map(display), "attached again");
            self.attached.insert(interface, ifindex);
        }
        Ok(())
    }

    /// Sweeps this tick's share of the affinity table.
    pub(super) fn sweep(&mut self) -> Result<(), Error> {
        let now = self.data_plane.now()?;
        let tables = &self.data_plane.tables;
        let end = tables.flows.entries();
        let start = if self.swept < end { self.swept } else { 0 };
        let stop = end.min(start + end.div_ceil(SWEEP_TICKS));
        let cleared = tables.flows.sweep(start..stop, now);
        tracing::trace!(start, stop, cleared, "swept");
        self.swept = stop;
        Ok(())
    }

    /// Makes `model` the generation in force.
    async fn publish(&mut self, model: &Model) -> Result<(), Error> {
        let plan = match self.plan(model) {
            Err(Error::Capacity(CapacityError::Tables(_))) if self.retire_previous() => {
                // Packets may still look into what is free now.
                sleep(REST).await;
                self.plan(model)
            }
            plan => plan,
        }?;
        sleep_until(self.published + REST).await;
        let changes_tables =
            plan.operations.iter().any(|op| matches!(op, Operation::WriteTable(..)));
        self.carry_out(plan)?;
        self.published = Instant::now();
        if changes_tables {
            self.tables_changed = Some(self.published);
        }
        self.set_route_epoch();
        Ok(())
    }

    fn plan(&self, model: &Model) -> Result<Plan, Error> {
        let snapshot = self.data_plane.tables.snapshot().map_err(Error::Maps)?;
        Ok(plan::plan(model, &Standings::default(), &self.network, &snapshot, &self.host()?)?)
    }

    /// Retires previous tables once the flows that began under them have been
    /// recorded, or are over.
    pub(super) fn look_after_tables(&mut self) {
        if self.tables_changed.is_some_and(|changed| changed.elapsed() >= RETIRE) {
            self.retire_previous();
        }
    }

    /// Whether there was a previous table to retire.
    fn retire_previous(&mut self) -> bool {
        self.tables_changed = None;
        let retired = self.data_plane.tables.retire_previous();
        tracing::debug!(retired, "retired previous tables");
        retired > 0
    }

    fn carry_out(&mut self, plan: Plan) -> Result<(), Error> {
        self.data_plane.tables.carry_out(&plan.operations).map_err(Error::Maps)?;
        for (backend, ifindex) in plan.unattached.difference(&self.unattached) {
            tracing::warn!(
                %backend, ifindex,
                "the way to this backend is by an interface that `node.interfaces` does not name"
            );
        }
        self.unattached = plan.unattached;
        Ok(())
    }

    fn set_route_epoch(&self) {
        let epoch = self.epoch_base.wrapping_add(self.network.epoch);
        self.data_plane.tables.set_route_epoch(epoch);
    }

    fn host(&self) -> Result<Host, Error> {
        let attached = self.attached.values().copied().collect();
        Ok(Host { attached, ephemeral: link::ephemeral_ports()? })
    }

    /// Detaches from every interface that is not to be attached. What is in
    /// force does not depend on it, so a failure is only told.
    fn detach_others(&mut self) {
        let keep: BTreeSet<_> = self.attached.values().copied().collect();
        let links = self.data_plane.links().unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "cannot look for links to detach");
            Vec::new()
        });
        for ifindex in links.into_iter().filter(|ifindex| !keep.contains(ifindex)) {
            match self.data_plane.detach(ifindex) {
                Ok(()) => tracing::info!(ifindex, "detached"),
                Err(error) => {
                    tracing::error!(ifindex, error = chain(&error), "cannot detach");
                }
            }
        }
    }

    fn watch_backends(&self) {
        self.watcher.watch_addresses(backend_addresses(&self.model));
    }

    /// Has the next hops of `model`'s backends resolved, beside those in
    /// force, and waits a moment for them: what is adopted goes on without a
    /// gap, and what is new is served from its first packet on.
    async fn resolve_backends(
        &mut self,
        model: &Model,
        network: &mut watch::Receiver<Arc<Network>>,
    ) {
        let wanted = backend_addresses(model);
        self.watcher.watch_addresses(&wanted | &backend_addresses(&self.model));
        let all = |network: &Arc<Network>| {
            wanted.iter().all(|address| network.next_hops.contains_key(address))
        };
        let _ = timeout(RESOLVING, network.wait_for(all)).await;
        self.network = network.borrow_and_update().clone();
        for address in wanted.iter().filter(|a| !self.network.next_hops.contains_key(a)) {
            tracing::warn!(%address, "the next hop towards this backend is not resolved yet");
        }
    }
}

/// Replies of mode `nat` take the kernel's way where the data plane does not
/// know the next hop.
fn warn_of_forwarding(model: &Model) {
    let nat = model.services.iter().filter(|service| service.mode == Mode::Nat);
    let settings: BTreeSet<_> = nat.map(|service| forwarding::sysctl(service.vip)).collect();
    for setting in settings {
        // A family that the kernel does not know has no setting.
        if matches!(forwarding::is_on(setting), Ok(false)) {
            tracing::warn!(
                "`{setting}` is 0, expected 1: replies of services of mode `nat` need it, run \
                 `sysctl -w {setting}=1`"
            );
        }
    }
}

fn backend_addresses(model: &Model) -> BTreeSet<IpAddr> {
    model.services.iter().flat_map(|s| &s.backends).map(|backend| backend.address).collect()
}

/// The interfaces to attach to; those of `awaited` may be away.
async fn look_up(node: &Node, awaited: &[String]) -> Result<Vec<Interface>, Error> {
    let mut interfaces = Vec::new();
    for name in &node.interfaces {
        match link::by_name(name).await {
            Err(link::Error::NoSuchName(_)) if awaited.contains(name) => {}
            found => interfaces.push(found?),
        }
    }
    Ok(interfaces)
}

fn by_name(interfaces: &[Interface]) -> BTreeMap<String, u32> {
    interfaces.iter().map(|interface| (interface.name.clone(), interface.index)).collect()
}

fn options(node: &Node, log_level: u8) -> Options {
    Options { flows: node.flows, hash_seed: node.hash_seed, log_level }
}
