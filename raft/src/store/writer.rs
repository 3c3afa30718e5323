//! The one thread that writes, and how things lie in the file.
//!
//! It takes what is queued, puts it into one transaction in that order, makes that durable, and only then reports each
//! write, again in that order. So a vote and the entries around it are never swapped, and many writes share a flush.
//! The first error is final: what a disk holds after a failed flush is unknown, and success must not be reported over it.

use super::{Done, Memory, StoreError};
use crate::codec::{DecodeError, decode, encode};
use crate::entry::{Ballot, Noted, Position, Snapshot};
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tracing::{debug, error};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";
const SNAPSHOT: &str = "snapshot";
const INCARNATION: &str = "incarnation";

/// Writes that share one flush, at most: it bounds how long the first of them waits for the last.
const BATCH: usize = 256;

/// Of a record in the file. Far more than any state needs, far less than the memory of a small machine.
const RECORD_LIMIT: usize = 256 << 20;

pub(super) enum Write {
    Append(Vec<Noted>, Done),
    Truncate(u64, Done),
    Purge(Position, Done),
    Vote(Ballot, Done),
    Committed(Option<Position>),
    Snapshot(Arc<Snapshot>, Done),
    Incarnation(u64, Done),
    Mark(String, Vec<u8>, Done),
    Close(Done),
}

