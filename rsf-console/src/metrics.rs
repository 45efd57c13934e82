//! The two call histograms out of an instance's Prometheus text; everything else in it is passed over.

use std::collections::{BTreeMap, HashMap};

/// The family that consumers count in.
const CLIENT: &str = "rpc_client_call_duration_seconds";
/// The family that providers count in.
const SERVER: &str = "rpc_server_call_duration_seconds";
/// Series that one instance may have at most.
const MAX_SERIES: usize = 20_000;

/// Which end of the calls counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The consumer.
    Client,
    /// The provider.
    Server,
}

/// One method at one side, one kind of outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Series {
    /// Who counted.
    pub side: Side,
    /// `package.Service/Method`.
    pub method: String,
    /// Empty for calls that succeeded.
    pub error: String,
}

/// A histogram's state, counted since the instance started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// All calls.
    pub count: f64,
    /// Upper bound in seconds → calls at most that long (cumulative).
    pub buckets: BTreeMap<Bound, f64>,
}

/// A bucket's upper bound in seconds; never NaN, so that bounds order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Bound {
    /// The bound, unless it is NaN.
    pub fn new(seconds: f64) -> Option<Self> {
        (!seconds.is_nan()).then_some(Bound(seconds))
    }

    /// In seconds; may be infinite.
    pub fn seconds(self) -> f64 {
        self.0
    }
}

/// What is wrong with a metrics text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the metrics is invalid: {problem}")]
pub struct MetricsError {
    line: usize,
    problem: &'static str,
}

/// Reads both families.
pub fn parse(text: &str) -> Result<HashMap<Series, Histogram>, MetricsError> {
    let mut all: HashMap<Series, Histogram> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let at = |problem| MetricsError {
            line: index + 1,
            problem,
        };
        let Some((side, part)) = family(line) else {
            continue;
        };
        let (labels, value) = sample(part.rest).map_err(at)?;
        let series = Series {
            side,
            method: labels.method,
            error: labels.error,
        };
        if all.len() >= MAX_SERIES && !all.contains_key(&series) {
            return Err(at("more series than an instance may have"));
        }
        let histogram = all.entry(series).or_default();
        match (part.suffix, labels.bound) {
            ("_count", _) => histogram.count = value,
            ("_bucket", Some(bound)) => drop(histogram.buckets.insert(bound, value)),
            ("_bucket", None) => return Err(at("a bucket without `le`")),
            _ => {}
        }
    }
    Ok(all)
}

struct Part<'a> {
    suffix: &'a str,
    rest: &'a str,
}

/// The side and the rest of a sample line of either family; `None` for any other line.
fn family(line: &str) -> Option<(Side, Part<'_>)> {
    let (side, rest) = match (line.strip_prefix(CLIENT), line.strip_prefix(SERVER)) {
        (Some(rest), _) => (Side::Client, rest),
        (_, Some(rest)) => (Side::Server, rest),
        _ => return None,
    };
    let end = rest.find(['{', ' ', '\t']).unwrap_or(rest.len());
    let (suffix, rest) = rest.split_at(end);
    matches!(suffix, "_count" | "_bucket" | "_sum").then_some((side, Part { suffix, rest }))
}

#[derive(Default)]
struct Labels {
    method: String,
    error: String,
    bound: Option<Bound>,
}

/// `{a="b",…} value [timestamp]`
fn sample(text: &str) -> Result<(Labels, f64), &'static str> {
    let mut labels = Labels::default();
    let mut rest = text;
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (name, quoted) = rest.split_once("=\"").ok_or("a label without a quoted value")?;
            let (value, after) = unquote(quoted)?;
            match name.trim() {
                "rpc_method" => labels.method = value,
                "error_type" => labels.error = value,
                "le" => {
                    let seconds: f64 = value.parse().map_err(|_| "`le` is no number")?;
                    labels.bound = Some(Bound::new(seconds).ok_or("`le` is NaN")?);
                }
                _ => {}
            }
            rest = after;
        }
    }
    let number = rest.split_whitespace().next().ok_or("no value")?;
    let value: f64 = number.parse().map_err(|_| "the value is no number")?;
    if !value.is_finite() || value < 0.0 {
        return Err("the value is no count");
    }
    if !labels.method.contains('/') {
        return Err("`rpc_method` is not `package.Service/Method`");
    }
    Ok((labels, value))
}

/// The text up to the closing quote, unescaped, and what follows the quote.
fn unquote(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("a label value is not closed")
}

impl Histogram {
    /// What was added since `earlier`; all of it where the instance began to count anew.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let began_anew = self.count < earlier.count
            || earlier
                .buckets
                .iter()
                .any(|(bound, before)| self.buckets.get(bound).is_none_or(|now| now < before));
        if began_anew {
            return self.clone();
        }
        let buckets = self
            .buckets
            .iter()
            .map(|(bound, now)| (*bound, now - earlier.buckets.get(bound).unwrap_or(&0.0)))
            .collect();
        Histogram {
            count: self.count - earlier.count,
            buckets,
        }
    }
}

/// Calls by duration, added up over instances whose bounds may differ.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// Upper bound → calls in the bucket that ends there (not cumulative), and where that bucket begins.
    buckets: BTreeMap<Bound, (f64, f64)>,
}

