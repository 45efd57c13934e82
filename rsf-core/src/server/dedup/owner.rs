//! The call that came first: it claims its request id, runs the handler, and stores what came of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::outcome::{encode, encode_unknown, unknown};
use super::store::{Claimed, Entry, Held};
use super::{Failed, InboundCall, Once, Stage};
use crate::error::framework_status;
use crate::message::Response;
use crate::outcome::Reason;
use crate::policy::StoreDown;
use crate::server::observe::panicked_around;
use crate::status::Status;
use crate::timer::at_or_never;
use crate::wire::Frame;

/// How long the handler of a call without a deadline may take, `provider.dedup.finish_ms` apart: nobody else would end it.
const ENDLESS: Duration = Duration::from_secs(300);
/// A claim is renewed so many times within its lease.
const RENEWALS: u32 = 3;

/// What came of a call's beginning.
pub(super) enum Begun {
    /// It was the first, or was refused: this is the answer.
    Ended(Result<Response<Frame>, Status>),
    /// Another call with its request id was first.
    Stands(Entry),
}

/// Claims a call and runs it to its end, whether or not its caller still waits.
pub(super) struct Owner {
    once: Once,
    answer: oneshot::Sender<Begun>,
}

impl Owner {
    pub(super) fn new(once: Once, answer: oneshot::Sender<Begun>) -> Self {
        Owner { once, answer }
    }

    pub(super) async fn claim_and_run<S: Stage>(self, inner: Arc<S>, call: InboundCall) {
        let Owner { once, answer } = self;
        match once.asked(|| once.store().claim(&once.key, &once.claim)).await {
            Ok(Claimed::Stands(entry)) => {
                drop(call);
                let _ = answer.send(Begun::Stands(entry));
            }
            Ok(Claimed::New { memory }) if once.repeated && memory < once.claim.window => {
                once.forgotten(inner, call, answer).await;
            }
            Ok(Claimed::New { .. }) => {
                once.count(|metrics| &metrics.first);
                once.run(inner, call, answer, true).await;
            }
            Err(Failed { panicked: true, .. }) => {
                drop(call);
                let _ = answer.send(Begun::Ended(Err(panicked_around(&once.method))));
                // It may have taken the claim all the same, and nothing has run.
                once.settle_later(None);
            }
            Err(failed) => once.without_store(inner, call, answer, failed).await,
        }
    }
}

impl Once {
    /// An earlier attempt may have run, and a store that remembered it would say so; this one cannot know.
    async fn forgotten<S: Stage>(self, inner: Arc<S>, call: InboundCall, answer: oneshot::Sender<Begun>) {
        if self.rules.store_down == StoreDown::Open {
            self.count(|metrics| &metrics.store_error_open);
            return self.run(inner, call, answer, true).await;
        }
        drop(call);
        self.count(|metrics| &metrics.unknown);
        let why = "an earlier attempt may have run, and the store of outcomes has lost its memory since or is not shared by all instances";
        let _ = answer.send(Begun::Ended(Err(unknown(why))));
        // Kept, so that later duplicates, which may know less, do not run either.
        self.settle_later(Some(encode_unknown(why)));
    }

    async fn without_store<S: Stage>(
        self,
        inner: Arc<S>,
        call: InboundCall,
        answer: oneshot::Sender<Begun>,
        Failed { asked, why, .. }: Failed,
    ) {
        tracing::debug!(method = self.method.path, why, "claiming a call");
        match self.rules.store_down {
            // Renewal and end put the claim and the outcome all the same, as soon as the store takes them.
            StoreDown::Open => {
                self.count(|metrics| &metrics.store_error_open);
                self.run(inner, call, answer, asked).await;
            }
            StoreDown::Closed => {
                drop(call);
                self.count(|metrics| &metrics.store_error_closed);
                let problem = format!(
                    "{}: not run, because its outcome could not be kept (policy provider.dedup.store_down): {why}",
                    self.method.path
                );
                let refusal = framework_status(Reason::DedupUnavailable, problem);
                let _ = answer.send(Begun::Ended(Err(refusal)));
                // The store may have taken the claim and only its answer is late: a further attempt must not meet it.
                if asked {
                    self.settle_later(None);
                }
            }
        }
    }

    /// `may_stand`: whether the store can hold the claim already.
    async fn run<S: Stage>(
        self,
        inner: Arc<S>,
        mut call: InboundCall,
        answer: oneshot::Sender<Begun>,
        may_stand: bool,
    ) {
        let finish = Duration::from_millis(self.rules.finish_ms);
        let deadline = call.context.deadline();
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            drop(call);
            let _ = answer.send(Begun::Ended(Err(self.late())));
            // Nothing has happened, so nothing is left behind.
            if may_stand {
                self.settle_later(None);
            }
            return;
        }
        let taken = AtomicBool::new(false);
        let result = {
            let end = deadline.unwrap_or_else(|| Instant::now() + ENDLESS);
            let last = end.checked_add(finish);
            tokio::select! {
                biased;
                result = inner.call(&mut call) => Some(result),
                never = self.renew(&taken) => match never {},
                () = at_or_never(last) => None,
            }
        };
        let outcome = match &result {
            Some(result) => encode(result, self.rules.max_reply_bytes),
            None => Some(encode_unknown(match deadline {
                Some(_) => "it was cancelled when its deadline had passed",
                None => "it had no deadline, and was cancelled after 5 minutes",
            })),
        };
        let result = result.unwrap_or_else(|| Err(self.late()));
        // Before the caller hears of it, so that whoever asks again afterwards gets the same answer. Where the store
        // fails, the caller does not wait for it: the claim that stands keeps the handler from running again.
        let stored = match taken.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.settle(outcome.as_ref()).await,
        };
        let _ = answer.send(Begun::Ended(result));
        if stored.is_err() {
            self.settle_later(outcome);
        }
    }

    /// For a caller that has been told so already.
    fn late(&self) -> Status {
        framework_status(
            Reason::Deadline,
            format!("{}: the deadline passed", self.method.path),
        )
    }

    async fn settle(&self, outcome: Option<&Bytes>) -> Result<(), Failed> {
        let held = self
            .asked(|| self.store().settle(&self.key, &self.claim, outcome))
            .await?;
        self.held(held);
        Ok(())
    }

    /// Keeps the claim alive while the handler runs. `taken` is set, and said once, where somebody else holds it.
    async fn renew(&self, taken: &AtomicBool) -> Infallible {
        while !taken.load(Ordering::Relaxed) {
            sleep(self.claim.lease / RENEWALS).await;
            if let Ok(Held::Taken) = self.asked(|| self.store().renew(&self.key, &self.claim)).await {
                taken.store(true, Ordering::Relaxed);
                self.held(Held::Taken);
            }
        }
        std::future::pending().await
    }
}
