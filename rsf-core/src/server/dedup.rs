//! Dedup: the handler of a deduplicated method runs once for each request id, and its outcome is replayed.
//!
//! 1. [`store`]: what is asked of the place where claims and outcomes stand.
//! 2. [`memory`]: that place in the process's own memory. (Redis is `rsf-registry`'s.)
//! 3. `outcome`: how an outcome is stored and replayed.
//! 4. `asking`: one operation of the store, whatever it does; `mute` keeps calls from waiting for one that gives no answer.
//! 5. `backlog`: what is to be told to a store that has failed.
//! 6. `owner`: the side of the call that came first: it claims, runs the handler, and stores what came of it.
//!
//! Here is the stage itself, and the side of the duplicate: it waits for the first call's outcome and replays it.

mod asking;
mod backlog;
mod memory;
mod mute;
mod outcome;
mod owner;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::Either;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

pub use memory::MemoryDedup;
pub use store::{
    Claim, Claimed, DedupKey, DedupStore, DedupStoreError, Entry, EntryState, Held, PayloadHash,
};

use asking::Failed;
use backlog::{Backlog, End};
use mute::Mute;
use outcome::Outcome;
use owner::{Begun, Owner};

use super::observe::panicked_around;
use super::provider::HostedMethod;
use super::stack::{InboundCall, Stage};
use crate::error::framework_status;
use crate::message::Response;
use crate::metrics::DedupMetrics;
use crate::outcome::Reason;
use crate::policy::{DedupRules, ProviderRules};
use crate::status::Status;
use crate::wire::Frame;
use crate::wire::headers::REPEATED;

/// The first pause between two looks at another instance's claim; it doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Runs the handler once for each request id.
pub(super) struct Dedup<S> {
    inner: Arc<S>,
    shared: Arc<Shared>,
}

/// What all deduplicated calls of a process share.
pub(super) struct Shared {
    store: Arc<dyn DedupStore>,
    /// The instance, and its start.
    owner: String,
    claims: AtomicU64,
    waiting: AtomicUsize,
    mute: Mute,
    backlog: Backlog,
    /// The handlers under way, some of which nobody waits for any more.
    owners: TaskTracker,
}

impl Shared {
    /// `instance` names this one to people; every start of it is another owner.
    pub(super) fn new(store: Arc<dyn DedupStore>, instance: &str) -> Self {
        Shared {
            store,
            owner: format!("{instance}#{:016x}", fastrand::u64(..)),
            claims: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            mute: Mute::default(),
            backlog: Backlog::default(),
            owners: TaskTracker::new(),
        }
    }

    /// Waits until every handler has ended and its outcome is stored.
    pub(super) async fn settled(&self) {
        self.owners.close();
        self.owners.wait().await;
    }
}

/// A deduplicated method: what policy says of it now, and its counters.
pub(super) struct MethodDedup {
    rules: ArcSwap<DedupRules>,
    metrics: DedupMetrics,
}

impl MethodDedup {
    pub(super) fn new(metrics: DedupMetrics) -> Self {
        MethodDedup {
            rules: ArcSwap::from_pointee(DedupRules::default()),
            metrics,
        }
    }

    pub(super) fn set(&self, rules: &ProviderRules, method: &str) {
        self.rules.store(Arc::new(rules.dedup_of(method)));
    }
}

impl<S> Dedup<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Dedup {
            inner: Arc::new(inner),
            shared,
        }
    }
}

impl<S: Stage> Stage for Dedup<S> {
    fn call(&self, call: &mut InboundCall) -> impl Future<Output = Result<Response<Frame>, Status>> + Send {
        match call.method.dedup.is_some() {
            false => Either::Left(self.inner.call(call)),
            // Apart, so that the other methods' futures stay small.
            true => Either::Right(Box::pin(self.once(call))),
        }
    }
}

