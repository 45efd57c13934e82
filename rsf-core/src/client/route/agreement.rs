//! Waiting for consumer and provider to agree on who owns a shard.
//!
//! While a shard moves, the two may for a moment hold different policies. A provider that is not the owner refuses
//! (`wrong_shard`) before its handler runs; the call then waits for whichever side is behind, for as long as the budget of
//! further attempts has credit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::client::budget::Credit;
use crate::client::channel::ChannelState;
use crate::client::snapshot::ServiceSnapshot;
use crate::client::stack::OutboundCall;
use crate::error::RpcError;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::wire::headers::{DYE, ROUTING_KEY, SHARD};

/// Between two looks at whether consumer and provider agree on a shard's owner again; between them it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// A call's waiting, however often.
#[derive(Default)]
pub(in crate::client) struct Agreement {
    /// The next wait; `None` before the first one.
    pause: Option<Duration>,
    waiting: Option<Waiting>,
}

struct Waiting {
    /// Says whether there was time to wait.
    over: Pin<Box<dyn Future<Output = bool> + Send>>,
    credit: Credit,
    error: RpcError,
}

impl Agreement {
    /// Begins to wait because of `error`; gives it back where there is no credit to ask once more.
    pub(in crate::client) fn seek(&mut self, call: &OutboundCall, error: RpcError) -> Result<(), RpcError> {
        // A further request like any other: providers that never agree are not to be asked for ever.
        let Some(credit) = call.credit(call.now) else {
            return Err(without_credit(call, error));
        };
        let pause = self.pause.unwrap_or(FIRST_PAUSE);
        self.waiting = Some(Waiting {
            over: Box::pin(agreed(
                call.channel.clone(),
                call.snapshot.clone(),
                call.deadline,
                pause,
            )),
            credit,
            error,
        });
        Ok(())
    }

    /// Ready when the call, which then has the newest snapshot, may be routed again, or with what it ends with.
    pub(in crate::client) fn poll(
        &mut self,
        call: &mut OutboundCall,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RpcError>> {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(Ok(()));
        };
        let in_time = ready!(waiting.over.as_mut().poll(cx));
        let spent = self.pause.is_some();
        let Some(Waiting { credit, error, .. }) = self.waiting.take() else {
            return Poll::Ready(Ok(()));
        };
        if !in_time {
            return Poll::Ready(Err(if spent { without_credit(call, error) } else { error }));
        }
        credit.spend();
        self.pause = Some(LONGEST_PAUSE.min(self.pause.unwrap_or(FIRST_PAUSE) * 2));
        call.now = Moment::now();
        if let Some(newest) = call.snapshot.successor(&call.channel) {
            call.snapshot = newest;
        }
        if let Some(own) = &mut call.own {
            own.retain(|(name, _)| ![SHARD, ROUTING_KEY, DYE].contains(name));
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether `error` says that the provider knows another owner of the shard than this consumer.
pub(in crate::client) fn is_disagreement(error: &RpcError) -> bool {
    error.reason() == Reason::WrongShard && !error.may_have_run()
}

/// The failure of a call that has spent credit or found none: nobody above is to attempt it further.
fn without_credit(call: &OutboundCall, error: RpcError) -> RpcError {
    if let Some(parent) = &call.options.parent {
        parent.spend_retries();
    }
    error.with_retries_spent(true)
}

/// Waits for a newer snapshot than `had`, or for `pause`, which may have been enough for the provider. `false` where
/// `deadline` is nearer.
async fn agreed(
    channel: Arc<ChannelState>,
    had: Arc<ServiceSnapshot>,
    deadline: Moment,
    pause: Duration,
) -> bool {
    let mut version = channel.version.subscribe();
    if had.successor(&channel).is_some() {
        return true;
    }
    let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
    if Moment::now() + jittered >= deadline {
        return false;
    }
    let waiting = {
        let _timers = channel.shared.runtime.handle().enter();
        tokio::time::timeout(jittered, version.changed())
    };
    let _ = waiting.await;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Consumer, ConsumerParts};
    use crate::control::{Instance, StaticControlPlane};
    use crate::method::{MethodDescriptor, ServiceDescriptor};
    use crate::metrics::Metrics;
    use crate::policy_book::PolicyBook;
    use crate::runtime::IoRuntime;
    use crate::wire::in_process::InProcessWire;

    const SERVICE: &str = "test.v1.Shards";

    fn consumer(control: &Arc<StaticControlPlane>) -> Consumer {
        let runtime = IoRuntime::shared(tokio::runtime::Handle::current());
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        Consumer::new(ConsumerParts {
            application: "tester".to_owned(),
            namespace: "test".to_owned(),
            zone: String::new(),
            instance: String::new(),
            runtime: runtime.clone(),
            wire: Arc::new(InProcessWire::new()),
            control: control.clone(),
            policies: PolicyBook::new(control.clone(), runtime, metrics.policies_refused.clone()),
            metrics,
            interceptors: Default::default(),
            token: Default::default(),
            balancers: Default::default(),
        })
    }

    /// While a snapshot is replaced, some threads read the new one and some the old.
    #[tokio::test(start_paused = true)]
    async fn an_older_snapshot_is_not_what_a_call_waits_for() {
        let control = Arc::new(StaticControlPlane::new());
        let consumer = consumer(&control);
        let service = ServiceDescriptor {
            name: SERVICE.into(),
            methods: vec![MethodDescriptor::plain(SERVICE, "Get")].into(),
            schema: Vec::new().into(),
        };
        let channel = consumer.channel(&service, "");
        let state = channel.state();
        let listed = async |address: &str| {
            control.set_instances(SERVICE, vec![Instance::at("shard", address)]);
            let mut version = state.version.subscribe();
            let here = |snapshot: &ServiceSnapshot| snapshot.endpoints.keys().any(|id| id.contains(address));
            loop {
                match state.snapshot.get() {
                    Some(snapshot) if here(&snapshot) => return snapshot,
                    _ => version.changed().await.unwrap(),
                }
            }
        };
        let (first, second) = (listed("one:1").await, listed("two:1").await);
        let waited = async |had: &Arc<ServiceSnapshot>| {
            let now = Moment::now();
            let begun = tokio::time::Instant::now();
            let deadline = now + Duration::from_secs(60);
            assert!(agreed(state.clone(), had.clone(), deadline, LONGEST_PAUSE).await);
            begun.elapsed()
        };
        assert_eq!(waited(&first).await, Duration::ZERO);
        assert!(waited(&second).await >= LONGEST_PAUSE / 2);
        state.snapshot.set(first);
        assert!(waited(&second).await >= LONGEST_PAUSE / 2);
    }
}
