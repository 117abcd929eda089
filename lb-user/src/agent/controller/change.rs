//! Changes asked for over the admin socket, or by SIGHUP: validated, then on
//! disk, then in force; what cannot be put in force is taken off the disk.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use tokio::{sync::watch, time::Instant};

use super::{
    Error, chain, local, shared, source,
    state::{Direction, Origin, State},
    view::unix_now,
};
use crate::{
    agent::{
        admin::{Change, Peer, Refused},
        ha::{self, key::file::KeyError},
        store::{Kept, StoreError, Withdrawn},
    },
    api,
    config::overlay::{self, EditError},
    core::{
        edit::{Edit, Edits, Order},
        fleet::Fleet,
        model::Model,
        nexthop::Network,
        weight::AdminState,
    },
};

/// For how long what was known of backends that are not probed is true enough
/// for them to go on as before.
const MEMORY: Duration = Duration::from_mins(1);

/// Longest time a reload may wait for its confirmation.
const LONGEST_CONFIRM: u64 = 24 * 3600;

/// Longest time, in seconds, that a denial or a drain may be given.
const LONGEST: u64 = 10 * 365 * 24 * 3600;

/// How long the disk may take to write a change: less than anybody loses patience
/// in, and more than a busy disk needs.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait where a reload cannot be taken back: a full disk, say.
const AGAIN: Duration = Duration::from_secs(5);

/// A reload that is taken back unless it is confirmed.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    /// When it is taken back.
    pub(super) until: Instant,
    /// What was in force before it.
    before: Origin,
    /// What was known of the backends then.
    fleet: Fleet,
    /// When that was.
    taken: Instant,
    /// Whether it is what the agent's own file says.
    is_own: bool,
}

type Following<'a> = &'a mut watch::Receiver<Arc<Network>>;

impl State {
    /// Makes one edit. While a reload waits for its confirmation, only what
    /// cannot wait is possible, and outlives the reload.
    pub(super) async fn edit(
        &mut self,
        change: Change,
        peer: Peer,
        network: Following<'_>,
    ) -> Result<api::Done, Refused> {
        let edit = edit_of(change)?;
        if !matches!(edit, Edit::Order { .. } | Edit::Deny { .. }) {
            self.refuse_while_unconfirmed()?;
        }
        let Origin { file, edits } = &self.origin;
        let (edits, model) = overlay::edited(edits, &file.model, &self.model, edit.clone())?;
        self.refuse_programs(peer, &model)?;
        let mut kept = Kept { edits: edits.clone(), ..self.kept.clone() };
        if let Some(Unconfirmed { before, .. }) = &self.unconfirmed {
            kept.edits = before.edits.clone();
            kept.edits.take_over(edit, &before.file.model);
        }
        self.amend(&mut kept);
        let origin = Origin { edits, ..self.origin.clone() };
        let carried = kept.edits.clone();
        self.change_to(model, origin, kept, network).await?;
        if let Some(Unconfirmed { before, .. }) = &mut self.unconfirmed {
            before.edits = carried;
        }
        Ok(self.done())
    }

    /// Puts a file in force, beneath the edits, and counts that.
    pub(super) async fn reload(
        &mut self,
        order: &api::Reload,
        peer: Peer,
        network: Following<'_>,
    ) -> Result<api::Done, Refused> {
        let done = self.reload_file(order, peer, network).await;
        self.tally.reloads.add(&done);
        done
    }

