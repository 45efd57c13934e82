//! A connection that must say something soon.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket whose first bytes are timed, until they say which HTTP the peer speaks. From there on HTTP's own timeouts
/// hold; before that nothing else would end a connection that stays silent.
pub(crate) struct Greeted {
    socket: TcpStream,
    timeout: Option<Pin<Box<Sleep>>>,
    matched: usize,
}

impl Greeted {
    pub(crate) fn new(socket: TcpStream, timeout: Duration) -> Self {
        Greeted {
            socket,
            timeout: Some(Box::pin(sleep(timeout))),
            matched: 0,
        }
    }

    fn heard(&mut self, bytes: &[u8]) {
        let expected = PREFACE[self.matched..].iter();
        let same = bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
        self.matched += same;
        if same < bytes.len() || self.matched == PREFACE.len() {
            self.timeout = None;
        }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if self.timeout.is_some() {
                    self.heard(&buf.filled()[before..]);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                if let Some(timeout) = &mut self.timeout {
                    ready!(timeout.as_mut().poll(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }
}
