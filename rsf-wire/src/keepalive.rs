//! Silent connections are probed by PING: a peer that is gone without a word is found so.
//!
//! A task of its own looks a few times an interval whether anything came; reading and writing know nothing of time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;

/// How a silent connection is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which a PING is sent; it is kept to a quarter.
    pub interval: Duration,
    /// Time without any answer after which the connection is closed.
    pub timeout: Duration,
}

/// Looks in an interval.
const LOOKS: u32 = 4;
/// What our probes carry.
pub(crate) const PROBE: [u8; 8] = *b"rsfprobe";

/// A connection as its probe sees it.
pub(crate) trait Probed: Send + Sync + 'static {
    /// How often something came; `None` where the connection is over.
    fn heard(&self) -> Option<u64>;
    /// Sends a PING.
    fn ping(&self);
    /// Closes it: the peer is silent.
    fn give_up(&self);
}

/// Probes a connection until it ends.
pub(crate) async fn probe<P: Probed>(connection: Weak<P>, keepalive: Keepalive) {
    let heard = || connection.upgrade().and_then(|connection| connection.heard());
    let order = |order: fn(&P)| connection.upgrade().iter().map(Arc::as_ref).for_each(order);
    let (mut last, mut silent) = (heard(), 0);
    while last.is_some() {
        sleep(keepalive.interval / LOOKS).await;
        let now = heard();
        silent = if now == last { silent + 1 } else { 0 };
        last = now;
        if silent < LOOKS {
            continue;
        }
        order(P::ping);
        sleep(keepalive.timeout).await;
        if heard() == last && last.is_some() {
            return order(P::give_up);
        }
        (last, silent) = (heard(), 0);
    }
}