    async fn reload_file(
        &mut self,
        order: &api::Reload,
        peer: Peer,
        network: Following<'_>,
    ) -> Result<api::Done, Refused> {
        self.refuse_while_unconfirmed()?;
        if order.confirm_s.is_some_and(|seconds| !(1..=LONGEST_CONFIRM).contains(&seconds)) {
            let rule = format!("`confirm_s` must be 1 to {LONGEST_CONFIRM}");
            return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, rule)
                .hint("an hour is 3600: these are seconds"));
        }
        let edits = if order.discard_edits { Edits::default() } else { self.origin.edits.clone() };
        let (file, foreign) = self.source.read(order.file.as_ref())?;
        // Who names a file, or wants it to be all there is, means what it says.
        let is_meant = order.file.is_some() || order.discard_edits;
        let (file, stays) = if is_meant { (file, None) } else { self.as_shared(file)? };
        let is_own = !foreign && stays.is_none();
        let (origin, notes) = source::over(file, foreign, edits);
        let model = origin.model()?;
        if foreign {
            self.refuse_programs(peer, &model)?;
        }
        let mut kept = self.kept.clone();
        if order.confirm_s.is_none() {
            kept.edits = origin.edits.clone();
            self.amend_file(&mut kept, &origin.file, is_own);
        }
        if !foreign {
            let (text, instead) = (&origin.file.text, &self.origin.file.text);
            let differs = order.confirm_s.is_some() && text != instead;
            kept.withdrawn =
                differs.then(|| Withdrawn { text: text.clone(), instead: instead.clone() });
        }
        let keys = self.ha.as_ref().map(ha::Member::read_keys).transpose()?;
        let lacks = local::lacks(&model).await;
        let (before, fleet) = (self.origin.clone(), self.fleet.clone());
        self.change_to(model, origin, kept, network).await?;
        if let Some((pair, keys)) = self.ha.as_ref().zip(keys) {
            pair.take_keys(keys);
        }
        let mut done = self.done();
        done.notes = [notes, lacks].concat();
        done.notes.extend(stays);
        if foreign && order.confirm_s.is_none() && !shared::shares(&self.model) {
            let path = self.source.path.display();
            done.notes.push(format!("until the agent starts again, which reads `{path}`"));
        }
        if let Some(seconds) = order.confirm_s {
            done.notes.push(format!("taken back in {seconds} s unless confirmed"));
            let taken = Instant::now();
            let until = taken + Duration::from_secs(seconds);
            self.unconfirmed = Some(Unconfirmed { until, before, fleet, taken, is_own });
        }
        Ok(done)
    }

    /// Keeps what an unconfirmed reload brought.
    pub(super) async fn confirm(&mut self) -> Result<api::Done, Refused> {
        let Some(Unconfirmed { is_own, .. }) = self.unconfirmed else {
            let error = "no reload waits for a confirmation";
            return Err(Refused::new(StatusCode::CONFLICT, error)
                .hint("it may have been taken back: see the agent's log"));
        };
        let withdrawn = self.kept.withdrawn.clone();
        let withdrawn = withdrawn.filter(|withdrawn| withdrawn.text != self.origin.file.text);
        let edits = self.origin.edits.clone();
        let mut kept = Kept { edits, withdrawn, shared: self.kept.shared.clone() };
        self.amend_file(&mut kept, &self.origin.file, is_own);
        self.keep(kept).await?;
        self.unconfirmed = None;
        Ok(self.done())
    }

    /// Takes back what nobody confirmed; the disk never had it.
    pub(super) async fn take_back(&mut self, network: Following<'_>) {
        let Some(Unconfirmed { mut before, fleet, taken, is_own, .. }) = self.unconfirmed.take()
        else {
            return;
        };
        before.edits.expire(unix_now());
        if taken.elapsed() <= MEMORY {
            self.fleet.remember(&fleet);
        }
        match self.return_to(before.clone(), network).await {
            Ok(()) if self.kept.withdrawn.is_some() => tracing::warn!(
                "the reload was not confirmed and is taken back: `{}` still has it and is not \
                 gone by until `lb reload`, also after a restart",
                self.source.path.display()
            ),
            Ok(()) => tracing::warn!("the reload was not confirmed and is taken back"),
            Err(refused) => {
                let error = refused.refusal.error;
                tracing::error!(error, "cannot take the reload back yet, trying again");
                let until = Instant::now() + AGAIN;
                self.unconfirmed = Some(Unconfirmed { until, before, fleet, taken, is_own });
            }
        }
    }

    /// Ends denials whose time is up. The disk need not know: they end at the
    /// next start as well.
    pub(super) async fn expire(&mut self, network: Following<'_>) {
        let due = self.origin.edits.next_expiry().is_some_and(|at| at <= unix_now());
        if !due {
            return;
        }
        let mut origin = self.origin.clone();
        if self.expire_again.is_some_and(|again| self.now() < again)
            || !origin.edits.expire(unix_now())
        {
            return;
        }
        self.expire_again = None;
        if let Err(refused) = self.return_to(origin, network).await {
            tracing::error!(error = refused.refusal.error, "cannot end a denial yet, trying again");
            self.expire_again = Some(self.now() + AGAIN);
        }
    }

    async fn return_to(&mut self, origin: Origin, network: Following<'_>) -> Result<(), Refused> {
        let model = origin.model()?;
        Ok(self.put_in_force(model, origin, Direction::Back, network).await?)
    }

    fn refuse_while_unconfirmed(&self) -> Result<(), Refused> {
        match self.unconfirmed {
            None => Ok(()),
            Some(_) => {
                let error = "a reload waits for its confirmation";
                Err(Refused::new(StatusCode::CONFLICT, error).hint(
                    "confirm it with `lb reload --confirmed`, or wait until it is taken back",
                ))
            }
        }
    }

    /// On disk first, then in force.
    pub(super) async fn change_to(
        &mut self,
        model: Model,
        origin: Origin,
        kept: Kept,
        network: Following<'_>,
    ) -> Result<(), Refused> {
        let before = self.kept.clone();
        self.keep(kept).await?;
        let done = self.put_in_force(model, origin, Direction::Onward, network).await;
        if done.is_err()
            && let Err(error) = self.keep(before.clone()).await
        {
            (self.kept, self.unsaved) = (before, true);
            tracing::error!(error = chain(&error), "what was refused is still on disk");
        }
        Ok(done?)
    }

    /// Begins with less than is on disk; edits that are discarded are put aside.
    pub(super) async fn forget(&mut self, kept: Kept, discards: bool) -> Result<(), StoreError> {
        if discards {
            let aside = self.disk.set_aside()?;
            tracing::warn!("the edits are discarded, and are in `{}`", aside.display());
        }
        let kept_now = self.keep(kept.clone()).await;
        if kept_now.is_err() {
            // What is gone by is to be on disk as soon as that is possible.
            (self.kept, self.unsaved) = (kept, true);
        }
        kept_now
    }

    /// Puts on disk what could not be put there before, if that takes no longer than this.
    pub(super) async fn keep_again(&mut self, patience: Duration) {
        if self.unsaved && self.disk.save(&self.kept, patience).await.is_ok() {
            self.unsaved = false;
            tracing::info!("what is in force is on disk");
            self.share();
        }
    }

    /// Puts on disk what is not there yet.
    pub(super) async fn keep(&mut self, kept: Kept) -> Result<(), StoreError> {
        if kept == self.kept && !self.unsaved {
            return Ok(());
        }
        if let Err(error) = self.disk.save(&kept, PATIENCE).await {
            let restored = self.disk.save(&self.kept, PATIENCE).await;
            self.unsaved |= restored.is_err() && error.is_in_doubt();
            return Err(error);
        }
        (self.kept, self.unsaved) = (kept, false);
        Ok(())
    }

    /// What is in force is what the peer is to have, too.
    pub(super) fn done(&self) -> api::Done {
        self.share();
        api::Done { generation: self.generation(), notes: Vec::new() }
    }
}

