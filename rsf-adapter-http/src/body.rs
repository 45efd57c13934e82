//! A request's body, read whole within its size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use rsf_core::status::Code;
use tokio::time::Instant;

use crate::encoding::too_large;
use crate::failure::Failure;

/// Bytes that are read and thrown away, so that a caller who is still sending gets to read the error.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
/// Time for that.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Reads the body to its end. `until` is when the call's own time is over, if it has one.
pub(crate) async fn read(
    body: &mut Incoming,
    limit: usize,
    timeout: Duration,
    until: Option<Instant>,
) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let patience = Instant::now() + timeout;
    let end = until.map_or(patience, |until| until.min(patience));
    match tokio::time::timeout_at(end, collect(body, limit)).await {
        Ok(result) => result,
        Err(_) => {
            let message = format!(
                "the request's body did not come within {} ms",
                timeout.as_millis()
            );
            let message = if end < patience {
                "the call's time was over before its body had come".to_owned()
            } else {
                message
            };
            Err(Failure::new(Code::DeadlineExceeded, message).reason(rsf_core::outcome::Reason::Deadline))
        }
    }
}

async fn collect(body: &mut Incoming, limit: usize) -> Result<Bytes, Failure> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::invalid(format!("the body broke off: {error}")))?;
        let Ok(chunk) = frame.into_data() else { continue };
        if first.len() + more.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && more.is_empty() {
            first = chunk;
        } else {
            more.extend_from_slice(&std::mem::take(&mut first));
            more.extend_from_slice(&chunk);
        }
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}

/// Reads what is left of a refused request's body, within bounds. Without it the connection would be reset under a
/// caller that is still writing, and the error never seen.
pub(crate) async fn discard(body: &mut Incoming) {
    let mut left = DISCARD_BYTES;
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, drain).await;
}
