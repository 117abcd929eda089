//! The configuration that both nodes of a pair go by, and how it stays one.
//!
//! What both share is the part of the file that is about traffic (services and
//! firewall) and the edits over it. Every change makes a new [`Version`] of it,
//! on whichever node it is made, and is offered to the other. Who is offered one
//! that was made from what it has itself takes it. If both changed what they had
//! in common, the node that knows the latest of that merges, key by key; where both
//! changed the same, the change of the higher version stays, and the other's is kept
//! as a [`Conflict`] until somebody has seen it.

mod content;
mod merge;
#[cfg(test)]
mod tests;

use std::{
    fmt::{self, Display},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use content::{Base, Conflict, Content, Digest};
pub use merge::merge;

/// Most versions since the latest common one that a node remembers: as many changes
/// while the other is away are told from its own without doubt.
const MOST_OFFERED: usize = 256;

/// Versions that are remembered longer: as many changes may be made while an offer is
/// on its way.
const MOST_PAST: usize = 32;

/// No pair comes to so many terms, nor to so many changes.
const MOST: u64 = 1 << 48;

/// Names a state of the shared configuration. Of two, the one that was made under
/// the higher term of the pair is higher, then the one with more changes behind it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The pair's term in which it was made.
    pub term: u64,
    /// Counts changes, on whichever node; 0: nobody has changed anything yet.
    pub number: u64,
    /// Random, so that no two are the same; of the node of the higher priority the
    /// higher one.
    pub tag: u64,
}

impl Version {
    /// Whether a node may have made it: numbers count what operators do.
    #[must_use]
    pub fn is_plausible(self) -> bool {
        self.term < MOST && self.number < MOST
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.number)
    }
}

/// A version and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision<B = Arc<Base>> {
    /// Its name.
    pub version: Version,
    /// What it says.
    pub content: Content<B>,
}

/// What a node says of its version before it is asked for all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The version.
    pub version: Version,
    /// Of its content.
    pub digest: Digest,
    /// Of the content's base.
    pub base: Digest,
    /// See [`Ledger::common`].
    pub common: Option<Version>,
    /// See [`Ledger::past`] and [`Ledger::offered`].
    pub offered: Vec<Version>,
}

impl Offer {
    /// Whether it was made from a version that the other may have.
    fn follows(&self, version: Version) -> bool {
        self.common == Some(version) || self.offered.contains(&version)
    }
}

/// What an offer is to the node that hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Both have it: by the higher of both versions, where these differ.
    Same,
    /// It was made from what this node has.
    Newer,
    /// What this node has was made from it.
    Older,
    /// Both changed what they had in common, and this node is the one to merge.
    Merge,
    /// They did, and the other one is.
    Yield,
}

/// What a node knows of the shared configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger<B = Arc<Base>> {
    /// What it goes by.
    pub current: Revision<B>,
    /// The latest of the other's that is all in the current one.
    pub common: Option<Revision<B>>,
    /// Versions between that and the current one, the oldest first: the other may have
    /// been offered them and its answer lost, or they were merged.
    pub offered: Vec<Version>,
    /// Latest versions before those: an offer of one may still be on its way.
    #[serde(default)]
    pub past: Vec<Version>,
    /// Of the part of this node's own file that would be shared, as it was written when
    /// it was last looked at: a file that is as it was changes nothing.
    pub file: Digest,
}

impl<B> Ledger<B> {
    /// Nobody has changed anything yet.
    #[must_use]
    pub fn new(content: Content<B>, file: Digest, tag: u64) -> Self {
        let version = Version { tag, ..Version::default() };
        let current = Revision { version, content };
        Self { current, common: None, offered: Vec::new(), past: Vec::new(), file }
    }

    /// See [`Self::common`]; if it is the current one, both go by it.
    #[must_use]
    pub fn agreed(&self) -> Option<Version> {
        self.common.as_ref().map(|common| common.version)
    }

    /// The same with bases of another kind.
    ///
    /// # Errors
    /// Those of `convert`.
    pub fn try_map<C, E>(self, mut convert: impl FnMut(B) -> Result<C, E>) -> Result<Ledger<C>, E> {
        let Self { current, common, offered, past, file } = self;
        let mut revision = |Revision { version, content }: Revision<B>| {
            Ok(Revision { version, content: content.try_map(&mut convert)? })
        };
        let current = revision(current)?;
        Ok(Ledger { current, common: common.map(revision).transpose()?, offered, past, file })
    }
}

