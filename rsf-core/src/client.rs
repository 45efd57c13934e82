//! The consumer's side of a call, from the stub to the wire.
//!
//! The path of one call, in order; [`stack`] says what stands before what, and [`governed`] is the future that goes that way:
//!
//! 1. [`channel`]: a service as the stub sees it; loads the snapshot, once a call.
//! 2. [`observe`]: trace, then metrics.
//! 3. [`intercept`]: the application's own code.
//! 4. [`degrade`]: an answer where the service has none.
//! 5. [`deadline`]: sets the logical call's time, inherited and bounded by policy; what waits behind it keeps to it.
//! 6. [`limit`]: the consumer's own concurrency and rate.
//! 7. [`method_breaker`]: fails fast where the method fails as a whole.
//! 8. [`route`]: picks a pool compiled in the snapshot; waits where the provider knows another owner of its shard.
//! 9. [`retry`]: attempts, their budget, and late first success.
//! 10. [`attempt`]: balance → node breaker → endpoint → wire.
//!
//! Beside the path: [`snapshot`] is what calls read, [`follow`] builds a new one when the control plane speaks,
//! [`guards`] is what a method keeps across snapshots, [`reply_type`] reads its schema, [`key`] hashes routing keys,
//! [`explain`] tells people what a call would meet, [`subset`] chooses the instances that this process uses, [`kept`] are
//! those that fell out of the list and still answer, [`sighted`] tells the control plane of them, [`balance`], [`breaker`], [`budget`], [`latency`] and [`endpoint`] are
//! the mechanisms, [`streaming`] runs unchanged tonic clients: routed, balanced and broken, not limited, degraded or (once
//! an instance has seen the request) retried. Its time is a [`Moment`](crate::moment): the clock is read where a call
//! begins, and after whatever waits.
//!
//! What it does not do: it knows no other consumer, and asks nobody while a call is under way.

mod attempt;
mod balance;
mod breaker;
mod budget;
mod channel;
mod deadline;
mod degrade;
mod endpoint;
mod explain;
mod follow;
mod governed;
mod guards;
mod intercept;
mod kept;
pub(crate) mod key;
mod latency;
mod limit;
mod method_breaker;
mod observe;
mod reply_type;
mod retry;
mod route;
mod sighted;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod simulated;
mod snapshot;
mod stack;
mod streaming;
mod subset;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::control::ControlPlane;
use crate::error::RpcError;
use crate::identity::{ApplicationToken, OnBehalf};
use crate::method::{ServiceDescriptor, service_key};
use crate::metrics::Metrics;
use crate::policy::Priority;
use crate::policy_book::PolicyBook;
use crate::runtime::IoRuntime;
use crate::wire::headers::{CALLER, PRIORITY, RETRIED, TOKEN, YES};
use crate::wire::priority;
use crate::wire::{OwnHeaders, Wire};

pub use balance::{Balancer, Balancers, CandidateView, Candidates, FirstPick};
pub use channel::{Channel, ChannelView, InstanceView};
pub use explain::{Explanation, GoverningValue, Stop};
pub(crate) use governed::Running;
pub use intercept::{ClientCall, ClientInterceptor, ClientInterceptors, ClientNext};
pub use limit::LimitView;
pub use route::{RemovedInstance, RouteExplanation, RuleExplanation};
pub use streaming::{RoutingKey, TonicChannel};

/// A typed client; generated code implements it.
pub trait Client: Sized {
    /// The service that it calls.
    fn descriptor() -> &'static ServiceDescriptor;

    /// The client over a channel to that service.
    fn new(channel: Channel) -> Self;
}

/// Everything that calls of one process share. Connections and watches end with the last clone and the last client.
#[derive(Clone)]
pub struct Consumer {
    shared: Arc<Shared>,
    channels: Arc<Channels>,
}

/// A process's channels by service key.
type Channels = Mutex<HashMap<String, Channel>>;

/// What a [`Consumer`] stands on.
pub struct ConsumerParts {
    /// The calling application's name; visible ASCII.
    pub application: String,
    /// The namespace; providers of another one refuse.
    pub namespace: String,
    /// The data centre or machine room that calls are made from; may be empty.
    pub zone: String,
    /// Names this process among the consumers of a service, and with that the instances that it uses where policy lets
    /// each consumer use a subset. The same name gives the same instances after a restart; empty: one is drawn.
    pub instance: String,
    /// Where I/O happens.
    pub runtime: IoRuntime,
    /// How connections are made.
    pub wire: Arc<dyn Wire>,
    /// Where instances and policies come from.
    pub control: Arc<dyn ControlPlane>,
    /// The process's policies.
    pub policies: Arc<PolicyBook>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// What the process proves with who it is; [`ApplicationToken::default`] has none.
    pub token: ApplicationToken,
    /// The application's own code around every call.
    pub interceptors: ClientInterceptors,
    /// Balancers of the application's own, which policies may name.
    pub balancers: Balancers,
}

pub(crate) struct Shared {
    pub(crate) application: String,
    pub(crate) caller: Option<HeaderValue>,
    pub(crate) namespace: String,
    pub(crate) zone: String,
    /// What the process draws its subsets with.
    pub(crate) seed: u64,
    pub(crate) runtime: IoRuntime,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) control: Arc<dyn ControlPlane>,
    pub(crate) policies: Arc<PolicyBook>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) token: ApplicationToken,
    pub(crate) interceptors: ClientInterceptors,
    /// One-way calls that are not over.
    pub(crate) one_way: TaskTracker,
    pub(crate) balancers: Balancers,
    /// The consumer's. Weak, because each channel holds this.
    channels: Weak<Channels>,
}

