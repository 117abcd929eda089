//! The pair of balancers: a thread that sends and hears heartbeats, asks
//! [`crate::core::ha`] which groups this node serves, keeps their leases in the
//! data plane and their addresses at the interfaces.

mod addresses;
mod asking;
mod ballot;
mod driver;
mod errands;
mod fence;
pub mod frame;
mod history;
pub mod key;
mod socket;
mod sync;
mod term;
mod voice;
pub mod witness;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join;
use lb_common::addr;
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    addresses::{Keeper, Kept, Serving},
    asking::{FAREWELL, LOOK, Order, is_taken},
    driver::{Driver, trouble::Trouble},
    key::{Keys, file::KeyError},
    socket::Way,
    sync::{Exchange, Sync},
    term::{TermError, Terms},
    voice::Voice,
};
pub use self::{
    asking::{Asking, Failover},
    sync::{
        Flows,
        replica::{Answer, Heard, Ours, Shared, Sharing},
    },
};
use super::thread::Thread;
use crate::{
    api,
    core::{
        ha::{GIVEN_BACK, GroupSettings, Pair, Settings},
        model::{
            Node,
            ha::{Group, Ha, Path},
        },
    },
    dataplane::leases::Leases,
    sys::priority,
};

/// Orders that wait for the thread.
const WAITING: usize = 16;

/// The agent cannot be a node of the pair.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The terms that were used are not known.
    #[error(transparent)]
    Terms(#[from] TermError),
    /// Nobody can keep the addresses of the groups.
    #[error(transparent)]
    Addresses(#[from] addresses::Error),
    /// A socket of `ha.listen` cannot be opened.
    #[error("cannot listen at `{address}` for the peer")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The socket to or of the witness fails.
    #[error("cannot use `{address}` for the witness")]
    Witness {
        /// Where the witness is.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start the thread of the pair: {0}")]
    Thread(io::Error),
    /// No random number.
    #[error("the kernel gives no random bytes")]
    Random,
    /// Nobody sends heartbeats and renews leases any more.
    #[error("the thread of the pair has failed: the leases of this node run out")]
    Ended,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Terms(error) => error.hint(),
            Self::Listen { .. } => {
                Some("the ports of `ha.listen` must be free, both for UDP and TCP".to_owned())
            }
            _ => None,
        }
    }
}

/// What became of the groups of a node that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The peer serves all.
    Served,
    /// The peer is there, and does not serve all.
    Unserved,
    /// There is no peer.
    Alone,
}

/// A node that has found all that it needs, and does nothing yet.
pub struct Candidate {
    ha: Ha,
    settings: Settings,
    voice: watch::Sender<Voice>,
    terms: Terms,
    /// Latest term that was used.
    used: u64,
    boot: u64,
    ways: Vec<Way>,
    witness: Option<Way>,
    keeper: Keeper,
    /// What moments are counted from.
    started: Instant,
    thread: Thread,
    exchange: Exchange,
}

/// This node of the pair. Dropping it ends the thread; leases and addresses then
/// run out.
pub struct Member {
    orders: mpsc::Sender<Order>,
    summary: watch::Receiver<api::HaSummary>,
    kept: watch::Receiver<Vec<Kept>>,
    sync: Sync,
    shared: Option<Shared>,
    key_file: PathBuf,
    voice: watch::Sender<Voice>,
    handover: Duration,
    /// There is a witness.
    witnessed: bool,
    /// Of heartbeats, and of flows.
    _threads: [Thread; 2],
}

