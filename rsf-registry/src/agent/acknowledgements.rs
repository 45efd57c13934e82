//! Says which policy revisions this instance runs: soon after each change, again where the registry may have lost it, and
//! otherwise now and then. A fleet that repeated it with every renewal would cost the registry more than its leases do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::RegistrationStatus;
use crate::Acknowledgements;
use crate::backoff::{Backoff, jittered};
use crate::record::{Acknowledgement, Lease};
use crate::world;

/// How long an acknowledgement is believed without being repeated, in a store that may lose it by itself.
const TTL: Duration = Duration::from_secs(60);
/// The same in a store that loses it with the lease: the lease's owner notices that.
const LONG_TTL: Duration = Duration::from_secs(180);
/// How often it is repeated there.
pub const REPEATED_EVERY: Duration = Duration::from_secs(60);
/// What is left of it when the instance has left.
const LEFT_TTL: Duration = Duration::from_millis(100);
/// The longest a change waits for others, so that those whom it concerns do not answer in one moment.
const GATHER: Duration = Duration::from_millis(100);
/// The same of a policy of the whole fleet, which concerns a hundred thousand.
pub const FLEET_ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);
/// The most of one message.
const BATCH: usize = 500;
/// The longest reason that is sent (characters).
const MAX_REFUSAL: usize = 1000;

