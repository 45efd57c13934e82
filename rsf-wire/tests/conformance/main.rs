//! The engine against peers that speak bytes: the case list of h2spec for the server's role, and its mirror for the
//! client's. The list is public, <https://github.com/summerwind/h2spec>; each case here bears its number there, and the
//! code is our own. Where h2spec is content with a closed connection, a GOAWAY with the right code is asked for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

#[path = "../bytes/raw.rs"]
mod raw;

#[path = "../bytes/peer.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod peer;

mod case;

mod server_generic;
mod server_hpack;
mod server_http2;
mod server_messages;
mod server_windows;

mod bytes;
mod client;
mod client_frames;
