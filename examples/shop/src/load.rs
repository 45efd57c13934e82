//! Customers at a steady rate: an open loop that calls whether or not earlier calls have been answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf::{Consumer, RpcError};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::members::FIRST_MEMBERS;
use crate::stock::ARTICLES;
use crate::v1::{
    GetMemberRequest, MemberServiceClient, OrderServiceClient, PlaceOrderRequest, StockLevelRequest,
    StockServiceClient,
};

/// How often calls that are due are sent.
const TICK: Duration = Duration::from_millis(5);

/// Calls a second at most.
pub const MAX_RATE: u32 = 100_000;

/// What customers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Of ten calls seven look at a member, two at the stock, and one orders.
    Everything,
    /// Of ten calls seven look at a member, three at the stock. All are idempotent: none has a reason to fail.
    OnlyReads,
}

/// Customers of the shop.
#[derive(Clone)]
pub struct Customers {
    members: MemberServiceClient,
    stock: StockServiceClient,
    orders: OrderServiceClient,
    mix: Mix,
}

/// The calls that ended within some time.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How long that was.
    pub elapsed: Duration,
    /// Calls answered with a reply.
    pub succeeded: u64,
    /// Calls that ended with an error.
    pub failed: u64,
    /// Those of the failed that were idempotent.
    pub idempotent_failed: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// Microseconds that each call took, up to the first million.
    times: Vec<u32>,
}

impl Customers {
    /// Customers that call over `consumer`.
    pub fn new(consumer: &Consumer, mix: Mix) -> Self {
        Customers {
            members: consumer.client(),
            stock: consumer.client(),
            orders: consumer.client(),
            mix,
        }
    }

    /// Calls `rate` times a second (1 to [`MAX_RATE`]) until `stop`, gives `report` each second's calls, and returns
    /// all of them together once the last has ended.
    pub async fn run(
        self,
        rate: u32,
        stop: impl Future<Output = ()>,
        mut report: impl FnMut(&Summary),
    ) -> Summary {
        let rate = f64::from(rate.clamp(1, MAX_RATE));
        let counted = Arc::new(Mutex::new(Summary::default()));
        let mut calls = tokio::task::JoinSet::new();
        let mut total = Summary::default();
        let begun = Instant::now();
        let mut second = begun;
        let mut sent = 0_u64;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(stop);
        loop {
            let now = tokio::select! {
                () = &mut stop => break,
                now = ticks.tick() => now,
            };
            let due = ((now - begun).as_secs_f64() * rate) as u64;
            for number in sent..due {
                calls.spawn(self.clone().call(number, counted.clone()));
            }
            sent = due;
            while calls.try_join_next().is_some() {}
            if now - second >= Duration::from_secs(1) {
                let summary = counted.lock().take(now - second);
                report(&summary);
                total.add(summary);
                second = now;
            }
        }
        // Each has a deadline, so this ends.
        while calls.join_next().await.is_some() {}
        total.add(counted.lock().take(Instant::now() - second));
        total
    }

    async fn call(self, number: u64, counted: Arc<Mutex<Summary>>) {
        let begun = Instant::now();
        let (sku, _) = ARTICLES[fastrand::usize(..ARTICLES.len())];
        let member = fastrand::u64(1..=FIRST_MEMBERS);
        let (result, idempotent) = match (number % 10, self.mix) {
            (0, Mix::Everything) => {
                let order = PlaceOrderRequest {
                    member_id: member,
                    sku: sku.to_owned(),
                    quantity: 1,
                };
                (self.orders.place(order).await.map(drop), false)
            }
            (0..3, _) => (
                self.stock
                    .level(StockLevelRequest { sku: sku.to_owned() })
                    .await
                    .map(drop),
                true,
            ),
            _ => (
                self.members.get(GetMemberRequest { id: member }).await.map(drop),
                true,
            ),
        };
        counted.lock().count(result, idempotent, begun.elapsed());
    }
}

impl Summary {
    /// Microseconds that `percent` % of the calls took at most; 0 where there were none.
    pub fn percentile_us(&self, percent: usize) -> u32 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let place = (times.len() * percent).div_ceil(100);
        times.get(place.saturating_sub(1)).copied().unwrap_or(0)
    }

    fn count(&mut self, result: Result<(), RpcError>, idempotent: bool, took: Duration) {
        match result {
            Ok(()) => self.succeeded += 1,
            Err(error) => {
                self.failed += 1;
                self.idempotent_failed += u64::from(idempotent);
                self.last_error = Some(error.to_string());
            }
        }
        self.keep_time(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    fn keep_time(&mut self, time: u32) {
        if self.times.len() < 1_000_000 {
            self.times.push(time);
        }
    }

    fn take(&mut self, elapsed: Duration) -> Summary {
        Summary {
            elapsed,
            ..std::mem::take(self)
        }
    }

    fn add(&mut self, other: Summary) {
        self.elapsed += other.elapsed;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.idempotent_failed += other.idempotent_failed;
        self.last_error = other.last_error.or(self.last_error.take());
        other.times.into_iter().for_each(|time| self.keep_time(time));
    }
}

/// One line of `key=value` pairs, with the last error at its end.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = (self.succeeded + self.failed) as f64 / self.elapsed.as_secs_f64().max(0.001);
        write!(
            f,
            "calls/s={per_second:.0} ok={} failed={} idempotent_failed={} p50_ms={:.2} p99_ms={:.2}",
            self.succeeded,
            self.failed,
            self.idempotent_failed,
            f64::from(self.percentile_us(50)) / 1000.0,
            f64::from(self.percentile_us(99)) / 1000.0,
        )?;
        match &self.last_error {
            Some(error) => write!(f, " last_error={error:?}"),
            None => Ok(()),
        }
    }
}
