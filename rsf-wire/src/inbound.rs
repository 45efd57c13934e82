//! Bytes from the socket become events: frames put together, header blocks decoded, connection windows kept.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::frame::{ConnectionError, END_STREAM, ErrorCode, Frame, HEAD_BYTES, Head, PREFACE, Settings};
use crate::hpack::{Decoder, Headers};
use crate::limits::Limits;
use crate::noise::Noise;
use crate::refusals::Refusal;

/// Bytes that are read at once, least and most: a call that is kept for long keeps what was read with it.
const LEAST_READ_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 32 * 1024;
/// Pieces of bodies below this many bytes are copied where they are kept: a piece that lies where it was read keeps all of
/// that alive.
pub(crate) const SMALL_PIECE: usize = READ_BYTES / 2;
/// CONTINUATION frames of one block at most.
const MAX_CONTINUATIONS: u32 = 64;
/// What HTTP/2 gives a connection before any WINDOW_UPDATE, and its header table.
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
pub(crate) const DEFAULT_TABLE: u32 = 4096;

/// What a peer said, ready to act upon.
#[derive(Debug)]
pub(crate) enum Event {
    Headers {
        stream: u32,
        headers: Headers,
        end: bool,
    },
    /// `flow` bytes count against the stream's window.
    Data {
        stream: u32,
        data: Bytes,
        flow: u32,
        end: bool,
    },
    Reset {
        stream: u32,
        code: ErrorCode,
    },
    Settings(Settings),
    Ping([u8; 8]),
    Pong([u8; 8]),
    GoAway {
        last: u32,
        code: ErrorCode,
    },
    Window {
        stream: u32,
        increment: u32,
    },
}

/// The reading side of a connection.
pub(crate) struct Inbound {
    buffer: BytesMut,
    /// Bytes at its beginning that are done with.
    done: usize,
    decoder: Decoder,
    max_frame: u32,
    max_block: usize,
    /// Whether the peer's preface is still to come.
    awaits_preface: bool,
    /// Whether its first SETTINGS are.
    awaits_settings: bool,
    /// A header block whose CONTINUATION is still to come.
    open: Option<OpenBlock>,
    noise: Noise,
    /// Frames and header blocks that came whole, counted round and round: what moves it is progress.
    finished: u32,
    /// Bytes that are read at once.
    read_bytes: usize,
    /// Bytes of DATA that came since the connection's window was last raised, and that window.
    unacknowledged: u32,
    window: u32,
}

struct OpenBlock {
    stream: u32,
    end: bool,
    block: BytesMut,
    continuations: u32,
}

impl Inbound {
    pub(crate) fn new(limits: &Limits, server: bool) -> Self {
        Inbound {
            buffer: BytesMut::new(),
            done: 0,
            decoder: Decoder::new(DEFAULT_TABLE, limits.header_list_bytes),
            max_frame: limits.frame_bytes,
            max_block: limits.header_list_bytes as usize * 2,
            awaits_preface: server,
            awaits_settings: true,
            open: None,
            noise: Noise::new(limits),
            finished: 0,
            read_bytes: LEAST_READ_BYTES,
            unacknowledged: 0,
            window: limits.connection_window.max(DEFAULT_WINDOW),
        }
    }

