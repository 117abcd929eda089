//! The task behind a [`Watcher`](super::Watcher): wait, learn, ask, publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Finding,
    chore::Chore,
    decode::Event,
    events::{self, Events},
    limit::Limit,
    request::{Order, Requests},
};
use crate::core::nexthop::{Facts, Hop, Network, Route, Urgency};

/// Changes of routes and links come in bursts: the lookups wait this long. So
/// do next hops for a neighbour to answer, which takes a fraction of it.
const SETTLE: Duration = Duration::from_millis(5);

/// Between two publications, so that a burst of changes costs a few only.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// How long a change waits at most for the lookups and the first answers of
/// neighbours that it brought about, so that all is published together.
const HOLD: Duration = Duration::from_millis(20);

/// How long a change that misleads nobody may wait; also how often a hop that
/// does not resolve is asked for again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Until netlink is opened again after it failed.
const REOPEN: Duration = Duration::from_secs(1);

/// Requests under way at once; also the hops asked for again in one second.
const BATCH: usize = 256;

/// Nobody is asked for again for so long after the neighbour table was full:
/// each attempt pushes somebody else's entry out.
const FULL_TABLE_PAUSE: Duration = Duration::from_secs(5);

/// For how long a router is believed that a way carries no more.
const CARRIED: Duration = Duration::from_secs(600);
/// Bytes of a packet that every way is taken to carry: Linux' `min_pmtu`, and RFC 8200,
/// section 5.
const LEAST_V4: u32 = 552;
/// See [`LEAST_V4`].
const LEAST_V6: u32 = 1280;

/// Between two complaints about a full neighbour table.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Follower {
    facts: Facts,
    wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    /// Whether anybody said what is wanted: before, entries left by an earlier
    /// agent are not known to be of no use.
    told: bool,
    findings: mpsc::Receiver<Finding>,
    /// When what a router said of the way to an address is forgotten.
    forget: BTreeMap<IpAddr, Instant>,
    network: watch::Sender<Arc<Network>>,
    /// Watched addresses whose route is to be looked up.
    lookups: BTreeSet<IpAddr>,
    /// When the next round of lookups is to begin.
    look_up: Chore,
    /// What is left of the round under way.
    round: Vec<IpAddr>,
    round_began: Instant,
    /// Reading of all tables, after events were lost.
    read: Chore,
    /// When hops that do not resolve are asked for again.
    ask_again: Instant,
    /// The last hop that was asked for again.
    cursor: Option<Hop>,
    published: Instant,
    /// Until when a neighbour asked for the first time is expected to answer.
    answer_until: Instant,
    /// When the first change not yet published was seen.
    changed: Option<Instant>,
    limit: Limit,
    may_complain: Instant,
}

