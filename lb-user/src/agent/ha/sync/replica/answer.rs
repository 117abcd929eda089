//! Hears what the peer offers, and answers.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    super::channel::{Error, Incoming, Outgoing},
    Answer, Heard, Ours, SAVING,
    message::{Answered, Said, hear, say},
};
use crate::core::replica::{Content, Offer};

/// The node that is called.
#[derive(Clone)]
pub(in crate::agent::ha::sync) struct Answering {
    pub(in crate::agent::ha::sync) ours: watch::Receiver<Option<Arc<Ours>>>,
    pub(in crate::agent::ha::sync) heard: mpsc::Sender<Heard>,
}

impl Answering {
    /// Answers `node` until something goes wrong.
    pub(in crate::agent::ha::sync) async fn run(
        self,
        node: String,
        mut to: Outgoing,
        mut from: Incoming,
    ) -> Error {
        loop {
            if let Err(error) = self.answer(&node, &mut to, &mut from).await {
                return error;
            }
        }
    }

    async fn answer(
        &self,
        node: &str,
        to: &mut Outgoing,
        from: &mut Incoming,
    ) -> Result<(), Error> {
        let mut said = within(hear(from)).await?;
        loop {
            let Said::Offer(offer) = said else { return Err(Error::Malformed) };
            if !offer.version.is_plausible() {
                return Err(Error::Malformed);
            }
            let Some(ours) = self.ours.borrow().clone() else {
                return within(say(to, &Answered::Wait)).await;
            };
            let version = offer.version;
            let has_it = ours.agreed == Some(version) && ours.revision.version == version;
            let mut answer =
                if has_it { Answer::Agreed(version) } else { self.ask(node, &offer, None).await? };
            if answer == Answer::Wanted {
                let base = Arc::clone(&ours.revision.content.base);
                within(say(to, &Answered::Wanted { base: offer.base != base.digest() })).await?;
                said = within(hear(from)).await?;
                // What was on its way for long may be something else by now.
                let Said::All(document) = said else { continue };
                answer = self.ask(node, &offer, Some(document.content(&offer, base)?)).await?;
            }
            let answered = match answer {
                Answer::Agreed(version) => Answered::Agreed(version),
                Answer::Wait | Answer::Wanted => Answered::Wait,
                Answer::Failed(reason) => Answered::Failed(reason),
            };
            return within(say(to, &answered)).await;
        }
    }

    /// Has the controller answer.
    async fn ask(
        &self,
        node: &str,
        offer: &Offer,
        content: Option<Content>,
    ) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let (node, offer) = (node.to_owned(), offer.clone());
        let heard = Heard::Offer { node, offer, content, reply };
        self.heard.send(heard).await.map_err(|_| Error::late())?;
        answer.await.map_err(|_| Error::late())
    }
}

async fn within<T>(heard: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(SAVING, heard).await.unwrap_or_else(|_| Err(Error::late()))
}
