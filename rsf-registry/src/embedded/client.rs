//! An instance's side of the embedded registry: the traits of the control path over gRPC.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::shards::Shards;
use super::{HOLDER_KEY, NAMESPACE_KEY, NAMESPACES_KEY};
use crate::backoff::Backoff;
use crate::directory::ListOpener;
use crate::error::REQUEST_TIMEOUT;
use crate::record::registry_client::RegistryClient;
use crate::record::{
    AcknowledgeRequest, Acknowledgement, Lease, ListAcknowledgementsRequest, ListEvent, ListPoliciesRequest,
    ListServicesRequest, PolicyEvent, PolicyRecord, PutLeaseRequest, RenewLeaseRequest, Report,
    ReportRequest, ServiceList, WatchListRequest, WatchPolicyRequest, list_event, policy_event,
};
use crate::{
    Acknowledgements, Directory, LeaseStore, Observed, PolicyStore, Renewal, ReportStore, StoreError, Watch,
    limits,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a silent connection is asked whether its peer is still there, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The embedded registry at `host:port`, in one namespace; clones share one connection.
///
/// It connects when it is first used and again whenever the connection is lost. A policy cannot be published here:
/// that is the console's, in the registry's own process.
#[derive(Debug, Clone)]
pub struct EmbeddedRegistry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: RegistryClient<Channel>,
    address: String,
    namespace: String,
    metadata: AsciiMetadataValue,
    authorization: Option<AsciiMetadataValue>,
    opener: ListOpener,
    /// Whether it was said that the registry does not answer: once for all watches, until one is answered.
    away: AtomicBool,
}

impl EmbeddedRegistry {
    /// A client of the registry at `address` (`host:port`). Connects later; call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where `address` is no `host:port` or `namespace` no namespace.
    pub fn new(address: &str, namespace: &str) -> Result<Self, StoreError> {
        Self::with_token(address, namespace, None)
    }

    /// The same of a registry that asks for `token`.
    ///
    /// # Errors
    /// As [`EmbeddedRegistry::new`], and where the token is no visible ASCII.
    pub fn with_token(address: &str, namespace: &str, token: Option<&str>) -> Result<Self, StoreError> {
        Self::with(address, namespace, token, ListOpener::unverified())
    }

    /// The same, with the keys that lists must be signed with.
    ///
    /// # Errors
    /// As [`EmbeddedRegistry::with_token`].
    pub fn with(
        address: &str,
        namespace: &str,
        token: Option<&str>,
        opener: ListOpener,
    ) -> Result<Self, StoreError> {
        let invalid = |reason: String| StoreError::Invalid {
            key: address.to_owned(),
            reason,
        };
        limits::check_namespace(namespace)?;
        limits::check_address(address).map_err(invalid)?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| invalid(error.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let client = RegistryClient::new(endpoint.connect_lazy())
            // A list may be twice as large as what an instance may send, and 256 shards have names and headers.
            .max_decoding_message_size(limits::MAX_RECORD + (256 << 10));
        let metadata = namespace
            .parse()
            .map_err(|_| invalid("the namespace is not ASCII".to_owned()))?;
        let authorization = token.map(|token| {
            let header: Result<AsciiMetadataValue, _> = format!("Bearer {token}").parse();
            header.map_err(|_| invalid("its token is no visible ASCII".to_owned()))
        });
        let shared = Shared {
            authorization: authorization.transpose()?,
            client,
            address: address.to_owned(),
            namespace: namespace.to_owned(),
            metadata,
            opener,
            away: AtomicBool::new(false),
        };
        Ok(EmbeddedRegistry {
            shared: Arc::new(shared),
        })
    }

    /// One request under the request timeout; `key` names in errors what it was about.
    async fn ask<M, R, F>(
        &self,
        key: &str,
        message: M,
        call: impl FnOnce(RegistryClient<Channel>, Request<M>) -> F,
    ) -> Result<R, StoreError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert(NAMESPACE_KEY, self.shared.metadata.clone());
        if let Some(authorization) = &self.shared.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        match timeout(REQUEST_TIMEOUT, call(self.shared.client.clone(), request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(key, &status)),
            Err(_) => Err(self.unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        }
    }

    /// Reads a short stream to its end, each message under the request timeout.
    async fn collect<T>(&self, key: &str, mut stream: Streaming<T>) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        loop {
            match timeout(REQUEST_TIMEOUT, stream.message()).await {
                Ok(Ok(Some(message))) => all.push(message),
                Ok(Ok(None)) => return Ok(all),
                Ok(Err(status)) => return Err(self.error(key, &status)),
                Err(_) => return Err(self.unavailable(format!("the answer stopped for {REQUEST_TIMEOUT:?}"))),
            }
        }
    }

