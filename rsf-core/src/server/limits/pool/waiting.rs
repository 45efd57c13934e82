//! A call in the queue, from its own side.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::MethodLimits;
use super::super::queue::{Grant, Left, Ticket};
use super::{PoolLimits, PoolPlace, WAITING};
use crate::outcome::Reason;
use crate::status::Status;

/// What waiting calls are told once the queue's lock is free: a place that nobody takes any more comes back at once, and
/// needs that lock.
#[derive(Default)]
pub(super) struct Granted(pub(super) Vec<(oneshot::Sender<Grant>, Grant)>);

impl Drop for Granted {
    fn drop(&mut self) {
        for (sender, grant) in self.0.drain(..) {
            drop(sender.send(grant));
        }
    }
}

/// A call's place in the queue; free again on drop.
pub(super) struct Waiting {
    pub(super) pool: Arc<PoolLimits>,
    pub(super) method: Arc<MethodLimits>,
    pub(super) ticket: Ticket,
    pub(super) outcome: oneshot::Receiver<Grant>,
    pub(super) since: Instant,
    pub(super) until: Option<(Instant, Left)>,
}

impl Waiting {
    pub(super) async fn granted(mut self) -> Result<PoolPlace, Status> {
        let outcome = match self.until {
            None => (&mut self.outcome).await,
            Some((until, left)) => match tokio::time::timeout_at(until, &mut self.outcome).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Err(left)),
            },
        };
        let waited = self.since.elapsed();
        let (name, waited_ms) = (&self.method.name, waited.as_millis());
        let problem = match outcome {
            Ok(Ok(place)) => {
                self.pool.metrics.wait.observe(waited.as_secs_f64());
                return Ok(place);
            }
            Ok(Err(Left::TooLate)) => format!(
                "{name} waited {waited_ms} ms in this instance's queue, and what is left is less than the {} ms that its \
                 handler takes: add instances, or allow more time (policy call.timeout_ms)",
                self.method.handling.get().as_millis()
            ),
            Ok(Err(Left::TimedOut)) => format!(
                "{name} waited {waited_ms} ms in this instance's queue (policy provider.queue_timeout_ms): ask another \
                 instance, or add instances"
            ),
            Ok(Err(Left::Displaced)) => {
                let problem = format!(
                    "{name} made room in this instance's full queue for a call of higher priority (policy \
                     provider.queue, call.priority): try later, or add instances"
                );
                return Err(self.method.refuse(Reason::QueueFull, problem));
            }
            // Both ends live as long as the queue does.
            Err(_) => format!("{name}: the instance's queue is gone"),
        };
        Err(self.method.refuse(Reason::QueueTimeout, problem))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiter) = self.pool.queue.lock().remove(self.ticket) {
            waiter.shares.end_to_wait();
            self.pool.counts.fetch_sub(WAITING, Ordering::AcqRel);
        }
    }
}
