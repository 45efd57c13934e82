//! What generated code implements for a service.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

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

    /// Handles one request of the method at place `method` of the descriptor. The future that it returns runs within the
    /// call's [`Context`](crate::context::Context); what it does before that does not.
    fn call(
        self: Arc<Self>,
        method: usize,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<Frame>, Status>>;

    /// Whether the method's handler may block its thread, and so runs on one of its own; see
    /// [`Blocking`](super::Blocking).
    fn is_blocking(&self, _method: usize) -> bool {
        false
    }
}

/// Decodes the request, runs `handler`, encodes the response. Generated code calls it for each method.
pub async fn handle<Q, R, F>(
    request: Request<Bytes>,
    handler: impl FnOnce(Request<Q>) -> F,
) -> Result<Response<Frame>, Status>
where
    Q: prost::Message + Default,
    R: prost::Message,
    F: Future<Output = Result<Response<R>, Status>>,
{
    let (bytes, metadata) = request.into_parts();
    let message = Q::decode(bytes).map_err(|error| {
        framework_status(
            Reason::Malformed,
            format!("the request is no {}: {error}", std::any::type_name::<Q>()),
        )
    })?;
    let (message, metadata) = handler(Request::from_parts(message, metadata))
        .await?
        .into_parts();
    let frame = Frame::encode(&message)
        .map_err(|size| framework_status(Reason::TooLarge, format!("the reply has {size} bytes")))?;
    Ok(Response::from_parts(frame, metadata))
}
