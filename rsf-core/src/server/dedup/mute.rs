//! Keeps calls from waiting for a store that gives no answer.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the store answers. While it does not, one operation at a time finds out whether it does again.
#[derive(Debug, Default)]
pub(super) struct Mute {
    mute: AtomicBool,
    probing: AtomicBool,
}

/// The right to ask the store.
pub(super) struct Probe<'a> {
    state: &'a Mute,
    /// Whether this is the one that finds out.
    only: bool,
}

impl Mute {
    /// `None` where the store is mute and somebody asks it already.
    pub(super) fn enter(&self) -> Option<Probe<'_>> {
        let only = self.mute.load(Ordering::Relaxed);
        if only && self.probing.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(Probe { state: self, only })
    }

    /// An answer that came without a probe.
    pub(super) fn answered(&self) {
        self.mute.store(false, Ordering::Relaxed);
    }
}

impl Probe<'_> {
    /// An error is an answer too: it comes at once.
    pub(super) fn answered(self) {
        self.state.answered();
    }

    pub(super) fn gave_no_answer(self) {
        self.state.mute.store(true, Ordering::Relaxed);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if self.only {
            self.state.probing.store(false, Ordering::Relaxed);
        }
    }
}
