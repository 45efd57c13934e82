//! Customers at a steady rate, in the background of a test.

use rsf::Application;
use rsf_testkit::eventually;
use shop::load::{Customers, Mix, Summary};
use shop::v1::{GetMemberRequest, MemberServiceClient, StockLevelRequest, StockServiceClient};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::SOON;

/// Idempotent calls at a steady rate, going on until [`stop`](Load::stop).
#[derive(Debug)]
pub struct Load {
    rate: u32,
    stop: CancellationToken,
    running: JoinHandle<LoadReport>,
}

/// What became of the calls.
#[derive(Debug)]
pub struct LoadReport {
    /// All calls.
    pub total: Summary,
    /// Each second in which calls failed, with the last error's text where it is another one than before.
    pub failures: Vec<String>,
    rate: u32,
}

impl Load {
    /// Begins with `rate` calls a second through `consumer`: members and stock, all idempotent. Returns when the first
    /// call of both services has been answered: from then on none has a reason to fail.
    ///
    /// # Panics
    /// When none is answered.
    pub async fn start(consumer: &Application, rate: u32) -> Load {
        let (members, stock) = (
            consumer.client::<MemberServiceClient>(),
            consumer.client::<StockServiceClient>(),
        );
        eventually(SOON, async || {
            members.get(GetMemberRequest { id: 1 }).await?;
            stock
                .level(StockLevelRequest {
                    sku: "tea".to_owned(),
                })
                .await
                .map(drop)
        })
        .await;
        let stop = CancellationToken::new();
        let customers = Customers::new(consumer.consumer(), Mix::OnlyReads);
        let stopped = stop.clone().cancelled_owned();
        let running = tokio::spawn(async move {
            let (mut second, mut failures, mut told) = (0, Vec::new(), None);
            let total = customers.run(rate, stopped, |summary| {
                second += 1;
                let failed = summary.failed;
                match &summary.last_error {
                    None => {}
                    Some(_) if summary.last_error == told => {
                        failures.push(format!("second {second}: {failed} failed"))
                    }
                    Some(error) => failures.push(format!("second {second}: {failed} failed, last: {error}")),
                }
                told = summary.last_error.clone().or(told.take());
            });
            let total = total.await;
            LoadReport {
                total,
                failures,
                rate,
            }
        });
        Load { rate, stop, running }
    }

    /// Calls a second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Stops calling, waits for the last call's end, and reports.
    pub async fn stop(self) -> LoadReport {
        self.stop.cancel();
        self.running.await.expect("the load runs to its end")
    }
}

impl LoadReport {
    /// Asserts that no call failed, and that the load really was one.
    ///
    /// # Panics
    /// With the errors' texts.
    pub fn assert_none_failed(&self) {
        let Summary {
            succeeded, failed, ..
        } = self.total;
        let seen = self.failures.join("\n  ");
        let last = self.total.last_error.as_deref().unwrap_or_default();
        assert_eq!(failed, 0, "{}\n  {seen}\n  last: {last}", self.total);
        let offered = f64::from(self.rate) * self.total.elapsed.as_secs_f64();
        assert!(
            succeeded as f64 >= 0.9 * offered,
            "only {succeeded} of {offered:.0} calls were made: {}",
            self.total
        );
    }
}
