//! The shared configuration between the nodes, see [`crate::core::replica`]. Each
//! node calls the other and offers it what it goes by: whenever that changed, and
//! every second, so that nothing has to be remembered about what was said before.
//! What an offer is to this node is for the controller to say: [`Heard`].

mod answer;
mod call;
mod message;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub(super) use self::{answer::Answering, call::Calling};
use crate::{
    api,
    core::replica::{Content, Offer, Revision, Version},
};

/// How often the peer is offered what it may have already.
const EVERY: Duration = Duration::from_secs(1);
/// How long the peer may take to put something on disk and in force.
const SAVING: Duration = Duration::from_secs(10);
/// How long who changes something waits for the peer to have it.
const SETTLING: Duration = Duration::from_secs(3);
/// What the peer said that waits for the controller.
const WAITING: usize = 4;

/// What this node goes by.
#[derive(Debug)]
pub struct Ours {
    /// What the peer is told of it.
    pub offer: Offer,
    /// All of it.
    pub revision: Revision,
    /// The latest version that both are known to have had.
    pub agreed: Option<Version>,
    /// See [`Ledger::offered`](crate::core::replica::Ledger::offered).
    pub pending: Vec<Version>,
}

/// What the peer said, for the controller.
#[derive(Debug)]
pub enum Heard {
    /// It offers something; all of it, if that was asked for.
    Offer {
        /// The peer's name.
        node: String,
        /// What.
        offer: Offer,
        /// All of it.
        content: Option<Content>,
        /// Takes what is to be said to that.
        reply: oneshot::Sender<Answer>,
    },
    /// It has what it was offered.
    Agreed {
        /// That.
        offered: Revision,
        /// Its version, for both.
        version: Version,
    },
}

/// What is said to an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This node has it, by this version.
    Agreed(Version),
    /// It needs all of it.
    Wanted,
    /// It will offer something that is newer, or what both make together.
    Wait,
    /// It cannot take it, and why.
    Failed(String),
}

/// How offering goes.
#[derive(Clone, Debug, Default)]
pub(in crate::agent::ha) struct Link {
    /// Whether the peer listens.
    connected: bool,
    /// Why it does not, or has not what it was offered.
    trouble: Option<String>,
}

/// By which the controller shares.
pub struct Sharing {
    /// What this node goes by.
    pub ours: watch::Sender<Option<Arc<Ours>>>,
    /// What the peer said.
    pub heard: mpsc::Receiver<Heard>,
}

/// By which others see how that goes.
#[derive(Clone, Debug)]
pub struct Shared {
    ours: watch::Receiver<Option<Arc<Ours>>>,
    link: watch::Receiver<Link>,
    summary: watch::Receiver<api::HaSummary>,
}

/// The ends of the exchange's own.
pub(in crate::agent::ha) struct Ends {
    pub(in crate::agent::ha) ours: watch::Receiver<Option<Arc<Ours>>>,
    pub(in crate::agent::ha) link: watch::Sender<Link>,
    pub(in crate::agent::ha) heard: mpsc::Sender<Heard>,
}

/// Both ends of what the controller and the exchange tell each other.
pub(in crate::agent::ha) fn ends(
    summary: watch::Receiver<api::HaSummary>,
) -> (Sharing, Shared, Ends) {
    let (ours, follows) = watch::channel(None);
    let (link, how) = watch::channel(Link::default());
    let (heard, waiting) = mpsc::channel(WAITING);
    let shared = Shared { ours: follows.clone(), link: how, summary };
    (Sharing { ours, heard: waiting }, shared, Ends { ours: follows, link, heard })
}

impl Shared {
    /// Waits until the peer has this version, for a while: what to say if it has
    /// not.
    pub async fn settle(mut self, version: Version) -> Option<String> {
        let settled = timeout(SETTLING, self.outcome(version)).await;
        settled.unwrap_or_else(|_| Some(format!("the peer has not answered yet: {LATER}")))
    }

    async fn outcome(&mut self, version: Version) -> Option<String> {
        loop {
            let ours = self.ours.borrow_and_update().clone();
            // One that was merged is at the peer with what it became.
            let is_settled =
                |ours: &Arc<Ours>| ours.agreed >= Some(version) && !ours.pending.contains(&version);
            if ours.as_ref().is_some_and(is_settled) {
                return None;
            }
            if !self.summary.borrow_and_update().connected {
                return Some(format!("the peer is away: {LATER}"));
            }
            let Link { connected, trouble } = self.link.borrow_and_update().clone();
            if let Some(trouble) = trouble {
                let what = if connected { "has not stored it" } else { "does not listen" };
                return Some(format!("the peer {what}: {trouble}; {LATER}"));
            }
            let changed = tokio::select! {
                changed = self.ours.changed() => changed,
                changed = self.link.changed() => changed,
                changed = self.summary.changed() => changed,
            };
            if changed.is_err() {
                return Some("the agent is about to end: the peer gets this later".to_owned());
            }
        }
    }

    /// Whether the peer goes by the same.
    pub(in crate::agent::ha) fn agrees(&self) -> bool {
        let ours = self.ours.borrow();
        let version = ours.as_ref().map(|ours| ours.revision.version);
        self.link.borrow().connected && ours.as_ref().is_some_and(|ours| ours.agreed == version)
    }

    /// How sharing goes.
    #[must_use]
    pub fn status(&self) -> api::HaConfig {
        let ours = self.ours.borrow();
        let link = self.link.borrow();
        let version = ours.as_ref().map(|ours| ours.revision.version);
        let conflicts = ours.as_ref().map_or(0, |ours| ours.revision.content.conflicts.len());
        api::HaConfig {
            mode: "replicate".to_owned(),
            version: version.map(|version| version.to_string()),
            agreed: self.agrees(),
            conflicts: conflicts as u64,
            trouble: link.trouble.clone(),
        }
    }
}

/// When the peer gets what it has not.
const LATER: &str = "it gets this as soon as it can";
