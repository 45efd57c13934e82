//! What a tonic client's request is told to carry: who calls, its trace, and what the surrounding call hands down.

use http::header::{HeaderMap, HeaderValue};

use crate::client::Shared;
use crate::client::observe::place_in_trace;
use crate::context::Context;
use crate::policy::CallRules;
use crate::wire::headers::{CALLER, REQUEST_ID, TRACEPARENT, hex, traceparent};

/// Writes RSF's own headers of a request. Those that its client has set are none of its business: most often they are
/// metadata of an earlier call that was handed on whole, and would name that one's instance, shard or caller. A trace or
/// a request id of the client's own goes on.
pub(super) fn inherit(
    shared: &Shared,
    policy: &CallRules,
    headers: &mut HeaderMap,
    parent: Option<&Context>,
) {
    let foreign: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("rsf-") && **name != REQUEST_ID)
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    if let Some(own) = shared.own_headers(parent, Some(headers), policy.priority, None) {
        for (name, value) in *own {
            headers.insert(name, value);
        }
    }
    if let Some(caller) = &shared.caller {
        headers.insert(CALLER, caller.clone());
    }
    let number = fastrand::u64(..);
    headers.entry(TRACEPARENT).or_insert_with(|| {
        text(&traceparent(place_in_trace(
            parent,
            policy.trace.sample_percent,
            number,
        )))
    });
    headers.entry(REQUEST_ID).or_insert_with(|| text(&hex(number)));
}

/// What RSF writes itself is visible ASCII.
fn text(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
