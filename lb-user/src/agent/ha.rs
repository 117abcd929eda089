//! The pair of balancers: a thread that sends and hears heartbeats, asks
//! [`crate::core::ha`] which groups this node serves, keeps their leases in the
//! data plane and their addresses at the interfaces.

mod addresses;
mod driver;
pub mod frame;
pub mod key;
mod sync;
mod term;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join;
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub use self::sync::Flows;
use self::{
    addresses::{Keeper, Kept, Serving},
    driver::Driver,
    frame::Codec,
    key::{Key, KeyError},
    sync::{Exchange, Sync},
    term::Terms,
};
use super::{store::StoreError, thread::Thread};
use crate::{
    api,
    core::{
        ha::{Pair, Settings},
        model::{
            Node,
            ha::{Group, Ha, Path},
        },
    },
    dataplane::leases::Leases,
};

/// Orders that wait for the thread.
const WAITING: usize = 16;
/// How long an agent that ends waits for the peer to serve, and for the addresses
/// to be gone.
const HANDOVER: Duration = Duration::from_millis(500);

/// The agent cannot be a node of the pair.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The terms that were used are not known, or cannot be kept.
    #[error(transparent)]
    Terms(#[from] StoreError),
    /// See [`addresses::Error`].
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
    /// No thread.
    #[error("cannot start the thread of the pair: {0}")]
    Thread(io::Error),
    /// No random number.
    #[error("the kernel gives no random bytes")]
    Random,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Terms(error) => error.hint(),
            Self::Listen { .. } => {
                Some("`ha.listen` must be this host's own addresses, and the ports free".to_owned())
            }
            _ => None,
        }
    }
}

/// Why groups are not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failover {
    /// No group has the name.
    #[error("`[ha]` has no such group")]
    NoGroup,
    /// This node does not serve it.
    #[error("this node does not serve it: ask the peer")]
    NotActive,
    /// Nobody would take over.
    #[error("the peer is not there to take over")]
    NoPeer,
    /// Connections would break.
    #[error("the peer does not know all flows yet")]
    NotTold,
    /// The agent is about to end.
    #[error("the agent is about to end")]
    Gone,
}

/// What the thread is asked.
enum Order {
    Status(oneshot::Sender<api::HaStatus>),
    /// To give up a group, or all that it serves.
    Failover(Option<String>, oneshot::Sender<Result<Vec<String>, Failover>>),
    /// To give up everything, for good.
    Leave,
}

/// A node that has found all that it needs, and does nothing yet.
pub struct Candidate {
    ha: Ha,
    settings: Settings,
    codec: Codec,
    terms: Terms,
    /// Latest term that was used.
    used: u64,
    boot: u64,
    sockets: Vec<Arc<UdpSocket>>,
    keeper: Keeper,
    /// What moments are counted from.
    started: Instant,
    thread: Thread,
    place_seed: [u64; 2],
    exchange: Exchange,
}

/// This node of the pair. Dropping it ends the thread; leases and addresses then
/// run out.
pub struct Member {
    orders: mpsc::Sender<Order>,
    summary: watch::Receiver<api::HaSummary>,
    kept: watch::Receiver<Vec<Kept>>,
    sync: Sync,
    /// Of heartbeats, and of flows.
    _threads: [Thread; 2],
}

/// By which the node is asked from elsewhere.
#[derive(Clone)]
pub struct Asking {
    orders: mpsc::Sender<Order>,
    sync: Sync,
}

