//! The state machine: the state in memory, its snapshots in the store.

use super::log::durable;
use super::{Group, Herald, Reply, log_id, membership, noted, position, stored};
use crate::command::Outcome;
use crate::entry::{Noted, Position, Snapshot, What};
use crate::raft::View;
use crate::state::State;
use crate::store::{Store, awaited};
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::Arc;

/// Applies what is committed.
#[derive(Debug)]
pub(crate) struct Machine {
    store: Store,
    herald: Arc<Herald>,
    now: Snapshot,
}

/// Keeps one state of the machine as its snapshot.
#[derive(Debug)]
pub(crate) struct Builder {
    store: Store,
    snapshot: Snapshot,
}

impl Machine {
    /// Where the last run left off: the last snapshot, and what was known to be committed behind it. Tells the
    /// observer all that a running node would have told it: the rest of the log, that it is on disk, and the state.
    pub(crate) fn restore(store: Store, herald: Arc<Herald>) -> Self {
        let now = store.snapshot().map(|snapshot| snapshot.as_ref().clone()).unwrap_or_default();
        let mut machine = Self { store, herald, now };
        if let Some(committed) = machine.store.committed() {
            for entry in machine.store.entries(machine.next()..=committed.index) {
                machine.apply_one(&entry);
            }
        }
        let rest = machine.store.entries(machine.next()..);
        let last = rest.last().map(Noted::position).or(machine.now.last);
        let cuts = machine.herald.appended(&rest);
        if let Some(last) = last {
            machine.herald.flushed(cuts, last.index);
        }
        machine.tell();
        machine
    }

    fn next(&self) -> u64 {
        self.now.last.map_or(0, |last| last.index + 1)
    }

    fn apply_one(&mut self, entry: &Noted) -> Outcome {
        self.now.last = Some(entry.position());
        match &entry.what {
            What::Blank => Outcome::Done,
            What::Command(command) => Arc::make_mut(&mut self.now.state).apply(entry.index, entry.by, command),
            What::Membership(membership) => {
                self.now.membership = membership.clone();
                Outcome::Done
            }
        }
    }

    fn tell(&self) {
        self.herald.applied(View {
            state: self.now.state.clone(),
            applied: self.now.last.map_or(0, |last| last.index),
            membership: self.now.membership.clone(),
            effective: Default::default(), // the herald knows the log
        });
    }
}

impl RaftStateMachine<Group> for Machine {
    type SnapshotData = Arc<State>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<Group>>, StoredMembershipOf<Group>), io::Error> {
        Ok((self.now.last.map(log_id), stored(&self.now.membership)))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Group>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_one(&noted(entry));
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        // Who proposed something finds it in the view when the answer comes.
        self.tell();
        for (responder, outcome) in answers {
            responder.send(Reply(outcome));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), snapshot: self.now.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Group>, state: Arc<State>) -> Result<(), io::Error> {
        let last = meta.last_log_id.as_ref().map(position);
        let snapshot = Snapshot { last, membership: membership(&meta.last_membership), state };
        let (done, flushed) = awaited();
        self.store.save_snapshot(Arc::new(snapshot.clone()), done);
        durable(flushed).await?;
        self.now = snapshot;
        tracing::info!(upto = ?last.map(|last| last.index), "the leader's snapshot is taken up in place of the log");
        if let Some(last) = last {
            self.herald.installed(last.index);
        }
        self.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Group, Arc<State>>>, io::Error> {
        Ok(self.store.snapshot().map(|snapshot| to_openraft(&snapshot)))
    }
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = Arc<State>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Group, Arc<State>>, io::Error> {
        let (done, flushed) = awaited();
        self.store.save_snapshot(Arc::new(self.snapshot.clone()), done);
        durable(flushed).await?;
        Ok(to_openraft(&self.snapshot))
    }
}

fn to_openraft(snapshot: &Snapshot) -> SnapshotOf<Group, Arc<State>> {
    let last_log_id = snapshot.last.map(|last: Position| log_id(last));
    let meta = SnapshotMetaOf::<Group> { last_log_id, last_membership: stored(&snapshot.membership) };
    SnapshotOf::<Group, _> { meta, snapshot: snapshot.state.clone() }
}