impl<S: Stage> Dedup<S> {
    async fn once(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        let Some(once) = Once::of(call, &self.shared) else {
            // Without an id, as calls of other makes come, nothing can be told apart.
            return self.inner.call(call).await;
        };
        let (answer, begun) = oneshot::channel();
        let owner = Owner::new(once.clone(), answer);
        // A task of its own: a caller that goes away, or an attempt that lost, must not leave an outcome unknown.
        self.shared
            .owners
            .spawn(owner.claim_and_run(self.inner.clone(), call.for_handler()));
        match begun.await {
            Ok(Begun::Ended(answer)) => answer,
            // The call itself went back to the pool: a duplicate takes no place in it.
            Ok(Begun::Stands(entry)) => once.follow(entry).await,
            Err(_) => Err(framework_status(
                Reason::ShutDown,
                "the provider's runtime has ended",
            )),
        }
    }
}

/// One deduplicated call.
#[derive(Clone)]
struct Once {
    shared: Arc<Shared>,
    method: Arc<HostedMethod>,
    key: DedupKey,
    claim: Claim,
    rules: DedupRules,
    /// Whether the caller has proven who it is.
    proven: bool,
    /// Whether the caller knows that an earlier attempt may have run.
    repeated: bool,
}

impl Once {
    /// `None` where the call has no request id.
    fn of(call: &InboundCall, shared: &Arc<Shared>) -> Option<Once> {
        let (method, context) = (&call.method, &call.context);
        let rules = **method.dedup.as_ref()?.rules.load();
        let (id, message) = (context.request_id()?, call.message.as_ref().ok()?);
        let (hash, proven) = (Claim::hash(message), context.identity().is_proven());
        let number = shared.claims.fetch_add(1, Ordering::Relaxed);
        Some(Once {
            shared: shared.clone(),
            method: method.clone(),
            key: DedupKey::of(
                context.caller().unwrap_or_default(),
                &method.key,
                &method.name,
                id,
            ),
            claim: Claim {
                owner: format!("{}#{number}", shared.owner).into(),
                payload: if proven { marked(hash) } else { hash },
                lease: Duration::from_millis(rules.claim_ms),
                window: Duration::from_millis(rules.window_ms),
            },
            rules,
            proven,
            repeated: context.metadata().get(REPEATED.as_str()).is_some(),
        })
    }

    fn store(&self) -> &dyn DedupStore {
        &*self.shared.store
    }

    fn count(&self, which: impl Fn(&DedupMetrics) -> &prometheus::IntCounter) {
        if let Some(dedup) = &self.method.dedup {
            which(&dedup.metrics).inc();
        }
    }

    /// Answers a duplicate with the first call's outcome, waiting for it where it is not there yet.
    async fn follow(&self, entry: Entry) -> Result<Response<Frame>, Status> {
        let (first, own) = (entry.payload, self.claim.payload);
        let readable = entry.state != EntryState::Unreadable;
        if readable && first != own && first != marked(own) {
            self.count(|metrics| &metrics.mismatch);
            let problem = format!(
                "{}: this request id came before with another payload; give each operation an id of its own",
                self.method.path
            );
            return Err(framework_status(Reason::PayloadMismatch, problem));
        }
        if readable && first != own && !self.proven {
            return Err(self.unknown("it was made by a caller who had proven who it is, as this one has not"));
        }
        match self.ended(entry.state, |metrics| &metrics.replayed) {
            Some(answer) => answer,
            None => self.wait().await,
        }
    }

    /// What a duplicate is told of a call that has ended; `None` where it has not.
    fn ended(
        &self,
        state: EntryState,
        counter: impl Fn(&DedupMetrics) -> &prometheus::IntCounter,
    ) -> Option<Result<Response<Frame>, Status>> {
        let why = match state {
            EntryState::InProgress | EntryState::Released => return None,
            EntryState::Done(stored) => match outcome::decode(&stored) {
                Outcome::Answer(answer) => {
                    self.count(counter);
                    return Some(answer);
                }
                Outcome::NotKept { bytes, succeeded } => format!(
                    "it ended with {} of {bytes} bytes, too large to be kept (policy provider.dedup.max_reply_bytes)",
                    if succeeded { "a reply" } else { "an error" },
                ),
                Outcome::Unknown(why) => why,
            },
            EntryState::Abandoned => {
                "the instance that handled it died, or could not say how it ended".to_owned()
            }
            EntryState::Unreadable => {
                "its record was written by another version of RSF or by another program".to_owned()
            }
        };
        Some(Err(self.unknown(&why)))
    }

