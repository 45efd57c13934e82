//! Handlers that block: marked by the application, or noticed by the watchdog, they run on threads of their own.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::handling::{CallScope, Handled};
use super::limits::Places;
use super::service::Service;
use crate::error::framework_status;
use crate::message::{Request, Response};
use crate::method::ServiceDescriptor;
use crate::outcome::Reason;
use crate::runtime::{blocking, drive};
use crate::status::Status;
use crate::wire::Frame;

/// A service whose handlers may block their thread: read files, use a synchronous driver, call other services with
/// [`wait`](crate::call::Call::wait).
///
/// Each handler runs on a thread of its own, under the same pool and queue as all others, within its
/// [`Context`](crate::context::Context). It is still an `async fn`, and may `.await` too. Unlike a handler on an I/O
/// thread it cannot be stopped while it blocks: when its caller gives up, it keeps its place in the pool until it
/// returns or comes to an `.await`.
///
/// ```ignore
/// Application::builder("report").service(rsf::Blocking::all(ReportServiceServer::new(Reports)));
/// Application::builder("report").service(rsf::Blocking::only(ReportServiceServer::new(Reports), &["Print"])?);
/// ```
#[derive(Debug)]
pub struct Blocking<S> {
    service: Arc<S>,
    /// In the order of the descriptor.
    methods: Vec<bool>,
}

/// A method that a service does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{service}` has no method `{method}` whose handler could block; its methods: {known}")]
pub struct UnknownMethod {
    service: String,
    method: String,
    known: String,
}

impl<S: Service> Blocking<S> {
    /// All handlers of `service` may block.
    pub fn all(service: S) -> Self {
        let methods = service.descriptor().methods.iter().map(|_| true).collect();
        Blocking {
            service: Arc::new(service),
            methods,
        }
    }

    /// The handlers of the methods called `names`, as in the .proto file, may block; the others run where the I/O does.
    ///
    /// # Errors
    /// [`UnknownMethod`] where the service has no unary method of one of the names.
    pub fn only(service: S, names: &[&str]) -> Result<Self, UnknownMethod> {
        let descriptor = service.descriptor();
        if let Some(unknown) = names.iter().find(|name| descriptor.method(name).is_none()) {
            let known: Vec<_> = descriptor.methods.iter().map(|method| &*method.name).collect();
            return Err(UnknownMethod {
                service: descriptor.name.to_string(),
                method: (*unknown).to_owned(),
                known: known.join(", "),
            });
        }
        let methods = descriptor.methods.iter();
        let methods = methods.map(|method| names.contains(&&*method.name)).collect();
        Ok(Blocking {
            service: Arc::new(service),
            methods,
        })
    }
}

impl<S: Service> Service for Blocking<S> {
    fn descriptor(&self) -> &ServiceDescriptor {
        self.service.descriptor()
    }

    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled {
        self.service.clone().call(method, request, scope)
    }

    fn is_blocking(&self, method: usize) -> bool {
        self.methods.get(method).copied().unwrap_or(false)
    }
}

/// Runs a handler on a thread of its own, which takes the call's places along: dropped, this stops waiting for the
/// handler at once, but a handler that blocks runs on.
pub(super) async fn on_thread<F>(handled: F, mut places: Places) -> Result<Response<Frame>, Status>
where
    F: Future<Output = Result<Response<Frame>, Status>> + Send + 'static,
{
    let given_up = CancellationToken::new();
    let _give_up = given_up.clone().drop_guard();
    let work = move || {
        let handled = blocking(|| drive(given_up.run_until_cancelled(handled)));
        if handled.is_some() {
            places.finished(Instant::now());
        }
        handled
    };
    // Dropped before a thread was free, it never begins.
    let running = AbortOnDropHandle::new(Handle::current().spawn_blocking(work));
    match running.await {
        Ok(Some(result)) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Ok(None) | Err(_) => Err(framework_status(
            Reason::ShutDown,
            "the provider ended while the call was handled",
        )),
    }
}
