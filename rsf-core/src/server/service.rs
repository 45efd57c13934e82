//! What generated code implements for a service.

use std::sync::Arc;

use bytes::Bytes;

use super::handling::{CallScope, Handled};
use crate::error::framework_status;
use crate::message::{Request, Response};
use crate::method::ServiceDescriptor;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::Frame;

/// A service that a provider can host: unary methods over encoded messages.
pub trait Service: Send + Sync + 'static {
    /// Its names and method options.
    fn descriptor(&self) -> &ServiceDescriptor;

    /// Handles one request of the method at place `method` of the descriptor: hands the handler's future to this `scope`,
    /// and to no other ([`CallScope::run`]), and returns what comes out. The handler's future runs within the call's
    /// [`Context`](crate::context::Context); what this does before that does not.
    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled;

    /// Whether the method's handler may block its thread, and so runs on one of its own; see
    /// [`Blocking`](super::Blocking).
    fn is_blocking(&self, _method: usize) -> bool {
        false
    }
}

/// Decodes the request, runs `handler`, encodes the response: for services that are written by hand. Generated code calls
/// [`decode`] and [`encode`] within the handler's own future, which costs each call one future less.
///
/// # Errors
/// The handler's own status, or why its messages are none.
pub async fn handle<Q, R, F>(
    request: Request<Bytes>,
    handler: impl FnOnce(Request<Q>) -> F,
) -> Result<Response<Frame>, Status>
where
    Q: prost::Message + Default,
    R: prost::Message,
    F: Future<Output = Result<Response<R>, Status>>,
{
    encode(handler(decode(request)?).await?)
}

/// A request's message, read.
///
/// # Errors
/// A status of reason `malformed` where it is none.
#[inline]
pub fn decode<Q: prost::Message + Default>(request: Request<Bytes>) -> Result<Request<Q>, Status> {
    let (bytes, metadata) = request.into_parts();
    match Q::decode(bytes) {
        Ok(message) => Ok(Request::from_parts(message, metadata)),
        Err(error) => Err(framework_status(
            Reason::Malformed,
            format!("the request is no {}: {error}", std::any::type_name::<Q>()),
        )),
    }
}

/// A response's message, written.
///
/// # Errors
/// A status of reason `too_large` where gRPC cannot carry it.
#[inline]
pub fn encode<R: prost::Message>(response: Response<R>) -> Result<Response<Frame>, Status> {
    let (message, metadata) = response.into_parts();
    match Frame::encode(&message) {
        Ok(frame) => Ok(Response::from_parts(frame, metadata)),
        Err(size) => Err(framework_status(
            Reason::TooLarge,
            format!("the reply has {size} bytes"),
        )),
    }
}
