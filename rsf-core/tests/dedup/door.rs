//! Calls as others than RSF's own client make them: without a deadline, with a proof of identity or without.

use std::sync::Arc;

use bytes::Bytes;
use rsf_core::identity::Peer;
use rsf_core::metadata::Metadata;
use rsf_core::outcome::Reason;
use rsf_core::status::Status;
use rsf_core::wire::{Dispatch, InboundRequest};
use tokio::time::Instant;

use crate::support::{Echo, Node};
use crate::world::{World, numbering, within};

async fn ask(node: &Node, proven: bool) -> Result<(), Status> {
    let mut headers = http::HeaderMap::new();
    headers.insert("rsf-caller", "order".parse().unwrap());
    headers.insert("rsf-request-id", "a".parse().unwrap());
    // Metadata as it comes from a wire, RSF's own keys included.
    let metadata = tonic::Status::with_metadata(
        tonic::Code::Ok,
        "",
        tonic::metadata::MetadataMap::from_headers(headers),
    );
    let method = node.provider.method("/test.v1.Echo/Put", "").unwrap();
    let request = InboundRequest {
        message: Ok(Bytes::new()),
        timeout: None,
        metadata: Metadata::clone(Status::from(metadata).metadata()),
        peer: proven.then(|| Peer(Arc::from("order"))),
    };
    node.provider.unary(method, request).await.map(drop)
}

fn reason(status: &Status) -> Option<Reason> {
    Reason::from_name(status.metadata().get("rsf-reason")?)
}

#[tokio::test(start_paused = true)]
async fn who_has_not_proven_who_it_is_gets_no_outcome_of_one_that_has() {
    let echo = numbering();
    let world = World::of(&echo).await;
    let node = &world.nodes[0];
    ask(node, true).await.unwrap();
    ask(node, true).await.unwrap();
    assert_eq!(world.counted("replayed"), 1);
    // Nor does the handler run: it may be an attempt of the same call, by another way.
    let refused = ask(node, false).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::OutcomeUnknown));
    assert!(refused.message().contains("proven"), "{}", refused.message());
    assert_eq!((echo.counts().began, world.counted("mismatch")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_comes_later_runs_nothing_twice() {
    let echo = numbering();
    let world = World::of(&echo).await;
    ask(&world.nodes[0], false).await.unwrap();
    ask(&world.nodes[0], true).await.unwrap();
    assert_eq!((echo.counts().began, world.counted("replayed")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_call_has_no_deadline_is_cancelled_after_five_minutes() {
    let echo = Echo::silent();
    let world = World::of(&echo).await;
    let begun = Instant::now();
    let late = ask(&world.nodes[0], false).await.unwrap_err();
    assert_eq!(reason(&late), Some(Reason::Deadline));
    within(begun, 301_000);
    assert_eq!(echo.counts().dropped, 1);
    let unknown = ask(&world.nodes[0], false).await.unwrap_err();
    assert!(unknown.message().contains("no deadline"), "{}", unknown.message());
}
