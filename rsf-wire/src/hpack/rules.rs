//! What HTTP/2 forbids in a message's fields, whatever they say (RFC 9113, 8.2.2 and 8.3).

use super::Names;

/// Names that belong to HTTP/1.1's connections.
pub(super) const OF_CONNECTIONS: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Which pseudo-headers a message has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pseudo(u8);

impl Pseudo {
    const METHOD: u8 = 1;
    const SCHEME: u8 = 2;
    const PATH: u8 = 4;
    const AUTHORITY: u8 = 8;
    const STATUS: u8 = 16;

    /// Adds one; `false` where there is no such, where it is there already, and where its value cannot be.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        let (bit, sound) = match name {
            b":method" => (Self::METHOD, true),
            b":scheme" => (Self::SCHEME, true),
            b":path" => (Self::PATH, !value.is_empty()),
            b":authority" => (Self::AUTHORITY, true),
            b":status" => (
                Self::STATUS,
                value.len() == 3 && value.iter().all(u8::is_ascii_digit),
            ),
            _ => return false,
        };
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new && sound
    }

    /// Whether they are a request's.
    #[inline]
    pub(crate) fn are_a_requests(self) -> bool {
        self.0 & !Self::AUTHORITY == Self::METHOD | Self::SCHEME | Self::PATH
    }

    /// Whether they are a reply's.
    #[inline]
    pub(crate) fn are_a_replys(self) -> bool {
        self.0 == Self::STATUS
    }

    /// Whether there are none, as in trailers.
    #[inline]
    pub(crate) fn are_none(self) -> bool {
        self.0 == 0
    }
}

/// Whether fields of these names hold one that HTTP/2 forbids; `find` gives a name's value.
#[inline]
pub(super) fn are_forbidden<'a>(names: Names, find: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
    let none = |name: &str| !names.may_have(name.as_bytes());
    if none("te") && OF_CONNECTIONS.into_iter().all(none) {
        return false;
    }
    let te = find("te");
    te.is_some_and(|value| value != b"trailers")
        || OF_CONNECTIONS.into_iter().any(|name| find(name).is_some())
}
