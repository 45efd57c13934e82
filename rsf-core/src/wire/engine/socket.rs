//! What both ends ask of the system for a connection's socket.

use tokio::net::TcpStream;

/// Bytes that wait in the system's buffer, unsent, at most: what is there cannot be overtaken by a small call.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Sends at once, and leaves little to the system's queue, which knows no turns.
///
/// # Errors
/// The connection is gone already.
pub(super) fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    #[cfg(not(target_os = "linux"))]
    let _ = UNSENT_BYTES;
    Ok(())
}