impl Candidate {
    /// Makes sure of all that may be wrong on this host: the key, terms,
    /// sockets, addresses.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn new(node: &Node, ha: &Ha) -> Result<Self, Error> {
        let key = Key::read(&ha.key_file)?;
        let codec = Codec::new(&key, &ha.pair);
        let (terms, used) = Terms::open(&node.state_dir)?;
        let prefers = |group: &Group| group.prefer.as_ref() == Some(&node.name);
        let groups = ha.groups.iter().map(|group| (group_id(&group.name), prefers(group)));
        let settings = Settings {
            node: node.name.clone(),
            priority: ha.priority,
            heartbeat: ha.heartbeat,
            preempt: ha.preempt,
            groups: groups.collect(),
        };
        let started = Instant::now();
        let thread = Thread::start("ha").map_err(Error::Thread)?;
        let ours = ha.clone();
        // Sockets belong to the runtime that they are opened in.
        let opened = thread.handle().spawn(async move {
            let sockets = ours.paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Error>((sockets, Keeper::begin(&ours, started).await?))
        });
        let opened = opened.await.map_err(|error| Error::Thread(io::Error::other(error)))?;
        let ((sockets, keeper), boot, ha) = (opened?, boot()?, ha.clone());
        let place_seed = key.place_seed(&ha.pair);
        let exchange = Exchange::open(node, &ha, &key).await?;
        Ok(Self {
            ha,
            settings,
            codec,
            terms,
            used,
            boot,
            sockets,
            keeper,
            started,
            thread,
            place_seed,
            exchange,
        })
    }

    /// See [`Key::place_seed`].
    #[must_use]
    pub fn place_seed(&self) -> [u64; 2] {
        self.place_seed
    }

    /// Begins to be a node of the pair. The data plane must be ready to serve.
    #[must_use]
    pub fn join(self, flows: Flows, leases: Arc<Leases>) -> Member {
        let Self { ha, settings, codec, terms, used, boot, .. } = self;
        let Self { sockets, keeper, started, thread, exchange, .. } = self;
        let pair = Pair::new(settings, boot, used, started.elapsed());
        let (orders, queue) = mpsc::channel(WAITING);
        let (told, summary) = watch::channel(api::HaSummary {
            role: "standby".to_owned(),
            peer: None,
            connected: false,
        });
        let serving = pair.groups().map(|view| Serving { active: false, since: view.since });
        let (serving, follows) = watch::channel(serving.collect());
        let (sync, flow_thread) = exchange.begin(flows, follows.clone());
        let kept = keeper.kept();
        thread.handle().spawn(keeper.run(follows));
        let driver = Driver {
            heard: vec![None; ha.paths.len()],
            ha,
            pair,
            codec,
            sockets,
            leases,
            terms,
            serving,
            kept: kept.clone(),
            summary: told,
            sync: sync.clone(),
            started,
            refused: Default::default(),
            trouble: None,
        };
        thread.handle().spawn(driver.run(queue));
        Member { orders, summary, kept, sync, _threads: [thread, flow_thread] }
    }
}

impl Member {
    /// By which it is asked from elsewhere.
    #[must_use]
    pub fn asking(&self) -> Asking {
        Asking { orders: self.orders.clone(), sync: self.sync.clone() }
    }

    /// What it is at the moment.
    #[must_use]
    pub fn summary(&self) -> api::HaSummary {
        self.summary.borrow().clone()
    }

    /// Hands everything over, and waits a moment until the peer serves and the
    /// addresses are gone.
    pub async fn leave(mut self) {
        self.sync.flush().await;
        let _ = self.orders.send(Order::Leave).await;
        let asking = self.asking();
        let served = async {
            while let Ok(status) = asking.status().await
                && status.peer.is_some()
                && status.groups.iter().any(|group| group.peer_role.as_deref() != Some("active"))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let released = self.kept.wait_for(|kept| kept.iter().all(|kept| !kept.held));
        let (served, released) = join(timeout(HANDOVER, served), timeout(HANDOVER, released)).await;
        if served.is_err() {
            tracing::warn!("the peer does not serve what this node gave up");
        }
        if released.is_err() {
            tracing::warn!("addresses of groups may still be here: they go by themselves");
        }
        // What began meanwhile.
        self.sync.flush().await;
    }
}

impl Asking {
    /// Roles, terms, the peer.
    ///
    /// # Errors
    /// [`Failover::Gone`].
    pub async fn status(&self) -> Result<api::HaStatus, Failover> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Status(reply)).await.map_err(|_| Failover::Gone)?;
        let status = answer.await.map_err(|_| Failover::Gone)?;
        Ok(api::HaStatus { sync: self.sync.status(), ..status })
    }

    /// Gives up a group, or all that this node serves; which those are. Unless
    /// this is `forced`, the peer must know all flows.
    ///
    /// # Errors
    /// See [`Failover`]; nothing was given up.
    pub async fn fail_over(
        &self,
        group: Option<String>,
        forced: bool,
    ) -> Result<Vec<String>, Failover> {
        if !forced && self.status().await?.peer.is_some() && !self.sync.is_told() {
            return Err(Failover::NotTold);
        }
        self.sync.flush().await;
        let (reply, answer) = oneshot::channel();
        let order = Order::Failover(group, reply);
        self.orders.send(order).await.map_err(|_| Failover::Gone)?;
        let gone = answer.await.map_err(|_| Failover::Gone)?;
        // What began meanwhile.
        self.sync.flush().await;
        gone
    }

    /// Has both nodes tell each other all flows again.
    pub fn resync(&self) {
        self.sync.resync();
    }
}

/// The socket of a path. It is connected, so only the peer's frames come in,
/// also where `firewall.host` drops what nobody asked for.
fn open(path: &Path) -> Result<Arc<UdpSocket>, Error> {
    let failed = |source| Error::Listen { address: path.listen, source };
    let socket = std::net::UdpSocket::bind(path.listen).map_err(failed)?;
    socket.connect(path.peer).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    UdpSocket::from_std(socket).map(Arc::new).map_err(failed)
}

/// What nodes call a group: half of a hash of its name.
fn group_id(name: &str) -> u64 {
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    hash.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// A number for this run.
fn boot() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}
