//! The task behind a [`Watcher`](super::Watcher): wait, learn, ask, publish.

use std::{
    collections::BTreeSet,
    io, mem,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Client,
    decode::Event,
    events::Events,
    limit::Limit,
    request::{Order, Requests},
};
use crate::core::nexthop::{Facts, Hop, Network, Urgency};

/// Changes of routes and links come in bursts: the lookups wait this long.
const SETTLE: Duration = Duration::from_millis(5);

/// Between two publications, so that a burst of changes costs a few only.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);

/// How long a change that misleads nobody may wait; also how often a hop that
/// does not resolve is asked for again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Until netlink is opened again after it failed.
const REOPEN: Duration = Duration::from_secs(1);

/// Requests under way at once; also the hops asked for again in one second.
const BATCH: usize = 256;

/// A round of lookups and a reading of all tables are followed by a rest this
/// many times as long, however often the network changes.
const REST: u32 = 2;

/// Between two complaints about a full neighbour table.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Something costly that is done some time after it was found necessary.
#[derive(Debug)]
struct Chore {
    due: Option<Instant>,
    rest_until: Instant,
}

impl Chore {
    fn new(now: Instant) -> Self {
        Self { due: None, rest_until: now }
    }

    /// Wanted; a later wish while one is waiting adds nothing.
    fn want(&mut self, at: Instant) {
        self.due.get_or_insert(at.max(self.rest_until));
    }

    /// It was done, from `began` to `now`; what was wanted meanwhile waits.
    fn done(&mut self, began: Instant, now: Instant) {
        self.rest_until = now + (now - began) * REST;
        self.due = self.due.map(|due| due.max(self.rest_until));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

pub(super) struct Follower {
    facts: Facts,
    wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    clients: mpsc::Receiver<Client>,
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
    /// When a change that may wait was seen first.
    waiting_since: Option<Instant>,
    limit: Limit,
    may_complain: Instant,
}

impl Follower {
    pub(super) fn new(
        wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
        clients: mpsc::Receiver<Client>,
        network: watch::Sender<Arc<Network>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            facts: Facts::default(),
            wanted,
            clients,
            network,
            lookups: BTreeSet::new(),
            look_up: Chore::new(now),
            round: Vec::new(),
            round_began: now,
            read: Chore::new(now),
            ask_again: now,
            cursor: None,
            published: now,
            waiting_since: None,
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
                match Requests::open().and_then(|requests| Ok((requests, Events::open()?))) {
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
                    let wanted = Arc::clone(&self.wanted.borrow_and_update());
                    let new = self.facts.watch(&wanted);
                    self.lookups.extend(new);
                    self.look_up.want(Instant::now());
                }
                Some(client) = self.clients.recv() => self.resolve(requests, client).await?,
                () = sleep_until(deadline) => {}
            }
            self.work(requests).await?;
        }
    }

