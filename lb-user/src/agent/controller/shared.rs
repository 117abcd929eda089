//! The configuration that the nodes of a pair share, see [`crate::core::replica`]:
//! what this one goes by, and what becomes of what the peer offers.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{sync::watch, time::Instant};

use super::{
    Error, chain, outlook,
    source::Source,
    state::{Origin, State},
    view::unix_now,
};
use crate::{
    agent::{
        admin::Refused,
        ha::{self, Answer, Heard, Ours, Sharing},
        store::Kept,
    },
    api,
    config::{self, Loaded, overlay::EditError},
    core::{
        edit::Edits,
        model::Model,
        nexthop::Network,
        replica::{Base, Conflict, Content, Judgement, Ledger, Offer, Revision, Version},
    },
};

/// What is said of a file that did not change while the pair went on.
const NOT_GONE_BY: &str = "services and firewall of this node's own file, which did not change, are \
                           not gone by, those of the pair are";

/// How long what could not be taken is not tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Differences that are told one by one.
const TOLD: usize = 20;

type Following<'a> = &'a mut watch::Receiver<Arc<Network>>;

/// What to begin with: where the nodes of a pair share services and firewall, those
/// that they have, unless this node's file says something else than when it was
/// looked at last.
pub(super) fn begin(file: Loaded, kept: &mut Kept, source: &Source) -> Result<Loaded, EditError> {
    if !shares(&file.model) {
        return Ok(file);
    }
    let own = Arc::new(config::shared::base(&file.model));
    let written = config::shared::written(&file);
    let mut ledger = kept.shared.take().unwrap_or_else(|| {
        let base = Arc::clone(&own);
        let content = Content { base, edits: Edits::default(), conflicts: Vec::new() };
        Ledger::new(content, written, tag(&file.model))
    });
    let before = &ledger.current.content;
    let mut base = if ledger.file == written { Arc::clone(&before.base) } else { Arc::clone(&own) };
    ledger.file = written;
    // What the file says itself was read and checked already.
    let theirs = (base.digest() != own.digest()).then(|| with_base(&file.model, &base));
    let theirs = match theirs.transpose() {
        // Whoever has the edits discarded wants the file to be all there is.
        Err(error) if source.discard_edits => {
            let error = error.to_string();
            tracing::warn!(error, "what the pair shares does not fit this node, the file stands");
            base = own;
            None
        }
        theirs => theirs?,
    };
    let conflicts = before.conflicts.clone();
    let content = Content { base, edits: kept.edits.clone(), conflicts };
    if content != *before {
        ledger.change(content, 0, tag(&file.model));
    }
    kept.shared = Some(ledger);
    let Some(model) = theirs else { return Ok(file) };
    let path = source.path.display();
    tracing::warn!("{NOT_GONE_BY}: `lb reload {path}` puts them in force on both nodes");
    Ok(Loaded { model, ..file })
}

impl State {
    /// Begins to share: the peer is told what this node goes by.
    pub(super) fn begin_sharing(&mut self, sharing: &Sharing) {
        self.sharing = Some(sharing.ours.clone());
        self.share();
    }

    /// Makes what is kept another version, if its edits say anything new.
    pub(super) fn amend(&self, kept: &mut Kept) {
        self.restate(kept, |_| {});
    }

    /// The same with a file that is in force from now on; `is_own`: it is what the
    /// agent's own file says.
    pub(super) fn amend_file(&self, kept: &mut Kept, file: &Loaded, is_own: bool) {
        let Some(ledger) = self.ledger_of(kept) else { return };
        let base = config::shared::base(&file.model);
        if is_own {
            ledger.file = config::shared::written(file);
        }
        self.restate(kept, |content| {
            if base.digest() != content.base.digest() {
                content.base = Arc::new(base);
            }
        });
    }

