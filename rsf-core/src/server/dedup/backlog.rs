//! Claims whose end the store has not taken yet: a bounded queue, and one worker while there is something in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::asking::survived;
use super::store::{Claim, DedupKey};
use super::{Shared, told};
use crate::server::provider::HostedMethod;

/// How long the end of a claim is tried: for as long as it may matter.
const PATIENCE: Duration = Duration::from_secs(60);
/// Claims that wait at most; one more is dropped.
const CLAIMS: usize = 10_000;
/// Bytes of outcomes that wait at most.
const BYTES: usize = 64 * 1024 * 1024;
/// How long the store may take for an answer: longer than for a call, which somebody waits for.
const ANSWER: Duration = Duration::from_secs(2);
/// The first pause after a failure; it doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is to be told to a store that has failed. It is asked one operation at a time, however many wait.
///
/// What does not fit, or has waited too long, is dropped and counted: its claim runs out, and duplicates of its call end
/// with `outcome_unknown`.
#[derive(Default)]
pub(super) struct Backlog {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of the outcomes, that of the one in hand included.
    bytes: usize,
    working: bool,
}

/// A claim's end.
pub(super) struct End {
    pub(super) method: Arc<HostedMethod>,
    pub(super) key: DedupKey,
    pub(super) claim: Claim,
    /// `None` releases the claim.
    pub(super) outcome: Option<Bytes>,
}

impl End {
    fn bytes(&self) -> usize {
        self.outcome.as_ref().map_or(0, Bytes::len)
    }

    fn drop_counted(self, why: &str) {
        if let Some(dedup) = &self.method.dedup {
            dedup.metrics.unsettled.inc();
        }
        tracing::debug!(method = self.method.path, why, "an outcome could not be stored");
    }
}

impl Shared {
    /// Ends a claim in the background. Not among the owners: the end of the process does not wait for a store that fails.
    pub(super) fn settle_later(self: &Arc<Self>, end: End) {
        let mut queue = self.backlog.queue.lock();
        let bytes = queue.bytes + end.bytes();
        if queue.waiting.len() >= CLAIMS || bytes > BYTES {
            drop(queue);
            return end.drop_counted("too many wait for the store");
        }
        queue.bytes = bytes;
        let since = Instant::now();
        queue.waiting.push_back(Waiting { end, since });
        if !std::mem::replace(&mut queue.working, true) {
            tokio::spawn(self.clone().work_off());
        }
    }

    async fn work_off(self: Arc<Self>) {
        let mut pause = SHORTEST_PAUSE;
        while let Some(waiting) = self.backlog.next() {
            if waiting.since.elapsed() >= PATIENCE {
                self.backlog.done(&waiting.end);
                waiting.end.drop_counted("the store has failed for too long");
                continue;
            }
            let End {
                key, claim, outcome, ..
            } = &waiting.end;
            let settling = survived(|| self.store.settle(key, claim, outcome.as_ref()));
            match timeout(ANSWER, settling).await {
                Ok(Some(Ok(held))) => {
                    self.mute.answered();
                    told(&waiting.end.method, held);
                    self.backlog.done(&waiting.end);
                    pause = SHORTEST_PAUSE;
                    continue;
                }
                // An error came at once: time is what it needs.
                Ok(Some(Err(_)) | None) => {
                    sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(_) => sleep(SHORTEST_PAUSE).await,
            }
            self.backlog.put_back(waiting);
        }
    }
}

/// An end that waits.
struct Waiting {
    end: End,
    since: Instant,
}

impl Backlog {
    /// The next one, oldest first. Where there is none the worker's work is over.
    fn next(&self) -> Option<Waiting> {
        let mut queue = self.queue.lock();
        let next = queue.waiting.pop_front();
        queue.working = next.is_some();
        next
    }

    /// Behind the others: an outcome that the store never takes must not hold them up.
    fn put_back(&self, waiting: Waiting) {
        self.queue.lock().waiting.push_back(waiting);
    }

    fn done(&self, end: &End) {
        self.queue.lock().bytes -= end.bytes();
    }
}
