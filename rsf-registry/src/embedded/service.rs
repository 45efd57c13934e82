//! The embedded registry's gRPC service, `rsf.registry.v1.Registry`, over an [`EmbeddedStore`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use super::{EmbeddedNamespace, EmbeddedStore, HOLDER_KEY, NAMESPACE_KEY, NAMESPACES_KEY};
use crate::directory::SealedList;
use crate::record::registry_server::{Registry, RegistryServer};
use crate::record::{
    AcknowledgeRequest, AcknowledgeResponse, Acknowledgement, ListAcknowledgementsRequest, ListEvent,
    ListPoliciesRequest, ListServicesRequest, ListServicesResponse, PolicyEvent, PolicyRecord,
    PutLeaseRequest, PutLeaseResponse, RenewLeaseRequest, RenewLeaseResponse, ReportRequest, ReportResponse,
    SealedEvent, WatchListRequest, WatchPolicyRequest, list_event, policy_event,
};
use crate::{
    Acknowledgements, Directory, LeaseStore, Observed, PolicyStore, Renewal, ReportStore, StoreError, Watch,
    limits,
};

/// Watches that one connection may hold at once; a process has one for each service and scope that it uses.
const MAX_STREAMS: u32 = 10_000;
/// The largest block of request headers (bytes).
const MAX_HEADERS: u32 = 16 << 10;
/// How often an idle connection is asked whether its peer is still there, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long requests may still run after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server waits after it could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `store` on `listener` until `shutdown`; then ends all watches, finishes what runs, at most five seconds long,
/// and returns. A connection that cannot be accepted (no file descriptors) ends nothing.
///
/// Whoever reaches the listener may write leases: this is for tests, and for networks that are guarded otherwise.
///
/// # Errors
/// When the server fails for good.
pub async fn serve(
    listener: TcpListener,
    store: Arc<EmbeddedStore>,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    match listener.local_addr() {
        Ok(address) if !address.ip().is_loopback() => tracing::warn!(
            %address,
            "whoever reaches this port can register instances; keep it inside a trusted network"
        ),
        _ => {}
    }
    serve_as(
        listener,
        Service {
            store,
            token: None,
            shutdown,
        },
    )
    .await
}

/// The same for those alone who bring `token` (`rsf://token@host:port`).
///
/// # Errors
/// As [`serve`].
pub async fn serve_guarded(
    listener: TcpListener,
    store: Arc<EmbeddedStore>,
    token: &str,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let token = Some(format!("Bearer {token}"));
    serve_as(
        listener,
        Service {
            store,
            token,
            shutdown,
        },
    )
    .await
}

