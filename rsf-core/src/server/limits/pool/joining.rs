//! Who may wait for a place in the pool, and for how long.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::MethodLimits;
use super::super::groups::Shares;
use super::super::queue::{Left, Queue, Waiter};
use super::waiting::{Granted, Waiting};
use super::{Entering, NO_TIMEOUT, PoolLimits, PoolPlace, WAITING, waiting};
use crate::outcome::Reason;
use crate::policy::Priority;
use crate::status::Status;

impl PoolLimits {
    /// A place, or a place in the queue.
    pub(super) fn join(
        self: &Arc<Self>,
        method: &Arc<MethodLimits>,
        entering: Entering,
    ) -> Result<Result<PoolPlace, Waiting>, Status> {
        let now = Instant::now();
        let shares = method.shares();
        let mut granted = Granted::default();
        // Declared after `granted`, so that it is free again before places are given away.
        let mut queue = self.queue.lock();
        self.serve(&mut queue, now, &mut granted);
        // Those who wait still are held back by shares of their own, and are not overtaken.
        if shares.may_run(self.size()) && self.take(usize::MAX) {
            shares.begin_to_run();
            return Ok(Ok(self.place(method, shares, || now)));
        }
        self.check_time(method, entering.deadline, now)?;
        self.check_length(&mut queue, method, &shares, entering.priority, &mut granted)?;
        let (grant, outcome) = oneshot::channel();
        shares.begin_to_wait();
        let waiter = Waiter {
            grant,
            deadline: entering.deadline,
            method: method.clone(),
            shares,
        };
        let ticket = queue.push(entering.priority, waiter);
        self.counts.fetch_add(WAITING, Ordering::AcqRel);
        // A place may have come back since we looked; whoever gave it back saw nobody waiting.
        self.serve(&mut queue, now, &mut granted);
        Ok(Err(Waiting {
            until: self.until(method, entering.deadline, now),
            method: method.clone(),
            ticket,
            outcome,
            since: now,
            pool: self.clone(),
        }))
    }

    /// Refuses at once what would wait in vain. A call may spend half of its time on waiting, its handler's apart: if all
    /// of it were allowed, a queue that never empties would leave each call just enough to fail in its handler.
    fn check_time(
        &self,
        method: &MethodLimits,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<(), Status> {
        let Some(deadline) = deadline else {
            return Ok(());
        };
        let ahead = waiting(self.counts.load(Ordering::Relaxed)) as f64 + 1.0;
        let wait = self.mean.get().mul_f64(ahead / self.size().max(1) as f64);
        let (handling, left) = (method.handling.get(), deadline.saturating_duration_since(now));
        if wait * 2 + handling <= left {
            return Ok(());
        }
        let problem = format!(
            "{}: {} calls wait in this instance, about {} ms; {} ms are left, of which the handler needs {}: ask \
             another instance, add instances, or allow more time (policy call.timeout_ms)",
            method.name,
            ahead - 1.0,
            wait.as_millis(),
            left.as_millis(),
            handling.as_millis()
        );
        Err(method.refuse(Reason::QueueTimeout, problem))
    }

    fn check_length(
        &self,
        queue: &mut Queue,
        method: &MethodLimits,
        shares: &Shares,
        priority: Priority,
        granted: &mut Granted,
    ) -> Result<(), Status> {
        let length = self.queue_length.load(Ordering::Relaxed);
        if let Some(most) = shares.full(length) {
            let problem = format!(
                "{}: {most} of its calls wait in this instance, its share of the queue (policy provider.queue_share or \
                 provider.groups): raise it, or add instances",
                method.name
            );
            return Err(method.refuse(Reason::QueueFull, problem));
        }
        let ahead = waiting(self.counts.load(Ordering::Relaxed));
        if priority == Priority::Low && ahead >= length.div_ceil(2) {
            let problem = format!(
                "{ahead} calls wait in this instance; calls of low priority may fill half of its queue, {length} (policy \
                 provider.queue): try later, or add instances"
            );
            return Err(method.refuse(Reason::QueueFull, problem));
        }
        if ahead < length {
            return Ok(());
        }
        // A queue that policy has just made shorter must not lose more than it takes in.
        if let Some(displaced) = queue.displace(priority) {
            displaced.shares.end_to_wait();
            self.counts.fetch_sub(WAITING, Ordering::AcqRel);
            granted.0.push((displaced.grant, Err(Left::Displaced)));
            return Ok(());
        }
        let problem = format!(
            "{ahead} calls wait in this instance, its queue (policy provider.queue): ask another instance, add \
             instances, or raise it"
        );
        Err(method.refuse(Reason::QueueFull, problem))
    }

    /// When a call that begins to wait now has waited long enough, and what that means then. (Where the handler's time is
    /// not known, the deadline itself ends the wait.)
    fn until(
        &self,
        method: &MethodLimits,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Option<(Instant, Left)> {
        let timeout = self.queue_timeout.load(Ordering::Relaxed);
        let timed_out =
            (timeout != NO_TIMEOUT).then(|| (now + Duration::from_millis(timeout), Left::TimedOut));
        let handling = method.handling.get();
        let too_late = deadline
            .filter(|_| !method.handling.is_unknown())
            .and_then(|deadline| Some((deadline.checked_sub(handling)?, Left::TooLate)));
        timed_out.into_iter().chain(too_late).min_by_key(|(at, _)| *at)
    }
}
