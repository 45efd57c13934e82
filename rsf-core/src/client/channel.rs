//! A service as the stub sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::balance::CandidateView;
use super::endpoint::Endpoint;
use super::follow;
use super::governed::Running;
use super::latency::Latency;
use super::snapshot::ServiceSnapshot;
use super::stack::{OutboundCall, Outcome};
use super::{Client, Shared};
use crate::call::{Call, CallOptions, RawMessage, Reply, Unsent};
use crate::error::RpcError;
use crate::latest::Latest;
use crate::message::Request;
use crate::metadata::Metadata;
use crate::method::{MethodDescriptor, ServiceDescriptor};
use crate::metrics::MethodMetrics;
use crate::moment::{Moment, nanos};
use crate::outcome::Reason;
use crate::policy::MethodPolicy;
use crate::runtime::IoRuntime;
use crate::wire::{Frame, RequestId};

/// How long the first call of a service waits for its first list of instances, its own deadline apart.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// A service of one implementation, watched and connected. Clones share it.
#[derive(Clone)]
pub struct Channel(Arc<ChannelState>);

pub(crate) struct ChannelState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) service: ServiceDescriptor,
    pub(crate) key: String,
    pub(crate) implementation: Option<HeaderValue>,
    pub(crate) methods: Vec<MethodState>,
    /// What calls read; `None` until the control plane has said anything.
    pub(crate) snapshot: Latest<ServiceSnapshot>,
    /// Ticks with every new snapshot.
    pub(crate) version: watch::Sender<u64>,
}

pub(crate) struct MethodState {
    pub(crate) descriptor: MethodDescriptor,
    pub(crate) path: PathAndQuery,
    pub(crate) metrics: Arc<MethodMetrics>,
    /// Known as far as policy hedges by a percentile.
    pub(super) latency: Latency,
}

/// What a process knows of a service that it calls.
#[derive(Debug, Clone, Serialize)]
pub struct ChannelView {
    /// The service key.
    pub service: String,
    /// Epoch and sequence of the list.
    pub version: (u64, u64),
    /// Why there are no instances, where there are none.
    pub not_ready: Option<String>,
    /// Its instances.
    pub instances: Vec<InstanceView>,
    /// The ids of those that fell out of the list without a word and are called because they still answer.
    pub kept: Vec<String>,
    /// Method name → closed, open or half-open, for the methods whose breaker policy has switched on.
    pub method_breakers: std::collections::BTreeMap<String, &'static str>,
    /// Method name → what holds for it, and where each value came from.
    pub policies: std::collections::BTreeMap<String, MethodPolicy>,
}

/// An instance as this process sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceView {
    /// Its id.
    pub instance: String,
    /// Where it is.
    pub address: String,
    /// Its share of the calls after policy.
    pub weight: u32,
    /// Calls under way to it from here.
    pub pending: u32,
    /// Whether there is a connection.
    pub connected: bool,
    /// closed, open or half-open.
    pub breaker: &'static str,
    /// How the balancer sees it.
    pub candidate: CandidateView,
}

impl Channel {
    pub(super) fn of(shared: &Arc<Shared>, service: &ServiceDescriptor, implementation: &str) -> Channel {
        shared.clone().channel_of(service, implementation, |key| {
            let methods = service.methods.iter().filter_map(|descriptor| {
                Some(MethodState {
                    path: PathAndQuery::try_from(&*descriptor.path).ok()?,
                    metrics: Arc::new(shared.metrics.client_method(&service.name, &descriptor.name)),
                    descriptor: descriptor.clone(),
                    latency: Latency::new(),
                })
            });
            let state = Arc::new(ChannelState {
                methods: methods.collect(),
                service: service.clone(),
                key,
                implementation: (!implementation.is_empty())
                    .then(|| HeaderValue::from_str(implementation).ok())
                    .flatten(),
                snapshot: Latest::empty(),
                version: watch::Sender::new(0),
                shared: shared.clone(),
            });
            follow::spawn(&state);
            Channel(state)
        })
    }

    /// A call of the method at place `method` of the service's descriptor.
    pub fn call<R: Reply>(&self, method: usize, request: Request<impl prost::Message>) -> Call<R> {
        Call::new(self.clone(), method, request)
    }

    /// A call with an encoded message, for tools that know the method only at run time.
    pub fn call_raw(&self, method: usize, message: Bytes, metadata: Metadata) -> Call<RawMessage> {
        Call::framed(self.clone(), method, Frame::from_message(&message), metadata)
    }

