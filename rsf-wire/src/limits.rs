//! What a peer may ask for, and what is announced to it.

use std::time::Duration;

use crate::keepalive::Keepalive;

/// The limits of one connection.
///
/// **Memory.** By its own doing a connection's peer makes it hold at most, beside what handlers and callers hold:
/// [`buffered_bytes`](Limits::buffered_bytes) of unfinished requests and of streams that wait for their readers (a client:
/// a [`stream_window`](Limits::stream_window) for each call), up to three times where pieces of 16 KiB and more lie among other
/// things that were read with them, [`unsent_bytes`](Limits::unsent_bytes) of replies that it does
/// not read, [`stream_buffer`](Limits::stream_buffer) and one piece of any size, the handler's, for each streaming call,
/// four times [`unwritten_bytes`](Limits::unwritten_bytes) of output (a client: 16 times and 64 KiB, then it ends), a header
/// block of twice [`header_list_bytes`](Limits::header_list_bytes), 64 KiB of input, a frame of
/// [`frame_bytes`](Limits::frame_bytes), 8 KiB of header tables, 256 KiB of header beginnings that repeat, 8 KiB of closed
/// streams' numbers, and for each of its [`concurrent_streams`](Limits::concurrent_streams) about 1 KiB and its headers:
/// twice [`header_list_bytes`](Limits::header_list_bytes) where they are many small fields, and the input that they were
/// read with, 4 KiB as a rule and 32 KiB at most. An idle connection holds header tables and beginnings, numbers of closed
/// streams, and buffers of at most 64 KiB for input, 128 KiB for output and 128 KiB for streams; as a rule far less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a frame's payload at most, announced: 16 384 (the protocol's least, and the default) to 16 777 215.
    pub frame_bytes: u32,
    /// Bytes of all headers of a request or reply, counted as HPACK does (32 more a field). Default 16 KiB. A block
    /// that takes more than twice that on the wire ends the connection.
    pub header_list_bytes: u32,
    /// Bytes of a reply's message at most (client). Default 4 MiB. A server asks its handler.
    pub message_bytes: usize,
    /// Streams at once that a server admits, announced. Default 4 096.
    pub concurrent_streams: u32,
    /// Calls that wait at a client until the peer admits more streams. Default 65 536.
    pub queued_calls: usize,
    /// Bytes that may be under way on one stream before the reader asks for more. Default 1 MiB.
    pub stream_window: u32,
    /// The same of a whole connection. Default 4 MiB.
    pub connection_window: u32,
    /// Bytes of unfinished requests and of streams that wait for their readers, together, that a server's connection
    /// holds. A unary request beyond, gathered or handed to [`Handler::slow`](crate::Handler::slow), is refused
    /// (REFUSED_STREAM: nothing has happened), a stream beyond is reset (ENHANCE_YOUR_CALM). Default 64 MiB.
    pub buffered_bytes: usize,
    /// Bytes of whole replies that wait for a client's windows or socket; streams beyond are reset. Default 64 MiB.
    pub unsent_bytes: usize,
    /// Bytes of both kinds that all connections of this process hold together. Default 1 GiB.
    pub process_bytes: usize,
    /// Bytes of output that wait for the socket before bodies wait too; at twice that reading rests. Default 256 KiB.
    pub unwritten_bytes: usize,
    /// Bytes that the writer of a stream may have waiting for windows and socket before it is told to wait. A piece that is
    /// handed over is taken whole. Default 64 KiB.
    pub stream_buffer: usize,
    /// Bytes of a unary request that a server gathers by itself; longer ones, and those that take their time, go to
    /// [`Handler::slow`](crate::Handler::slow), where a handler takes such. Default 64 KiB.
    pub gathered_bytes: usize,
    /// For how long a server polls handlers in the connection's own task, each time that it has its turn; what came beyond
    /// becomes tasks at once, for all cores, and what is finished goes out. Handlers under 8 µs or so do not count. Zero:
    /// every request becomes a task. Default 100 µs.
    pub in_place_time: Duration,
    /// How a server probes silent connections. Default: not at all. For clients see
    /// [`Client::keep_alive`](crate::Client::keep_alive).
    pub keepalive: Option<Keepalive>,
    /// The greatest number of a stream that a client opens: 1 to 2³¹ - 1, which is the protocol's and the default. When seven
    /// eighths are used the connection is [`Life::Aging`](crate::Life::Aging).
    pub last_stream: u32,
    /// Streams that the peer may reset before their reply beyond those that it lets finish, before the connection is
    /// ended (the "rapid reset" attack). Default 8 192: all that may be open can be given up at once, twice, as an
    /// overloaded server sees it happen.
    pub early_resets: u32,
    /// Frames that belong to no call, or do nothing for it, in ten seconds: PING, SETTINGS (each counts for ten),
    /// PRIORITY, RST_STREAM, empty DATA, CONTINUATION, WINDOW_UPDATE by less than 1 KiB, unknown ones. Each call makes
    /// up for four, each piece of a body for one; beyond that the connection is ended. Default 10 000.
    pub control_frames: u32,
    /// Until a client has said its preface and SETTINGS (server). Default 10 s. Times are kept roughly: what takes
    /// longer is noticed after another 5 s at most, and never before its time.
    pub preface_time: Duration,
    /// Until a frame, or a header block in several, is whole (server). Default 20 s.
    pub frame_time: Duration,
    /// Between two pieces of a request's body (server; streams may rest). Default 60 s.
    pub body_time: Duration,
    /// Until a peer has taken 16 KiB, or all, of what waits for it (server; streams may rest). Default 60 s.
    pub read_time: Duration,
}

impl Limits {
    /// Bytes of one stream that a peer may have under way. Never under HTTP/2's own default: the peer may have sent
    /// before it heard of us.
    pub(crate) fn tolerated_window(&self) -> u32 {
        self.stream_window.max(crate::inbound::DEFAULT_WINDOW)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame_bytes: 16_384,
            header_list_bytes: 16 * 1024,
            message_bytes: 4 * 1024 * 1024,
            concurrent_streams: 4096,
            queued_calls: 65_536,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            buffered_bytes: 64 << 20,
            unsent_bytes: 64 << 20,
            process_bytes: 1 << 30,
            unwritten_bytes: 256 * 1024,
            stream_buffer: 64 * 1024,
            gathered_bytes: 64 * 1024,
            in_place_time: Duration::from_micros(100),
            keepalive: None,
            last_stream: crate::frame::MAX_31_BITS,
            early_resets: 8192,
            control_frames: 10_000,
            preface_time: Duration::from_secs(10),
            frame_time: Duration::from_secs(20),
            body_time: Duration::from_secs(60),
            read_time: Duration::from_secs(60),
        }
    }
}
