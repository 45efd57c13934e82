//! Which implementation carries the calls of a process, at both of its ends.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::engine::{self, EngineWire};
use super::http2::{self, Http2Wire, ServerOptions};
use super::{Compression, Dispatch, Wire};

/// An implementation of gRPC's wire. Peers do not notice which one the other has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WireStack {
    /// RSF's own engine, [`rsf_wire`].
    Engine,
    /// The hyper and h2 crates.
    #[default]
    Hyper,
}

impl WireStack {
    /// Makes connections over it, whose messages are compressed where that is asked for.
    pub fn client(self, compression: Option<Compression>) -> Arc<dyn Wire> {
        match (self, compression) {
            (WireStack::Engine, None) => Arc::new(EngineWire::new()),
            (WireStack::Engine, Some(how)) => Arc::new(EngineWire::new().with_compression(how)),
            (WireStack::Hyper, None) => Arc::new(Http2Wire::new()),
            (WireStack::Hyper, Some(how)) => Arc::new(Http2Wire::new().with_compression(how)),
        }
    }

    /// Serves connections over it until `drain` is cancelled and their calls are over; see [`http2::serve`].
    pub async fn serve(
        self,
        listener: TcpListener,
        dispatch: Arc<dyn Dispatch>,
        options: ServerOptions,
        drain: CancellationToken,
    ) {
        match self {
            WireStack::Engine => engine::serve(listener, dispatch, options, drain).await,
            WireStack::Hyper => http2::serve(listener, dispatch, options, drain).await,
        }
    }
}

impl fmt::Display for WireStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireStack::Engine => "engine",
            WireStack::Hyper => "hyper",
        })
    }
}

/// A name that no implementation has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `engine` nor `hyper`")]
pub struct UnknownWireStack(String);

impl FromStr for WireStack {
    type Err = UnknownWireStack;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [WireStack::Engine, WireStack::Hyper];
        let named = all.into_iter().find(|stack| stack.to_string() == text);
        named.ok_or_else(|| UnknownWireStack(text.to_owned()))
    }
}
