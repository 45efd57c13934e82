//! What a wire hands in: unary calls to the stack, everything else to tonic's services behind the same checks.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::time::Instant;

use super::Provider;
use crate::context::{Carried, Context};
use crate::error::framework_status;
use crate::identity::Peer;
use crate::metadata::Metadata;
use crate::method::service_key;
use crate::outcome::Reason;
use crate::server::admission::check_target;
use crate::server::authorize::prove;
use crate::server::beside::{BESIDE, ending_with};
use crate::server::limits::{HostedLimits, Places};
use crate::server::shard::check_meant;
use crate::server::stack::InboundCall;
use crate::status::Status;
use crate::wire::headers::{CALLER, GRPC, SHARD, TARGET, TOKEN, without_reason};
use crate::wire::status_header::{read_timeout, write_status};
use crate::wire::{BodyPlace, Dispatch, InboundReply, InboundRequest};

impl Dispatch for Provider {
    fn method(&self, path: &str, implementation: &str) -> Option<usize> {
        let (_, place) = self
            .paths
            .get(path)?
            .iter()
            .find(|(name, _)| name == implementation)?;
        Some(*place)
    }

    fn utilization(&self) -> Option<f32> {
        Some(self.load.utilization(&self.pool))
    }

    fn unary(&self, method: usize, request: InboundRequest) -> BoxFuture<'static, InboundReply> {
        self.drain.arrived();
        let Some(method) = self.methods.get(method) else {
            let status = framework_status(Reason::Unimplemented, "no such method number");
            return Box::pin(std::future::ready(Err(status)));
        };
        let arrived = Instant::now();
        let deadline = request.timeout.and_then(|timeout| arrived.checked_add(timeout));
        let context = Context::new(deadline, request.metadata);
        let call = InboundCall {
            context: Carried::Own(context.capped(method.limits.max_priority())),
            method: method.clone(),
            arrived,
            message: request.message,
            peer: request.peer,
            places: Places::default(),
        };
        self.stack.run(method, call)
    }

    fn admit(&self, method: usize, metadata: &Metadata, peer: Option<&Peer>) -> Result<(), Status> {
        // The rest of it may take its time.
        self.drain.arrived();
        check_target(self.identity.as_deref(), metadata.header(&TARGET))?;
        match self.methods.get(method) {
            Some(method) => method
                .door
                .admit(metadata, peer, self.verifier.as_deref(), &method.name),
            None => Ok(()),
        }
    }

    fn hold_body(&self, place: &mut Option<BodyPlace>, bytes: usize) -> Result<(), Status> {
        let place = place.get_or_insert_with(|| self.bodies.place());
        place.grow(bytes).map_err(|held| {
            let problem = format!(
                "{bytes} bytes of a request come while {held} bytes of others are held in this instance (policy \
                 provider.body_budget_mib): ask another instance, add instances, or raise it"
            );
            framework_status(Reason::ProviderLimit, problem)
        })
    }

    fn http(
        &self,
        mut request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, http::Response<tonic::body::Body>> {
        let path = request.uri().path();
        let (service, _) = named(path);
        if !BESIDE.contains(&service) && !self.tonic_services.contains(&service) {
            let implementation = crate::wire::headers::implementation(request.headers());
            let status = framework_status(Reason::Unimplemented, self.unknown(path, implementation));
            return Box::pin(std::future::ready(refusal(&status)));
        }
        let proven = match self.admit_http(&mut request) {
            Ok(proven) => proven,
            Err(status) => return Box::pin(std::future::ready(refusal(&status))),
        };
        let (service, method) = named(request.uri().path());
        let Some(limits) = self.hosted.get(service) else {
            return self.beside(request);
        };
        self.drain.arrived();
        let method = limits.method(method);
        let context = hosted_context(request.headers(), proven);
        let context = Arc::new(context.capped(method.max_priority()));
        let pool = self.pool.clone();
        let mut routes = self.tonic.clone();
        Box::pin(async move {
            // Until the handler has answered: what it streams then may go on for days.
            let mut places = match HostedLimits::enter(&method, &pool, &context).await {
                Ok(places) => places,
                Err(status) => return refusal(&status),
            };
            // For the calls that the handler makes; what it streams afterwards is outside.
            let handling = context.scope(async move { tower::Service::call(&mut routes, request).await });
            let Ok(response) = handling.await;
            places.finished(Instant::now());
            without_reason(response)
        })
    }
}

/// The service and the method that a gRPC path names.
fn named(path: &str) -> (&str, &str) {
    let mut path = path.split('/').skip(1);
    (path.next().unwrap_or_default(), path.next().unwrap_or_default())
}

/// What a hosted handler's own calls inherit. A timeout that cannot be read is tonic's to refuse.
fn hosted_context(headers: &http::HeaderMap, proven: Option<Arc<str>>) -> Context {
    let timeout = read_timeout(headers).ok().flatten();
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut context = Context::new(deadline, Metadata::from_headers(headers.clone()));
    if let Some(application) = proven {
        context.proven(application);
    }
    context
}

impl Provider {
    /// A call of what RSF answers itself: health and reflection, which nothing limits.
    fn beside(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, http::Response<tonic::body::Body>> {
        let (mut routes, end) = (self.tonic.clone(), self.end.clone());
        Box::pin(async move {
            let Ok(response) = tower::Service::call(&mut routes, request).await;
            ending_with(&end, response)
        })
    }

    /// Whether a call that is not RSF's own to handle may come in, and who its caller has proven to be.
    fn admit_http(&self, request: &mut http::Request<tonic::body::Body>) -> Result<Option<Arc<str>>, Status> {
        let target = request.headers().get(TARGET).map(HeaderValue::as_bytes);
        check_target(self.identity.as_deref(), target)?;
        let proven = self.check_tonic(request)?;
        // Behind authorization, because it says where the instance is.
        let meant = request.headers().get(SHARD).map(HeaderValue::as_bytes);
        check_meant(&self.place, meant)?;
        Ok(proven)
    }

    /// Authorization of a call to a hosted tonic service; what RSF answers itself is open. Who the caller has proven to
    /// be; a token goes no further.
    fn check_tonic(
        &self,
        request: &mut http::Request<tonic::body::Body>,
    ) -> Result<Option<Arc<str>>, Status> {
        let (service, method) = named(request.uri().path());
        let Some(door) = self.tonic_doors.iter().find(|door| door.service() == service) else {
            return Ok(None);
        };
        let headers = request.headers();
        let caller = headers.get(CALLER).and_then(|caller| caller.to_str().ok());
        let peer = request.extensions().get::<Peer>();
        let proven = prove(headers.get(TOKEN), caller, peer, self.verifier.as_deref());
        let proven = proven.inspect_err(|_| door.unauthenticated.inc())?;
        door.check(proven.as_deref().or(caller), proven.is_some(), method)?;
        request.headers_mut().remove(TOKEN);
        Ok(proven)
    }

    fn unknown(&self, path: &str, implementation: &str) -> String {
        let names: Vec<_> = self
            .services()
            .iter()
            .map(|s| service_key(&s.name, &s.implementation))
            .collect();
        let asked = if implementation.is_empty() {
            String::new()
        } else {
            format!(" of implementation `{implementation}`")
        };
        format!(
            "no method {path}{asked} here; this instance provides {}",
            names.join(", ")
        )
    }
}

/// A trailers-only answer.
fn refusal(status: &Status) -> http::Response<tonic::body::Body> {
    let mut response = http::Response::new(tonic::body::Body::empty());
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    write_status(status, response.headers_mut());
    response
}
