//! A body that arrives.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::fields::header_map;
use crate::client::Client;
use crate::stream::{Incoming, StreamError};

/// A body that arrives, trailers behind it. The peer may send on as it is read; dropped before its end, a response is
/// cancelled, and the rest of a request is thrown away.
pub struct Body {
    /// `None`: an empty one.
    incoming: Option<Incoming>,
    /// A response keeps its connection from being closed.
    _client: Option<Arc<Client>>,
}

impl Body {
    pub(super) fn request(incoming: Incoming) -> Body {
        Body::new(incoming, None)
    }

    pub(super) fn new(incoming: Incoming, client: Option<Arc<Client>>) -> Body {
        let ended = incoming.is_ended();
        Body {
            incoming: (!ended).then_some(incoming),
            _client: client,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = match ready!(incoming.poll_data(cx)) {
            Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Err(error)) => Some(Err(error)),
            None => incoming
                .take_trailers()
                .map(|trailers| Ok(Frame::trailers(header_map(&trailers)))),
        };
        self.incoming = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_ended)
    }

    fn size_hint(&self) -> SizeHint {
        match self.is_end_stream() {
            true => SizeHint::with_exact(0),
            false => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("ended", &http_body::Body::is_end_stream(self))
            .finish()
    }
}