fn edit_of(change: Change) -> Result<Edit, Refused> {
    Ok(match change {
        Change::AddService(keys) => Edit::AddService { keys },
        Change::SetService(service, keys) => Edit::SetService { service, keys },
        Change::RemoveService(service) => Edit::RemoveService { service },
        Change::AddBackend(service, keys) => Edit::AddBackend { service, keys },
        Change::SetBackend(service, backend, keys) => Edit::SetBackend { service, backend, keys },
        Change::RemoveBackend(service, backend) => Edit::RemoveBackend { service, backend },
        Change::Allow(api::AllowOrder { rule, allow }) => overlay::allow(&rule, allow)?,
        Change::Deny(api::DenyOrder { prefix, deny, for_s }) => {
            let until = for_s.map(|seconds| moment("for_s", seconds)).transpose()?;
            overlay::deny(&prefix, deny, until)?
        }
        Change::Order(service, backend, api::AdminOrder { state, deadline_s }) => {
            let state = match state.as_str() {
                "ready" => AdminState::Ready,
                "drain" => AdminState::Drain,
                "maint" => AdminState::Maint,
                other => {
                    let error = format!("`{other}` is no state, expected ready, drain or maint");
                    return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error));
                }
            };
            if deadline_s.is_some() && state != AdminState::Drain {
                let error = "only a drain has a deadline";
                return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error));
            }
            let deadline = deadline_s.map(|seconds| moment("deadline_s", seconds)).transpose()?;
            Edit::Order { service, backend, order: Order { state, deadline } }
        }
    })
}

/// The UNIX second in so many seconds.
fn moment(key: &str, seconds: u64) -> Result<u64, Refused> {
    if seconds > LONGEST {
        let error = format!("`{key}` must be at most {LONGEST} (ten years)");
        return Err(
            Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error).hint("leave it out for good")
        );
    }
    Ok(unix_now() + seconds)
}

impl From<EditError> for Refused {
    fn from(error: EditError) -> Self {
        let status = match &error {
            EditError::UnknownService { .. } | EditError::UnknownBackend { .. } => {
                StatusCode::NOT_FOUND
            }
            EditError::Invalid(mistakes) => {
                let lines = mistakes.iter().map(ToString::to_string).collect();
                let error = "the configuration would be wrong, nothing was changed";
                return Self::new(StatusCode::UNPROCESSABLE_ENTITY, error).mistakes(lines);
            }
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string()).hint_if(error.hint())
    }
}

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        let refused = format!("{error}, nothing was changed");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, refused).hint_if(error.hint())
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let refused = format!("{error}, nothing was changed");
        Self::new(StatusCode::INSUFFICIENT_STORAGE, refused).hint_if(error.hint())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = if error.is_operators() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::new(status, chain(&error)).hint_if(error.hint())
    }
}
