//! The store, as the log that openraft wants.

use super::{Group, Herald, ballot, entry, log_id, noted, position, vote};
use crate::store::{Store, StoreError, awaited};
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Reads and writes the log and the vote.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    store: Store,
    herald: Arc<Herald>,
}

impl LogStore {
    pub(crate) fn new(store: Store, herald: Arc<Herald>) -> Self {
        Self { store, herald }
    }
}

impl RaftLogReader<Group> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Group>>, io::Error> {
        Ok(self.store.entries(range).into_iter().map(entry).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Group>>, io::Error> {
        Ok(self.store.vote().map(vote))
    }
}

impl RaftLogStorage<Group> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Group>, io::Error> {
        let (purged, last) = self.store.ends();
        Ok(LogState { last_purged_log_id: purged.map(log_id), last_log_id: last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Group>) -> Result<(), io::Error> {
        let (done, flushed) = awaited();
        self.store.save_vote(ballot(vote), done);
        durable(flushed).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Group>>) -> Result<(), io::Error> {
        self.store.save_committed(committed.as_ref().map(position));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Group>>, io::Error> {
        Ok(self.store.committed().map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Group>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(noted).collect();
        let Some(last) = entries.last().map(|entry| entry.index) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        // First the observer, then the log: once it can be read, replication or a commit may act on it.
        let cuts = self.herald.appended(&entries);
        let herald = self.herald.clone();
        let done = move |result: Result<(), StoreError>| {
            if result.is_ok() {
                herald.flushed(cuts, last);
            }
            callback.io_completed(result.map_err(io::Error::other));
        };
        self.store.append(entries, Box::new(done))
    }

    async fn truncate_after(&mut self, kept: Option<LogIdOf<Group>>) -> Result<(), io::Error> {
        let from = kept.map_or(0, |kept| kept.index + 1);
        let cuts = self.herald.truncated(from);
        let (done, flushed) = awaited();
        self.store.truncate(from, done);
        durable(flushed).await?;
        if let Some(last) = from.checked_sub(1) {
            self.herald.flushed(cuts, last);
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogIdOf<Group>) -> Result<(), io::Error> {
        let (done, flushed) = awaited();
        self.store.purge(position(&upto), done);
        durable(flushed).await
    }
}

/// Waits for a write.
pub(super) async fn durable(flushed: oneshot::Receiver<Result<(), StoreError>>) -> Result<(), io::Error> {
    match flushed.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the thread that writes the log is gone")),
    }
}