    /// Keeps a watch up until its receiver is gone: opens it, follows it, and after an end opens it again; also where
    /// `read` breaks it off, for the reason that it names.
    fn follow<E, T, F>(
        &self,
        key: &str,
        open: impl Fn(Self, String) -> F + Send + Sync + 'static,
        mut read: impl FnMut(E) -> ControlFlow<String, Option<Observed<T>>> + Send + 'static,
    ) -> Watch<T>
    where
        E: Send + 'static,
        T: Send + Sync + 'static,
        F: Future<Output = Result<Streaming<E>, StoreError>> + Send,
    {
        let (sender, receiver) = watch::channel(Observed::Unknown);
        let (this, key) = (self.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            let mut backoff = Backoff::default();
            loop {
                let ended = match open(this.clone(), key.clone()).await {
                    Ok(stream) => this.forward(&key, stream, &sender, &mut read, &mut backoff).await,
                    Err(error) => error,
                };
                if sender.is_closed() {
                    return;
                }
                let unavailable = matches!(ended, StoreError::Unavailable { .. });
                let told = unavailable && this.shared.away.swap(true, Ordering::Relaxed);
                if backoff.attempts() == 0 && !told {
                    tracing::warn!(key, error = %ended, "a watch was cut off; it connects again");
                }
                sleep(backoff.next()).await;
            }
        });
        Watch::new(receiver, Some(task))
    }

    /// Hands on what the stream says and returns why it ended.
    async fn forward<E, T>(
        &self,
        key: &str,
        mut stream: Streaming<E>,
        sender: &watch::Sender<Observed<T>>,
        read: &mut impl FnMut(E) -> ControlFlow<String, Option<Observed<T>>>,
        backoff: &mut Backoff,
    ) -> StoreError {
        loop {
            match stream.message().await {
                Ok(Some(event)) => {
                    backoff.reset();
                    self.shared.away.store(false, Ordering::Relaxed);
                    match read(event) {
                        ControlFlow::Continue(Some(state)) => drop(sender.send_replace(state)),
                        ControlFlow::Continue(None) => {}
                        ControlFlow::Break(reason) => return self.unavailable(reason),
                    }
                }
                Ok(None) => return self.unavailable("it ended the watch".to_owned()),
                Err(status) => return self.error(key, &status),
            }
        }
    }

    fn error(&self, key: &str, status: &Status) -> StoreError {
        let text = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition => {
                let known = status
                    .metadata()
                    .get(NAMESPACES_KEY)
                    .and_then(|known| known.to_str().ok());
                StoreError::UnknownNamespace {
                    namespace: self.shared.namespace.clone(),
                    address: self.shared.address.clone(),
                    known: known.unwrap_or("others").to_owned(),
                }
            }
            Code::Aborted => superseded(key, status).unwrap_or(StoreError::Stale {
                key: key.to_owned(),
                reason: text,
            }),
            Code::InvalidArgument => StoreError::Invalid {
                key: key.to_owned(),
                reason: text,
            },
            Code::ResourceExhausted | Code::OutOfRange | Code::PermissionDenied | Code::Unauthenticated => {
                StoreError::Refused {
                    backend: "registry",
                    reason: text,
                }
            }
            Code::Unimplemented => StoreError::Refused {
                backend: "registry",
                reason: format!(
                    "{} answers, but not as an RSF registry of this version; check RSF_REGISTRY",
                    self.shared.address
                ),
            },
            _ => self.unavailable(describe(status)),
        }
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable {
            backend: "registry",
            address: self.shared.address.clone(),
            reason,
        }
    }
}

#[async_trait]
impl LeaseStore for EmbeddedRegistry {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        limits::check_lease(lease)?;
        limits::check_ttl(&lease.instance, ttl)?;
        let message = PutLeaseRequest {
            lease: Some(lease.clone()),
            ttl_ms: milliseconds(ttl),
        };
        let call = async |mut client: RegistryClient<Channel>, request| client.put_lease(request).await;
        self.ask(&lease.instance, message, call).await.map(drop)
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        limits::check_ttl(instance, ttl)?;
        let message = RenewLeaseRequest {
            instance: instance.to_owned(),
            incarnation,
            ttl_ms: milliseconds(ttl),
        };
        let call = async |mut client: RegistryClient<Channel>, request| client.renew_lease(request).await;
        let known = self.ask(instance, message, call).await?.known;
        Ok(if known { Renewal::Renewed } else { Renewal::Unknown })
    }
}

