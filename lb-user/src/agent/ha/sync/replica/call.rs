//! Calls the peer, and offers it what this node goes by.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    super::{
        Common,
        channel::{Error, Incoming, Outgoing},
        message::Message,
        sender,
    },
    EVERY, Ends, Heard, Link, Ours, SAVING,
    message::{Answered, Document, Said, hear, say},
};

/// Between offers, whatever the peer answers.
const PAUSE: Duration = Duration::from_millis(10);
/// After which a peer that does not answer is called again.
const AGAIN: Duration = Duration::from_millis(500);

/// The node that calls.
pub(in crate::agent::ha::sync) struct Calling {
    pub(in crate::agent::ha::sync) common: Common,
    pub(in crate::agent::ha::sync) ends: Ends,
}

impl Calling {
    /// Calls the peer again and again.
    pub(in crate::agent::ha::sync) async fn run(mut self) {
        let mut told = None;
        loop {
            let error = match self.call().await {
                Ok((say, hear)) => {
                    told = None;
                    self.ends.link.send_replace(Link { connected: true, trouble: None });
                    self.speak(say, hear).await
                }
                Err(error) => error,
            };
            let trouble = error.to_string();
            if told.as_ref() != Some(&trouble) {
                tracing::warn!(error = trouble, "the configuration is not shared with the peer");
                told = Some(trouble.clone());
            }
            self.ends.link.send_replace(Link { connected: false, trouble: Some(trouble) });
            // Perhaps another path is better.
            self.common.paths.rotate_left(1);
            sleep(AGAIN).await;
        }
    }

    async fn call(&self) -> Result<(Outgoing, Incoming), Error> {
        let hello = Message::Share { node: self.common.node.clone() };
        let (say, hear, _) = sender::call(&self.common, &hello).await?;
        Ok((say, hear))
    }

    /// Offers until something goes wrong.
    async fn speak(&mut self, mut say: Outgoing, mut hear: Incoming) -> Error {
        loop {
            let ours = self.ends.ours.borrow_and_update().clone();
            if let Some(ours) = ours {
                match self.offer(&ours, &mut say, &mut hear).await {
                    Ok(trouble) => self.ends.link.send_if_modified(|link| {
                        if let (Some(trouble), true) = (&trouble, link.trouble != trouble) {
                            tracing::warn!(
                                error = trouble,
                                "the peer cannot take the configuration"
                            );
                        }
                        let changed = link.trouble != trouble;
                        link.trouble = trouble;
                        changed
                    }),
                    Err(error) => return error,
                };
            }
            sleep(PAUSE).await;
            let _ = timeout(EVERY, self.ends.ours.changed()).await;
        }
    }

    fn has_changed(&self, ours: &Ours) -> bool {
        let now = self.ends.ours.borrow();
        now.as_ref().is_none_or(|now| now.offer.version != ours.offer.version)
    }

    /// Offers it; why the peer has not taken it.
    async fn offer(
        &self,
        ours: &Arc<Ours>,
        to: &mut Outgoing,
        from: &mut Incoming,
    ) -> Result<Option<String>, Error> {
        within(say(to, &Said::Offer(ours.offer.clone()))).await?;
        let mut answered = within(hear(from)).await?;
        if let Answered::Wanted { base } = answered {
            if self.has_changed(ours) {
                // A merge with what is over would bring it back.
                return Ok(None);
            }
            within(say(to, &Said::All(Document::new(&ours.revision.content, base)))).await?;
            answered = within(hear(from)).await?;
        }
        match answered {
            Answered::Agreed(version)
                if version < ours.offer.version || !version.is_plausible() =>
            {
                Err(Error::Malformed)
            }
            Answered::Agreed(version) => {
                if ours.agreed != Some(version) {
                    let heard = Heard::Agreed { offered: ours.revision.clone(), version };
                    let _ = self.ends.heard.send(heard).await;
                }
                Ok(None)
            }
            Answered::Wait => Ok(None),
            Answered::Failed(reason) => Ok(Some(reason)),
            Answered::Wanted { .. } => Err(Error::Malformed),
        }
    }
}

async fn within<T>(heard: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(SAVING, heard).await.unwrap_or_else(|_| Err(Error::late()))
}