impl Write {
    fn report(self, result: Result<(), StoreError>) {
        match self {
            Self::Append(_, done)
            | Self::Truncate(_, done)
            | Self::Purge(_, done)
            | Self::Vote(_, done)
            | Self::Snapshot(_, done)
            | Self::Incarnation(_, done)
            | Self::Mark(_, _, done)
            | Self::Close(done) => done(result),
            Self::Committed(_) => {}
        }
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    queue: Sender<Write>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(database: Database, path: PathBuf) -> Result<Self, StoreError> {
        let (queue, writes) = channel();
        let file = path.clone();
        let thread = std::thread::Builder::new()
            .name("raft-store".into())
            .spawn(move || work(database, &file, &writes))
            .map_err(|error| StoreError::io(&path, error))?;
        Ok(Self { path, queue, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn queue(&self, write: Write) {
        if let Err(refused) = self.queue.send(write) {
            refused.0.report(Err(self.closed()));
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.path.clone() }
    }

    pub(super) async fn close(&self) {
        let (done, closed) = super::awaited();
        self.queue(Write::Close(done));
        if let Ok(Err(failure)) | Err(failure) = closed.await.map_err(|_| self.closed()) {
            // Who waited for a write was told; a close that comes second has nothing to do.
            debug!("closing the store: {failure}");
        }
        self.join();
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            error!("the thread that writes {} panicked", self.path.display());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue(Write::Close(Box::new(|_| ())));
        self.join();
    }
}

fn work(database: Database, path: &Path, writes: &Receiver<Write>) {
    let mut database = Some(database);
    let mut failed: Option<StoreError> = None;
    // Rides on the next write that needs a flush anyway.
    let mut committed = None;
    while let Ok(first) = writes.recv() {
        let mut batch: Vec<Write> = std::iter::once(first).chain(writes.try_iter().take(BATCH - 1)).collect();
        let close = batch.iter().position(|write| matches!(write, Write::Close(_)));
        let late = close.map(|close| batch.split_off(close + 1)).unwrap_or_default();
        for write in &batch {
            if let Write::Committed(position) = write {
                committed = Some(*position);
            }
        }
        if batch.iter().any(|write| !matches!(write, Write::Committed(_))) {
            let result = match (&failed, &database) {
                (Some(failure), _) => Err(failure.clone()),
                (None, None) => Err(StoreError::Closed { path: path.to_owned() }),
                (None, Some(database)) => commit(database, &batch, &mut committed)
                    .map_err(|error| StoreError::Failed { path: path.to_owned(), reason: error.to_string() }),
            };
            if let (Err(failure), None) = (&result, &failed) {
                error!("{failure}");
                failed = Some(failure.clone());
            }
            if close.is_some() {
                database = None; // before `Close` is reported: the file is free then
            }
            for write in batch {
                write.report(result.clone());
            }
        }
        for write in late {
            write.report(Err(StoreError::Closed { path: path.to_owned() }));
        }
        if close.is_some() {
            return;
        }
    }
}

pub(super) fn commit(
    database: &Database,
    batch: &[Write],
    committed: &mut Option<Option<Position>>,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    // With two phases, a last commit that does not verify is damage, and the next start says so. With one phase redb
    // takes it for a torn write and goes back to the one before: a vote or entries that were acknowledged vanish.
    transaction.set_two_phase_commit(true);
    {
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        let mut marks = transaction.open_table(MARKS)?;
        let mut snapshot = None;
        for write in batch {
            match write {
                Write::Append(entries, _) => {
                    for entry in entries {
                        log.insert(entry.index, encode(entry).as_slice())?;
                    }
                }
                Write::Truncate(from, _) => log.retain_in(*from.., |_, _| false)?,
                Write::Purge(upto, _) => {
                    log.retain_in(..=upto.index, |_, _| false)?;
                    meta.insert(PURGED, encode(upto).as_slice())?;
                }
                Write::Vote(vote, _) => drop(meta.insert(VOTE, encode(vote).as_slice())?),
                Write::Snapshot(kept, _) => snapshot = Some(kept),
                Write::Incarnation(count, _) => drop(meta.insert(INCARNATION, encode(count).as_slice())?),
                Write::Mark(key, value, _) => drop(marks.insert(key.as_str(), encode(value).as_slice())?),
                Write::Committed(_) | Write::Close(_) => {}
            }
        }
        if let Some(snapshot) = snapshot {
            meta.insert(SNAPSHOT, encode(snapshot.as_ref()).as_slice())?;
        }
        if let Some(position) = committed.take() {
            meta.insert(COMMITTED, encode(&position).as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Opens the file, after a check of all its checksums; makes one where there is none.
pub(super) fn open(dir: &Path, path: &Path) -> Result<Database, StoreError> {
    let io = |error| StoreError::io(path, error);
    std::fs::create_dir_all(dir).map_err(|error| StoreError::io(dir, error))?;
    if !path.try_exists().map_err(io)? {
        // Made beside and renamed, so that a file under this name is a whole one: an empty one is damage.
        let draft = path.with_extension("new");
        drop(std::fs::remove_file(&draft)); // of a start that was interrupted here
        let database = Database::create(&draft).map_err(|error| refused(&draft, error))?;
        let made = commit(&database, &[], &mut None);
        made.map_err(|error| StoreError::Failed { path: draft.clone(), reason: error.to_string() })?;
        database.close().map_err(|error| refused(&draft, error))?;
        std::fs::rename(&draft, path).map_err(io)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| StoreError::io(dir, error))?;
    }
    let mut builder = Database::builder();
    builder.set_check_integrity_on_open(true).set_cache_size(8 << 20);
    builder.open(path).map_err(|error| refused(path, error))
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    if matches!(error, DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) {
        return StoreError::InUse { path: path.to_owned() };
    }
    if let DatabaseError::Storage(StorageError::Io(io)) = &error
        && !matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
    {
        return StoreError::Io { path: path.to_owned(), source: Arc::new(std::io::Error::new(io.kind(), error)) };
    }
    StoreError::damaged(path, "file", error)
}

/// Reads everything.
pub(super) fn load(database: &Database, path: &Path) -> Result<Memory, StoreError> {
    let unread = |error: &dyn std::fmt::Display| StoreError::damaged(path, "file", error);
    let transaction = database.begin_read().map_err(|error| unread(&error))?;
    let meta = transaction.open_table(META).map_err(|error| unread(&error))?;
    let get = |key: &str| match meta.get(key) {
        Ok(value) => Ok(value.map(|value| value.value().to_vec())),
        Err(error) => Err(StoreError::damaged(path, key, error)),
    };
    let mut memory = Memory {
        vote: record(path, VOTE, get(VOTE)?)?,
        purged: record(path, PURGED, get(PURGED)?)?,
        committed: record::<Option<Position>>(path, COMMITTED, get(COMMITTED)?)?.flatten(),
        incarnation: record(path, INCARNATION, get(INCARNATION)?)?.unwrap_or(0),
        snapshot: record::<Snapshot>(path, SNAPSHOT, get(SNAPSHOT)?)?.map(Arc::new),
        ..Memory::default()
    };
    let log = transaction.open_table(LOG).map_err(|error| unread(&error))?;
    for item in log.iter().map_err(|error| unread(&error))? {
        let (index, value) = item.map_err(|error| unread(&error))?;
        let key = format!("log/{}", index.value());
        let entry: Noted = decode(value.value(), RECORD_LIMIT).map_err(|e| unreadable(path, &key, e))?;
        if entry.index != index.value() {
            return Err(StoreError::damaged(path, key, format!("it holds entry {}", entry.index)));
        }
        if memory.log.last_key_value().is_some_and(|(last, _)| last + 1 != entry.index) {
            return Err(StoreError::damaged(path, key, "entries are missing before it"));
        }
        memory.log.insert(entry.index, entry);
    }
    let index = |position: Option<Position>| position.map(|position| position.index);
    if index(memory.purged) > index(memory.snapshot.as_ref().and_then(|snapshot| snapshot.last)) {
        return Err(StoreError::damaged(path, SNAPSHOT, "the log begins behind it"));
    }
    if let (Some(purged), Some((first, _))) = (memory.purged, memory.log.first_key_value())
        && *first != purged.index + 1
    {
        return Err(StoreError::damaged(
            path,
            PURGED,
            format!("the log begins at {first}, it ends at {}", purged.index),
        ));
    }
    let marks = transaction.open_table(MARKS).map_err(|error| unread(&error))?;
    for item in marks.iter().map_err(|error| unread(&error))? {
        let (key, value) = item.map_err(|error| unread(&error))?;
        let name = format!("marks/{}", key.value());
        let value: Vec<u8> = decode(value.value(), RECORD_LIMIT).map_err(|e| unreadable(path, &name, e))?;
        memory.marks.insert(key.value().to_owned(), value);
    }
    Ok(memory)
}

fn record<T: DeserializeOwned>(path: &Path, key: &str, bytes: Option<Vec<u8>>) -> Result<Option<T>, StoreError> {
    bytes.map(|bytes| decode(&bytes, RECORD_LIMIT).map_err(|error| unreadable(path, key, error))).transpose()
}

fn unreadable(path: &Path, key: &str, error: DecodeError) -> StoreError {
    match error {
        DecodeError::Version { found } => StoreError::OtherVersion { path: path.to_owned(), found },
        DecodeError::Empty | DecodeError::TooLong { .. } | DecodeError::Malformed(_) => {
            StoreError::damaged(path, key, error)
        }
    }
}
