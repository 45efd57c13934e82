//! User-written interceptors around incoming calls.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use tokio::time::Instant;

use super::stack::{InboundCall, Stage, owned};
use crate::context::Context;
use crate::identity::Identity;
use crate::message::Response;
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::Frame;

/// The application's own code around every handler of RSF's services: it sees the calls that were let in, have their place in
/// the pool and are about to run, within the handler's [`Context`].
///
/// Interceptors run in the order in which they were added, the first one outermost. Each passes the call on with
/// [`ServerNext::run`], or answers in the handler's place: with an encoded reply ([`Frame::encode`]), or with a status,
/// which reaches the caller like the handler's own. The call's deadline ends them as it ends the handler. A panic in one is caught
/// and counted like the handler's. Hosted tonic services have tonic's interceptors.
///
/// ```
/// use rsf_core::message::Response;
/// use rsf_core::server::{ServerCall, ServerInterceptor, ServerNext};
/// use rsf_core::status::Status;
/// use rsf_core::wire::Frame;
///
/// /// Refuses calls without a tenant, and writes down who called what.
/// struct Tenants;
///
/// impl ServerInterceptor for Tenants {
///     async fn intercept(&self, call: &mut ServerCall<'_>, next: ServerNext<'_>) -> Result<Response<Frame>, Status> {
///         let Some(tenant) = call.metadata().get("tenant").map(str::to_owned) else {
///             return Err(Status::invalid_argument("the metadata `tenant` is missing"));
///         };
///         let result = next.run(call).await;
///         println!("{tenant}: {:?} called {}: {}", call.caller(), call.path(), result.is_ok());
///         result
///     }
/// }
/// ```
pub trait ServerInterceptor: Send + Sync + 'static {
    /// Handles one call. The reply is the encoded message.
    fn intercept(
        &self,
        call: &mut ServerCall<'_>,
        next: ServerNext<'_>,
    ) -> impl Future<Output = Result<Response<Frame>, Status>> + Send;
}

/// Interceptors in their order, outermost first.
#[derive(Clone, Default)]
pub(super) struct ServerInterceptors(Vec<Arc<dyn Erased>>);

impl ServerInterceptors {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, interceptor: impl ServerInterceptor) {
        self.0.push(Arc::new(interceptor));
    }
}

/// An incoming call as an interceptor sees it.
pub struct ServerCall<'a>(&'a mut InboundCall);

impl ServerCall<'_> {
    /// The service key (`package.Service`, or `package.Service:implementation`).
    pub fn service(&self) -> &str {
        &self.0.method.key
    }

    /// The method's name (`Get`).
    pub fn method(&self) -> &str {
        &self.0.method.name
    }

    /// The gRPC path (`/package.Service/Get`).
    pub fn path(&self) -> &str {
        &self.0.method.path
    }

    /// The calling application; see [`Context::caller`].
    pub fn caller(&self) -> Option<&str> {
        self.0.context.caller()
    }

    /// Whether the caller has proven who it is.
    pub fn identity(&self) -> &Identity {
        self.0.context.identity()
    }

    /// Identifies the logical call: the same for all its attempts.
    pub fn request_id(&self) -> Option<&str> {
        self.0.context.request_id()
    }

    /// When the caller stops waiting; `None` where it waits for ever.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.context.deadline()
    }

    /// The encoded request.
    pub fn message(&self) -> Bytes {
        self.0.message.clone().unwrap_or_default()
    }

    /// What came beside the message.
    pub fn metadata(&self) -> &Metadata {
        self.0.context.metadata()
    }

    /// What came beside the message, to change: the handler, and the interceptors further in, see it so.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        self.0.context.make_mut().metadata_mut()
    }
}

/// The rest of a call's path: the interceptors further in, then the handler.
pub struct ServerNext<'a> {
    rest: &'a [Arc<dyn Erased>],
    handler: &'a dyn Path,
}

impl ServerNext<'_> {
    /// Passes the call on and returns its outcome.
    pub async fn run(self, call: &mut ServerCall<'_>) -> Result<Response<Frame>, Status> {
        let handler = self.handler;
        match self.rest {
            [first, rest @ ..] => first.intercept(call, ServerNext { rest, handler }).await,
            [] => handler.run(call.0.for_handler()).await,
        }
    }
}

/// [`ServerInterceptor`] behind a pointer.
trait Erased: Send + Sync {
    fn intercept<'a>(
        &'a self,
        call: &'a mut ServerCall<'_>,
        next: ServerNext<'a>,
    ) -> BoxFuture<'a, Result<Response<Frame>, Status>>;
}

impl<I: ServerInterceptor> Erased for I {
    fn intercept<'a>(
        &'a self,
        call: &'a mut ServerCall<'_>,
        next: ServerNext<'a>,
    ) -> BoxFuture<'a, Result<Response<Frame>, Status>> {
        Box::pin(ServerInterceptor::intercept(self, call, next))
    }
}

/// The stages behind the interceptors, behind a pointer.
trait Path: Send + Sync {
    fn run(&self, call: InboundCall) -> BoxFuture<'_, Result<Response<Frame>, Status>>;
}

impl<S: Stage> Path for S {
    fn run(&self, mut call: InboundCall) -> BoxFuture<'_, Result<Response<Frame>, Status>> {
        Box::pin(async move { self.call(&mut call).await })
    }
}

/// Runs the application's own code around each handler.
pub(super) struct Intercept<S> {
    inner: S,
    interceptors: ServerInterceptors,
}

impl<S> Intercept<S> {
    pub(super) fn new(inner: S, interceptors: ServerInterceptors) -> Self {
        Intercept { inner, interceptors }
    }
}

impl<S: Stage> Stage for Intercept<S> {
    fn call(&self, call: &mut InboundCall) -> impl Future<Output = Result<Response<Frame>, Status>> + Send {
        match self.interceptors.0.is_empty() {
            true => Either::Left(self.inner.call(call)),
            false => Either::Right(Box::pin(self.intercept(call))),
        }
    }
}

impl<S: Stage> Intercept<S> {
    async fn intercept(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        let context: Arc<Context> = call.context.share();
        let next = ServerNext {
            rest: &self.interceptors.0,
            handler: &self.inner,
        };
        let mut call = ServerCall(call);
        context.scope(next.run(&mut call)).await.map_err(owned)
    }
}
