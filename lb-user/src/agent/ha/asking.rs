//! What the thread of the pair is asked, and by whom: status, hand-over.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::sync::{Sync, replica::Shared};
use crate::api;

/// How long an agent that ends waits for the peer to serve, and for the addresses
/// to be gone.
pub(super) const FAREWELL: Duration = Duration::from_millis(500);
/// How often the peer is looked at meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(5);

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
    #[error("the peer is not there to take over, or is not able to")]
    NoPeer,
    /// Connections would break.
    #[error("the peer does not know all flows yet")]
    NotTold,
    /// The peer would serve by something older.
    #[error("the peer does not have the latest configuration yet")]
    NotAgreed,
    /// The peer let the time pass in which it was to take over.
    #[error("the peer did not take it: this node serves again")]
    NotTaken,
    /// Neither node serves.
    #[error("the peer has not taken it yet")]
    Pending,
    /// The agent is about to end.
    #[error("the agent is about to end")]
    Gone,
}

/// What the thread is asked.
pub(super) enum Order {
    Status(oneshot::Sender<api::HaStatus>),
    /// To give up a group, or all that it serves.
    Failover(Option<String>, oneshot::Sender<Result<Vec<String>, Failover>>),
    /// To give up everything, for good.
    Leave,
}

/// By which the node is asked from elsewhere.
#[derive(Clone, Debug)]
pub struct Asking {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) sync: Sync,
    pub(super) shared: Option<Shared>,
    /// How long who orders a hand-over waits for the peer to serve.
    pub(super) handover: Duration,
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
        let config = self.shared.as_ref().map(Shared::status).unwrap_or_default();
        // What a peer that is away goes by nobody knows: its connection ends much later.
        let agreed = config.agreed && status.peer.is_some();
        let config = api::HaConfig { agreed, ..config };
        Ok(api::HaStatus { sync: self.sync.status(), config, ..status })
    }

    /// Buckets of the affinity table whose changes the peer has still to be told.
    /// Reads all marks: a millisecond where there are many.
    #[must_use]
    pub fn sync_queue(&self) -> usize {
        self.sync.queue()
    }

    /// Gives up a group, or all that this node serves; which those are, once the
    /// peer serves them. Unless this is `forced`, the peer must know all flows and have
    /// the same configuration.
    ///
    /// # Errors
    /// See [`Failover`]; but for the last ones nothing was given up.
    pub async fn fail_over(
        &self,
        group: Option<String>,
        forced: bool,
    ) -> Result<Vec<String>, Failover> {
        let until = Instant::now() + FAREWELL;
        loop {
            let agrees = self.shared.as_ref().is_none_or(Shared::agrees);
            let is_told = self.sync.flush().await && self.sync.is_told();
            if agrees && is_told || forced || self.status().await?.peer.is_none() {
                break;
            }
            // What changed a moment ago is on its way.
            if Instant::now() >= until {
                return Err(if agrees { Failover::NotTold } else { Failover::NotAgreed });
            }
            sleep(LOOK).await;
        }
        let until = Instant::now() + FAREWELL;
        let given = loop {
            match self.give_up(group.clone()).await {
                // A frame may be late.
                Err(Failover::NoPeer) if Instant::now() < until => sleep(LOOK).await,
                given => break given?,
            }
        };
        // What began meanwhile.
        self.sync.flush().await;
        timeout(self.handover, self.taken(&given)).await.unwrap_or(Err(Failover::Pending))?;
        Ok(given)
    }

    async fn give_up(&self, group: Option<String>) -> Result<Vec<String>, Failover> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Failover(group, reply);
        self.orders.send(order).await.map_err(|_| Failover::Gone)?;
        answer.await.map_err(|_| Failover::Gone)?
    }

    /// Waits until the peer serves what was given up.
    async fn taken(&self, given: &[String]) -> Result<(), Failover> {
        loop {
            let status = self.status().await?;
            let mut groups = status.groups.iter().filter(|group| given.contains(&group.name));
            if groups.clone().all(is_taken) {
                return Ok(());
            }
            if groups.any(|group| group.role == "active") {
                return Err(Failover::NotTaken);
            }
            sleep(LOOK).await;
        }
    }

    /// Has both nodes tell each other all flows again.
    pub fn resync(&self) {
        self.sync.resync();
    }
}

/// Whether the peer says that it serves the group.
pub(super) fn is_taken(group: &api::HaGroup) -> bool {
    group.peer_role.as_deref() == Some("active")
}