    /// `None`: nothing is shared.
    fn ledger_of<'k>(&self, kept: &'k mut Kept) -> Option<&'k mut Ledger> {
        kept.shared.as_mut().filter(|_| shares(&self.model))
    }

    fn restate(&self, kept: &mut Kept, change: impl FnOnce(&mut Content)) {
        let edits = kept.edits.clone();
        let Some(ledger) = self.ledger_of(kept) else { return };
        let mut content = Content { edits, ..ledger.current.content.clone() };
        change(&mut content);
        if content != ledger.current.content {
            let term = self.ha.as_ref().map_or(0, |pair| pair.summary().term);
            ledger.change(content, term, tag(&self.model));
        }
    }

    /// The agent's own file with the services and the firewall of the pair, unless it
    /// says something else than when it was looked at last; and what to say to that.
    pub(super) fn as_shared(&self, file: Loaded) -> Result<(Loaded, Option<String>), Refused> {
        let ledger = self.kept.shared.as_ref().filter(|_| shares(&file.model));
        let Some(ledger) = ledger else { return Ok((file, None)) };
        let base = &ledger.current.content.base;
        let is_other = config::shared::base(&file.model).digest() != base.digest();
        if !is_other || config::shared::written(&file) != ledger.file {
            return Ok((file, None));
        }
        let model = with_base(&file.model, base)?;
        let path = self.source.path.display();
        let note = format!("{NOT_GONE_BY}: `lb reload {path}` puts them in force on both nodes");
        Ok((Loaded { model, ..file }, Some(note)))
    }

    /// A node that serves before a peer was ever there has the say over the first that
    /// comes.
    pub(super) async fn establish(&mut self) -> Result<(), Error> {
        let Some(summary) = self.ha.as_ref().map(ha::Member::summary) else { return Ok(()) };
        let Some(ledger) = &self.kept.shared else { return Ok(()) };
        // A disk that does not answer is asked again by who keeps the rest.
        if summary.peer.is_some() || summary.role == "standby" || self.unsaved {
            return Ok(());
        }
        let mut established = ledger.clone();
        established.establish(summary.term);
        if established.outdates(ledger) {
            self.keep(Kept { shared: Some(established), ..self.kept.clone() }).await?;
            self.share();
        }
        Ok(())
    }

    /// Has the peer offered what this node goes by, once it is on disk.
    pub(super) fn share(&self) {
        if self.unsaved {
            return;
        }
        if let (Some(sharing), Some(ledger)) = (&self.sharing, &self.kept.shared) {
            let (offer, revision) = (ledger.offer(), ledger.current.clone());
            let (agreed, pending) = (ledger.agreed(), ledger.offered.clone());
            sharing.send_replace(Some(Arc::new(Ours { offer, revision, agreed, pending })));
        }
    }

    /// Tells who made a change that it is made, once the peer has it as well, or how
    /// it is with the peer.
    pub(super) fn finish(
        &self,
        done: Result<api::Done, Refused>,
        tell: impl FnOnce(Result<api::Done, Refused>) + Send + 'static,
    ) {
        let version = self.kept.shared.as_ref().map(|ledger| ledger.current.version);
        let shared = self.ha.as_ref().and_then(ha::Member::shared);
        let (mut done, version, shared) = match (done, version, shared) {
            (Ok(done), Some(version), Some(shared)) => (done, version, shared),
            (done, ..) => return tell(done),
        };
        tokio::spawn(async move {
            done.notes.extend(shared.settle(version).await);
            tell(Ok(done));
        });
    }

    /// Takes what the peer said.
    pub(super) async fn hear(&mut self, heard: Heard, network: Following<'_>) {
        match heard {
            Heard::Agreed { offered, version } => {
                let mut kept = self.kept.clone();
                if let Some(ledger) = &mut kept.shared {
                    ledger.confirm(offered, version);
                }
                self.take_note(kept).await;
                self.share();
            }
            Heard::Offer { node, offer, content, reply } => {
                let answer = self.judge(&node, offer, content, network).await;
                // Who asked may have gone.
                let _ = reply.send(answer);
            }
        }
    }

    /// Remembers an agreement. The disk learns of it with the next change, if after a
    /// restart both would find out again.
    async fn take_note(&mut self, kept: Kept) {
        let outdates = match (&kept.shared, &self.kept.shared) {
            (Some(ledger), Some(known)) => ledger.outdates(known),
            (ledger, known) => ledger.is_some() != known.is_some(),
        };
        if !outdates {
            self.kept.shared = kept.shared;
        } else if let Err(error) = self.keep(kept).await {
            tracing::error!(error = chain(&error), "an agreement with the peer cannot be kept");
        }
    }

    async fn judge(
        &mut self,
        node: &str,
        offer: Offer,
        content: Option<Content>,
        network: Following<'_>,
    ) -> Answer {
        let Some(ledger) = self.kept.shared.as_ref().filter(|_| !self.unsaved) else {
            return Answer::Wait;
        };
        let judgement = ledger.judge(&offer);
        match (judgement, content) {
            (Judgement::Same, _) => {
                let mut ledger = ledger.clone();
                let agreed = ledger.agree(offer.version);
                self.take_note(Kept { shared: Some(ledger), ..self.kept.clone() }).await;
                self.share();
                return Answer::Agreed(agreed);
            }
            (Judgement::Older | Judgement::Yield, _) => {
                self.share();
                return Answer::Wait;
            }
            (Judgement::Newer | Judgement::Merge, _) if self.unconfirmed.is_some() => {
                return Answer::Failed("a reload waits for its confirmation there".to_owned());
            }
            (Judgement::Newer | Judgement::Merge, None) => {
                return match &self.untaken {
                    Some((version, reason, since))
                        if *version == offer.version && since.elapsed() < AGAIN =>
                    {
                        Answer::Failed(reason.clone())
                    }
                    _ => Answer::Wanted,
                };
            }
            (Judgement::Newer, Some(content)) => {
                let version = offer.version;
                let mut ledger = ledger.clone();
                ledger.adopt(Revision { version, content });
                return match self.go_by(ledger, node, network).await {
                    Ok(()) => Answer::Agreed(version),
                    Err(refused) => self.failed(offer.version, refused),
                };
            }
            (Judgement::Merge, Some(theirs)) => {
                let own = &self.origin.file.model;
                let valid = |content: &Content| model_of(own, content).is_ok();
                let names = [self.model.node.name.as_str(), node];
                let moment = (tag(own), unix_now());
                let merged = ledger.merged(&offer, &theirs, moment, names, valid);
                if let Err(refused) = self.go_by(merged, node, network).await {
                    return self.failed(offer.version, refused);
                }
            }
        }
        Answer::Wait
    }

    fn failed(&mut self, version: Version, refused: Refused) -> Answer {
        let reason = words(refused);
        self.untaken = Some((version, reason.clone(), Instant::now()));
        Answer::Failed(reason)
    }

    /// Puts what the peer said on disk and in force.
    async fn go_by(
        &mut self,
        mut ledger: Ledger,
        node: &str,
        network: Following<'_>,
    ) -> Result<(), Refused> {
        let content = &ledger.current.content;
        let known = self.kept.shared.as_ref().map(|ledger| &ledger.current.content);
        let file = if known.is_some_and(|known| known.base.digest() == content.base.digest()) {
            Arc::clone(&self.origin.file)
        } else {
            let model = with_base(&self.origin.file.model, &content.base)?;
            Arc::new(Loaded { model, text: self.origin.file.text.clone() })
        };
        let is_known =
            |conflict: &&Conflict| known.is_some_and(|known| known.conflicts.contains(conflict));
        for conflict in content.conflicts.iter().filter(|conflict| !is_known(conflict)) {
            let json = |value: &Option<_>| value.as_ref().map(ToString::to_string);
            let (kept, dropped) = (json(&conflict.kept), json(&conflict.dropped));
            let (path, of) = (&conflict.path, &conflict.node);
            tracing::warn!(
                path,
                kept,
                dropped,
                of,
                "a change gave way to another: `lb ha conflicts`"
            );
        }
        let mut edits = content.edits.clone();
        edits.expire(unix_now());
        let origin = Origin { file, edits };
        let model = origin.model()?;
        let version = ledger.current.version;
        let mut differences = outlook::differences(&self.model, &model);
        if differences.is_empty() {
            // Orders, of which the configuration knows nothing.
            let before = self.origin.edits.describe(&self.origin.file.model);
            differences = origin.edits.describe(&origin.file.model);
            differences.retain(|edit| !before.contains(edit));
        }
        let withdrawn = self.kept.withdrawn.clone();
        let edits = content.edits.clone();
        if !Arc::ptr_eq(&origin.file, &self.origin.file)
            && let Ok((own, _)) = self.source.read(None)
        {
            // It was written before the peer's: a restart is no reason to go back.
            ledger.file = config::shared::written(&own);
        }
        let kept = Kept { edits, withdrawn, shared: Some(ledger) };
        self.change_to(model, origin, kept, network).await?;
        self.share();
        let more = differences.len().saturating_sub(TOLD);
        differences.truncate(TOLD);
        tracing::info!(%version, %node, "the configuration is shared");
        for difference in differences {
            tracing::info!("from the peer: {difference}");
        }
        if more > 0 {
            tracing::info!("from the peer: {more} more differences");
        }
        Ok(())
    }

    /// Changes that gave way to others.
    pub(super) fn conflicts(&self) -> Result<Vec<api::HaConflict>, Refused> {
        let ledger = self.kept.shared.as_ref().filter(|_| shares(&self.model));
        let ledger = ledger.ok_or_else(no_sharing)?;
        let conflict = |conflict: &Conflict| api::HaConflict {
            at: conflict.at,
            path: conflict.path.clone(),
            kept: conflict.kept.clone(),
            dropped: conflict.dropped.clone(),
            node: conflict.node.clone(),
        };
        Ok(ledger.current.content.conflicts.iter().map(conflict).collect())
    }

    /// Forgets them, on both nodes.
    pub(super) async fn clear_conflicts(&mut self) -> Result<api::Done, Refused> {
        let forgotten = self.conflicts()?;
        let mut kept = self.kept.clone();
        self.restate(&mut kept, |content| content.conflicts.clear());
        self.keep(kept).await?;
        let mut done = self.done();
        // Some may have come since somebody looked.
        let note = |api::HaConflict { path, node, .. }| format!("forgotten: {path} of `{node}`");
        done.notes.extend(forgotten.into_iter().map(note));
        Ok(done)
    }
}

/// Whether the nodes of the pair share services and firewall.
pub(super) fn shares(model: &Model) -> bool {
    model.ha.as_ref().is_some_and(|ha| ha.replicate)
}

fn with_base(own: &Model, base: &Base) -> Result<Model, EditError> {
    config::shared::with_base(own, base).map_err(EditError::Invalid)
}

fn model_of(own: &Model, content: &Content) -> Result<Model, EditError> {
    let file = with_base(own, &content.base)?;
    content.edits.apply(&file).map_err(EditError::Invalid)
}

/// Part of a version: this node's priority, and random bits.
fn tag(model: &Model) -> u64 {
    let priority = model.ha.as_ref().map_or(0, |ha| ha.priority);
    // Hashers are made with random keys.
    u64::from(priority) << 56 | RandomState::new().hash_one(()) >> 8
}

/// A refusal in one line.
fn words(refused: Refused) -> String {
    let api::Refusal { error, mistakes, .. } = refused.refusal;
    match mistakes.first() {
        Some(first) => format!("{error}: {first}"),
        None => error,
    }
}

fn no_sharing() -> Refused {
    let error = "this node shares its configuration with nobody";
    Refused::new(StatusCode::CONFLICT, error).hint("`ha.config = \"replicate\"` shares it")
}
