//! The Raft log, the vote, the snapshot and this node's own marks, in one file.
//!
//! Everything is read into memory when the file is opened: a snapshot replaces the log every thousand entries, so it
//! stays small, and damage shows at the start and not in the middle of an election. After that the disk is written
//! only, by one thread, in the order in which writes were asked for. What is in memory is therefore
//! ahead of the disk by the writes that have not reported yet.

mod writer;

use crate::entry::{Ballot, Noted, Position, Snapshot};
use crate::state::State;
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::oneshot;
use writer::{Write, Writer};

/// The name of the file in the data directory.
pub const FILE: &str = "raft.redb";

/// Called once, when a write is on disk or will never be.
pub(crate) type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What goes wrong between us and the disk.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// Another hamesh has it open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written. A node must not vote with a memory that it cannot trust.
    #[error(
        "{} is damaged at `{key}`: {reason}. This node must not run on it: move the data directory away and let the \
         machine `hamesh join` anew, as a new node",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record, or `file` for its structure.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is whole, and of another version of hamesh. It is left as it is.
    #[error(
        "{} is of another version of hamesh (layout {found}, this one reads {}): start that version here again. To go on with this one, \
         move the data directory away and let the machine `hamesh join` anew, as a new node",
        path.display(),
        crate::codec::VERSION
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// The version byte.
        found: u8,
    },
    /// A write failed. Nothing that was asked for afterwards is done either, until the next start: what the disk
    /// holds after a failed flush is unknown.
    #[error("{}: a write failed, and none after it is done: {reason}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store was closed.
    #[error("{} is closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

/// What is kept on disk, as it stands in memory.
#[derive(Debug, Default)]
struct Memory {
    log: BTreeMap<u64, Noted>,
    /// The last position that left the log for a snapshot.
    purged: Option<Position>,
    vote: Option<Ballot>,
    committed: Option<Position>,
    snapshot: Option<Arc<Snapshot>>,
    incarnation: u64,
    marks: BTreeMap<String, Vec<u8>>,
}

/// Of an incarnation: what is random in it.
pub const LIFE_BITS: u32 = 16;

/// Whether these are the starts of two copies of one disk: one count, two lives. A count without a life is of an older version.
pub fn are_of_copies(one: u64, other: u64) -> bool {
    one != other && one >> LIFE_BITS == other >> LIFE_BITS && one >> LIFE_BITS > 0
}

/// The store of one node. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    memory: Mutex<Memory>,
    writer: Writer,
}

