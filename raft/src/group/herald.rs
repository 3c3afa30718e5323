//! Tells the observer and the watchers what happens to the log and the state, in one order.

use crate::entry::{Noted, What};
use crate::membership::Membership;
use crate::raft::{Observer, View};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Every call of the observer is made under one lock: it hears one story, though the log, the disk and the state
/// machine each run in their own thread.
pub(crate) struct Herald {
    observer: Arc<dyn Observer>,
    views: watch::Sender<View>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// How often the log was cut. A flush that was asked for before a cut says nothing of the log after it.
    cuts: u64,
    /// The memberships in the log behind the applied one, in order.
    ahead: Vec<Membership>,
    view: View,
}

/// The state of the log at the time of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cuts(u64);

impl Herald {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, views: watch::Sender::new(View::default()), told: Mutex::default() }
    }

    pub(crate) fn views(&self) -> watch::Receiver<View> {
        self.views.subscribe()
    }

    pub(crate) fn appended(&self, entries: &[Noted]) -> Cuts {
        let mut told = self.told();
        let memberships = entries.iter().filter_map(|entry| match &entry.what {
            What::Membership(membership) => Some(membership.clone()),
            What::Blank | What::Command(_) => None,
        });
        told.ahead.extend(memberships);
        if !entries.is_empty() {
            self.observer.appended(entries);
        }
        self.show_effective(&mut told);
        Cuts(told.cuts)
    }

    pub(crate) fn truncated(&self, from: u64) -> Cuts {
        let mut told = self.told();
        told.cuts += 1;
        told.ahead.retain(|membership| membership.index < from);
        self.observer.truncated(from);
        self.show_effective(&mut told);
        Cuts(told.cuts)
    }

    /// The log as it was at `cuts` is on disk up to `index`. Silent if it was cut since: what now stands at `index`
    /// may be another entry, that is not on disk.
    pub(crate) fn flushed(&self, cuts: Cuts, index: u64) {
        let told = self.told();
        if told.cuts == cuts.0 {
            self.observer.flushed(index);
        }
    }

    /// A snapshot is on disk in place of the log up to `index`: that stays true whatever is cut behind it.
    pub(crate) fn installed(&self, index: u64) {
        let _told = self.told();
        self.observer.flushed(index);
    }

    pub(crate) fn applied(&self, applied: View) {
        let mut told = self.told();
        told.ahead.retain(|membership| membership.index > applied.membership.index);
        told.view = applied;
        told.view.effective = told.ahead.last().unwrap_or(&told.view.membership).clone();
        self.observer.applied(&told.view);
        self.views.send_replace(told.view.clone());
    }

    fn show_effective(&self, told: &mut Told) {
        let effective = told.ahead.last().unwrap_or(&told.view.membership);
        if told.view.effective != *effective {
            told.view.effective = effective.clone();
            self.views.send_replace(told.view.clone());
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // A panic of the observer must not silence it for good.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Herald {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Herald").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Leadership, NodeId};

    #[derive(Default)]
    struct Flushes(Mutex<Vec<u64>>);

    impl Observer for Flushes {
        fn appended(&self, _: &[Noted]) {}
        fn truncated(&self, _: u64) {}
        fn flushed(&self, index: u64) {
            self.0.lock().unwrap().push(index);
        }
        fn applied(&self, _: &View) {}
    }

    fn blank(index: u64) -> Noted {
        Noted { index, by: Leadership { term: 1, node: NodeId(1) }, what: What::Blank }
    }

    #[test]
    fn a_flush_of_entries_that_were_cut_meanwhile_is_not_told_of_those_in_their_place() {
        let flushes = Arc::new(Flushes::default());
        let herald = Herald::new(flushes.clone());
        let before = herald.appended(&[blank(5), blank(6)]);
        let cut = herald.truncated(6);
        let after = herald.appended(&[blank(6)]);
        herald.flushed(before, 6); // of the old 6
        assert_eq!(*flushes.0.lock().unwrap(), []);
        herald.flushed(cut, 5);
        herald.flushed(after, 6);
        assert_eq!(*flushes.0.lock().unwrap(), [5, 6]);
    }

    #[test]
    fn the_effective_membership_goes_back_with_the_log() {
        let herald = Herald::new(Arc::new(Flushes::default()));
        let views = herald.views();
        let voters = |index, node| Membership { index, halves: vec![[NodeId(node)].into()], ..Membership::default() };
        let applied = View { applied: 1, membership: voters(1, 1), ..View::default() };
        herald.applied(applied.clone());
        for index in [2, 3] {
            herald.appended(&[Noted { what: What::Membership(voters(index, index)), ..blank(index) }]);
            assert_eq!(views.borrow().effective, voters(index, index));
        }
        herald.truncated(3);
        assert_eq!(views.borrow().effective, voters(2, 2));
        herald.truncated(2);
        assert_eq!(views.borrow().effective, applied.membership);
    }
}
