//! From a request to its response: the path of one call through the adapter.

mod query;
mod route;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, EXPECT, HeaderMap};
use http::{Method, Response, request};
use http_body_util::Full;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use rsf_core::call::RawMessage;
use rsf_core::context::Context;
use rsf_core::message::Response as RpcResponse;
use rsf_core::outcome::Reason;
use rsf_core::status::Code;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::caller::Callers;
use crate::catalog::{Catalog, ReadyService};
use crate::config::AdapterConfig;
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::head::{Codec, Head};
use crate::metadata::{read_metadata, read_trace, write_metadata};
use crate::schema::MethodSchema;
use crate::{body, json, pages, reply};

use route::Route;

/// Larger messages are transcoded on a thread of their own, so that they hold no other request up.
const TRANSCODE_IN_PLACE: usize = 64 * 1024;

/// Answers requests. Shared by all connections.
pub(crate) struct Gateway {
    catalog: Arc<Catalog>,
    config: AdapterConfig,
    callers: Callers,
    requests: Semaphore,
}

/// A call's message as it came.
#[derive(Debug)]
struct CallRequest {
    codec: Codec,
    encoding: Encoding,
    body: Bytes,
}

impl Gateway {
    pub(crate) fn new(catalog: Arc<Catalog>, config: AdapterConfig, callers: Callers) -> Self {
        let requests = Semaphore::new(config.max_requests);
        Gateway {
            catalog,
            config,
            callers,
            requests,
        }
    }

    /// Every request gets a response.
    pub(crate) async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, mut body) = request.into_parts();
        let answer = match self.requests.try_acquire() {
            Ok(_permit) => self.answer(&parts, &mut body).await,
            Err(_) => Err(Failure::new(
                Code::Unavailable,
                format!(
                    "the adapter has {} requests under way; try again, or raise `max_requests`",
                    self.config.max_requests
                ),
            )),
        };
        // Who waits for a `100 Continue` has sent nothing yet, and reading would invite it.
        if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) {
            body::discard(&mut body).await;
        }
        answer.unwrap_or_else(Failure::into_response)
    }

    async fn answer(
        &self,
        parts: &request::Parts,
        body: &mut Incoming,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        match Route::find(parts.uri.path(), &self.config.prefix)? {
            Route::Index | Route::OpenApi if parts.method != Method::GET => Err(Failure::wrong_verb(
                "GET",
                "this page is read with GET; methods are called at /package.Service/Method",
            )),
            Route::Index => Ok(pages::index(&self.catalog.table(), &self.config, &parts.headers)),
            Route::OpenApi => Ok(pages::openapi(&self.catalog.table(), &self.config)),
            Route::Call { service, method } => {
                let service = self.catalog.find(service, implementation(&parts.headers)?)?;
                let method = service.method(method)?;
                self.call(parts, body, &service, method).await
            }
        }
    }

    /// One governed call.
    async fn call(
        &self,
        parts: &request::Parts,
        body: &mut Incoming,
        service: &ReadyService,
        method: &MethodSchema,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        let begun = Instant::now();
        let number = unary(method)?;
        let codec = post_codec(parts, method)?;
        // Before anything of the body is read.
        let caller = self.callers.read(&parts.headers)?;
        let head = Head::read(&parts.headers)?;
        self.check_idempotency(&head, method)?;
        let consumed = caller.is_some().then_some(AUTHORIZATION);
        let metadata = read_metadata(&parts.headers, self.config.forward_cookies, consumed)?;
        let timeout = match (head.timeout, self.config.max_timeout) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        let request = match codec {
            None => query::read(parts.uri.query().unwrap_or_default())?,
            Some(codec) => {
                let (limit, patience) = (self.config.max_body_bytes, self.config.body_read_timeout);
                let until = timeout.map(|timeout| begun + timeout);
                let body = body::read(body, limit, patience, until).await?;
                CallRequest {
                    codec,
                    encoding: head.encoding,
                    body,
                }
            }
        };
        let codec = request.codec;
        let message = self.decode(request, &method.input).await?;

        let mut call = service.channel.call_raw(number, message, metadata);
        if let Some(timeout) = timeout {
            call = call.timeout(left(timeout, begun)?);
        }
        if let Some(key) = &head.idempotency_key {
            call = call.request_id(key);
        }
        if let Some(caller) = caller {
            call = call.on_behalf(caller);
        }
        // The caller's trace goes on through the context, as if the caller were handled here.
        if let Some(trace) = read_trace(&parts.headers) {
            call = call.context(Arc::new(Context::new(None, trace)));
        }
        let reply = call.await;
        let cookies = self.config.forward_cookies;
        let reply = reply.map_err(|error| Failure::of_call(&error, &service.schema.pool, cookies))?;
        self.encode(reply, codec, head.accepted, &method.output).await
    }

    fn check_idempotency(&self, head: &Head, method: &MethodSchema) -> Result<(), Failure> {
        if self.config.require_idempotency_key && method.dedup && head.idempotency_key.is_none() {
            return Err(Failure::invalid(format!(
                "method `{}` needs an `Idempotency-Key` header: one new value, for example a UUID, for each operation, the same for its repetitions",
                method.name
            )));
        }
        Ok(())
    }

    /// The protobuf bytes of a request.
    async fn decode(&self, request: CallRequest, input: &MessageDescriptor) -> Result<Bytes, Failure> {
        let (max_depth, ignore) = (self.config.max_json_depth, self.config.ignore_unknown_fields);
        let (limit, input) = (self.config.max_body_bytes, input.clone());
        let CallRequest {
            codec,
            encoding,
            body,
        } = request;
        transcode(encoding.work(body.len()), move || {
            let message = encoding.unpack(body, limit)?;
            match codec {
                Codec::Json => {
                    json::read(&message, &input, max_depth, ignore).map(|m| m.encode_to_vec().into())
                }
                // Read for its errors only: what goes on is what came, with fields that this schema does not know.
                Codec::Proto => match DynamicMessage::decode(input.clone(), message.clone()) {
                    Ok(_) => Ok(message),
                    Err(error) => Err(Failure::invalid(format!(
                        "the body is no {}: {error}",
                        input.full_name()
                    ))),
                },
            }
        })
        .await?
    }

    async fn encode(
        &self,
        reply: RpcResponse<RawMessage>,
        codec: Codec,
        accepted: Encoding,
        output: &MessageDescriptor,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        let (RawMessage(message), metadata) = reply.into_parts();
        let mut headers = HeaderMap::new();
        write_metadata(&metadata, self.config.forward_cookies, &mut headers);
        let (output, write_defaults) = (output.clone(), self.config.write_defaults);
        transcode(message.len(), move || {
            let message = match codec {
                Codec::Proto => message,
                Codec::Json => to_json(message, &output, write_defaults)?,
            };
            Ok(reply::success(codec, accepted, message, headers))
        })
        .await?
    }
}

