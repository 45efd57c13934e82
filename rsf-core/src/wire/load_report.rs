//! Load reports that come back with replies: gRPC's ORCA (gRFC A51), in the trailer `endpoint-load-metrics-bin`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::time::Instant;

use super::Dispatch;
use crate::metadata::BASE64;
use crate::wire::status_header::GRPC_STATUS;

pub(crate) const LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// Bytes of a report that are looked at; RSF's own take 12.
const MOST_BYTES: usize = 4096;
/// Difference of load that is worth a report.
const CHANGE: f32 = 0.02;
/// Ten reports a second and connection at most.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// A load that stays is said again, well before consumers take it for stale.
const REPEAT: Duration = Duration::from_secs(4);

/// `xds.data.orca.v3.OrcaLoadReport`, as far as RSF reads or writes it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OrcaLoadReport {
    /// 1 is all of the instance's processors.
    #[prost(double, tag = "1")]
    pub(crate) cpu_utilization: f64,
    /// The application's own measure, 1 is full; may pass it. Goes before the processors' (gRFC A58).
    #[prost(double, tag = "9")]
    pub(crate) application_utilization: f64,
}

/// The load that a reply's headers report. `None` where they do not, or it is not to be understood.
pub(crate) fn reported(headers: &HeaderMap) -> Option<f32> {
    let value = headers.get(LOAD_METRICS)?;
    if value.len() > MOST_BYTES {
        return None;
    }
    let bytes = BASE64.decode(value.as_bytes()).ok()?;
    let report = OrcaLoadReport::decode(&*bytes).ok()?;
    let load = match report.application_utilization {
        own if own > 0.0 => own,
        _ => report.cpu_utilization,
    };
    (load.is_finite() && load >= 0.0).then_some(load as f32)
}

/// Decides when a connection's peer is told the load: when it has changed, and not too often.
pub(super) struct Reporter {
    began: Instant,
    /// The last report: bits of an `f32` and the millisecond. All zero before the first.
    last: AtomicU64,
}

impl Reporter {
    pub(super) fn new() -> Self {
        Reporter {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// The value of the header, where one is due with the reply that goes out now.
    pub(super) fn due(&self, dispatch: &dyn Dispatch) -> Option<HeaderValue> {
        let load = dispatch.utilization()?;
        let last = self.last.load(Relaxed);
        if last == 0 && load < CHANGE {
            return None;
        }
        let (said, at) = (f32::from_bits((last >> 32) as u32), last as u32);
        let now = self.began.elapsed().as_millis() as u32;
        let since = Duration::from_millis(u64::from(now.wrapping_sub(at)));
        let changed = (load - said).abs() >= CHANGE;
        let due = last == 0 || changed && since >= LEAST_PAUSE || load >= CHANGE && since >= REPEAT;
        let next = u64::from(load.to_bits()) << 32 | u64::from(now);
        // Of several replies at once one carries the report.
        let first = due && self.last.compare_exchange(last, next, Relaxed, Relaxed).is_ok();
        first.then(|| header(load)).flatten()
    }
}

/// The response of a hosted service with the report that is due: where the service has trailers, in these.
pub(super) fn with_load(
    mut response: http::Response<tonic::body::Body>,
    load: Option<HeaderValue>,
) -> http::Response<tonic::body::Body> {
    let Some(load) = load else {
        return response;
    };
    if response.headers().contains_key(GRPC_STATUS) {
        response.headers_mut().entry(LOAD_METRICS).or_insert(load);
        return response;
    }
    response.map(|body| {
        tonic::body::Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                // What the service says of itself stays.
                trailers.entry(LOAD_METRICS).or_insert_with(|| load.clone());
            }
            frame
        }))
    })
}

fn header(load: f32) -> Option<HeaderValue> {
    let report = OrcaLoadReport {
        cpu_utilization: 0.0,
        application_utilization: f64::from(load),
    };
    let mut value = HeaderValue::from_str(&BASE64.encode(report.encode_to_vec())).ok()?;
    // Seldom the same again: no header table is to keep it.
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{InboundReply, InboundRequest};
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    struct Loaded(Mutex<f32>);

    impl Dispatch for Loaded {
        fn method(&self, _: &str, _: &str) -> Option<usize> {
            None
        }

        fn unary(&self, _: usize, _: InboundRequest) -> BoxFuture<'static, InboundReply> {
            Box::pin(std::future::pending())
        }

        fn http(
            &self,
            _: http::Request<tonic::body::Body>,
        ) -> BoxFuture<'static, http::Response<tonic::body::Body>> {
            Box::pin(std::future::pending())
        }

        fn utilization(&self) -> Option<f32> {
            Some(*self.0.lock())
        }
    }

    fn read(value: &str) -> Option<f32> {
        reported(&HeaderMap::from_iter([(
            LOAD_METRICS,
            HeaderValue::from_str(value).unwrap(),
        )]))
    }

    #[tokio::test(start_paused = true)]
    async fn reports_changes_at_most_ten_times_a_second() {
        let (reporter, loaded) = (Reporter::new(), Loaded(Mutex::new(0.0)));
        assert_eq!(reporter.due(&loaded), None, "idle from the beginning");
        let mut said = 0;
        for step in 0..1000 {
            *loaded.0.lock() = step as f32 / 10.0;
            said += u32::from(reporter.due(&loaded).is_some());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(said, 10);
        *loaded.0.lock() = 0.5;
        tokio::time::advance(LEAST_PAUSE).await;
        let value = reporter.due(&loaded).unwrap();
        assert_eq!(read(value.to_str().unwrap()), Some(0.5));
        tokio::time::advance(LEAST_PAUSE).await;
        assert_eq!(reporter.due(&loaded), None, "nothing has changed");
        tokio::time::advance(REPEAT).await;
        assert!(reporter.due(&loaded).is_some(), "said again before it is stale");
    }

    #[test]
    fn foreign_reports_are_understood_and_nonsense_is_not() {
        // As gRPC's other implementations write it: processors 0.25, memory 0.5, a named metric.
        #[derive(Clone, PartialEq, prost::Message)]
        struct Whole {
            #[prost(double, tag = "1")]
            cpu_utilization: f64,
            #[prost(double, tag = "2")]
            mem_utilization: f64,
            #[prost(map = "string, double", tag = "8")]
            named_metrics: std::collections::HashMap<String, f64>,
        }
        let foreign = Whole {
            cpu_utilization: 0.25,
            mem_utilization: 0.5,
            named_metrics: [("queue".to_owned(), 7.0)].into(),
        };
        assert_eq!(read(&BASE64.encode(foreign.encode_to_vec())), Some(0.25));
        for nonsense in ["", "%%%", "AAAA", "CQAAAAAAAPh/", "CQAAAAAAAPC/"] {
            assert!(read(nonsense).unwrap_or(0.0) == 0.0, "{nonsense}");
        }
    }
}