    /// The channel to another implementation of the same service; empty: the default.
    pub fn implementation(&self, implementation: &str) -> Channel {
        Channel::of(&self.0.shared, &self.0.service, implementation)
    }

    /// A typed client over this channel.
    pub fn client<C: Client>(self) -> C {
        C::new(self)
    }

    /// The runtime that its I/O happens on.
    pub fn runtime(&self) -> &IoRuntime {
        &self.0.shared.runtime
    }

    /// Waits until an instance may take calls.
    ///
    /// # Errors
    /// [`Reason::NoInstance`] where there is none within `limit`; the message says why, and what to do.
    pub async fn ready(&self, limit: Duration) -> Result<(), RpcError> {
        let state = &self.0;
        let mut version = state.version.subscribe();
        let some_instance = |_: &u64| {
            let snapshot = state.snapshot.get();
            snapshot.is_some_and(|snapshot| !snapshot.pools[0].members().is_empty())
        };
        let waiting = {
            let _timers = state.shared.runtime.handle().enter();
            tokio::time::timeout(limit, version.wait_for(some_instance))
        };
        if let Ok(Ok(_)) = waiting.await {
            return Ok(());
        }
        let problem = match state.snapshot.get() {
            Some(snapshot) => snapshot.explain_empty(&state.key),
            None => format!("the registry has not answered for `{}`", state.key),
        };
        let problem = format!("not ready within {} ms: {problem}", limit.as_millis());
        Err(RpcError::new(Reason::NoInstance, false, problem))
    }

    /// What is known of the service.
    pub fn view(&self) -> ChannelView {
        let (snapshot, now) = (self.0.snapshot.get(), Moment::now());
        let methods = self
            .0
            .methods
            .iter()
            .map(|method| method.descriptor.name.to_string());
        let guards = snapshot.iter().flat_map(|snapshot| &snapshot.guards);
        let breakers = methods
            .clone()
            .zip(guards)
            .filter_map(|(name, guards)| Some((name, guards.breaker.as_ref()?.state_name())));
        ChannelView {
            service: self.0.key.clone(),
            version: snapshot.as_ref().map_or((0, 0), |snapshot| snapshot.version),
            not_ready: match &snapshot {
                Some(snapshot) => snapshot.not_ready.as_deref().map(str::to_owned),
                None => Some("the control plane has not answered yet".to_owned()),
            },
            instances: snapshot
                .iter()
                .flat_map(|snapshot| {
                    let pool = &snapshot.pools[0];
                    pool.members().iter().zip(pool.explain(now))
                })
                .map(|(member, candidate)| member.view(candidate))
                .collect(),
            kept: snapshot
                .iter()
                .flat_map(|snapshot| snapshot.kept.keys().map(ToString::to_string))
                .collect(),
            method_breakers: breakers.collect(),
            policies: methods
                .zip(
                    snapshot
                        .iter()
                        .flat_map(|snapshot| snapshot.methods.iter().cloned()),
                )
                .collect(),
        }
    }

    pub(super) fn serves(&self, service: &ServiceDescriptor) -> bool {
        self.0.service.methods == service.methods
    }

    pub(super) fn state(&self) -> &Arc<ChannelState> {
        &self.0
    }

    pub(crate) fn callback_panicked(&self, method: usize) {
        let name = self
            .0
            .methods
            .get(method)
            .map_or("", |method| &method.descriptor.path);
        tracing::error!(method = name, "a callback panicked");
        self.0.shared.metrics.callback_panics.inc();
    }
}

impl Unsent {
    /// The future of the call.
    #[inline(always)]
    pub(crate) fn launch(self) -> Running {
        let Unsent {
            channel: Channel(channel),
            method,
            frame,
            options,
        } = self;
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Running::Boxed(Box::pin(std::future::ready(Err(error)))),
        };
        match channel.snapshot.get() {
            Some(snapshot) if method < channel.methods.len() => {
                Running::new(outbound(channel, method, snapshot, frame, options))
            }
            _ => Running::Boxed(Box::pin(launched_early(channel, method, frame, options))),
        }
    }

    /// Runs a call that nobody waits for once it is handed over, on a task that the process's graceful end waits for.
    pub(crate) fn launch_one_way(self) -> JoinHandle<Result<(), RpcError>> {
        let (channel, method) = (self.channel.0.clone(), self.method);
        let shared = channel.shared.clone();
        let handed_over = self.options.one_way().cloned();
        let run = async move {
            let result = self.launch().await.map(drop);
            if let Err(error) = &result
                && handed_over.is_some_and(|caller| caller.is_done())
            {
                channel.shared.metrics.one_way_failed.inc();
                let path = channel
                    .methods
                    .get(method)
                    .map_or("", |method| method.path.as_str());
                tracing::warn!(method = path, %error, "a one-way call failed after it was handed over");
            }
            result
        };
        shared.one_way.spawn_on(run, shared.runtime.handle())
    }
}

