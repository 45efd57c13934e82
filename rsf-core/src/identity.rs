//! How a caller proves who it is.
//!
//! 1. [`token`]: application tokens, signed by whoever runs the fleet; [`ApplicationToken`] is the one that a consumer
//!    sends.
//! 2. [`keys`]: the keys that sign and check them.
//! 3. [`verify`]: a provider's check of what came, once for each token.
//!
//! A wire that knows its peer by itself, as mutual TLS does, hands it over as [`Peer`] with every request.

pub mod keys;
pub mod token;
pub mod verify;

use std::sync::Arc;

pub use keys::{InvalidKey, SigningKey, TrustedKeys};
pub use token::{ApplicationToken, Claims, OnBehalf, TokenError};
pub use verify::TokenVerifier;

/// How the calling application's name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// As the caller says, in `rsf-caller`.
    Asserted,
    /// By proof: this is the application.
    Proven(Arc<str>),
}

impl Identity {
    /// Whether there is a proof.
    pub fn is_proven(&self) -> bool {
        matches!(self, Identity::Proven(_))
    }
}

/// The application at the other end of a connection, as the wire has proven it, by the certificate of mutual TLS. It
/// stands in [`InboundRequest::peer`](crate::wire::InboundRequest::peer), and in the extensions of a request of any
/// other shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(pub Arc<str>);
