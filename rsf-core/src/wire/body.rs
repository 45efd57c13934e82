//! Bodies: what goes out, and gRPC's length-prefixed messages as they come in.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use rsf_wire::compression::{Encoding, read};

use super::compression::bad_message;
use crate::error::framework_status;
use crate::outcome::Reason;
use crate::status::Status;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way out: one message with its trailers, or whatever a hosted service streams.
pub(super) enum OutBody {
    Unary {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    Streaming(tonic::body::Body),
}

impl OutBody {
    pub(super) fn empty() -> Self {
        OutBody::Unary {
            data: None,
            trailers: None,
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            OutBody::Unary { data, trailers } => {
                let data = data.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            OutBody::Streaming(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|status: tonic::Status| BoxError::from(status)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutBody::Unary { data, trailers } => data.is_none() && trailers.is_none(),
            OutBody::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            OutBody::Unary { data, trailers: None } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            OutBody::Unary { .. } => SizeHint::default(),
            OutBody::Streaming(body) => body.size_hint(),
        }
    }
}

/// What became of reading a message.
pub(super) enum Received<E> {
    /// One message, without prefix; trailers where there were some.
    Message(Bytes, Option<HeaderMap>),
    /// No message at all, but perhaps trailers.
    Nothing(Option<HeaderMap>),
    /// What came is no single gRPC message, or over the limit.
    Bad(Status),
    /// The stream broke.
    Broken(E),
}

/// Reads one length-prefixed message of at most `limit` bytes, and the trailers behind it; a compressed one as its
/// `grpc-encoding` says. `hold` is asked for room for the bytes that have come so far.
pub(super) async fn receive<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    encoding: Option<&[u8]>,
    limit: usize,
    mut hold: impl FnMut(usize) -> Result<(), Status>,
) -> Received<B::Error> {
    let mut first = Bytes::new();
    let mut more: Option<BytesMut> = None;
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Received::Broken(error),
        };
        match frame.into_data() {
            Ok(data) if first.is_empty() && more.is_none() => first = data,
            Ok(data) => more
                .get_or_insert_with(|| BytesMut::from(&*first))
                .extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        let so_far = more.as_ref().map_or(&first[..], |more| &more[..]);
        if let Err(status) = check_prefix(so_far, encoding, limit).and_then(|()| hold(so_far.len())) {
            return Received::Bad(status);
        }
    }
    let mut whole = more.map_or(first, BytesMut::freeze);
    if whole.is_empty() {
        return Received::Nothing(trailers);
    }
    if whole.len() < 5 {
        return Received::Bad(framework_status(
            Reason::Malformed,
            "the body ends within gRPC's five-byte prefix",
        ));
    }
    let length = u32::from_be_bytes([whole[1], whole[2], whole[3], whole[4]]) as usize;
    if whole.len() - 5 == length && whole[0] == 1 {
        let message = read(&whole, encoding, limit).map_err(|error| bad_message(&error));
        let held = message.and_then(|message| {
            let message = message.unwrap_or_default();
            hold(whole.len() + message.len()).map(|()| message)
        });
        return held.map_or_else(Received::Bad, |message| Received::Message(message, trailers));
    }
    whole.advance(5);
    if whole.len() == length {
        return Received::Message(whole, trailers);
    }
    let problem = format!("gRPC's prefix announces {length} bytes, {} came", whole.len());
    Received::Bad(framework_status(Reason::Malformed, problem))
}

fn check_prefix(bytes: &[u8], encoding: Option<&[u8]>, limit: usize) -> Result<(), Status> {
    let [flag, a, b, c, d, rest @ ..] = bytes else {
        return Ok(());
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    match flag {
        0 => {}
        1 => {
            Encoding::of(encoding).map_err(|error| bad_message(&error))?;
        }
        _ => {
            return Err(framework_status(
                Reason::Malformed,
                format!("{flag} is no gRPC compression flag"),
            ));
        }
    }
    if length > limit {
        return Err(crate::wire::too_large(length, limit));
    }
    if rest.len() > length {
        return Err(framework_status(
            Reason::Malformed,
            "more than one message came in a unary call",
        ));
    }
    Ok(())
}
