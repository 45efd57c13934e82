//! Durations of calls as a Prometheus histogram, at a price that every call can pay: two atomic additions.
//!
//! The library's histogram walks along its bounds and adds up floating-point sums by compare-and-swap, which is more than a
//! hundred instructions; the format that it exposes is the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Microseconds; gRFC A66's bounds, because the conventions' first one (5 ms) hides what RSF is for.
const BOUNDS: [u64; 40] = [
    10,
    50,
    100,
    300,
    600,
    800,
    1_000,
    2_000,
    3_000,
    4_000,
    5_000,
    6_000,
    8_000,
    10_000,
    13_000,
    16_000,
    20_000,
    25_000,
    30_000,
    40_000,
    50_000,
    65_000,
    80_000,
    100_000,
    130_000,
    160_000,
    200_000,
    250_000,
    300_000,
    400_000,
    500_000,
    650_000,
    800_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

/// The bounds in seconds, for histograms of other times.
pub(super) fn bounds() -> Vec<f64> {
    BOUNDS.iter().map(|bound| *bound as f64 / 1e6).collect()
}

/// For each number of binary digits that a time in nanoseconds can have, the first bucket that such a time can be in.
const FIRST: [u8; 65] = first_buckets();

const fn first_buckets() -> [u8; 65] {
    let mut first = [0; 65];
    let mut digits = 1;
    while digits < 65 {
        let least = 1 << (digits - 1);
        let mut bucket = 0;
        while bucket < BOUNDS.len() && BOUNDS[bucket] * 1000 < least {
            bucket += 1;
        }
        first[digits] = bucket as u8;
        digits += 1;
    }
    first
}

/// The unit of sums is 64 ns: fine enough for the fastest call, and 37 000 years of calls fit.
const UNIT_BITS: u32 = 6;

/// A family of histograms by method and gRPC code. Clones share it.
#[derive(Clone)]
pub(super) struct Durations(Arc<Family>);

struct Family {
    desc: Desc,
    series: RwLock<BTreeMap<(String, &'static str), Arc<Series>>>,
}

/// The histogram of one method and code.
pub(super) struct Series {
    /// One more than there are bounds: the rest.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Durations {
    pub(super) fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let labels = vec!["rpc_method".to_owned(), "error_type".to_owned()];
        Ok(Durations(Arc::new(Family {
            desc: Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())?,
            series: RwLock::default(),
        })))
    }

    /// The histogram of `method`'s calls that ended with `code`; empty for successes.
    pub(super) fn of(&self, method: &str, code: &'static str) -> Arc<Series> {
        let key = (method.to_owned(), code);
        if let Some(known) = self.0.series.read().get(&key) {
            return known.clone();
        }
        self.0
            .series
            .write()
            .entry(key)
            .or_insert_with(Series::new)
            .clone()
    }
}

impl Series {
    fn new() -> Arc<Self> {
        Arc::new(Series {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        })
    }

    #[inline(always)]
    pub(super) fn observe(&self, nanos: u64) {
        self.buckets[bucket(nanos)].fetch_add(1, Relaxed);
        let rounded = nanos.saturating_add(1 << (UNIT_BITS - 1)) >> UNIT_BITS;
        self.sum.fetch_add(rounded, Relaxed);
    }

    fn histogram(&self) -> Histogram {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (place, cell) in self.buckets.iter().enumerate() {
            count += cell.load(Relaxed);
            if let Some(bound) = BOUNDS.get(place) {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound as f64 / 1e6);
                bucket.set_cumulative_count(count);
                buckets.push(bucket);
            }
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count);
        histogram.set_sample_sum(self.sum.load(Relaxed) as f64 * f64::from(1 << UNIT_BITS) / 1e9);
        histogram
    }
}

#[inline(always)]
fn bucket(nanos: u64) -> usize {
    let mut bucket = usize::from(FIRST[(u64::BITS - nanos.leading_zeros()) as usize]);
    while BOUNDS.get(bucket).is_some_and(|bound| *bound * 1000 < nanos) {
        bucket += 1;
    }
    bucket
}

impl Collector for Durations {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let label = |name: &str, value: &str| {
            let mut label = LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value.to_owned());
            label
        };
        let series = self.0.series.read();
        let metrics = series.iter().map(|((method, code), series)| {
            // In the order of their names, as the format wants it.
            let labels = vec![label("error_type", code), label("rpc_method", method)];
            let mut metric = Metric::from_label(labels);
            metric.set_histogram(series.histogram());
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::{Encoder, HistogramOpts, HistogramVec, Registry, TextEncoder};

    use super::*;
    use crate::moment::nanos;

    fn exposed(collector: impl Collector + 'static) -> String {
        let registry = Registry::new();
        registry.register(Box::new(collector)).unwrap();
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// At, below and above each bound, nothing, and the longest of all.
    fn times() -> Vec<Duration> {
        let around = |bound: &u64| {
            let bound = Duration::from_micros(*bound);
            let step = Duration::from_nanos(1);
            [bound - step, bound, bound + step]
        };
        BOUNDS.iter().flat_map(around).chain([Duration::ZERO]).collect()
    }

    #[test]
    fn exposes_what_the_librarys_histogram_does() {
        let own = Durations::new("took_seconds", "help").unwrap();
        let opts = HistogramOpts::new("took_seconds", "help").buckets(bounds());
        let theirs = HistogramVec::new(opts, &["rpc_method", "error_type"]).unwrap();
        for (method, code) in [("a/B", ""), ("a/B", "UNAVAILABLE"), ("a/A", "")] {
            for took in times() {
                own.of(method, code).observe(nanos(took));
                theirs
                    .with_label_values(&[method, code])
                    .observe(took.as_secs_f64());
            }
        }
        let sum = |line: &&str| line.starts_with("took_seconds_sum");
        let (own, theirs) = (exposed(own), exposed(theirs));
        let lines = |text: &str| -> Vec<String> {
            let mut lines: Vec<_> = text
                .lines()
                .filter(|line| !sum(line))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&own), lines(&theirs));
        let sums = |text: &str| -> Vec<f64> {
            let numbers = text
                .lines()
                .filter(sum)
                .filter_map(|line| line.rsplit(' ').next());
            numbers.map(|number| number.parse().unwrap()).collect()
        };
        assert_eq!(sums(&own).len(), 3);
        for (own, theirs) in sums(&own).into_iter().zip(sums(&theirs)) {
            assert!((own - theirs).abs() < 1e-4, "{own} instead of {theirs}");
        }
    }

    #[test]
    fn the_longest_time_has_its_bucket() {
        let own = Durations::new("took_seconds", "help").unwrap();
        own.of("a/B", "").observe(nanos(Duration::MAX));
        assert!(
            exposed(own).contains("took_seconds_bucket{error_type=\"\",rpc_method=\"a/B\",le=\"+Inf\"} 1")
        );
    }
}