impl Candidate {
    /// Makes sure of all that may be wrong on this host: the key, terms,
    /// sockets, addresses.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn new(node: &Node, ha: &Ha) -> Result<Self, Error> {
        let voice = Voice::new(Keys::read(&ha.key_file)?, &ha.pair);
        let (terms, used) = Terms::open(&node.state_dir)?;
        let prefers = |group: &Group| group.prefer.as_ref() == Some(&node.name);
        let seeds = [seed_fingerprint(node), place_fingerprint(&voice)];
        let groups = ha.groups.iter().map(|group| GroupSettings {
            id: group_id(group),
            digest: digest(group, seeds, ha),
            preferred: prefers(group),
        });
        let settings = Settings {
            node: node.name.clone(),
            priority: ha.priority,
            heartbeat: ha.heartbeat,
            preempt: ha.preempt,
            witness: ha.witness.is_some(),
            fence: ha.fence.is_some(),
            groups: groups.collect(),
        };
        let started = Instant::now();
        let thread = Thread::start("ha").map_err(Error::Thread)?;
        let ours = ha.clone();
        // Sockets belong to the runtime that they are opened in.
        let opened = thread.handle().spawn(async move {
            if let Err(error) = priority::come_first() {
                tracing::warn!(
                    %error,
                    "heartbeats compete with all other processes, which may keep them from the \
                     peer: CAP_SYS_NICE would put them first"
                );
            }
            let open = |&path: &Path| {
                let failed = |source| Error::Listen { address: path.listen, source };
                Way::open(path).map_err(failed)
            };
            let ways = ours.paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let witness = ours.witness.map(|address| {
                let failed = |source| Error::Witness { address, source };
                Way::open(Path { listen: any_port(address.ip()), peer: address }).map_err(failed)
            });
            Ok::<_, Error>((ways, witness.transpose()?, Keeper::begin(&ours, started).await?))
        });
        let opened = opened.await.map_err(|error| Error::Thread(io::Error::other(error)))?;
        let ((ways, witness, keeper), boot, ha) = (opened?, boot()?, ha.clone());
        let exchange = Exchange::open(node, &ha).await?;
        Ok(Self {
            ha,
            settings,
            voice: watch::Sender::new(voice),
            terms,
            used,
            boot,
            ways,
            witness,
            keeper,
            started,
            thread,
            exchange,
        })
    }

    /// See [`Keys::place_seed`].
    #[must_use]
    pub fn place_seed(&self) -> [u64; 2] {
        self.voice.borrow().place_seed()
    }

    /// Begins to be a node of the pair. The data plane must be ready to serve. The
    /// task goes on as long as the member does: if it ends before, nobody renews
    /// leases.
    #[must_use]
    pub fn join(
        self,
        flows: Flows,
        leases: Arc<Leases>,
    ) -> (Member, JoinHandle<()>, Option<Sharing>) {
        let Self { ha, settings, voice, terms, used, boot, .. } = self;
        let Self { ways, witness, keeper, started, thread, exchange, .. } = self;
        let node = settings.node.clone();
        let handover = settings.heartbeat * GIVEN_BACK;
        let pair = Pair::new(settings, boot, used, started.elapsed());
        let (orders, queue) = mpsc::channel(WAITING);
        let (told, summary) = watch::channel(api::HaSummary {
            role: "standby".to_owned(),
            term: used,
            peer: None,
            connected: false,
        });
        let serving = pair.groups().map(|view| Serving { active: false, since: view.since });
        let (serving, follows) = watch::channel(serving.collect());
        let ends = ha.replicate.then(|| sync::replica::ends(summary.clone()));
        let (sharing, shared, ends) = match ends {
            Some((sharing, shared, ends)) => (Some(sharing), Some(shared), Some(ends)),
            None => (None, None, None),
        };
        let spoken = voice.subscribe();
        let (sync, flow_thread) = exchange.begin(flows, follows.clone(), spoken, ends);
        let (kept, witnessed) = (keeper.kept(), ha.witness.is_some());
        let agreement = shared.clone();
        thread.handle().spawn(keeper.run(follows));
        let key_file = ha.key_file.clone();
        let driver = Driver {
            heard: vec![None; ha.paths.len()],
            trouble: Trouble::none(ha.groups.len()),
            node,
            ha,
            pair,
            voice: voice.clone(),
            ways,
            witness,
            leases,
            terms,
            serving,
            kept: kept.clone(),
            summary: told,
            sync: sync.clone(),
            shared: agreement,
            started,
            refused: Default::default(),
            history: Default::default(),
            flushing: None,
            fencing: None,
            stopped: None,
            stranger: None,
            peer: None,
        };
        let driving = thread.handle().spawn(driver.run(queue));
        let _threads = [thread, flow_thread];
        let member = Member {
            orders,
            summary,
            kept,
            sync,
            shared,
            key_file,
            voice,
            handover,
            witnessed,
            _threads,
        };
        (member, driving, sharing)
    }
}

