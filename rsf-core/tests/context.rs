//! What calls inside calls inherit: across tasks, across threads, down the chain; and which traces are kept.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "support/line.rs"]
mod line;
mod support;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use rsf_core::client::Channel;
use rsf_core::context::{Context, spawn, spawn_blocking};
use rsf_core::message::{Request, Response};
use rsf_core::status::Status;

use line::{Line, read, request, soon};
use support::{Echo, Fleet, GET, Kind, Note, PUT, note};

/// What the innermost handler has seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    baggage: Option<String>,
    dye: Option<String>,
    priority: Option<String>,
    trace: Option<u128>,
    remaining: Option<Duration>,
}

impl Seen {
    fn here() -> Seen {
        let context = Context::current().unwrap();
        let header = |name: &str| context.metadata().get(name).map(str::to_owned);
        Seen {
            baggage: context.baggage().map(str::to_owned),
            dye: header("rsf-dye"),
            priority: header("rsf-priority"),
            trace: context.trace().map(|trace| trace.trace_id),
            remaining: context.remaining(),
        }
    }
}

/// `Get` calls `Put` of the same service in the way that its text names; `Put` notes what it sees.
fn chain(seen: &Arc<Mutex<Seen>>, next: &Arc<Mutex<Option<Channel>>>) -> Arc<Echo> {
    let (seen, next) = (seen.clone(), next.clone());
    Echo::with(move |method, request: Request<Note>| {
        let (seen, next) = (seen.clone(), next.lock().clone());
        async move {
            let note = request.into_inner();
            if method == PUT {
                *seen.lock() = Seen::here();
                return Ok(Response::new(note));
            }
            let next = next.unwrap();
            let way = note.text.clone();
            let put = move || next.call::<Note>(PUT, Request::new(note));
            match way.as_str() {
                "here" => put().await?,
                "task" => spawn(async move { put().await }).await.unwrap()?,
                "blocking" => spawn_blocking(move || put().wait()).await.unwrap()?,
                "thread" => {
                    let context = Context::current().unwrap();
                    let (told, heard) = tokio::sync::oneshot::channel();
                    std::thread::spawn(move || told.send(context.sync_scope(|| put().wait())).ok());
                    heard.await.unwrap()?
                }
                "own" => {
                    let mut request = Request::new(support::note(""));
                    request.metadata_mut().insert("baggage", "tenant=south").unwrap();
                    let inner = put();
                    inner.metadata(request.into_parts().1).await?
                }
                other => return Err(Status::invalid_argument(other)),
            };
            Ok(Response::new(support::note("")))
        }
    })
}

#[test]
fn calls_inherit_on_tasks_and_threads_and_down_the_chain() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let (seen, next) = (Arc::default(), Arc::default());
        let fleet = Fleet::new(kind);
        let runtime = fleet.runtime.clone();
        runtime.handle().block_on(async {
            let _node = fleet.provide(chain(&seen, &next));
            let peer = fleet.consumer();
            *next.lock() = Some(peer.channel.clone());
            let connection = line::connect(&fleet, &_node).await;
            for way in ["here", "task", "blocking", "thread", "own"] {
                let mut outer = request("Get", &note(way));
                outer.timeout = Some(Duration::from_millis(1500));
                outer.trace = rsf_core::wire::TraceParent::parse(
                    "00-00000000000000000000000000000abc-00000000000000ef-01",
                );
                for (name, value) in [
                    ("baggage", "tenant=north%20west;kept=1,campaign=autumn"),
                    ("rsf-dye", "blue"),
                    ("rsf-priority", "high"),
                ] {
                    outer
                        .own
                        .push((HeaderName::from_static(name), HeaderValue::from_static(value)));
                }
                let sent = outer.over(&connection);
                read(&soon(sent).await.unwrap());
                let seen: Seen = std::mem::take(&mut *seen.lock());
                let baggage = match way {
                    "own" => "tenant=south",
                    _ => "tenant=north%20west;kept=1,campaign=autumn",
                };
                assert_eq!(seen.baggage.as_deref(), Some(baggage), "{kind:?} {way}");
                assert_eq!(seen.dye.as_deref(), Some("blue"), "{kind:?} {way}");
                assert_eq!(seen.priority.as_deref(), Some("high"), "{kind:?} {way}");
                assert_eq!(seen.trace, Some(0xabc), "{kind:?} {way}");
                let remaining = seen.remaining.unwrap();
                assert!(
                    remaining <= Duration::from_millis(1500),
                    "{kind:?} {way}: {remaining:?}"
                );
            }
        });
    }
}