/// Collects acknowledgements and sends them in the background.
#[derive(Debug)]
pub(super) struct Acknowledger {
    spoken: Arc<Spoken>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Spoken {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In whose name; nothing is sent before.
    speaker: Option<Speaker>,
    /// Scope → what is to be known of it.
    scopes: BTreeMap<String, Said>,
}

#[derive(Debug)]
struct Speaker {
    instance: String,
    application: String,
    /// Knows the incarnation, which may rise.
    registration: watch::Receiver<RegistrationStatus>,
}

#[derive(Debug)]
struct Said {
    revision: u64,
    refusal: String,
    at_unix_ms: u64,
    sent: bool,
}

impl Acknowledger {
    /// Repeats everything about every `interval`, where the store may lose it by itself.
    pub(super) fn start(store: Arc<dyn Acknowledgements>, interval: Duration) -> Self {
        let spoken = Arc::new(Spoken::default());
        let pace = match store.lost_with_leases() {
            true => Pace {
                ttl: LONG_TTL,
                interval: REPEATED_EVERY,
            },
            false => Pace {
                ttl: TTL,
                interval: interval.min(TTL / 3),
            },
        };
        let task = tokio::spawn(run(spoken.clone(), store, pace));
        Acknowledger {
            spoken,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// From now on speaks for the instance of `lease`, which stands as `registration` tells.
    pub(super) fn speak_for(&self, lease: &Lease, registration: watch::Receiver<RegistrationStatus>) {
        let mut state = self.spoken.state.lock();
        state.speaker = Some(Speaker {
            instance: lease.instance.clone(),
            application: lease.application.clone(),
            registration,
        });
        state.say_again();
        drop(state);
        self.spoken.more.notify_one();
    }

    pub(super) fn acknowledge(&self, scope: &str, revision: u64, refusal: Option<String>) {
        let refusal = refusal.unwrap_or_default().chars().take(MAX_REFUSAL).collect();
        let at_unix_ms = u64::try_from(world::unix_now().as_millis()).unwrap_or(u64::MAX);
        let said = Said {
            revision,
            refusal,
            at_unix_ms,
            sent: false,
        };
        self.spoken.state.lock().scopes.insert(scope.to_owned(), said);
        self.spoken.more.notify_one();
    }
}

/// How often everything is repeated, and how long it is believed.
#[derive(Debug, Clone, Copy)]
struct Pace {
    ttl: Duration,
    interval: Duration,
}

async fn run(spoken: Arc<Spoken>, store: Arc<dyn Acknowledgements>, pace: Pace) {
    let mut backoff = Backoff::default();
    let mut repeat_at = Instant::now() + jittered(pace.interval);
    let mut lease = LeaseWatch::default();
    loop {
        let news = tokio::select! {
            biased;
            () = spoken.more.notified() => None,
            news = lease.next() => Some(news),
            () = sleep_until(repeat_at) => None,
        };
        match news {
            Some(News::Rewritten) => spoken.state.lock().say_again(),
            Some(News::Left) => {
                let last = spoken.state.lock().leave();
                for batch in last.chunks(BATCH) {
                    // Where this fails they end by their TTL.
                    let _ = store.acknowledge(batch, LEFT_TTL).await;
                }
                continue;
            }
            None => {}
        }
        lease.follow(&spoken.state.lock());
        let all = Instant::now() >= repeat_at;
        if all {
            repeat_at = Instant::now() + jittered(pace.interval);
        } else {
            let gather = spoken.state.lock().gather();
            sleep(gather.mul_f64(fastrand::f64())).await;
        }
        let batch = spoken.state.lock().batch(all);
        let mut failed = None;
        for batch in batch.chunks(BATCH) {
            match store.acknowledge(batch, pace.ttl).await {
                Ok(()) => spoken.state.lock().sent(batch),
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else {
            backoff.reset();
            continue;
        };
        if backoff.attempts() == 0 {
            tracing::warn!(%error, "policy revisions could not be acknowledged; they are sent again");
        }
        if error.is_transient() {
            sleep(backoff.next()).await;
            spoken.more.notify_one();
        } else {
            // The next repetition tries again; at once would change nothing. The attempt is counted for the log.
            backoff.next();
        }
    }
}

/// What became of the lease in whose name is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// The registry did not have it any more, and with it lost what was acknowledged.
    Rewritten,
    /// The instance has left.
    Left,
}

/// The lease in whose name is spoken.
#[derive(Debug, Default)]
struct LeaseWatch {
    status: Option<watch::Receiver<RegistrationStatus>>,
    written: u64,
}

impl LeaseWatch {
    /// Looks at the lease of who speaks now.
    fn follow(&mut self, state: &State) {
        let speaks = state.speaker.as_ref().map(|speaker| &speaker.registration);
        let same = match (&self.status, speaks) {
            (Some(mine), Some(theirs)) => mine.same_channel(theirs),
            (mine, theirs) => mine.is_none() && theirs.is_none(),
        };
        if !same {
            self.status = speaks.cloned();
            self.written = 0;
        }
    }

    /// Waits for news; for ever where nobody speaks. Safe to drop and call again.
    async fn next(&mut self) -> News {
        loop {
            let Some(status) = &mut self.status else {
                return std::future::pending().await;
            };
            if status.changed().await.is_err() {
                self.status = None;
                continue;
            }
            let status = status.borrow_and_update();
            if status.has_left() {
                drop(status);
                self.status = None;
                return News::Left;
            }
            let before = std::mem::replace(&mut self.written, status.lease_writes);
            // With the first one nothing was lost.
            if before > 0 && status.lease_writes > before {
                return News::Rewritten;
            }
        }
    }
}

impl State {
    /// What was said has to be said anew.
    fn say_again(&mut self) {
        self.scopes.values_mut().for_each(|said| said.sent = false);
    }

    /// Ends speaking; answers what was said.
    fn leave(&mut self) -> Vec<Acknowledgement> {
        let said = self.batch(true);
        self.speaker = None;
        said
    }

    /// How long what is to be said may wait.
    fn gather(&self) -> Duration {
        let open = self.scopes.iter().filter(|(_, said)| !said.sent);
        let least = open.map(|(scope, _)| match scope.as_str() {
            "fleet" => FLEET_ACKNOWLEDGED_WITHIN,
            _ => GATHER,
        });
        least.min().unwrap_or_default()
    }

    fn batch(&self, all: bool) -> Vec<Acknowledgement> {
        let Some(speaker) = &self.speaker else {
            return Vec::new();
        };
        let incarnation = speaker.registration.borrow().incarnation;
        let record = |(scope, said): (&String, &Said)| Acknowledgement {
            instance: speaker.instance.clone(),
            incarnation,
            application: speaker.application.clone(),
            scope: scope.clone(),
            revision: said.revision,
            refusal: said.refusal.clone(),
            at_unix_ms: said.at_unix_ms,
        };
        self.scopes
            .iter()
            .filter(|(_, said)| all || !said.sent)
            .map(record)
            .collect()
    }

    fn sent(&mut self, batch: &[Acknowledgement]) {
        for sent in batch {
            let speaks = self
                .speaker
                .as_ref()
                .is_some_and(|speaker| speaker.instance == sent.instance);
            if let Some(said) = self.scopes.get_mut(&sent.scope)
                && speaks
                && (said.revision, &said.refusal) == (sent.revision, &sent.refusal)
            {
                said.sent = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