    fn unknown(&self, why: &str) -> Status {
        self.count(|metrics| &metrics.unknown);
        outcome::unknown(why)
    }

    async fn wait(&self) -> Result<Response<Frame>, Status> {
        let Some(_place) = Waiting::enter(&self.shared.waiting, self.rules.waiting as usize) else {
            return Err(self.in_progress("and as many duplicates as provider.dedup.waiting wait already"));
        };
        let until = Instant::now() + Duration::from_millis(self.rules.wait_ms);
        let mut pause = SHORTEST_PAUSE;
        while Instant::now() < until {
            // With jitter, so that many duplicates do not ask at once.
            let next = Instant::now() + pause.mul_f64(0.75 + 0.25 * fastrand::f64());
            sleep_until(next.min(until)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match self.asked(|| self.store().look(&self.key)).await {
                Ok(Some(entry)) if entry.state == EntryState::Released => return Err(self.released()),
                Ok(Some(entry)) => {
                    if let Some(answer) = self.ended(entry.state, |metrics| &metrics.waited) {
                        return answer;
                    }
                }
                Ok(None) => {
                    return Err(self.unknown("the store of outcomes has lost its claim"));
                }
                Err(Failed { panicked: true, .. }) => return Err(panicked_around(&self.method)),
                // What stood there a moment ago was in progress; perhaps the store is back before the time is over.
                Err(Failed { why, .. }) => {
                    tracing::debug!(method = self.method.path, why, "looking for an outcome");
                }
            }
        }
        let problem = format!(
            "and did not end within {} ms (policy provider.dedup.wait_ms)",
            self.rules.wait_ms
        );
        Err(self.in_progress(&problem))
    }

    /// What it waited for ended without a run, so that a further attempt may run.
    fn released(&self) -> Status {
        self.count(|metrics| &metrics.released);
        let problem = format!(
            "{}: the call with this request id that came first was refused before its handler; nothing has run",
            self.method.path
        );
        framework_status(Reason::DedupUnavailable, problem)
    }

    fn in_progress(&self, more: &str) -> Status {
        self.count(|metrics| &metrics.in_progress);
        let problem = format!(
            "{}: a call with this request id is being handled {more}; ask again later under the same id",
            self.method.path
        );
        framework_status(Reason::DuplicateInProgress, problem)
    }

    /// Ends the claim in the background.
    fn settle_later(self, outcome: Option<Bytes>) {
        self.shared.settle_later(End {
            method: self.method,
            key: self.key,
            claim: self.claim,
            outcome,
        });
    }

    fn held(&self, held: Held) {
        told(&self.method, held);
    }
}

/// Notices that somebody else holds what a call of the method claimed.
fn told(method: &HostedMethod, held: Held) {
    if held == Held::Taken {
        if let Some(dedup) = &method.dedup {
            dedup.metrics.duplicate.inc();
        }
        tracing::warn!(
            method = method.path,
            "a handler ran twice for one request id: the store of outcomes had failed or lost the first claim"
        );
    }
}

/// The hash that stands for the same message by a caller of the other kind: who has proven who it is puts the complement.
///
/// Not in the key: of one call's attempts some may meet instances that ask for no proof yet, and yet it runs once.
fn marked(hash: PayloadHash) -> PayloadHash {
    hash.map(|byte| !byte)
}

/// A duplicate's place among those that wait; it returns on drop.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(counter: &'a AtomicUsize, most: usize) -> Option<Self> {
        let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < most).then_some(n + 1)
        });
        taken.is_ok().then(|| Waiting(counter))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
