//! Pending calls as futures in a slab: what a wire needs that has no engine of its own to finish them.

use std::pin::Pin;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use slab::Slab;

use super::{Fate, Slot, UnaryReply, WireError};

type Pending = Pin<Box<dyn Future<Output = Result<UnaryReply, WireError>> + Send>>;

/// The pending calls of one connection. A place is `None` while its future is being polled.
#[derive(Default)]
pub(super) struct PendingCalls(Mutex<Slab<Option<Pending>>>);

impl PendingCalls {
    pub(super) fn insert(
        &self,
        call: impl Future<Output = Result<UnaryReply, WireError>> + Send + 'static,
    ) -> Slot {
        Slot(self.0.lock().insert(Some(Box::pin(call))))
    }

    pub(super) fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        // Polled outside the lock: the future may take long, and other calls go on meanwhile.
        let taken = self.0.lock().get_mut(slot.0).and_then(Option::take);
        let Some(mut pending) = taken else {
            let reason = "this slot is not pending".to_owned();
            return Poll::Ready(Err(WireError {
                fate: Fate::Written,
                reason,
            }));
        };
        let outcome = pending.as_mut().poll(cx);
        let mut slots = self.0.lock();
        if outcome.is_ready() {
            slots.try_remove(slot.0);
        } else if let Some(place) = slots.get_mut(slot.0) {
            *place = Some(pending);
        }
        outcome
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub(super) fn cancel(&self, slot: Slot) {
        let cancelled = self.0.lock().try_remove(slot.0);
        // Dropped outside the lock: the peer is told here.
        drop(cancelled);
    }
}