#[tokio::test]
async fn without_a_surrounding_call_nothing_is_inherited() {
    assert!(Context::current().is_none());
    assert!(spawn(async { Context::current().is_none() }).await.unwrap());
    assert!(spawn_blocking(|| Context::current().is_none()).await.unwrap());
}

#[tokio::test]
async fn entries_of_the_baggage_are_read_one_by_one() {
    let mut metadata = rsf_core::metadata::Metadata::new();
    metadata
        .insert("baggage", "tenant=north%20west;kept=1 , campaign = autumn,broken")
        .unwrap();
    let context = Context::new(None, metadata);
    assert_eq!(context.baggage_entry("tenant").as_deref(), Some("north west"));
    assert_eq!(context.baggage_entry("campaign").as_deref(), Some("autumn"));
    assert_eq!(context.baggage_entry("broken"), None);
    assert_eq!(context.baggage_entry("other"), None);
}

#[test]
fn the_share_of_kept_traces_is_policy() {
    let fleet = Fleet::new(Kind::InProcess);
    let runtime = fleet.runtime.clone();
    runtime.handle().block_on(async {
        let kept = Arc::new(Mutex::new(0));
        let count = kept.clone();
        let _node = fleet.provide(Echo::with(move |_, request: Request<Note>| {
            let trace = Context::current().unwrap().trace().unwrap();
            *count.lock() += u32::from(trace.sampled);
            async { Ok(Response::new(request.into_inner())) }
        }));
        let peer = fleet.consumer();
        peer.connected(1).await;
        let calls = async || {
            for _ in 0..200 {
                peer.get(note("")).await.unwrap();
            }
            std::mem::take(&mut *kept.lock())
        };
        assert_eq!(calls().await, 0, "none is kept unless policy says so");
        for (revision, percent) in [(1, 100.0), (2, 30.0), (3, 0.0)] {
            let document = format!(r#"{{"call":{{"trace":{{"sample_percent":{percent}}}}}}}"#);
            fleet.service_policy(revision, &document);
            peer.governed(|policy| policy.call.trace.sample_percent == percent)
                .await;
            let kept = calls().await;
            match percent {
                100.0 => assert_eq!(kept, 200),
                0.0 => assert_eq!(kept, 0),
                // Five standard deviations either side.
                _ => assert!((28..=92).contains(&kept), "{kept} of 200 at 30 %"),
            }
        }
    });
}

#[tokio::test]
async fn a_call_inside_a_kept_trace_is_kept() {
    let line = Line::to(Kind::InProcess, Echo::plain()).await;
    let peer = line.fleet.consumer();
    let mut metadata = rsf_core::metadata::Metadata::new();
    metadata
        .insert(
            "traceparent",
            "00-00000000000000000000000000000abc-00000000000000ef-01",
        )
        .unwrap();
    let context = Arc::new(Context::new(None, metadata));
    let reply = peer
        .channel
        .call::<Note>(GET, note("").into())
        .context(context)
        .await
        .unwrap();
    let trace = reply.metadata().get("traceparent").unwrap();
    assert!(
        trace.starts_with("00-00000000000000000000000000000abc-") && trace.ends_with("-01"),
        "{trace}"
    );
}