/// A call that comes before the first snapshot.
async fn launched_early(
    channel: Arc<ChannelState>,
    method: usize,
    frame: Frame,
    options: CallOptions,
) -> Outcome {
    if method >= channel.methods.len() {
        let problem = format!(
            "service `{}` has no method number {method} with a valid path",
            channel.key
        );
        return Err(RpcError::new(Reason::Unimplemented, false, problem));
    }
    let begun = Moment::now();
    let snapshot = channel.first_snapshot(method, &options).await?;
    let mut call = outbound(channel, method, snapshot, frame, options);
    call.begun = begun;
    Running::new(call).await
}

#[inline(always)]
fn outbound(
    channel: Arc<ChannelState>,
    method: usize,
    snapshot: Arc<ServiceSnapshot>,
    frame: Frame,
    options: CallOptions,
) -> OutboundCall {
    let number = fastrand::u64(..);
    OutboundCall {
        own: channel.shared.own_headers(
            options.parent.as_deref(),
            options.metadata.raw(),
            snapshot.methods[method].call.priority,
            options.on_behalf(),
        ),
        begun: Moment::epoch(),
        now: Moment::epoch(),
        deadline: Moment::epoch(),
        method,
        frame,
        snapshot,
        request_id: (options.request_id())
            .map_or(RequestId::Number(number), |id| RequestId::Text(id.clone())),
        number,
        options,
        trace: None,
        pool: 0,
        key: None,
        channel,
    }
}

impl Drop for ChannelState {
    fn drop(&mut self) {
        let snapshot = self.snapshot.get();
        if snapshot.is_some_and(|snapshot| !snapshot.kept.is_empty()) {
            self.shared.metrics.kept(&self.key).set(0);
        }
    }
}

impl ChannelState {
    /// The first snapshot for a call that came before it. A call that fails here has not entered the stack, so it is
    /// counted here.
    async fn first_snapshot(
        &self,
        method: usize,
        options: &CallOptions,
    ) -> Result<Arc<ServiceSnapshot>, RpcError> {
        let begun = Instant::now();
        let underway = MethodMetrics::begin(&*self.methods[method].metrics);
        let inherited = options.parent.as_ref().and_then(|parent| parent.remaining());
        let timeout = options.timeout.into_iter().chain(inherited).min();
        let result = self.snapshot(timeout).await;
        match &result {
            Ok(_) => underway.leave(),
            Err(error) => underway.end(nanos(begun.elapsed()), Some((error.code(), error.reason()))),
        }
        result
    }

    /// The snapshot that holds now. Waits only until the control plane has spoken for the first time.
    pub(crate) async fn snapshot(&self, timeout: Option<Duration>) -> Result<Arc<ServiceSnapshot>, RpcError> {
        if let Some(snapshot) = self.snapshot.get() {
            return Ok(snapshot);
        }
        let limit = timeout.unwrap_or(FIRST_LIST).min(FIRST_LIST);
        let mut version = self.version.subscribe();
        let first = {
            let _timers = self.shared.runtime.handle().enter();
            tokio::time::timeout(limit, version.wait_for(|version| *version > 0))
        };
        let _ = first.await;
        self.snapshot.get().ok_or_else(|| {
            let problem = format!(
                "no list of instances of `{}` within {} ms: the registry has not answered, and there is no snapshot on disk",
                self.key,
                limit.as_millis()
            );
            RpcError::new(Reason::NoInstance, false, problem)
        })
    }
}

impl super::balance::Member {
    pub(super) fn view(&self, candidate: CandidateView) -> InstanceView {
        let endpoint: &Endpoint = &self.endpoint;
        InstanceView {
            instance: endpoint.instance.id.to_string(),
            address: endpoint.instance.address.to_string(),
            weight: self.weight,
            pending: endpoint.pending(),
            connected: endpoint.is_connected(),
            breaker: endpoint.breaker.state_name(),
            candidate,
        }
    }
}
