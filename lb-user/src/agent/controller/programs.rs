//! Programs that the agent runs, those of `exec` probes: who may name them.

use axum::http::StatusCode;

use super::state::State;
use crate::{
    agent::admin::{Peer, Refused},
    core::model::Model,
};

impl State {
    /// Refuses a change by which somebody would have the agent run, with its
    /// rights, what it does not run yet: the members of `admin.group` operate
    /// the balancer, which is not to make them root.
    pub(super) fn refuse_programs(&self, peer: Peer, model: &Model) -> Result<(), Refused> {
        match model.program_beyond(&self.model).filter(|_| !peer.is_equal()) {
            None => Ok(()),
            Some(command) => {
                let command = command.join(" ");
                let error =
                    format!("only root and the agent's own user may have it run `{command}`");
                Err(Refused::new(StatusCode::FORBIDDEN, error)
                    .hint("name it in the agent's own file, or run this as root"))
            }
        }
    }
}