impl Consumer {
    /// A consumer without channels.
    pub fn new(parts: ConsumerParts) -> Self {
        let channels = Arc::new(Channels::default());
        let shared = Shared {
            caller: HeaderValue::from_str(&parts.application).ok(),
            application: parts.application,
            namespace: parts.namespace,
            zone: parts.zone,
            seed: match parts.instance.as_str() {
                "" => fastrand::u64(..),
                instance => key::hash(instance.as_bytes()),
            },
            runtime: parts.runtime,
            wire: parts.wire,
            control: parts.control,
            policies: parts.policies,
            metrics: parts.metrics,
            token: parts.token,
            interceptors: parts.interceptors,
            one_way: TaskTracker::new(),
            balancers: parts.balancers,
            channels: Arc::downgrade(&channels),
        };
        let shared = Arc::new(shared);
        let telling = sighted::tell(Arc::downgrade(&shared));
        shared.runtime.handle().spawn(telling);
        Consumer { shared, channels }
    }

    /// A typed client of the default implementation.
    pub fn client<C: Client>(&self) -> C {
        C::new(self.channel(C::descriptor(), ""))
    }

    /// The channel to one implementation of a service (empty: the default). The first one of a service begins to
    /// watch its instances; later ones share it, as long as they name the same methods.
    pub fn channel(&self, service: &ServiceDescriptor, implementation: &str) -> Channel {
        Channel::of(&self.shared, service, implementation)
    }

    /// A channel for an unchanged tonic client of `service`: routed, balanced and broken, never retried.
    pub fn tonic_channel(&self, service: &str) -> TonicChannel {
        let descriptor = ServiceDescriptor {
            name: service.to_owned().into(),
            methods: Vec::new().into(),
            schema: Vec::new().into(),
        };
        TonicChannel::new(self.channel(&descriptor, ""))
    }

    /// Waits until every service that this process has a client of by now has an instance that may take calls.
    ///
    /// # Errors
    /// [`Reason::NoInstance`](crate::outcome::Reason::NoInstance) where one has none within `limit`, for the first such.
    pub async fn ready(&self, limit: Duration) -> Result<(), RpcError> {
        let mut channels: Vec<_> = self.channels.lock().values().cloned().collect();
        channels.sort_by(|a, b| a.state().key.cmp(&b.state().key));
        let end = Instant::now() + limit;
        for channel in channels {
            // At least a look, where an earlier service used the time up.
            channel
                .ready(end.saturating_duration_since(Instant::now()))
                .await?;
        }
        Ok(())
    }

    /// Waits until the one-way calls that were made by now are over, for `limit` at most. For the process's end.
    /// `false` where some were still under way.
    pub async fn finish_one_way(&self, limit: Duration) -> bool {
        let calls = &self.shared.one_way;
        calls.close();
        let over = {
            let _timers = self.shared.runtime.handle().enter();
            tokio::time::timeout(limit, calls.wait())
        };
        let over = over.await.is_ok();
        calls.reopen();
        over
    }

    /// What is known of every service that this process calls, for status pages.
    pub fn views(&self) -> Vec<ChannelView> {
        let channels: Vec<_> = self.channels.lock().values().cloned().collect();
        let mut views: Vec<_> = channels.iter().map(Channel::view).collect();
        views.sort_by(|a, b| a.service.cmp(&b.service));
        views
    }
}

impl Shared {
    /// RSF's own headers that most calls do not have: who we are, and what the surrounding call hands down. `None` where
    /// there are none.
    #[inline(always)]
    fn own_headers(
        &self,
        parent: Option<&Context>,
        metadata: Option<&HeaderMap>,
        priority: Option<Priority>,
        on_behalf: Option<&OnBehalf>,
    ) -> Option<Box<OwnHeaders>> {
        let none = parent.is_none() && priority.is_none() && on_behalf.is_none() && !self.token.is_some();
        match none {
            true => None,
            false => Some(Box::new(self.some_headers(parent, metadata, priority, on_behalf))),
        }
    }

    #[inline(never)]
    fn some_headers(
        &self,
        parent: Option<&Context>,
        metadata: Option<&HeaderMap>,
        priority: Option<Priority>,
        on_behalf: Option<&OnBehalf>,
    ) -> OwnHeaders {
        let mut own = match parent {
            Some(parent) => parent.inherited(metadata),
            None => OwnHeaders::new(),
        };
        let surrounding = parent.and_then(Context::carried_priority);
        if let Some(priority) = priority::inherited(priority, surrounding) {
            own.push((PRIORITY, priority::write(priority)));
        }
        if parent.is_some_and(Context::is_retried) {
            own.push((RETRIED, YES));
        }
        if let Some(other) = on_behalf {
            own.extend([(CALLER, other.application.clone()), (TOKEN, other.token.clone())]);
        } else if let Some(token) = self.token.header() {
            own.push((TOKEN, token));
        }
        own
    }

    fn channel_of(
        self: &Arc<Self>,
        service: &ServiceDescriptor,
        implementation: &str,
        make: impl FnOnce(String) -> Channel,
    ) -> Channel {
        let key = service_key(&service.name, implementation);
        // A tonic client's channel knows no methods; it stands beside the typed one.
        let place = if service.methods.is_empty() {
            format!("{key} (tonic)")
        } else {
            key.clone()
        };
        let Some(channels) = self.channels.upgrade() else {
            // The consumer is gone; its clients live on, each by itself.
            return make(key);
        };
        let mut channels = channels.lock();
        if let Some(known) = channels.get(&place)
            && known.serves(service)
        {
            return known.clone();
        }
        let channel = make(key);
        channels.insert(place, channel.clone());
        channel
    }
}
