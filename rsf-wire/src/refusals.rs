//! How often a limit was met in this process, one number a limit: for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// A limit of [`crate::Limits`] that was met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// A name for a metric's label.
            pub fn label(self) -> &'static str {
                match self {
                    $(Refusal::$name => $label,)*
                }
            }
        }
    };
}

refusals! {
    /// A header block is too long, or comes in too many CONTINUATION frames; the connection ended.
    HeaderBlock = "header_block",
    /// The fields of a message take too much; the stream ended (a server answers a request 431).
    HeaderList = "header_list",
    /// A stream beyond [`crate::Limits::concurrent_streams`] was refused.
    ConcurrentStreams = "concurrent_streams",
    /// Too many streams were reset before their reply; the connection ended.
    EarlyResets = "early_resets",
    /// Too many frames that belong to no call; the connection ended.
    ControlFrames = "control_frames",
    /// Unfinished messages take too much memory, of a connection or of the process; the stream was refused.
    Buffered = "buffered",
    /// Replies that nobody reads take too much memory, of a connection or of the process; the stream was reset.
    Unsent = "unsent",
    /// A TLS client did not finish its handshake in time (`tls::accept`); the connection ended.
    SlowHandshake = "slow_handshake",
    /// A client did not say its preface and SETTINGS in time; the connection ended.
    SlowPreface = "slow_preface",
    /// A frame or header block was begun and not finished in time; the connection ended.
    SlowFrame = "slow_frame",
    /// Nothing more of a request's body came for too long; the stream was reset.
    SlowBody = "slow_body",
    /// A peer took none of what waits for it for too long; the connection ended.
    SlowReader = "slow_reader",
}

static COUNTS: [AtomicU64; Refusal::ALL.len()] = [const { AtomicU64::new(0) }; Refusal::ALL.len()];

impl Refusal {
    /// How often it was met since the process began.
    pub fn count(self) -> u64 {
        COUNTS[self as usize].load(Ordering::Relaxed)
    }

    #[cold]
    pub(crate) fn note(self) {
        COUNTS[self as usize].fetch_add(1, Ordering::Relaxed);
    }
}
