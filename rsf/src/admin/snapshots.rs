//! `GET /snapshot`: what this process uses, for a peer that starts without registry and disk.
//!
//! Open to whoever reaches the admin port, like its other pages that change nothing. Who reads slowly or asks often holds at
//! most [`AT_ONCE`] snapshots in memory, each for [`PATIENCE`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use rsf_registry::RegistryAgent;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// How many snapshots are given at once; each has at most 8 MiB.
const AT_ONCE: usize = 8;
/// How long a request waits for its place. Peers give up after 800 ms.
const WAIT: Duration = Duration::from_millis(400);
/// How long a snapshot is given, however slowly it is read.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes that are handed to a connection at once.
const PIECE: usize = 64 << 10;

/// `?namespace=prod&kind=list&key=shop.v1.MemberService`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    namespace: String,
    kind: String,
    key: String,
}

struct Giver {
    /// The page must not keep the application alive.
    agent: Weak<RegistryAgent>,
    places: Arc<Semaphore>,
}

/// The route over what `agent` uses.
pub(crate) fn routes(agent: &Arc<RegistryAgent>) -> Router {
    let giver = Giver {
        agent: Arc::downgrade(agent),
        places: Arc::new(Semaphore::new(AT_ONCE)),
    };
    Router::new()
        .route("/snapshot", get(snapshot))
        .with_state(Arc::new(giver))
}

async fn snapshot(
    State(giver): State<Arc<Giver>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let Ok(Query(wanted)) = wanted else {
        let form = "ask as /snapshot?namespace=<namespace>&kind=list|policy|sealed&key=<service or scope>\n";
        return (StatusCode::BAD_REQUEST, form).into_response();
    };
    let Ok(Ok(place)) = timeout(WAIT, giver.places.clone().acquire_owned()).await else {
        let busy = "other peers are being served; ask again\n";
        return (StatusCode::SERVICE_UNAVAILABLE, busy).into_response();
    };
    let bytes = giver
        .agent
        .upgrade()
        .and_then(|agent| agent.snapshot(&wanted.namespace, &wanted.kind, &wanted.key));
    match bytes {
        None => (StatusCode::NOT_FOUND, "this process does not use it\n").into_response(),
        Some(bytes) => {
            let kind = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, bytes.len().to_string()),
            ];
            (kind, body(bytes.into(), place)).into_response()
        }
    }
}

/// What is still to be given, with its place; nothing once the time is over.
type Rest = Mutex<Option<(Bytes, OwnedSemaphorePermit)>>;

/// Gives `bytes` in pieces. A peer that does not read on does not ask for the next piece, so that its time ends apart.
fn body(bytes: Bytes, place: OwnedSemaphorePermit) -> Body {
    let rest: Arc<Rest> = Arc::new(Mutex::new(Some((bytes, place))));
    let watched = Arc::downgrade(&rest);
    tokio::spawn(async move {
        sleep(PATIENCE).await;
        if let Some(rest) = watched.upgrade() {
            rest.lock().take();
        }
    });
    Body::from_stream(stream::unfold(rest, |rest| async move {
        let piece = match &mut *rest.lock() {
            None => Some(Err(std::io::Error::from(std::io::ErrorKind::TimedOut))),
            Some((bytes, _)) if bytes.is_empty() => None,
            Some((bytes, _)) => Some(Ok(bytes.split_to(bytes.len().min(PIECE)))),
        };
        piece.map(|piece| (piece, rest))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_loses_its_place_and_the_rest() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().acquire_owned().await.unwrap();
        let mut pieces = body(Bytes::from(vec![7; PIECE + 1]), place).into_data_stream();
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), PIECE);
        assert_eq!(places.available_permits(), 0, "it still has its place");
        sleep(PATIENCE * 2).await;
        assert_eq!(places.available_permits(), 1);
        assert!(pieces.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_reader_gets_it_whole_and_gives_its_place_back() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().acquire_owned().await.unwrap();
        let body = body(Bytes::from(vec![7; 3 * PIECE + 1]), place);
        let read = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(read.len(), 3 * PIECE + 1);
        assert_eq!(places.available_permits(), 1);
    }
}