/// The service's implementation that the caller wants; empty for the default.
fn implementation(headers: &HeaderMap) -> Result<&str, Failure> {
    match headers.get("rsf-implementation").map(|value| value.to_str()) {
        None => Ok(""),
        Some(Ok(name)) => Ok(name),
        Some(Err(_)) => Err(Failure::invalid(
            "`rsf-implementation` has other characters than visible ASCII",
        )),
    }
}

/// The codec of a POST; `None` for a GET, whose query names it.
fn post_codec(parts: &request::Parts, method: &MethodSchema) -> Result<Option<Codec>, Failure> {
    match (&parts.method, method.no_side_effects) {
        (&Method::POST, _) => Codec::of_post(&parts.headers).map(Some),
        (&Method::GET, true) => Ok(None),
        (_, true) => Err(Failure::wrong_verb(
            "GET, POST",
            "call this method with POST or GET",
        )),
        (_, false) => {
            let message = "call this method with POST; GET is for methods whose schema says NO_SIDE_EFFECTS";
            Err(Failure::wrong_verb("POST", message))
        }
    }
}

fn unary(method: &MethodSchema) -> Result<usize, Failure> {
    method.number.ok_or_else(|| {
        let message = format!(
            "method `{}` streams; this adapter serves unary methods",
            method.name
        );
        Failure::new(Code::Unimplemented, message)
    })
}

fn left(timeout: Duration, begun: Instant) -> Result<Duration, Failure> {
    let left = timeout.saturating_sub(begun.elapsed());
    if left.is_zero() {
        let message = format!(
            "the call's {} ms were over before it could be made",
            timeout.as_millis()
        );
        return Err(Failure::new(Code::DeadlineExceeded, message).reason(Reason::Deadline));
    }
    Ok(left)
}

fn to_json(message: Bytes, output: &MessageDescriptor, write_defaults: bool) -> Result<Bytes, Failure> {
    let unreadable = |error: &dyn std::fmt::Display| {
        let message = format!(
            "the reply cannot be written as a {}: {error}; is the schema up to date?",
            output.full_name()
        );
        Failure::new(Code::Internal, message).reason(Reason::Malformed)
    };
    let message = DynamicMessage::decode(output.clone(), message).map_err(|error| unreadable(&error))?;
    json::write(&message, write_defaults)
        .map(Bytes::from)
        .map_err(|error| unreadable(&error))
}

/// Runs `work` here, or on a thread of its own where it has many bytes to chew.
async fn transcode<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    if size <= TRANSCODE_IN_PLACE {
        return Ok(work());
    }
    let gone = |_| {
        Failure::new(
            Code::Internal,
            "the message could not be transcoded; the adapter's log says why",
        )
    };
    tokio::task::spawn_blocking(work).await.map_err(gone)
}