impl Store {
    /// Opens the store in `dir`, or makes an empty one. Checks every byte of an existing one. Blocks.
    ///
    /// # Errors
    /// When `dir` cannot be used, another process has the store open, or the file is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let database = writer::open(dir, &path)?;
        let memory = writer::load(&database, &path)?;
        let writer = Writer::start(database, path.clone())?;
        Ok(Self { inner: Arc::new(Inner { path, memory: Mutex::new(memory), writer }) })
    }

    /// What [`next_incarnation`](Self::next_incarnation) gave last on this disk; 0 before the first start.
    pub fn incarnation(&self) -> u64 {
        self.memory().incarnation
    }

    /// Counts a start of this node: greater than ever before on this disk, durable when it returns. Blocks for a flush. Its last
    /// [`LIFE_BITS`] are `life`, which the caller draws at random: they tell the starts of two copies of one disk apart.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn next_incarnation(&self, life: u16) -> Result<u64, StoreError> {
        let (next, flushed) = {
            let mut memory = self.memory();
            memory.incarnation = ((memory.incarnation >> LIFE_BITS) + 1) << LIFE_BITS | u64::from(life);
            (memory.incarnation, self.queue_waiting(|done| Write::Incarnation(memory.incarnation, done)))
        };
        self.wait(flushed).map(|()| next)
    }

    /// What was kept under `key` by [`set_mark`](Self::set_mark).
    pub fn mark(&self, key: &str) -> Option<Vec<u8>> {
        self.memory().marks.get(key).cloned()
    }

    /// Keeps `value` under `key`, durable when it returns: for the few words that a node must not forget, as its
    /// cluster and its id. Blocks for a flush.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_mark(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let flushed = {
            let mut memory = self.memory();
            memory.marks.insert(key.to_owned(), value.to_owned());
            self.queue_waiting(|done| Write::Mark(key.to_owned(), value.to_owned(), done))
        };
        self.wait(flushed)
    }

    /// Whether nothing of Raft was ever written here: no vote, no entry, no snapshot.
    pub fn is_blank(&self) -> bool {
        let memory = self.memory();
        memory.vote.is_none() && memory.log.is_empty() && memory.purged.is_none() && memory.snapshot.is_none()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Writes what is queued, closes the file and gives it free for another process.
    pub async fn close(&self) {
        self.inner.writer.close().await;
    }

    /// What this disk knows to be committed: the state of its last snapshot, and the entries after it. For looking at
    /// the disk of a stopped node.
    pub fn history(&self) -> (Arc<State>, Vec<Noted>) {
        let (state, first) = match self.snapshot() {
            Some(snapshot) => (snapshot.state.clone(), snapshot.last.map_or(0, |last| last.index + 1)),
            None => (Arc::default(), 0),
        };
        let entries = self.committed().map_or_else(Vec::new, |committed| self.entries(first..=committed.index));
        (state, entries)
    }

    /// The last position that left the log, and the last one that is in it or left it.
    pub(crate) fn ends(&self) -> (Option<Position>, Option<Position>) {
        let memory = self.memory();
        let last = memory.log.last_key_value().map(|(_, entry)| entry.position());
        (memory.purged, last.or(memory.purged))
    }

    /// The entries that are in the log, of those in `range`.
    pub(crate) fn entries(&self, range: impl RangeBounds<u64>) -> Vec<Noted> {
        let start = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let memory = self.memory();
        let found = memory.log.range(start..).map(|(_, entry)| entry);
        found.take_while(|entry| range.contains(&entry.index)).cloned().collect()
    }

    /// Appends `entries`: readable when this returns, on disk when `done` is called.
    ///
    /// # Errors
    /// When they would leave a hole in the log; `done` is not called then.
    pub(crate) fn append(&self, entries: Vec<Noted>, done: Done) -> Result<(), std::io::Error> {
        let mut memory = self.memory();
        let mut next = memory.log.last_key_value().map(|(index, _)| index + 1);
        for entry in &entries {
            if next.is_some_and(|next| next != entry.index) {
                return Err(std::io::Error::other(format!("entry {} would leave a hole in the log", entry.index)));
            }
            next = Some(entry.index + 1);
        }
        memory.log.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
        self.queue(Write::Append(entries, done));
        Ok(())
    }

    /// Takes the entries from `from` on back.
    pub(crate) fn truncate(&self, from: u64, done: Done) {
        let mut memory = self.memory();
        memory.log.split_off(&from);
        self.queue(Write::Truncate(from, done));
    }

    /// Drops the entries up to `upto`, which a snapshot holds.
    pub(crate) fn purge(&self, upto: Position, done: Done) {
        let mut memory = self.memory();
        memory.log = memory.log.split_off(&(upto.index + 1));
        if memory.purged.is_none_or(|purged| purged.index < upto.index) {
            memory.purged = Some(upto);
        }
        self.queue(Write::Purge(upto, done));
    }

    pub(crate) fn vote(&self) -> Option<Ballot> {
        self.memory().vote
    }

    pub(crate) fn save_vote(&self, vote: Ballot, done: Done) {
        let mut memory = self.memory();
        memory.vote = Some(vote);
        self.queue(Write::Vote(vote, done));
    }

    pub(crate) fn committed(&self) -> Option<Position> {
        self.memory().committed
    }

    /// Notes how far the log is known to be committed. It costs no flush of its own: it rides on the next write, and
    /// if there is none, a restarted node hears it from the leader again.
    pub(crate) fn save_committed(&self, committed: Option<Position>) {
        let mut memory = self.memory();
        memory.committed = committed;
        self.queue(Write::Committed(committed));
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.memory().snapshot.clone()
    }

    /// Keeps `snapshot` in place of the one before. An older one than that is dropped: the log behind it may be gone.
    pub(crate) fn save_snapshot(&self, snapshot: Arc<Snapshot>, done: Done) {
        let mut memory = self.memory();
        let index = |snapshot: &Snapshot| snapshot.last.map(|last| last.index);
        if memory.snapshot.as_ref().is_none_or(|kept| index(kept) <= index(&snapshot)) {
            memory.snapshot = Some(snapshot);
        }
        // Written again when it was dropped: `done` must not overtake the flush of the one that is kept.
        if let Some(kept) = memory.snapshot.clone() {
            self.queue(Write::Snapshot(kept, done));
        }
    }

    /// Queued while the memory is locked: so the disk sees the order that the memory saw.
    fn queue(&self, write: Write) {
        self.inner.writer.queue(write);
    }

    fn queue_waiting(&self, write: impl FnOnce(Done) -> Write) -> std::sync::mpsc::Receiver<Result<(), StoreError>> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        // The receiver lives until `wait` has returned, so a send fails only where nobody cares any more.
        self.queue(write(Box::new(move |result| drop(sender.send(result)))));
        receiver
    }

    fn wait(&self, flushed: std::sync::mpsc::Receiver<Result<(), StoreError>>) -> Result<(), StoreError> {
        flushed.recv().unwrap_or_else(|_| Err(StoreError::Closed { path: self.inner.path.clone() }))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // No code under this lock can panic half-way through a change.
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `Done` for whoever awaits it.
pub(crate) fn awaited() -> (Done, oneshot::Receiver<Result<(), StoreError>>) {
    let (sender, receiver) = oneshot::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

impl StoreError {
    fn damaged(path: &Path, key: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), key: key.into(), reason: reason.to_string() }
    }

    fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(error) }
    }
}

#[cfg(test)]
mod tests;
