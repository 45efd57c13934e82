//! User-written interceptors around outgoing calls.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::deadline::due;
use super::governed::{Course, Surroundings};
use super::stack::{OutboundCall, Outcome};
use crate::context::Context;
use crate::error::RpcError;
use crate::message::Response;
use crate::metadata::Metadata;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::wire::UnaryReply;

/// The application's own code around every outgoing call: it sees the call as its caller made it, and the outcome as
/// its caller will get it, all attempts included.
///
/// Interceptors run in the order in which they were added, the first one outermost. Each passes the call on with
/// [`ClientNext::run`], or answers in the service's place: with a reply, or with an error such as
/// [`RpcError::intercepted`]; what is behind it then does not see the call. Time that an interceptor takes belongs to the call's
/// time; nothing ends one that hangs. A panic in one is caught, counted (`rsf_interceptor_panics_total`) and becomes an
/// error of reason `panic`. Calls of unchanged tonic clients pass by.
///
/// ```
/// use rsf_core::client::{ClientCall, ClientInterceptor, ClientNext};
/// use rsf_core::error::RpcError;
/// use rsf_core::message::Response;
/// use rsf_core::status::Status;
///
/// /// Names the tenant in every call, and refuses calls that have none.
/// struct Tenant(Option<String>);
///
/// impl ClientInterceptor for Tenant {
///     async fn intercept(
///         &self,
///         call: &mut ClientCall<'_>,
///         next: ClientNext<'_>,
///     ) -> Result<Response<bytes::Bytes>, RpcError> {
///         let Some(tenant) = &self.0 else {
///             let status = Status::failed_precondition(format!("{} needs a tenant", call.path()));
///             return Err(RpcError::intercepted(status));
///         };
///         let named = call.metadata_mut().insert("tenant", tenant);
///         named.map_err(|error| RpcError::intercepted(Status::internal(error.to_string())))?;
///         let result = next.run(call).await;
///         if let Err(error) = &result {
///             eprintln!("{} {} failed: {error}", call.path(), call.request_id());
///         }
///         result
///     }
/// }
/// ```
pub trait ClientInterceptor: Send + Sync + 'static {
    /// Handles one call. The reply is the encoded message.
    fn intercept(
        &self,
        call: &mut ClientCall<'_>,
        next: ClientNext<'_>,
    ) -> impl Future<Output = Result<Response<Bytes>, RpcError>> + Send;
}

/// Interceptors in their order, outermost first.
#[derive(Clone, Default)]
pub struct ClientInterceptors(Vec<Arc<dyn Erased>>);

impl ClientInterceptors {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one inside those that are there.
    pub fn add(&mut self, interceptor: impl ClientInterceptor) {
        self.0.push(Arc::new(interceptor));
    }
}

/// An outgoing call as an interceptor sees it.
pub struct ClientCall<'a>(&'a mut OutboundCall);

impl ClientCall<'_> {
    /// The service key (`package.Service`, or `package.Service:implementation`).
    pub fn service(&self) -> &str {
        &self.0.channel.key
    }

    /// The method's name (`Get`).
    pub fn method(&self) -> &str {
        &self.0.method().descriptor.name
    }

    /// The gRPC path (`/package.Service/Get`).
    pub fn path(&self) -> &str {
        self.0.method().path.as_str()
    }

    /// Identifies the logical call: the same for all its attempts.
    pub fn request_id(&self) -> String {
        self.0.request_id.to_string()
    }

    /// When the call's time is over.
    pub fn deadline(&self) -> Instant {
        due(self.0).at.instant()
    }

    /// Lets the call take at most `limit` from its beginning on. It can only become shorter.
    pub fn limit_time(&mut self, limit: Duration) {
        self.0.options.timeout = Some(self.0.options.timeout.map_or(limit, |set| set.min(limit)));
    }

    /// The encoded request.
    pub fn message(&self) -> Bytes {
        self.0.frame.message()
    }

    /// What is sent beside the message.
    pub fn metadata(&self) -> &Metadata {
        &self.0.options.metadata
    }

    /// What is sent beside the message, to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.options.metadata
    }

    /// The call that is being handled where this one was made.
    pub fn context(&self) -> Option<&Arc<Context>> {
        self.0.options.parent.as_ref()
    }
}

/// The rest of a call's path: the interceptors further in, then RSF.
pub struct ClientNext<'a> {
    rest: &'a [Arc<dyn Erased>],
}

impl ClientNext<'_> {
    /// Passes the call on and returns its outcome.
    pub async fn run(self, call: &mut ClientCall<'_>) -> Result<Response<Bytes>, RpcError> {
        match self.rest {
            [first, rest @ ..] => first.intercept(call, ClientNext { rest }).await,
            [] => {
                // What went before may have taken time.
                call.0.now = Moment::now();
                let reply = Course::new(&mut *call.0).await?;
                let message = reply.result.map_err(RpcError::handler)?;
                Ok(Response::from_parts(message, reply.metadata))
            }
        }
    }
}

/// [`ClientInterceptor`] behind a pointer.
trait Erased: Send + Sync {
    fn intercept<'a>(
        &'a self,
        call: &'a mut ClientCall<'_>,
        next: ClientNext<'a>,
    ) -> BoxFuture<'a, Result<Response<Bytes>, RpcError>>;
}

impl<I: ClientInterceptor> Erased for I {
    fn intercept<'a>(
        &'a self,
        call: &'a mut ClientCall<'_>,
        next: ClientNext<'a>,
    ) -> BoxFuture<'a, Result<Response<Bytes>, RpcError>> {
        Box::pin(ClientInterceptor::intercept(self, call, next))
    }
}

/// A call with the application's own code around it.
pub(super) async fn intercepted(mut call: OutboundCall) -> Outcome {
    let mut surroundings = Surroundings::default();
    if let Err(outcome) = surroundings.enter(&mut call) {
        return outcome;
    }
    let mut outcome = intercept(&mut call).await;
    surroundings.leave(&mut call, &mut outcome);
    outcome
}

async fn intercept(call: &mut OutboundCall) -> Outcome {
    let shared = call.channel.shared.clone();
    let next = ClientNext {
        rest: &shared.interceptors.0,
    };
    // The call is given up with the panic, and nothing on its path holds state of its own.
    let result = AssertUnwindSafe(next.run(&mut ClientCall(call)))
        .catch_unwind()
        .await;
    call.now = Moment::now();
    match result {
        Ok(result) => result.map(|response| {
            let (message, metadata) = response.into_parts();
            UnaryReply {
                result: Ok(message),
                metadata,
            }
        }),
        Err(_) => {
            shared.metrics.interceptor_panics.inc();
            let path = &call.method().path;
            tracing::error!(method = %path, "an interceptor of outgoing calls panicked");
            // It may have panicked over the reply.
            let problem = format!("an interceptor of this application panicked around {path}; see its log");
            Err(RpcError::new(Reason::Panic, true, problem))
        }
    }
}
