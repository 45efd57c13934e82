//! A request's body that can be sent once more, as long as all that was read of it is remembered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes of a request that are remembered at most: most unary requests, and no long upload.
const REMEMBERED_BYTES: usize = 64 * 1024;

/// The body, lent to one try after the other.
pub(super) struct Outgoing {
    source: Arc<Mutex<Source>>,
    ended: Arc<Notify>,
}

struct Source {
    body: tonic::body::Body,
    /// What was read so far; `None` once that was too much.
    read: Option<Vec<Bytes>>,
    bytes: usize,
    ended: bool,
    /// Which try it is lent to; earlier ones get nothing more.
    lent: u32,
}

/// The body as one try sends it: first what earlier ones have read, then the rest.
struct Lent {
    source: Arc<Mutex<Source>>,
    ended: Arc<Notify>,
    number: u32,
    /// The next remembered piece.
    next: usize,
}

impl Outgoing {
    pub(super) fn new(body: tonic::body::Body) -> Outgoing {
        Outgoing {
            source: Arc::new(Mutex::new(Source {
                body,
                read: Some(Vec::new()),
                bytes: 0,
                ended: false,
                lent: 0,
            })),
            ended: Arc::default(),
        }
    }

    /// Whether a further try would send all of it.
    pub(super) fn is_whole(&self) -> bool {
        self.source.lock().read.is_some()
    }

    /// For the next try.
    pub(super) fn lend(&self) -> impl Body<Data = Bytes, Error = tonic::Status> + Send + 'static {
        let mut source = self.source.lock();
        source.lent += 1;
        Lent {
            source: self.source.clone(),
            ended: self.ended.clone(),
            number: source.lent,
            next: 0,
        }
    }

    /// Waits until the body has been read to its end.
    pub(super) async fn ended(&self) {
        while !self.source.lock().ended {
            self.ended.notified().await;
        }
    }
}

impl Source {
    /// The next frame of the body itself.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = frame.is_none() || self.body.is_end_stream();
        if let Some(Ok(frame)) = &frame {
            self.remember(frame);
        }
        Poll::Ready(frame)
    }

    fn remember(&mut self, frame: &Frame<Bytes>) {
        let Some(data) = frame.data_ref() else {
            // A request with trailers is none of gRPC's.
            self.read = None;
            return;
        };
        self.bytes += data.len();
        if self.bytes > REMEMBERED_BYTES {
            self.read = None;
        } else if let Some(read) = &mut self.read {
            read.push(data.clone());
        }
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let source = self.source.clone();
        let mut source = source.lock();
        if source.lent != self.number {
            let status = tonic::Status::cancelled("the request is sent elsewhere");
            return Poll::Ready(Some(Err(status)));
        }
        let known = source.read.as_ref().and_then(|read| read.get(self.next));
        if let Some(data) = known.cloned() {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(source.read(cx));
        self.next += 1;
        if source.ended {
            self.ended.notify_one();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        let remembered = source.read.as_ref().map_or(0, Vec::len);
        self.next >= remembered && (source.ended || source.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(sizes: &[usize]) -> Outgoing {
        let frames: Vec<_> = sizes
            .iter()
            .map(|size| Ok::<_, tonic::Status>(Frame::data(Bytes::from(vec![7; *size]))))
            .collect();
        Outgoing::new(tonic::body::Body::new(StreamBody::new(
            futures_util::stream::iter(frames),
        )))
    }

    #[tokio::test]
    async fn a_further_try_sends_what_was_read_and_the_rest() {
        let outgoing = body(&[3, 4, 5]);
        let mut first = outgoing.lend();
        let frame = first.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len(), 3);
        assert!(outgoing.ended().now_or_never().is_none());
        let second = outgoing.lend();
        assert!(
            first.frame().await.unwrap().is_err(),
            "it is lent to one at a time"
        );
        assert_eq!(second.collect().await.unwrap().to_bytes().len(), 12);
        outgoing.ended().await;
        assert!(outgoing.is_whole());
        assert_eq!(outgoing.lend().collect().await.unwrap().to_bytes().len(), 12);
    }

    #[tokio::test]
    async fn a_long_upload_is_not_remembered() {
        let outgoing = body(&[REMEMBERED_BYTES, 1, 1]);
        let mut lent = outgoing.lend();
        lent.frame().await.unwrap().unwrap();
        assert!(outgoing.is_whole());
        lent.frame().await.unwrap().unwrap();
        assert!(!outgoing.is_whole());
        assert_eq!(lent.collect().await.unwrap().to_bytes().len(), 1);
    }
}