impl Follower {
    pub(super) fn new(
        wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
        findings: mpsc::Receiver<Finding>,
        network: watch::Sender<Arc<Network>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            facts: Facts::default(),
            wanted,
            told: false,
            findings,
            forget: BTreeMap::new(),
            network,
            lookups: BTreeSet::new(),
            look_up: Chore::new(now),
            round: Vec::new(),
            round_began: now,
            read: Chore::new(now),
            ask_again: now,
            cursor: None,
            published: now,
            answer_until: now,
            changed: None,
            limit: Limit::new(now),
            may_complain: now,
        }
    }

    /// Follows for ever; opens netlink again should it fail.
    pub(super) async fn run(mut self, mut requests: Requests, mut events: Events) {
        loop {
            let Err(error) = self.follow(&requests, &mut events).await else { return };
            tracing::warn!(%error, "connection to the kernel's routing lost, opening it again");
            (requests, events) = loop {
                sleep(REOPEN).await;
                match Requests::open()
                    .and_then(|requests| Ok((requests, Events::open(&events::NETWORK)?)))
                {
                    Ok(opened) => break opened,
                    Err(error) => tracing::warn!(%error, "cannot open a netlink socket"),
                }
            };
            self.read.want(Instant::now());
        }
    }

    /// Follows until netlink fails, or the watcher is gone.
    async fn follow(&mut self, requests: &Requests, events: &mut Events) -> io::Result<()> {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                heard = events.next() => match heard {
                    Ok(heard) => heard.into_iter().for_each(|event| self.learn(event)),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        tracing::debug!("netlink events lost, reading all tables");
                        self.read.want(Instant::now());
                    }
                    Err(error) => return Err(error),
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.told = true;
                    let wanted = Arc::clone(&self.wanted.borrow_and_update());
                    let new = self.facts.watch(&wanted);
                    self.lookups.extend(new);
                    self.look_up.want(Instant::now());
                }
                Some(finding) = self.findings.recv() => match finding {
                    Finding::Unresolved { client, ifindex } => {
                        self.resolve(requests, client, ifindex).await?;
                    }
                    Finding::Carries { address, mtu } => self.carries(address, mtu),
                },
                () = sleep_until(deadline) => {}
            }
            self.work(requests).await?;
        }
    }

    /// When there is something to do even if nothing happens.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let unfinished = (self.facts.has_unasked() || !self.round.is_empty()).then_some(now);
        let again = (self.facts.has_unsettled() || self.facts.has_lost()).then_some(self.ask_again);
        let forget = self.forget.values().min().copied();
        [self.publish_at(now), unfinished, again, forget, self.look_up.due(), self.read.due()]
            .into_iter()
            .flatten()
            .min()
            // Nothing at all: any time will do.
            .unwrap_or(now + Duration::from_secs(3600))
    }

    fn learn(&mut self, event: Event) {
        let affects_all = match event {
            Event::Link(index, link) => self.facts.set_link(index, link),
            Event::Address(address, index, present) => {
                self.facts.set_address(address, index, present)
            }
            Event::Neighbour(hop, neighbour) => {
                self.facts.set_neighbour(hop, neighbour);
                return;
            }
            Event::Port(index, forwards) => {
                self.facts.set_forwarding(index, forwards);
                return;
            }
            Event::Station(station, place) => {
                self.facts.set_station(station, place);
                return;
            }
            Event::Route(prefix) => {
                self.facts.routes_changed();
                let before = self.lookups.len();
                self.lookups.extend(self.facts.watched_in(prefix));
                if self.lookups.len() > before {
                    self.look_up.want(Instant::now() + SETTLE);
                }
                return;
            }
            Event::Routes => {
                self.facts.routes_changed();
                true
            }
        };
        // A link that goes down and an address that is removed take routes
        // along without a word about them.
        if affects_all {
            self.look_up_all();
        }
    }

    /// Whether lookups are under way or about to be.
    fn looking_up(&self) -> bool {
        !self.round.is_empty() || !self.lookups.is_empty()
    }

    fn look_up_all(&mut self) {
        self.lookups.extend(self.facts.watched());
        self.look_up.want(Instant::now() + SETTLE);
    }

    /// Does what is due, a batch at a time so that events are not kept waiting.
    async fn work(&mut self, requests: &Requests) -> io::Result<()> {
        if self.read.is_due(Instant::now()) {
            let began = Instant::now();
            self.read.begin();
            self.read_tables(requests).await?;
            self.read.done(began, Instant::now());
        }
        if !self.round.is_empty() || self.look_up.is_due(Instant::now()) {
            self.look_up_some(requests).await?;
        }
        let unasked = self.facts.take_unasked(BATCH);
        self.ask(requests, &unasked).await?;
        let now = Instant::now();
        if !unasked.is_empty() {
            self.answer_until = now + SETTLE;
        }
        if now >= self.ask_again && (self.facts.has_unsettled() || self.facts.has_lost()) {
            let mut again = self.facts.unsettled(self.cursor, BATCH);
            self.cursor = again.last().copied();
            again.extend(
                self.facts.take_lost(BATCH).into_iter().filter(|hop| !self.facts.in_use(*hop)),
            );
            self.ask_again = now + PATIENCE;
            self.ask(requests, &again).await?;
        }
        for (address, _) in self.forget.extract_if(.., |_, due| now >= *due) {
            self.facts.set_carried(address, None);
        }
        self.publish_if_due();
        Ok(())
    }

    /// Reads links, addresses and neighbours, and has all routes looked up.
    pub(super) async fn read_tables(&mut self, requests: &Requests) -> io::Result<()> {
        self.facts.set_links(&requests.links().await?);
        self.facts.set_addresses(requests.addresses().await?);
        self.facts.set_neighbours(&requests.neighbours().await?);
        self.facts.set_stations(&requests.stations().await?);
        self.facts.routes_changed();
        self.look_up_all();
        Ok(())
    }

    /// Looks a batch of routes up; after the last of a round, releases what is
    /// not in use any more.
    async fn look_up_some(&mut self, requests: &Requests) -> io::Result<()> {
        if self.round.is_empty() {
            self.round_began = Instant::now();
            self.round = mem::take(&mut self.lookups).into_iter().collect();
            self.look_up.begin();
        }
        let batch = self.round.split_off(self.round.len().saturating_sub(BATCH));
        let answers = join_all(batch.iter().map(|address| requests.route(*address, None))).await;
        for (address, route) in batch.iter().zip(answers) {
            self.facts.set_route(*address, route?);
        }
        if self.round.is_empty() {
            self.look_up.done(self.round_began, Instant::now());
        }
        if self.told && !self.looking_up() {
            for hops in self.facts.unused().chunks(BATCH) {
                self.order(requests, hops, Order::Release).await?;
            }
        }
        Ok(())
    }

    /// Has hops in use resolved, and kept so; and any that a bridge lost sight of heard again.
    async fn ask(&mut self, requests: &Requests, hops: &[Hop]) -> io::Result<()> {
        let keep = |hop: &Hop| self.facts.in_use(*hop);
        let probe = |hop: &Hop| {
            // Who keeps others resolved asks them himself.
            let others = self.facts.neighbour(*hop).is_some_and(|known| known.managed);
            self.facts.is_astray(*hop) && (keep(hop) || !others)
        };
        let kept: Vec<_> = hops.iter().filter(|hop| keep(hop)).copied().collect();
        let probed: Vec<_> = hops.iter().filter(|hop| probe(hop)).copied().collect();
        self.order(requests, &probed, Order::Probe).await?;
        self.order(requests, &kept, Order::Keep).await
    }

    /// Gives the kernel the same order about several hops.
    async fn order(&mut self, requests: &Requests, hops: &[Hop], order: Order) -> io::Result<()> {
        let answers = join_all(hops.iter().map(|hop| requests.neighbour(*hop, order))).await;
        for (hop, answer) in hops.iter().zip(answers) {
            let Err(error) = answer else { continue };
            match error.raw_os_error() {
                None => return Err(error),
                Some(libc::ENOBUFS) => self.table_full(),
                // A kernel that refuses to manage entries still resolves them.
                Some(libc::EINVAL) if order == Order::Keep => {
                    requests.neighbour(*hop, Order::Resolve).await.or_else(not_lost)?;
                }
                // The entry or its interface is gone: events tell.
                Some(_) => tracing::debug!(?hop, ?order, %error, "neighbour not changed"),
            }
        }
        Ok(())
    }

    /// The kernel has no room for another neighbour.
    fn table_full(&mut self) {
        let now = Instant::now();
        self.ask_again = now + FULL_TABLE_PAUSE;
        if now >= self.may_complain {
            self.may_complain = now + COMPLAINT_INTERVAL;
            tracing::warn!(
                "the kernel's neighbour table is full, next hops stay unresolved: raise \
                 `net.ipv4.neigh.default.gc_thresh3` and `net.ipv6.neigh.default.gc_thresh3`"
            );
        }
    }

    /// Has the next hop towards a client resolved once.
    async fn resolve(
        &mut self,
        requests: &Requests,
        client: IpAddr,
        ifindex: u32,
    ) -> io::Result<()> {
        if !self.limit.admits(client, Instant::now()) {
            return Ok(());
        }
        // A link-local address means nothing without its interface.
        let link_local = matches!(client, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let oif = link_local.then_some(ifindex);
        let route = requests.route(client, oif).await?;
        let Some(Route { hop, .. }) = route else { return Ok(()) };
        let known = self.facts.neighbour(hop);
        // What is in use is being asked for already.
        if known.is_some_and(|known| known.fixed || known.managed || known.mac.is_some())
            || self.facts.in_use(hop)
        {
            return Ok(());
        }
        self.order(requests, &[hop], Order::Resolve).await
    }

    /// Learns what the way to an address carries, if that is less than is known.
    fn carries(&mut self, address: IpAddr, mtu: u32) {
        let mtu = mtu.max(if address.is_ipv4() { LEAST_V4 } else { LEAST_V6 });
        if self.facts.mtu(address).is_some_and(|known| known == 0 || mtu < known) {
            tracing::info!(%address, mtu, "the way to a backend carries less than was known");
            self.facts.set_carried(address, Some(mtu));
            self.forget.insert(address, Instant::now() + CARRIED);
        }
    }

    /// When to publish; `None`: nothing changed.
    fn publish_at(&self, now: Instant) -> Option<Instant> {
        let changed = self.changed.unwrap_or(now);
        Some(match self.facts.urgency()? {
            Urgency::Later => changed + PATIENCE,
            Urgency::Now if self.looking_up() => changed + HOLD,
            Urgency::Now => {
                let answered = self.answer_until.min(changed + HOLD);
                answered.max(self.published + PUBLISH_INTERVAL)
            }
        })
    }

    fn publish_if_due(&mut self) {
        let now = Instant::now();
        let Some(at) = self.publish_at(now) else { return };
        self.changed.get_or_insert(now);
        if now >= at {
            self.publish();
        }
    }

    /// Publishes what changed.
    pub(super) fn publish(&mut self) {
        self.changed = None;
        if let Some(network) = self.facts.publish() {
            self.published = Instant::now();
            self.network.send_replace(Arc::new(network));
        }
    }
}

/// Passes over what the kernel refused; `Err`: the connection is lost.
fn not_lost(error: io::Error) -> io::Result<()> {
    if error.raw_os_error().is_some() { Ok(()) } else { Err(error) }
}