#[async_trait]
impl Directory for EmbeddedRegistry {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        let open = |this: EmbeddedRegistry, service: String| async move {
            let message = WatchListRequest {
                service: service.clone(),
            };
            let call = async |mut client: RegistryClient<Channel>, request| client.watch_list(request).await;
            this.ask(&service, message, call).await
        };
        let mut shards = Shards::new(self.shared.opener.clone(), service);
        let key = service.to_owned();
        self.follow(service, open, move |event: ListEvent| {
            let sealed = match event.event {
                Some(list_event::Event::Sealed(sealed)) => sealed,
                Some(list_event::Event::Absent(_)) => return ControlFlow::Continue(Some(Observed::Absent)),
                None => return ControlFlow::Continue(None),
            };
            match shards.open(sealed) {
                Ok(Some(list)) => ControlFlow::Continue(Some(Observed::Present(Arc::new(list)))),
                Ok(None) => ControlFlow::Break("the list after a refused one is read as a whole".to_owned()),
                Err(error) => {
                    tracing::warn!(service = key, %error, "refused; keeping the last good list");
                    ControlFlow::Continue(None)
                }
            }
        })
    }

    fn opener(&self) -> ListOpener {
        self.shared.opener.clone()
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        let call = async |mut client: RegistryClient<Channel>, request| client.list_services(request).await;
        Ok(self.ask("services", ListServicesRequest {}, call).await?.services)
    }
}

#[async_trait]
impl PolicyStore for EmbeddedRegistry {
    fn watch(&self, scope: &str) -> Watch<PolicyRecord> {
        let open = |this: EmbeddedRegistry, scope: String| async move {
            let message = WatchPolicyRequest { scope: scope.clone() };
            let call =
                async |mut client: RegistryClient<Channel>, request| client.watch_policy(request).await;
            this.ask(&scope, message, call).await
        };
        self.follow(scope, open, |event: PolicyEvent| {
            ControlFlow::Continue(event.event.map(|event| match event {
                policy_event::Event::Record(record) => Observed::Present(Arc::new(record)),
                policy_event::Event::Absent(_) => Observed::Absent,
            }))
        })
    }

    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError> {
        let call = async |mut client: RegistryClient<Channel>, request| client.list_policies(request).await;
        let stream = self.ask("policies", ListPoliciesRequest {}, call).await?;
        self.collect("policies", stream).await
    }
}

#[async_trait]
impl Acknowledgements for EmbeddedRegistry {
    async fn acknowledge(
        &self,
        acknowledgements: &[Acknowledgement],
        ttl: Duration,
    ) -> Result<(), StoreError> {
        limits::check_ttl("acknowledgements", ttl)?;
        let message = AcknowledgeRequest {
            acknowledgements: acknowledgements.to_vec(),
            ttl_ms: milliseconds(ttl),
        };
        let call = async |mut client: RegistryClient<Channel>, request| client.acknowledge(request).await;
        self.ask("acknowledgements", message, call).await.map(drop)
    }

    async fn acknowledged(&self, scope: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        let message = ListAcknowledgementsRequest {
            scope: scope.to_owned(),
        };
        let call =
            async |mut client: RegistryClient<Channel>, request| client.list_acknowledgements(request).await;
        let stream = self.ask(scope, message, call).await?;
        self.collect(scope, stream).await
    }
}

#[async_trait]
impl ReportStore for EmbeddedRegistry {
    async fn report(&self, reports: &[Report], ttl: Duration) -> Result<usize, StoreError> {
        limits::check_reports(reports)?;
        limits::check_ttl("reports", ttl)?;
        let message = ReportRequest {
            reports: reports.to_vec(),
            ttl_ms: milliseconds(ttl),
        };
        let call = async |mut client: RegistryClient<Channel>, request| client.report(request).await;
        let kept = self.ask("reports", message, call).await?.kept;
        Ok(usize::try_from(kept).unwrap_or(usize::MAX))
    }
}

/// Who holds the lease, where the status tells it.
fn superseded(instance: &str, status: &Status) -> Option<StoreError> {
    let mut holder = status.metadata().get(HOLDER_KEY)?.to_str().ok()?.split(' ');
    Some(StoreError::Superseded {
        instance: instance.to_owned(),
        incarnation: holder.next()?.parse().ok()?,
        sequence: holder.next()?.parse().ok()?,
        left: holder.next()?.parse().ok()?,
    })
}

/// In whole milliseconds; the limits keep TTLs far under the greatest of them.
fn milliseconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX)
}

/// The status with what caused it: tonic's own text for a refused connection is only "transport error".
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
