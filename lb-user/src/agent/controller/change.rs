//! Changes asked for over the admin socket, or by SIGHUP: validated, then on
//! disk, then in force; what cannot be put in force is taken off the disk.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::http::StatusCode;
use tokio::{sync::watch, time::Instant};

use super::{Error, chain, state::State, view::unix_now};
use crate::{
    agent::{
        admin::{Change, Refused},
        store::StoreError,
    },
    api,
    config::{
        self,
        overlay::{self, EditError},
    },
    core::{
        edit::{Edit, Edits, Order},
        model::Model,
        nexthop::Network,
        weight::AdminState,
    },
};

/// Longest time a reload may wait for its confirmation.
const LONGEST_CONFIRM: u64 = 24 * 3600;

/// Longest time, in seconds, that a denial or a drain may be given.
const LONGEST: u64 = 10 * 365 * 24 * 3600;

/// How long to wait where a reload cannot be taken back: a full disk, say.
const AGAIN: Duration = Duration::from_secs(5);

/// A reload that is taken back unless it is confirmed.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    /// When it is taken back.
    pub(super) until: Instant,
    file: Model,
    edits: Edits,
}

/// Where the configuration file is, and what stands in for parts of it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Unless empty, stands for `node.interfaces`.
    pub interfaces: Vec<String>,
}

type Following<'a> = &'a mut watch::Receiver<Arc<Network>>;

impl State {
    /// Makes one edit.
    pub(super) async fn edit(
        &mut self,
        change: Change,
        network: Following<'_>,
    ) -> Result<api::Done, Refused> {
        self.refuse_while_unconfirmed()?;
        let edit = edit_of(change)?;
        let (edits, model) = overlay::edited(&self.edits, &self.file, &self.model, edit)?;
        self.change_to(model, edits, network).await?;
        Ok(self.done())
    }

    /// Puts a file in force, beneath the edits.
    pub(super) async fn reload_file(
        &mut self,
        order: &api::Reload,
        network: Following<'_>,
    ) -> Result<api::Done, Refused> {
        self.refuse_while_unconfirmed()?;
        if order.confirm_s.is_some_and(|seconds| !(1..=LONGEST_CONFIRM).contains(&seconds)) {
            let rule = format!("`confirm_s` must be 1 to {LONGEST_CONFIRM}");
            return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, rule));
        }
        let (file, foreign) = self.read(order.file.as_ref())?;
        let mut edits = if order.discard_edits { Edits::default() } else { self.edits.clone() };
        let model = edits.apply(&file).map_err(EditError::Invalid)?;
        edits.prune(&file);
        let differing = edits.describe(&file);
        let before = Unconfirmed {
            until: Instant::now() + Duration::from_secs(order.confirm_s.unwrap_or(0)),
            file: std::mem::replace(&mut self.file, file),
            edits: self.edits.clone(),
        };
        if let Err(refused) = self.change_to(model, edits, network).await {
            self.file = before.file;
            return Err(refused);
        }
        let mut done = self.done();
        done.notes.extend(differing);
        if foreign {
            let path = self.source.path.display();
            done.notes.push(format!("until the agent starts again, which reads `{path}`"));
        }
        if let Some(seconds) = order.confirm_s {
            done.notes.push(format!("taken back in {seconds} s unless confirmed"));
            self.unconfirmed = Some(before);
        }
        Ok(done)
    }

    /// Keeps what an unconfirmed reload brought.
    pub(super) fn confirm(&mut self) -> Result<api::Done, Refused> {
        match self.unconfirmed.take() {
            Some(_) => Ok(self.done()),
            None => {
                let error = "no reload waits for a confirmation";
                Err(Refused::new(StatusCode::CONFLICT, error)
                    .hint("it may have been taken back: see the agent's log"))
            }
        }
    }

    /// Takes back what nobody confirmed.
    pub(super) async fn take_back(&mut self, network: Following<'_>) {
        let Some(Unconfirmed { file, edits, .. }) = self.unconfirmed.take() else { return };
        tracing::warn!("the reload was not confirmed and is taken back");
        let again =
            Unconfirmed { until: Instant::now() + AGAIN, file: file.clone(), edits: edits.clone() };
        let done = match edits.apply(&file) {
            Ok(model) => self.change_to(model, edits, network).await,
            Err(mistakes) => Err(EditError::Invalid(mistakes).into()),
        };
        match done {
            Ok(()) => self.file = file,
            Err(refused) => {
                let error = refused.refusal.error;
                tracing::error!(error, "cannot take the reload back yet, trying again");
                self.unconfirmed = Some(again);
            }
        }
    }

    /// Drops denials whose time is up.
    pub(super) async fn expire(&mut self, network: Following<'_>) {
        let mut edits = self.edits.clone();
        if !edits.expire(unix_now()) {
            return;
        }
        let done = match edits.apply(&self.file) {
            Ok(model) => self.change_to(model, edits, network).await,
            Err(mistakes) => Err(EditError::Invalid(mistakes).into()),
        };
        if let Err(refused) = done {
            tracing::error!(error = refused.refusal.error, "cannot end a denial");
        }
    }

    /// The outlook of a reload.
    pub(super) fn outlook(&self, file: &api::FileText) -> Result<super::outlook::Outlook, Refused> {
        let (file, _) = self.read(Some(file))?;
        let mut edits = self.edits.clone();
        let model = edits.apply(&file).map_err(EditError::Invalid)?;
        edits.prune(&file);
        let differing = edits.describe(&file);
        Ok(super::outlook::Outlook::new(self, &model, differing)?)
    }

    /// The configuration in a text, or in the agent's own file; whether it is
    /// another than the agent's own.
    fn read(&self, file: Option<&api::FileText>) -> Result<(Model, bool), Refused> {
        match file {
            Some(file) => {
                let model = config::load_text(&file.name, &file.text, &self.source.interfaces)?;
                let own = config::load(&self.source.path, &self.source.interfaces);
                let foreign = !own.is_ok_and(|own| own == model);
                Ok((model, foreign))
            }
            None => Ok((config::load(&self.source.path, &self.source.interfaces)?, false)),
        }
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
    async fn change_to(
        &mut self,
        model: Model,
        edits: Edits,
        network: Following<'_>,
    ) -> Result<(), Refused> {
        let stored = edits != self.edits;
        if stored {
            self.store.save(&edits)?;
        }
        let before = std::mem::replace(&mut self.edits, edits);
        let done = self.put_in_force(model, network).await;
        if done.is_err() {
            self.edits = before;
            if stored && let Err(error) = self.store.save(&self.edits) {
                tracing::error!(error = chain(&error), "the refused edit is still on disk");
            }
        }
        Ok(done?)
    }

    fn done(&self) -> api::Done {
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

impl From<config::Errors> for Refused {
    fn from(errors: config::Errors) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        match errors {
            config::Errors::Unreadable { .. } => Self::new(status, chain(&errors)),
            config::Errors::Mistakes { file, mistakes } => {
                let lines = mistakes.iter().map(|mistake| format!("{file}:{mistake}"));
                Self::new(status, format!("{file}: bad configuration, nothing was changed"))
                    .mistakes(lines.collect())
            }
        }
    }
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
        let refused = Self::new(status, error.to_string());
        match error.hint() {
            Some(hint) => refused.hint(hint),
            None => refused,
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let refused =
            Self::new(StatusCode::INSUFFICIENT_STORAGE, format!("{error}, nothing was changed"));
        match error.hint() {
            Some(hint) => refused.hint(hint),
            None => refused,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = if error.is_operators() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::new(status, chain(&error))
    }
}
