//! The pump dies, and another one reads back what it had published.

use serde_json::Value;
use tokio::time::Instant;

use super::{Bench, with};
use crate::Failure;
use crate::bench::consumer::Consumer;
use crate::bench::say;
use crate::bench::servers::{PumpProcess, load_average};

impl Bench<'_> {
    /// Kills the pump and starts another; it counts as having taken over when it has read all leases, and has written what
    /// differs from the published lists.
    pub(super) async fn takeover(
        &self,
        pump: PumpProcess,
        consumer: &Consumer,
    ) -> Result<(PumpProcess, Value), Failure> {
        say(format_args!("the pump is killed, and another one takes over …"));
        pump.kill().await?;
        let started = Instant::now();
        let pump = self.start_pump().await?;
        let taken = self.folded(&pump, started).await?;
        let taken = with(taken, "load_average", load_average()?.into());
        let complete = consumer.complete(&self.leases.shape);
        Ok((pump, with(taken, "lists_complete_at_consumer", complete.into())))
    }
}