impl Ledger {
    /// What the other node is told.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let Revision { version, content } = &self.current;
        Offer {
            version: *version,
            digest: content.digest(),
            base: content.base.digest(),
            common: self.agreed(),
            offered: [&self.past[..], &self.offered].concat(),
        }
    }

    /// Makes another version, under this term. The one before may have been offered.
    pub fn change(&mut self, content: Content, term: u64, tag: u64) {
        let before = self.current.version;
        let term = term.max(before.term);
        let version = Version { term, number: before.number.saturating_add(1), tag };
        self.current = Revision { version, content };
        self.remember(before);
    }

    /// Serves under this term, and no other node was ever there: what it goes by is a
    /// change of its own, and more than what one has that comes.
    pub fn establish(&mut self, term: u64) {
        let before = self.current.version;
        if self.common.is_none() && before.term < term {
            self.current.version = Version { term, number: before.number.max(1), ..before };
            self.remember(before);
        }
    }

    /// Whether a node whose disk has `saved` could not tell, after a restart, what the
    /// other knows of it.
    #[must_use]
    pub fn outdates(&self, saved: &Self) -> bool {
        let names = |ledger: &Self| (ledger.current.version, ledger.common.is_none());
        names(self) != names(saved)
    }

    /// What an offer of the other node is to this one.
    #[must_use]
    pub fn judge(&self, offer: &Offer) -> Judgement {
        let own = self.offer();
        let (ours, theirs) = (own.version, offer.version);
        if theirs == ours || offer.digest == own.digest {
            return Judgement::Same;
        }
        let (our_basis, their_basis) = (basis(&own, offer), basis(offer, &own));
        match (theirs.number, ours.number) {
            _ if offer.follows(ours) => Judgement::Newer,
            _ if own.follows(theirs) => Judgement::Older,
            // Who has changed nothing goes by what somebody has, unless its file differs.
            (1.., 0) if offer.base == own.base => Judgement::Newer,
            (0, 1..) if offer.base == own.base => Judgement::Older,
            // Who knows the latest that is in both sees what each of them changed.
            _ if (our_basis, ours) > (their_basis, theirs) => Judgement::Merge,
            _ => Judgement::Yield,
        }
    }

    /// What both began with, if this node knows.
    fn common_with(&self, offer: &Offer) -> Option<&Content> {
        let common = self.common.as_ref()?;
        offer.follows(common.version).then_some(&common.content)
    }

    /// Both have the same content: the version that it goes by.
    pub fn agree(&mut self, theirs: Version) -> Version {
        let version = self.current.version.max(theirs);
        self.retire(usize::MAX);
        self.retired(self.current.version);
        self.retired(theirs);
        self.current.version = version;
        self.common = Some(self.current.clone());
        version
    }

    /// Goes by the other node's version from now on.
    pub fn adopt(&mut self, theirs: Revision) {
        self.retire(usize::MAX);
        self.retired(self.current.version);
        self.common = Some(theirs.clone());
        self.current = theirs;
    }

    /// The other node has what it was offered, and both go by `agreed` for it.
    pub fn confirm(&mut self, offered: Revision, agreed: Version) {
        if self.current.version == offered.version {
            self.agree(agreed);
        } else if let Some(at_most) = self.position(offered.version) {
            // This node has changed it meanwhile: its version is the higher one.
            let at = self.current.version;
            if agreed >= at {
                let number = agreed.number.saturating_add(1);
                self.current.version = Version { term: agreed.term, number, tag: at.tag };
            }
            self.retire(at_most + 1);
            self.common = Some(Revision { version: agreed, content: offered.content });
        }
    }

    /// Makes one of both nodes' versions: what the higher one changed stays. `at`:
    /// this UNIX second; `names`: of this node and the other. What they make
    /// together must be `valid`, or else all that differs is a conflict.
    #[must_use]
    pub fn merged(
        &self,
        offer: &Offer,
        theirs: &Content,
        (tag, at): (u64, u64),
        names: [&str; 2],
        valid: impl Fn(&Content) -> bool,
    ) -> Self {
        let (ours, common) = (&self.current, self.common_with(offer));
        let content = if ours.version > offer.version {
            merge(common, &ours.content, theirs, (at, names), valid)
        } else {
            merge(common, theirs, &ours.content, (at, [names[1], names[0]]), valid)
        };
        let [low, high] = [ours.version.min(offer.version), ours.version.max(offer.version)];
        let version =
            Version { term: high.term, number: low.number.max(high.number).saturating_add(1), tag };
        let mut merged = self.clone();
        merged.current = Revision { version, content };
        // All of theirs is in it: what they change next begins there.
        merged.common = Some(Revision { version: offer.version, content: theirs.clone() });
        self.agreed().into_iter().for_each(|before| merged.remember(before));
        merged.remember(ours.version);
        merged
    }

    /// The common version, and the first so many that were offered since, are past.
    fn retire(&mut self, offered: usize) {
        self.agreed().into_iter().for_each(|before| self.retired(before));
        let over: Vec<_> = self.offered.drain(..offered.min(self.offered.len())).collect();
        over.into_iter().for_each(|before| self.retired(before));
    }

    fn retired(&mut self, version: Version) {
        if self.past.contains(&version) {
            return;
        }
        if self.past.len() == MOST_PAST {
            self.past.remove(0);
        }
        self.past.push(version);
    }

    fn position(&self, version: Version) -> Option<usize> {
        self.offered.iter().position(|offered| *offered == version)
    }

    fn remember(&mut self, version: Version) {
        if self.agreed() == Some(version) || self.position(version).is_some() {
            return;
        }
        if self.offered.len() == MOST_OFFERED {
            // The older ones are those that it may have had before it was away.
            self.offered.pop();
        }
        self.offered.push(version);
    }
}

/// What the node that has `own` knows of what both began with.
fn basis(own: &Offer, other: &Offer) -> Option<Version> {
    own.common.filter(|common| other.follows(*common))
}
