//! Says which policy revisions this instance runs: soon after each change, and again with every renewal.

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

/// How long an acknowledgement is believed without being repeated.
const TTL: Duration = Duration::from_secs(60);
/// The longest a change waits for others, so that a fleet does not answer in one moment.
const GATHER: Duration = Duration::from_millis(100);
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
    /// Repeats everything about every `interval`.
    pub(super) fn start(store: Arc<dyn Acknowledgements>, interval: Duration) -> Self {
        let spoken = Arc::new(Spoken::default());
        let task = tokio::spawn(run(spoken.clone(), store, interval.min(TTL / 3)));
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
        state.scopes.values_mut().for_each(|said| said.sent = false);
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

async fn run(spoken: Arc<Spoken>, store: Arc<dyn Acknowledgements>, interval: Duration) {
    let mut backoff = Backoff::default();
    let mut repeat_at = Instant::now() + jittered(interval);
    loop {
        tokio::select! {
            biased;
            () = spoken.more.notified() => sleep(GATHER.mul_f64(fastrand::f64())).await,
            () = sleep_until(repeat_at) => {}
        }
        let all = Instant::now() >= repeat_at;
        if all {
            repeat_at = Instant::now() + jittered(interval);
        }
        let batch = spoken.state.lock().batch(all);
        let mut failed = None;
        for batch in batch.chunks(BATCH) {
            match store.acknowledge(batch, TTL).await {
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

impl State {
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
