//! A method's reply as HTTP: its message in the request's codec, its metadata as headers.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{HeaderMap, Response};
use http_body_util::Full;

use crate::encoding::Encoding;
use crate::head::Codec;

/// The response to a call that succeeded. `headers` are the reply's metadata.
pub(crate) fn success(
    codec: Codec,
    accepted: Encoding,
    message: Bytes,
    headers: HeaderMap,
) -> Response<Full<Bytes>> {
    let packed = accepted.pack(&message);
    let encoded = packed.is_some();
    let mut response = Response::new(Full::new(packed.map_or(message, Bytes::from)));
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, codec.content_type());
    headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    if encoded {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// A page.
pub(crate) fn page(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