    /// When there is something to do even if nothing happens.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let publish = self.facts.urgency().map(|urgency| match urgency {
            Urgency::Now => self.published + PUBLISH_INTERVAL,
            Urgency::Later => self.waiting_since.unwrap_or(now) + PATIENCE,
        });
        let unfinished = (self.facts.has_unasked() || !self.round.is_empty()).then_some(now);
        let again = self.facts.has_unsettled().then_some(self.ask_again);
        [publish, unfinished, again, self.look_up.due, self.read.due]
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

    fn look_up_all(&mut self) {
        self.lookups.extend(self.facts.watched());
        self.look_up.want(Instant::now() + SETTLE);
    }

    /// Does what is due, a batch at a time so that events are not kept waiting.
    async fn work(&mut self, requests: &Requests) -> io::Result<()> {
        if self.read.is_due(Instant::now()) {
            let began = Instant::now();
            self.read.due = None;
            self.read_tables(requests).await?;
            self.read.done(began, Instant::now());
        }
        if !self.round.is_empty() || self.look_up.is_due(Instant::now()) {
            self.look_up_some(requests).await?;
        }
        let unasked = self.facts.take_unasked(BATCH);
        self.order(requests, &unasked, Order::Keep).await?;
        let now = Instant::now();
        if now >= self.ask_again && self.facts.has_unsettled() {
            let again = self.facts.unsettled(self.cursor, BATCH);
            self.cursor = again.last().copied();
            self.ask_again = now + PATIENCE;
            self.order(requests, &again, Order::Keep).await?;
        }
        self.publish_if_due();
        Ok(())
    }

    /// Reads links, addresses and neighbours, and has all routes looked up.
    pub(super) async fn read_tables(&mut self, requests: &Requests) -> io::Result<()> {
        self.facts.set_links(&requests.links().await?);
        self.facts.set_addresses(requests.addresses().await?);
        self.facts.set_neighbours(&requests.neighbours().await?);
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
            self.look_up.due = None;
        }
        let batch = self.round.split_off(self.round.len().saturating_sub(BATCH));
        let answers = join_all(batch.iter().map(|address| requests.route(*address, None))).await;
        for (address, hop) in batch.iter().zip(answers) {
            self.facts.set_route(*address, hop?);
        }
        if self.round.is_empty() {
            self.look_up.done(self.round_began, Instant::now());
            for hops in self.facts.unused().chunks(BATCH) {
                self.order(requests, hops, Order::Release).await?;
            }
        }
        Ok(())
    }

    /// Gives the kernel the same order about several hops.
    async fn order(&mut self, requests: &Requests, hops: &[Hop], order: Order) -> io::Result<()> {
        let answers = join_all(hops.iter().map(|hop| requests.neighbour(*hop, order))).await;
        for (hop, answer) in hops.iter().zip(answers) {
            let Err(error) = answer else { continue };
            match error.raw_os_error() {
                None => return Err(error),
                Some(libc::ENOBUFS) => self.complain(),
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

    fn complain(&mut self) {
        let now = Instant::now();
        if now >= self.may_complain {
            self.may_complain = now + COMPLAINT_INTERVAL;
            tracing::warn!(
                "the kernel's neighbour table is full, next hops stay unresolved: raise \
                 `net.ipv4.neigh.default.gc_thresh3` and `net.ipv6.neigh.default.gc_thresh3`"
            );
        }
    }

    /// Has the next hop towards a client resolved once.
    async fn resolve(&mut self, requests: &Requests, client: Client) -> io::Result<()> {
        if !self.limit.admits(client.address, Instant::now()) {
            return Ok(());
        }
        // A link-local address means nothing without its interface.
        let link_local = matches!(client.address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address));
        let oif = link_local.then_some(client.ifindex);
        let Some(hop) = requests.route(client.address, oif).await? else { return Ok(()) };
        let known = self.facts.neighbour(hop);
        // What is in use is being asked for already.
        if known.is_some_and(|known| known.fixed || known.managed || known.mac.is_some())
            || self.facts.in_use(hop)
        {
            return Ok(());
        }
        self.order(requests, &[hop], Order::Resolve).await
    }

    /// Publishes if it is time to: at once when nothing was published lately.
    fn publish_if_due(&mut self) {
        let now = Instant::now();
        let due = match self.facts.urgency() {
            None => return,
            Some(Urgency::Now) => self.published + PUBLISH_INTERVAL,
            Some(Urgency::Later) => *self.waiting_since.get_or_insert(now) + PATIENCE,
        };
        if now >= due {
            self.publish();
        }
    }

    /// Publishes what changed.
    pub(super) fn publish(&mut self) {
        self.waiting_since = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chore_wanted_again_and_again_is_due_as_first_wanted() {
        let start = Instant::now();
        let mut chore = Chore::new(start);
        chore.want(start + SETTLE);
        chore.want(start + SETTLE * 2);
        assert!(!chore.is_due(start));
        assert!(chore.is_due(start + SETTLE));
    }

    #[test]
    fn costly_chore_rests_longer_than_it_took() {
        let start = Instant::now();
        let mut chore = Chore::new(start);
        let end = start + Duration::from_millis(100);
        chore.done(start, end);
        chore.want(end);
        assert!(!chore.is_due(end + Duration::from_millis(199)));
        assert!(chore.is_due(end + Duration::from_millis(200)));
    }
}
