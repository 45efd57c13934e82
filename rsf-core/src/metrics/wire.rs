//! How often the wire's limits were met, read from the wire when somebody asks.

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts, Registry};
use rsf_wire::Refusal;

/// The wire counts for the whole process, whoever asks.
struct WireRefusals {
    counters: IntCounterVec,
    /// Held while the counters catch up with the wire.
    reading: Mutex<()>,
}

/// Registers `rsf_wire_refusals_total`.
pub(super) fn register(registry: &Registry) -> Result<(), prometheus::Error> {
    let name = "rsf_wire_refusals_total";
    let help = "How often peers met a limit of the wire, in the whole process";
    registry.register(Box::new(WireRefusals {
        counters: IntCounterVec::new(Opts::new(name, help), &["reason"])?,
        reading: Mutex::default(),
    }))
}

impl Collector for WireRefusals {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _reading = self.reading.lock();
        for refusal in Refusal::ALL {
            let counter = self.counters.with_label_values(&[refusal.label()]);
            counter.inc_by(refusal.count().saturating_sub(counter.get()));
        }
        self.counters.collect()
    }
}
