//! A policy of the whole fleet: every instance says that it runs it, as its agent does.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rsf_registry::agent::{FLEET_ACKNOWLEDGED_WITHIN, REPEATED_EVERY};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{Bench, figures};
use crate::Failure;
use crate::bench::servers::PumpProcess;
use crate::bench::{say, seconds};

/// Acknowledgements that are under way at once at most.
const IN_FLIGHT: usize = 2_000;

impl Bench<'_> {
    /// All at once, as when a policy of the fleet changed; and as they are repeated while nothing changes.
    pub(super) async fn acknowledging(&self, pump: &PumpProcess) -> Result<Value, Failure> {
        let count = self.arguments.acknowledgements.min(self.leases.shape.instances());
        if count == 0 {
            return Ok(Value::Null);
        }
        say(format_args!("{count} instances acknowledge a policy …"));
        let at_once = self.acknowledged(pump, count, FLEET_ACKNOWLEDGED_WITHIN).await?;
        let whole = Duration::from_secs(self.arguments.seconds);
        let share = whole.as_secs_f64() / REPEATED_EVERY.as_secs_f64();
        let repeated = ((count as f64 * share) as usize).clamp(1, count);
        let repeated = self.acknowledged(pump, repeated, whole).await?;
        let begun = Instant::now();
        let read = self.backend.acknowledgements.acknowledged("fleet").await?.len();
        Ok(json!({
            "at_once": at_once,
            "repeated": repeated,
            "read_by_a_console": read,
            "read_s": seconds(begun.elapsed()),
        }))
    }

    /// So many acknowledge, each at a moment of its own `within` a time.
    async fn acknowledged(
        &self,
        pump: &PumpProcess,
        count: usize,
        within: Duration,
    ) -> Result<Value, Failure> {
        let before = self.read(pump).await?;
        let begun = before.at;
        let mut moments: Vec<Duration> = (0..count).map(|_| within.mul_f64(fastrand::f64())).collect();
        moments.sort_unstable();
        stream::iter(moments.into_iter().enumerate())
            .for_each_concurrent(IN_FLIGHT, |(instance, moment)| async move {
                sleep_until(begun + moment).await;
                self.leases.acknowledge(instance).await;
            })
            .await;
        let after = self.read(pump).await?;
        let mut part = figures(&before, &after, 0);
        part["acknowledgements"] = json!(count);
        Ok(part)
    }
}
