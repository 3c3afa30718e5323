mod power;

use super::*;
use crate::command::{Command, Leadership, NodeId, Sid};
use crate::entry::What;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

const TERM: Leadership = Leadership { term: 3, node: NodeId(2) };

fn entry(index: u64) -> Noted {
    Noted { index, by: TERM, what: What::Command(Arc::new(Command::Fence { sid: Sid(index) })) }
}

fn at(index: u64) -> Position {
    Position { by: TERM, index }
}

/// Runs a write to its report.
fn flushed<T>(write: impl FnOnce(Done) -> T) -> Result<(), StoreError> {
    let (sender, receiver) = mpsc::channel();
    write(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

fn filled(dir: &Path) -> Store {
    let store = Store::open(dir).unwrap();
    store.set_mark("cluster", b"c1").unwrap();
    flushed(|done| store.save_vote(Ballot { by: TERM, won: true }, done)).unwrap();
    flushed(|done| store.append((0..40).map(entry).collect(), done)).unwrap();
    store
}

#[test]
fn what_was_reported_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
    assert_eq!(store.next_incarnation(0xabcd).unwrap(), 0x1_abcd);
    flushed(|done| store.truncate(30, done)).unwrap();
    let snapshot = Snapshot { last: Some(at(10)), ..Snapshot::default() };
    flushed(|done| store.save_snapshot(Arc::new(snapshot.clone()), done)).unwrap();
    flushed(|done| store.purge(at(9), done)).unwrap();
    store.save_committed(Some(at(20)));
    drop(store);

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.vote(), Some(Ballot { by: TERM, won: true }));
    assert_eq!(store.ends(), (Some(at(9)), Some(at(29))));
    assert_eq!(store.entries(..), (10..30).map(entry).collect::<Vec<_>>());
    assert_eq!(store.snapshot().as_deref(), Some(&snapshot));
    assert_eq!(store.committed(), Some(at(20)), "it rode on the close");
    assert_eq!(store.mark("cluster").as_deref(), Some(&b"c1"[..]));
    assert_eq!((store.incarnation(), store.next_incarnation(3).unwrap()), (0x1_abcd, 0x2_0003));
    assert!(are_of_copies(0x2_0003, 0x2_0004) && !are_of_copies(0x2_0003, 0x2_0003));
    assert!(!are_of_copies(0x2_0003, 0x3_0003) && !are_of_copies(5, 6), "5 and 6 are counts of an older version");
    assert!(!store.is_blank());
}

#[test]
fn entries_are_readable_before_they_are_on_disk_and_reports_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (sender, reports) = mpsc::channel();
    for index in 0..500 {
        let sender = sender.clone();
        store
            .append(vec![entry(index)], Box::new(move |result| sender.send((index, result.is_ok())).unwrap()))
            .unwrap();
        assert_eq!(store.entries(index..).len(), 1);
    }
    assert_eq!(reports.iter().take(500).collect::<Vec<_>>(), (0..500).map(|index| (index, true)).collect::<Vec<_>>());
}

#[test]
fn a_hole_in_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    assert!(store.append(vec![entry(41)], Box::new(|_| panic!("reported"))).is_err());
    assert!(store.append(vec![entry(40), entry(42)], Box::new(|_| panic!("reported"))).is_err());
    assert_eq!(store.ends().1, Some(at(39)));
}

#[test]
fn an_older_snapshot_does_not_replace_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    for index in [20, 10] {
        let snapshot = Snapshot { last: Some(at(index)), ..Snapshot::default() };
        flushed(|done| store.save_snapshot(Arc::new(snapshot), done)).unwrap();
    }
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.snapshot().unwrap().last, Some(at(20)));
}

#[test]
fn after_close_nothing_is_written_and_the_file_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.close());
    assert!(matches!(store.next_incarnation(0), Err(StoreError::Closed { .. })));
    runtime.block_on(store.close());
    assert_eq!(Store::open(dir.path()).unwrap().ends().1, Some(at(39)));
}

/// A disk whose flushes fail from some moment on.
#[derive(Debug)]
struct Failing {
    inner: redb::backends::InMemoryBackend,
    left: Arc<AtomicUsize>,
}

impl redb::StorageBackend for Failing {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken.map_err(|_| std::io::Error::other("no more flushes"))?;
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.inner.write(offset, data)
    }
}

/// A store on such a disk, and how many flushes are left to it.
fn failing() -> (Store, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let backend = Failing { inner: redb::backends::InMemoryBackend::new(), left: left.clone() };
    let database = redb::Database::builder().create_with_backend(backend).unwrap();
    let path = PathBuf::from("made-up");
    let writer = Writer::start(database, path.clone()).unwrap();
    (Store { inner: Arc::new(Inner { path, memory: Mutex::default(), writer }) }, left)
}

