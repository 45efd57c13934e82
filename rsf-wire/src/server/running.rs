//! Handlers: polled once in place, then as tasks whose replies come back by a list.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{Call, Handler, Handling, Response};
use crate::keepalive::Probed;
use crate::stream::Order;

const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;

/// A handler that runs as a task; dropping this cancels it.
pub(super) struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Replies of tasks that finished, until the connection takes them.
#[derive(Default)]
pub(super) struct Replies(Mutex<Finished>);

#[derive(Default)]
struct Finished {
    replies: Vec<(u32, Response)>,
    /// What streaming requests' tasks want.
    orders: Vec<(u32, Order)>,
    sleeper: Option<Waker>,
    /// How often something came, and what the probe of a silent connection wants.
    heard: u64,
    probe: Probe,
}

/// What a silent connection's probe wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Probe {
    #[default]
    Nothing,
    Ping,
    GiveUp,
}

impl Replies {
    /// Takes all replies and orders; where there are none the connection is woken when one comes.
    pub(super) fn take(
        &self,
        replies: &mut Vec<(u32, Response)>,
        orders: &mut Vec<(u32, Order)>,
        heard: u64,
        cx: &Context<'_>,
    ) -> Probe {
        let mut finished = self.0.lock();
        finished.heard = heard;
        replies.append(&mut finished.replies);
        orders.append(&mut finished.orders);
        match &mut finished.sleeper {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        std::mem::take(&mut finished.probe)
    }

    /// Leaves what a streaming request's task wants.
    pub(super) fn order(&self, stream: u32, order: Order) {
        self.leave(|finished| finished.orders.push((stream, order)));
    }

    fn push(&self, stream: u32, response: Response) {
        self.leave(|finished| finished.replies.push((stream, response)));
    }

    fn leave(&self, leave: impl FnOnce(&mut Finished)) {
        let mut finished = self.0.lock();
        leave(&mut finished);
        let sleeper = finished.sleeper.take();
        drop(finished);
        if let Some(waker) = sleeper {
            waker.wake();
        }
    }
}

impl Probed for Replies {
    fn heard(&self) -> Option<u64> {
        Some(self.0.lock().heard)
    }

    fn ping(&self) {
        self.leave(|finished| finished.probe = Probe::Ping);
    }

    fn give_up(&self) {
        self.leave(|finished| finished.probe = Probe::GiveUp);
    }
}

/// Starts a handler, polled first where it stands if it is `in_place`: its response, or the task that it became.
pub(super) fn start<H: Handler + ?Sized>(
    handler: &H,
    call: Call,
    stream: u32,
    replies: &Arc<Replies>,
    in_place: bool,
    cx: &mut Context<'_>,
) -> Result<Response, Running> {
    let mut handling = match catch_unwind(AssertUnwindSafe(|| handler.call(call))) {
        Ok(Some(handling)) => handling,
        Ok(None) => return Ok(Response::status(UNIMPLEMENTED, "this server has no such method")),
        Err(_) => return Ok(panicked()),
    };
    if in_place && let Poll::Ready(response) = poll_caught(&mut handling, cx) {
        return Ok(response);
    }
    let replies = replies.clone();
    let task = tokio::spawn(async move {
        let response = std::future::poll_fn(|cx| poll_caught(&mut handling, cx)).await;
        replies.push(stream, response);
    });
    Err(Running(task.abort_handle()))
}

fn poll_caught(handling: &mut Handling, cx: &mut Context<'_>) -> Poll<Response> {
    catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(cx))).unwrap_or_else(|_| Poll::Ready(panicked()))
}

fn panicked() -> Response {
    Response::status(INTERNAL, "the handler panicked")
}
