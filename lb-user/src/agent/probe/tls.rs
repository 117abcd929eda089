//! How `https` probes speak TLS. One configuration serves all targets with the
//! same settings: the system's certificates alone take hundreds of kilobytes.
//!
//! Certificates are read beside everything else, and again when they change.
//! What is wrong with them is this host's trouble, never a backend's failure.

mod config;
mod source;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::rustls::ClientConfig;

use self::source::Source;
use super::reason::{Reason, phrase};
use crate::{agent::aside::aside, core::model::health::Tls};

/// From one look at certificates to the next.
const EVERY: Duration = Duration::from_secs(1);

/// How long probes wait for the first look. A file that takes longer is on a
/// disk that hangs, which may be for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// The configurations in use, by their settings.
pub(super) struct Configs {
    trusts: HashMap<Tls, Arc<Trust>>,
    runtime: Handle,
}

impl Configs {
    /// None yet; certificates are followed on `runtime`.
    pub(super) fn new(runtime: Handle) -> Self {
        Self { trusts: HashMap::new(), runtime }
    }

    /// Forgets all but these.
    pub(super) fn keep<'a>(&mut self, used: impl Iterator<Item = &'a Tls>) {
        let used: HashSet<&Tls> = used.collect();
        self.trusts.retain(|settings, _| used.contains(settings));
    }

    /// How many are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.trusts.len()
    }

    /// For these settings; nothing is read here.
    pub(super) fn get(&mut self, settings: &Tls) -> Arc<Trust> {
        if let Some(trust) = self.trusts.get(settings) {
            return trust.clone();
        }
        let trust = Arc::new(match Source::of(settings) {
            Some(mut source) => Trust::follow(&self.runtime, move || source.look()),
            None => Trust::blind(),
        });
        self.trusts.insert(settings.clone(), trust.clone());
        trust
    }
}

/// The configuration to use, or why there is none yet.
type Latest = Result<Arc<ClientConfig>, String>;

/// What a look found: another configuration, or that nothing is new.
type Found = Result<Option<ClientConfig>, String>;

/// A configuration of TLS, as certificates are at the time.
pub(super) struct Trust {
    latest: watch::Receiver<Latest>,
    /// Follows the certificates, if any are needed.
    task: Option<JoinHandle<()>>,
}

impl Trust {
    /// Takes any certificate.
    fn blind() -> Self {
        let (_, latest) = watch::channel(config::unverified().map(Arc::new));
        Self { latest, task: None }
    }

    /// By `look`, which may take any time.
    fn follow(runtime: &Handle, look: impl FnMut() -> Found + Send + 'static) -> Self {
        let (sender, latest) = watch::channel(Err("certificates not read yet".into()));
        let follower = Follower { latest: sender, told: None };
        let task = runtime.spawn(follower.follow(Arc::new(Mutex::new(look))));
        Self { latest, task: Some(task) }
    }

    /// Waits until the certificates were looked at, or that took too long.
    pub(super) async fn looked(&self) {
        // It fails where nobody looks, so that there is nothing to wait for.
        let _nobody = self.latest.clone().changed().await;
    }

    /// As of the last look at usable certificates.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, Reason> {
        self.latest.borrow().clone().map_err(Reason::Host)
    }
}

impl Drop for Trust {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Follower {
    latest: watch::Sender<Latest>,
    /// Why what is in use cannot be renewed, as was logged.
    told: Option<String>,
}

impl Follower {
    async fn follow(mut self, look: Arc<Mutex<impl FnMut() -> Found + Send + 'static>>) {
        loop {
            let look = look.clone();
            let begun = aside(move || look.lock().unwrap_or_else(PoisonError::into_inner)());
            let found = match begun {
                Ok(mut look) => {
                    let found = match timeout(PATIENCE, &mut look).await {
                        Ok(found) => found,
                        Err(_) => {
                            let patience = format!("within {PATIENCE:?}");
                            self.take(Err(format!("certificates could not be read {patience}")));
                            // There is no other meanwhile, so one thread hangs.
                            look.await
                        }
                    };
                    found.unwrap_or_else(|_panicked| Err("certificates could not be read".into()))
                }
                Err(error) => Err(phrase(&error)),
            };
            self.take(found);
            sleep(EVERY).await;
        }
    }

    /// Takes in what was found. What is in use stays until there is better.
    fn take(&mut self, found: Found) {
        let unusable = match found {
            Ok(None) => None,
            Ok(Some(config)) => {
                self.latest.send_modify(|latest| *latest = Ok(Arc::new(config)));
                None
            }
            Err(reason) if self.latest.borrow().is_ok() => Some(reason),
            Err(reason) => {
                self.latest.send_modify(|latest| *latest = Err(reason));
                None
            }
        };
        if let Some(reason) = &unusable
            && unusable != self.told
        {
            tracing::warn!(
                reason,
                "cannot renew the certificates that probes trust, those read before stay in use"
            );
        }
        self.told = unusable;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn certificates_that_take_too_long_are_told_and_used_when_they_come() {
        let (release, released) = mpsc::channel();
        let trust = Trust::follow(&Handle::current(), move || {
            released.recv().expect("a test that goes on");
            config::unverified().map(Some)
        });
        trust.looked().await;
        let slow = Reason::Host("certificates could not be read within 1s".into());
        assert_eq!(trust.config().unwrap_err(), slow);
        let mut latest = trust.latest.clone();
        release.send(()).unwrap();
        latest.wait_for(Result::is_ok).await.unwrap();
        assert!(trust.config().is_ok());
    }

    #[tokio::test]
    async fn what_cannot_be_renewed_stays_in_use() {
        let (finds, found) = mpsc::channel::<Found>();
        let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
        let trust = Trust::follow(&Handle::current(), move || {
            asked.send(()).expect("a test that goes on");
            found.recv().expect("a test that goes on")
        });
        let reason = |text: &str| Err(text.to_owned());
        finds.send(reason("too many open files")).unwrap();
        finds.send(config::unverified().map(Some)).unwrap();
        finds.send(reason("no certificate")).unwrap();
        trust.looked().await;
        assert_eq!(trust.config().unwrap_err(), Reason::Host("too many open files".into()));
        // The fourth look begins when what the third found is taken in.
        for _ in 0..4 {
            asks.recv().await.unwrap();
        }
        assert!(trust.config().is_ok());
    }
}