    /// Reads once. `Ok(false)` at the stream's end.
    pub(crate) fn poll_read(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<bool>> {
        self.buffer.advance(std::mem::take(&mut self.done));
        self.buffer.reserve(self.read_bytes);
        let mut limited = (&mut self.buffer).limit(self.read_bytes);
        let read: Pin<&mut _> = pin!(io.read_buf(&mut limited));
        let bytes = match ready!(read.poll(cx)) {
            // TLS without its goodbye, as many peers leave. Frames have lengths and streams have ends: nobody takes a part
            // for the whole.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if bytes == self.read_bytes {
            self.read_bytes = READ_BYTES;
        } else if bytes < LEAST_READ_BYTES / 4 {
            self.read_bytes = LEAST_READ_BYTES;
        }
        Poll::Ready(Ok(bytes > 0))
    }

    /// What the peer has begun and not finished, and how many things it finished before.
    pub(crate) fn unfinished(&self) -> Option<(Refusal, u32)> {
        let what = if self.awaits_preface || self.awaits_settings {
            Refusal::SlowPreface
        } else if self.open.is_some() || self.buffer.len() > self.done {
            Refusal::SlowFrame
        } else {
            return None;
        };
        Some((what, self.finished))
    }

    /// The next event; `None` where more bytes must come.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, ConnectionError> {
        if self.awaits_preface && !self.take_preface()? {
            return Ok(None);
        }
        while let Some(head) = Head::peek(&self.buffer[self.done..], self.max_frame)? {
            if let Some(event) = self.repeated(head) {
                return Ok(Some(event));
            }
            let frame = head.take(&mut self.buffer, std::mem::take(&mut self.done))?;
            self.noise.hear(&frame)?;
            let event = self.event(frame)?;
            if self.open.is_none() {
                self.finished = self.finished.wrapping_add(1);
            }
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Headers that came before just so, read where they stand.
    #[inline(always)]
    fn repeated(&mut self, head: Head) -> Option<Event> {
        if !head.is_whole_block() || self.open.is_some() {
            return None;
        }
        let begin = self.done + HEAD_BYTES;
        let headers = self.decoder.known(&self.buffer[begin..begin + head.length])?;
        self.done = begin + head.length;
        self.finished = self.finished.wrapping_add(1);
        Some(Event::Headers {
            stream: head.stream,
            headers,
            end: head.flags & END_STREAM != 0,
        })
    }

    /// Calls began, which makes up for frames that belong to none.
    #[inline]
    pub(crate) fn hear_calls(&mut self, calls: u32) {
        self.noise.hear_calls(calls);
    }

    /// A piece of a body came that nobody wants.
    pub(crate) fn hear_waste(&mut self) -> Result<(), ConnectionError> {
        self.noise.hear_waste()
    }

    /// How much the connection's window is to be raised by now; 0 where it is not worth a frame.
    pub(crate) fn window_increment(&mut self) -> u32 {
        if self.unacknowledged < self.window / 2 {
            return 0;
        }
        std::mem::take(&mut self.unacknowledged)
    }

    fn take_preface(&mut self) -> Result<bool, ConnectionError> {
        let begun = self.buffer.len().min(PREFACE.len());
        if self.buffer[..begun] != PREFACE[..begun] {
            return Err(ConnectionError::protocol(
                "this is no HTTP/2: the client's preface is missing",
            ));
        }
        if begun < PREFACE.len() {
            return Ok(false);
        }
        self.buffer.advance(PREFACE.len());
        self.awaits_preface = false;
        Ok(true)
    }

    #[inline(always)]
    fn event(&mut self, frame: Frame) -> Result<Option<Event>, ConnectionError> {
        if self.open.is_some() && !matches!(frame, Frame::Continuation { .. }) {
            return Err(ConnectionError::protocol("a header block was interrupted"));
        }
        if self.awaits_settings && !matches!(frame, Frame::Settings(_)) {
            return Err(ConnectionError::protocol("the first frame must be SETTINGS"));
        }
        Ok(Some(match frame {
            Frame::Data {
                stream,
                data,
                flow,
                end,
            } => {
                self.unacknowledged += flow;
                if self.unacknowledged > self.window {
                    let reason = "more DATA came than the connection's window allows";
                    return Err(ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, reason));
                }
                Event::Data {
                    stream,
                    data,
                    flow,
                    end,
                }
            }
            Frame::Headers {
                stream,
                block,
                end,
                complete: true,
            } => self.headers(stream, end, &block)?,
            Frame::Headers {
                stream,
                block,
                end,
                complete: false,
            } => {
                let block = BytesMut::from(&block[..]);
                self.open = Some(OpenBlock {
                    stream,
                    end,
                    block,
                    continuations: 0,
                });
                return Ok(None);
            }
            Frame::Continuation {
                stream,
                block,
                complete,
            } => return self.continued(stream, &block, complete),
            Frame::Reset { stream, code } => Event::Reset { stream, code },
            Frame::Settings(settings) => {
                self.awaits_settings = false;
                Event::Settings(settings)
            }
            Frame::Ping(payload) => Event::Ping(payload),
            Frame::Pong(payload) => Event::Pong(payload),
            Frame::GoAway { last, code } => Event::GoAway { last, code },
            Frame::WindowUpdate {
                stream: 0,
                increment: 0,
            } => {
                return Err(ConnectionError::protocol("a WINDOW_UPDATE of 0"));
            }
            Frame::WindowUpdate { stream, increment } => Event::Window { stream, increment },
            Frame::SettingsAck | Frame::Ignored => return Ok(None),
        }))
    }

    fn continued(
        &mut self,
        stream: u32,
        part: &[u8],
        complete: bool,
    ) -> Result<Option<Event>, ConnectionError> {
        let Some(mut open) = self.open.take().filter(|open| open.stream == stream) else {
            return Err(ConnectionError::protocol("CONTINUATION of no header block"));
        };
        open.continuations += 1;
        if open.continuations > MAX_CONTINUATIONS || open.block.len() + part.len() > self.max_block {
            return Err(too_large());
        }
        open.block.extend_from_slice(part);
        if complete {
            return self.headers(stream, open.end, &open.block.freeze()).map(Some);
        }
        self.open = Some(open);
        Ok(None)
    }

    #[inline(always)]
    fn headers(&mut self, stream: u32, end: bool, block: &Bytes) -> Result<Event, ConnectionError> {
        if block.len() > self.max_block {
            return Err(too_large());
        }
        let headers = self.decoder.decode(block).map_err(|_| {
            ConnectionError::new(ErrorCode::COMPRESSION_ERROR, "a header block cannot be decoded")
        })?;
        Ok(Event::Headers { stream, headers, end })
    }
}

fn too_large() -> ConnectionError {
    Refusal::HeaderBlock.note();
    ConnectionError::new(ErrorCode::ENHANCE_YOUR_CALM, "a header block is too large")
}