#[test]
fn a_failed_flush_is_final_and_no_later_write_is_reported_as_done() {
    let (store, left) = failing();
    flushed(|done| store.append(vec![entry(0)], done)).unwrap();
    left.store(0, Ordering::SeqCst);
    let failure = flushed(|done| store.append(vec![entry(1)], done)).unwrap_err();
    assert!(matches!(failure, StoreError::Failed { .. }), "{failure}");
    left.store(usize::MAX, Ordering::SeqCst); // the disk is well again: too late
    let vote = Ballot { by: TERM, won: false };
    assert!(matches!(flushed(|done| store.save_vote(vote, done)), Err(StoreError::Failed { .. })));
    assert!(matches!(store.next_incarnation(0), Err(StoreError::Failed { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_ends_the_group_here_and_nothing_is_acknowledged_over_it() {
    let (store, left) = failing();
    let raft = crate::tests::alone(store).await;
    raft.propose(crate::tests::invite(1)).await.unwrap();
    left.store(0, Ordering::SeqCst);
    let refused = raft.propose(crate::tests::invite(2)).await;
    assert!(matches!(refused, Err(crate::ProposeError::Stopped(_))), "{refused:?}");
    left.store(usize::MAX, Ordering::SeqCst);
    let mut standing = raft.standing();
    let ended = standing.wait_for(|standing| standing.fatal.is_some()).await.unwrap().clone();
    assert!(ended.fatal.as_ref().is_some_and(|fatal| fatal.contains("a write failed")), "{ended:?}");
    assert!(raft.propose(crate::tests::invite(3)).await.is_err());
}

fn raw(dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(dir.join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn a_record_that_cannot_be_read_is_named_with_file_and_key_and_what_to_do() {
    let log = redb::TableDefinition::<u64, &[u8]>::new("log");
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    type Change = Box<dyn FnOnce(&redb::WriteTransaction)>;
    let cases: [(&str, &str, Change); 4] = [
        (
            "vote",
            "malformed",
            Box::new(move |t| {
                t.open_table(meta).unwrap().insert("vote", &[crate::codec::VERSION, 0][..]).unwrap();
            }),
        ),
        (
            "log/7",
            "malformed",
            Box::new(move |t| {
                t.open_table(log).unwrap().insert(7, &[crate::codec::VERSION, 7, 3, 2, 200][..]).unwrap();
            }),
        ),
        (
            "log/8",
            "entries are missing",
            Box::new(move |t| {
                t.open_table(log).unwrap().remove(7).unwrap();
            }),
        ),
        (
            "snapshot",
            "the log begins behind it",
            Box::new(move |t| {
                let purged = crate::codec::encode(&at(3));
                t.open_table(meta).unwrap().insert("purged", purged.as_slice()).unwrap();
            }),
        ),
    ];
    for (key, reason, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        raw(dir.path(), change);
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { key: found, .. } if found == key), "{key}: {error}");
        let text = error.to_string();
        for part in ["raft.redb", reason, "hamesh join"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}

#[test]
fn the_file_of_another_version_is_refused_in_words_and_left_as_it_is() {
    let log = redb::TableDefinition::<u64, &[u8]>::new("log");
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    for vote in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        raw(dir.path(), |t| {
            if vote {
                t.open_table(meta).unwrap().insert("vote", &[9u8, 0][..]).unwrap();
            } else {
                t.open_table(log).unwrap().insert(39, &[9u8, 1, 2, 3][..]).unwrap();
            }
        });
        for _ in 0..2 {
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, StoreError::OtherVersion { found: 9, .. }), "{error}");
            let text = error.to_string();
            for part in ["raft.redb", "layout 9", "start that version here again"] {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
        }
    }
}

#[test]
fn a_file_cut_short_at_any_length_is_damage_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let whole = std::fs::read(dir.path().join(FILE)).unwrap();
    let step = whole.len() / 40;
    for length in (0..whole.len()).step_by(step).chain([1, 63, 64, 320, whole.len() - 1]) {
        std::fs::write(dir.path().join(FILE), &whole[..length]).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "cut to {length}: {error}");
    }
}

/// Copies of a file with one byte turned over, at every place that is in use: each must open with the very same
/// contents or not at all.
#[test]
fn a_flipped_byte_never_changes_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let store = filled(dir.path());
    // As a killed process leaves it: the file while it is open. And as a closed one does.
    let killed = std::fs::read(&path).unwrap();
    drop(store);
    let closed = std::fs::read(&path).unwrap();
    let (mut refused, mut same) = (0, 0);
    for whole in [killed, closed] {
        // redb's header with its two commit slots, every bit of its flags, and a sample of the pages.
        let used: Vec<usize> = (512..whole.len()).filter(|&place| whole[place] != 0).collect();
        let pages = used.iter().step_by(used.len().div_ceil(300)).map(|&place| (place, 0x41));
        // All but the one bit that says which slot counts: to turn it is to put an older disk back, which after a
        // crash within a commit is legitimate and cannot be told from damage.
        let flags = (1..8).map(|bit| (9, 1 << bit));
        let header = (0..320).filter(|&place| place != 9).map(|place| (place, 0x41));
        for (place, mask) in header.chain(flags).chain(pages) {
            let mut flipped = whole.clone();
            flipped[place] ^= mask;
            std::fs::write(&path, &flipped).unwrap();
            match Store::open(dir.path()) {
                Ok(store) => {
                    same += 1;
                    assert_eq!(store.vote(), Some(Ballot { by: TERM, won: true }), "byte {place} by {mask:#x}");
                    assert_eq!(store.entries(..), (0..40).map(entry).collect::<Vec<_>>(), "byte {place} by {mask:#x}");
                }
                Err(StoreError::Damaged { .. }) => refused += 1,
                Err(other) => panic!("byte {place} by {mask:#x}: {other}"),
            }
        }
    }
    // The rest are pages that no longer belong to anything.
    assert!(refused > 150, "only {refused} flips were noticed, {same} were harmless");
}