impl Member {
    /// By which it is asked from elsewhere.
    #[must_use]
    pub fn asking(&self) -> Asking {
        let Self { orders, sync, shared, handover, .. } = self;
        let (orders, sync, shared) = (orders.clone(), sync.clone(), shared.clone());
        Asking { orders, sync, shared, handover: *handover }
    }

    /// By which the peer's knowledge of the configuration is seen, where it is
    /// shared.
    #[must_use]
    pub fn shared(&self) -> Option<Shared> {
        self.shared.clone()
    }

    /// What it is at the moment.
    #[must_use]
    pub fn summary(&self) -> api::HaSummary {
        self.summary.borrow().clone()
    }

    /// [`Self::summary`], whenever it is another.
    #[must_use]
    pub fn roles(&self) -> watch::Receiver<api::HaSummary> {
        self.summary.clone()
    }

    /// Reads the keys again.
    ///
    /// # Errors
    /// This node could not go on with them: the ones in use are better.
    pub fn read_keys(&self) -> Result<Keys, KeyError> {
        let keys = Keys::read(&self.key_file)?;
        let voice = self.voice.borrow();
        voice.allow(&keys, &self.key_file)?;
        if self.witnessed {
            voice.allow_before_witness(&keys, &self.key_file)?;
        }
        drop(voice);
        Ok(keys)
    }

    /// Goes on with other keys. Connections that one was used for which is gone are
    /// made again.
    pub fn take_keys(&self, keys: Keys) {
        let mut retired = false;
        self.voice.send_modify(|voice| retired = voice.renew(keys));
        if retired {
            self.sync.resync();
        }
    }

    /// Hands everything over, and waits a moment until the peer serves and the
    /// addresses are gone.
    pub async fn leave(mut self) -> Left {
        self.sync.flush().await;
        let _ = self.orders.send(Order::Leave).await;
        let asking = self.asking();
        let served = async {
            loop {
                match asking.status().await {
                    Err(_) => return Left::Unserved,
                    Ok(status) if status.peer.is_none() => return Left::Alone,
                    Ok(status) if status.groups.iter().all(is_taken) => return Left::Served,
                    Ok(_) => sleep(LOOK).await,
                }
            }
        };
        let released = self.kept.wait_for(|kept| kept.iter().all(|kept| !kept.held));
        let (left, released) = join(timeout(FAREWELL, served), timeout(FAREWELL, released)).await;
        let left = left.unwrap_or(Left::Unserved);
        if released.is_err() {
            tracing::warn!("addresses of groups may still be here: they go by themselves");
        }
        // What began meanwhile.
        self.sync.flush().await;
        left
    }
}

/// Part of a SHA-256: equal on both nodes if these bytes are.
fn fingerprint<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> u64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finish().as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// See [`GroupBeat::id`](crate::core::ha::GroupBeat).
fn group_id(group: &Group) -> u64 {
    fingerprint([group.name.as_bytes()])
}

/// By which nodes compare their `node.hash_seed`.
fn seed_fingerprint(node: &Node) -> u64 {
    fingerprint([node.hash_seed.unwrap_or_default().map(u64::to_be_bytes).as_flattened()])
}

/// By which they compare what places flows.
fn place_fingerprint(voice: &Voice) -> u64 {
    fingerprint([voice.place_seed().map(u64::to_be_bytes).as_flattened()])
}

/// See [`GroupBeat::digest`](crate::core::ha::GroupBeat).
fn digest(group: &Group, seeds: [u64; 2], ha: &Ha) -> u64 {
    let addresses = group.addresses.iter().map(|one| addr::to_bytes(one.address));
    let addresses: BTreeSet<_> = addresses.collect();
    let seeds = seeds.map(u64::to_be_bytes);
    let parts = addresses.iter().map(AsRef::as_ref);
    let witness = ha.witness.map_or_else(String::new, |address| address.to_string());
    let heartbeat = ha.heartbeat.as_micros().to_be_bytes();
    fingerprint(parts.chain([seeds.as_flattened(), &heartbeat, witness.as_bytes()]))
}

/// Any port of any address of a host, as far as it reaches this one.
fn any_port(address: IpAddr) -> SocketAddr {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (any, 0).into()
}

/// A number for this run.
fn boot() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}
