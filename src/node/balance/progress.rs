//! Whether the thread goes on, for whoever waits for it: only the kernel can hold it up.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kernel calls that have begun and ended: an odd number while one goes on.
#[derive(Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    /// Does something that the kernel may hold up.
    pub(super) fn ask<T>(&self, call: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::Relaxed);
        let answer = call();
        self.0.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// One of several calls in an [`Self::ask`] has ended.
    pub(super) fn goes_on(&self) {
        self.0.fetch_add(2, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether the kernel has held it up since then.
    pub(super) fn hangs_since(&self, then: u64) -> bool {
        then % 2 == 1 && self.now() == then
    }
}