async fn serve_as(listener: TcpListener, service: Service) -> Result<(), tonic::transport::Error> {
    let shutdown = service.shutdown.clone();
    let service = RegistryServer::new(service).max_decoding_message_size(limits::MAX_REQUEST);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_with_incoming_shutdown(service, incoming(listener), shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

/// Accepted connections; a failure to accept one is reported and waited out.
fn incoming(listener: TcpListener) -> impl Stream<Item = Result<TcpStream, std::convert::Infallible>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Only latency is lost without it.
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

struct Service {
    store: Arc<EmbeddedStore>,
    /// The whole `authorization` that a request must bring.
    token: Option<String>,
    shutdown: CancellationToken,
}

impl Service {
    fn namespace(&self, metadata: &MetadataMap) -> Result<EmbeddedNamespace, Status> {
        if let Some(token) = &self.token {
            let offered = metadata
                .get("authorization")
                .map_or(&[][..], |offered| offered.as_bytes());
            // In a time that does not tell how much is right.
            if !bool::from(token.as_bytes().ct_eq(offered)) {
                let advice = "this registry asks for its token: set RSF_REGISTRY to rsf://token@host:port, as `rsf dev` leaves it in dev/registry of the state folder";
                return Err(Status::unauthenticated(advice));
            }
        }
        let Some(name) = metadata.get(NAMESPACE_KEY) else {
            let served = self.store.served();
            let text = format!("the metadata key `{NAMESPACE_KEY}` is missing; send one of {served}");
            return Err(Status::invalid_argument(text));
        };
        let name = name.to_str().map_err(|_| {
            Status::invalid_argument(format!(
                "the metadata key `{NAMESPACE_KEY}` holds no printable ASCII"
            ))
        })?;
        self.store.namespace(name).map_err(|error| status(&error))
    }

    /// What a watch sees, until this server shuts down: its clients then go and look for the next one.
    fn events<T: Send + Sync + 'static, E: Send + 'static>(
        &self,
        watch: Watch<T>,
        mut event: impl FnMut(Option<&T>) -> E + Send + 'static,
    ) -> Response<BoxStream<'static, Result<E, Status>>> {
        let states = stream::unfold(
            watch,
            |mut watch| async move { Some((watch.changed().await?, watch)) },
        );
        let events = states.filter_map(move |state| {
            let event = match state {
                Observed::Unknown => None,
                Observed::Absent => Some(Ok(event(None))),
                Observed::Present(value) => Some(Ok(event(Some(&value)))),
            };
            std::future::ready(event)
        });
        Response::new(events.take_until(self.shutdown.clone().cancelled_owned()).boxed())
    }
}

#[tonic::async_trait]
impl Registry for Service {
    async fn put_lease(
        &self,
        request: Request<PutLeaseRequest>,
    ) -> Result<Response<PutLeaseResponse>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let PutLeaseRequest { lease, ttl_ms } = request.into_inner();
        let lease = lease.ok_or_else(|| Status::invalid_argument("the field `lease` is missing"))?;
        namespace
            .put(&lease, milliseconds(ttl_ms))
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(PutLeaseResponse {}))
    }

    async fn renew_lease(
        &self,
        request: Request<RenewLeaseRequest>,
    ) -> Result<Response<RenewLeaseResponse>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let RenewLeaseRequest {
            instance,
            incarnation,
            ttl_ms,
        } = request.into_inner();
        let renewed = namespace
            .renew(&instance, incarnation, milliseconds(ttl_ms))
            .await;
        let known = renewed.map_err(|error| status(&error))? == Renewal::Renewed;
        Ok(Response::new(RenewLeaseResponse { known }))
    }

    type WatchListStream = BoxStream<'static, Result<ListEvent, Status>>;

    async fn watch_list(
        &self,
        request: Request<WatchListRequest>,
    ) -> Result<Response<Self::WatchListStream>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let service = request.into_inner().service;
        limits::check_name("service", &service).map_err(|error| status(&error))?;
        Ok(self.events(namespace.watch_sealed(&service), sealed_events()))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let services = namespace.services().await.map_err(|error| status(&error))?;
        Ok(Response::new(ListServicesResponse { services }))
    }

    type WatchPolicyStream = BoxStream<'static, Result<PolicyEvent, Status>>;

    async fn watch_policy(
        &self,
        request: Request<WatchPolicyRequest>,
    ) -> Result<Response<Self::WatchPolicyStream>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let scope = request.into_inner().scope;
        limits::check_name("scope", &scope).map_err(|error| status(&error))?;
        let event = |record: Option<&PolicyRecord>| PolicyEvent {
            event: Some(
                record
                    .cloned()
                    .map_or(policy_event::Event::Absent(true), policy_event::Event::Record),
            ),
        };
        Ok(self.events(PolicyStore::watch(&namespace, &scope), event))
    }

    type ListPoliciesStream = BoxStream<'static, Result<PolicyRecord, Status>>;

    async fn list_policies(
        &self,
        request: Request<ListPoliciesRequest>,
    ) -> Result<Response<Self::ListPoliciesStream>, Status> {
        let namespace = self.namespace(request.metadata())?;
        Ok(each(namespace.current().await.map_err(|error| status(&error))?))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let AcknowledgeRequest {
            acknowledgements,
            ttl_ms,
        } = request.into_inner();
        let done = namespace
            .acknowledge(&acknowledgements, milliseconds(ttl_ms))
            .await;
        done.map_err(|error| status(&error))?;
        Ok(Response::new(AcknowledgeResponse {}))
    }

    type ListAcknowledgementsStream = BoxStream<'static, Result<Acknowledgement, Status>>;

    async fn list_acknowledgements(
        &self,
        request: Request<ListAcknowledgementsRequest>,
    ) -> Result<Response<Self::ListAcknowledgementsStream>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let scope = request.into_inner().scope;
        Ok(each(
            namespace
                .acknowledged(&scope)
                .await
                .map_err(|error| status(&error))?,
        ))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let namespace = self.namespace(request.metadata())?;
        let ReportRequest { reports, ttl_ms } = request.into_inner();
        let kept = namespace.report(&reports, milliseconds(ttl_ms)).await;
        let kept = kept.map_err(|error| status(&error))?;
        Ok(Response::new(ReportResponse {
            kept: u32::try_from(kept).unwrap_or(u32::MAX),
        }))
    }
}

/// What one stream tells of a list: each shard once.
fn sealed_events() -> impl FnMut(Option<&SealedList>) -> ListEvent + Send {
    let mut sent = HashSet::new();
    move |list| {
        let Some(list) = list else {
            return ListEvent {
                event: Some(list_event::Event::Absent(true)),
            };
        };
        sent.retain(|name| list.shards.contains_key(name));
        let new = list
            .shards
            .iter()
            .filter(|(name, _)| sent.insert((*name).clone()));
        let shards = new.map(|(name, data)| (name.clone(), data.to_vec())).collect();
        let sealed = SealedEvent {
            head: list.head.to_vec(),
            shards,
        };
        ListEvent {
            event: Some(list_event::Event::Sealed(sealed)),
        }
    }
}

fn each<T: Send + 'static>(records: Vec<T>) -> Response<BoxStream<'static, Result<T, Status>>> {
    let records: std::pin::Pin<Box<dyn Stream<Item = _> + Send>> = stream::iter(records).map(Ok).boxed();
    Response::new(records)
}

fn milliseconds(ttl_ms: u32) -> Duration {
    Duration::from_millis(ttl_ms.into())
}

/// The status of an error; `EmbeddedRegistry` reads it back.
fn status(error: &StoreError) -> Status {
    let (code, text) = match error {
        StoreError::Unavailable { .. } => (Code::Unavailable, error.to_string()),
        StoreError::UnknownNamespace { .. } => (Code::FailedPrecondition, error.to_string()),
        StoreError::Stale { reason, .. } => (Code::Aborted, reason.clone()),
        StoreError::Superseded { .. } => (Code::Aborted, error.to_string()),
        StoreError::Fenced { .. } => (Code::Aborted, error.to_string()),
        StoreError::Invalid { reason, .. } => (Code::InvalidArgument, reason.clone()),
        StoreError::Refused { reason, .. } => (Code::ResourceExhausted, reason.clone()),
    };
    let mut status = Status::new(code, text);
    if let StoreError::UnknownNamespace { known, .. } = error
        && let Ok(known) = known.parse()
    {
        status.metadata_mut().insert(NAMESPACES_KEY, known);
    }
    if let StoreError::Superseded {
        incarnation,
        sequence,
        left,
        ..
    } = error
        && let Ok(holder) = format!("{incarnation} {sequence} {left}").parse()
    {
        status.metadata_mut().insert(HOLDER_KEY, holder);
    }
    status
}