impl Durations {
    /// Adds one instance's calls.
    pub fn add(&mut self, histogram: &Histogram) {
        let (mut below, mut start) = (0.0, 0.0);
        for (bound, cumulative) in &histogram.buckets {
            let cell = self.buckets.entry(*bound).or_insert((0.0, start));
            cell.0 += (cumulative - below).max(0.0);
            cell.1 = cell.1.min(start);
            (below, start) = (*cumulative, bound.seconds());
        }
    }

    /// Adds all calls of another.
    pub fn merge(&mut self, other: &Durations) {
        for (bound, (calls, start)) in &other.buckets {
            let cell = self.buckets.entry(*bound).or_insert((0.0, *start));
            cell.0 += calls;
            cell.1 = cell.1.min(*start);
        }
    }

    /// The duration in seconds that the share `q` (0 to 1) of the calls did not exceed, drawn linearly within its
    /// bucket as Prometheus does; the last finite bound where the share lies beyond it. `None` without calls.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total: f64 = self.buckets.values().map(|(calls, _)| calls).sum();
        if total <= 0.0 {
            return None;
        }
        let rank = q * total;
        let mut below = 0.0;
        for (bound, (calls, start)) in &self.buckets {
            if *calls > 0.0 && below + calls >= rank {
                if bound.seconds().is_infinite() {
                    return Some(*start);
                }
                return Some(start + (bound.seconds() - start) * ((rank - below) / calls));
            }
            below += calls;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP rpc_client_call_duration_seconds Calls.
# TYPE rpc_client_call_duration_seconds histogram
rpc_client_call_duration_seconds_bucket{rpc_method="shop.v1.MemberService/Get",error_type="",le="0.01"} 90
rpc_client_call_duration_seconds_bucket{rpc_method="shop.v1.MemberService/Get",error_type="",le="0.1"} 100
rpc_client_call_duration_seconds_bucket{rpc_method="shop.v1.MemberService/Get",error_type="",le="+Inf"} 100
rpc_client_call_duration_seconds_sum{rpc_method="shop.v1.MemberService/Get",error_type=""} 1.5
rpc_client_call_duration_seconds_count{rpc_method="shop.v1.MemberService/Get",error_type=""} 100
rpc_server_call_duration_seconds_count{error_type="a\"b\\c", rpc_method="shop.v1.MemberService/Get"} 7 1700000000000
rpc_client_call_duration_seconds_created{rpc_method="x"} 5
process_cpu_seconds_total NaN
"#;

    fn series(side: Side, error: &str) -> Series {
        Series {
            side,
            method: "shop.v1.MemberService/Get".to_owned(),
            error: error.to_owned(),
        }
    }

    #[test]
    fn both_families_are_read() {
        let all = parse(TEXT).unwrap();
        assert_eq!(all.len(), 2);
        let client = &all[&series(Side::Client, "")];
        assert_eq!(client.count, 100.0);
        assert_eq!(client.buckets.len(), 3);
        assert_eq!(all[&series(Side::Server, "a\"b\\c")].count, 7.0);
    }

    #[test]
    fn broken_lines_are_named() {
        for broken in [
            "rpc_client_call_duration_seconds_count{rpc_method=\"a/b\"}",
            "rpc_client_call_duration_seconds_count{rpc_method=\"a/b\"} x",
            "rpc_client_call_duration_seconds_count{rpc_method=\"a/b\"} NaN",
            "rpc_client_call_duration_seconds_count{rpc_method=\"a/b\"} -1",
            "rpc_client_call_duration_seconds_count{rpc_method=\"a/b",
            "rpc_client_call_duration_seconds_count{rpc_method} 1",
            "rpc_client_call_duration_seconds_count{rpc_method=\"nothing\"} 1",
            "rpc_client_call_duration_seconds_count 1",
            "rpc_client_call_duration_seconds_bucket{rpc_method=\"a/b\"} 1",
            "rpc_client_call_duration_seconds_bucket{rpc_method=\"a/b\",le=\"NaN\"} 1",
            "rpc_client_call_duration_seconds_bucket{rpc_method=\"a/b\",le=\"x\"} 1",
        ] {
            let error = parse(&format!("# fine\n{broken}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2 "), "{broken}: {error}");
        }
    }

    #[test]
    fn a_reset_counter_counts_from_nothing() {
        let now = parse(TEXT).unwrap()[&series(Side::Client, "")].clone();
        let same = now.since(&now);
        assert_eq!(same.count, 0.0);
        let mut later = now.clone();
        later.count = 300.0;
        assert_eq!(later.since(&now).count, 200.0);
        assert_eq!(now.since(&later).count, 100.0);
    }

    #[test]
    fn quantiles() {
        let mut durations = Durations::default();
        assert_eq!(durations.quantile(0.99), None);
        durations.add(&parse(TEXT).unwrap()[&series(Side::Client, "")]);
        let p99 = durations.quantile(0.99).unwrap();
        assert!((p99 - (0.01 + 0.09 * 0.9)).abs() < 1e-9, "{p99}");
        let p50 = durations.quantile(0.5).unwrap();
        assert!((p50 - 0.01 * 50.0 / 90.0).abs() < 1e-9, "{p50}");
        let mut slow = Histogram::default();
        slow.buckets.insert(Bound(0.1), 0.0);
        slow.buckets.insert(Bound(f64::INFINITY), 5.0);
        let mut beyond = Durations::default();
        beyond.add(&slow);
        assert_eq!(beyond.quantile(0.99), Some(0.1));
        durations.merge(&beyond);
        assert_eq!(durations.quantile(1.0), Some(0.1));
    }
}
