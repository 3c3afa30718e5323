//! Power loss: of what was not flushed, any part may be on the disk and any part not.

use super::*;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const SECTOR: usize = 512;
const LOSSES: u64 = 150;
/// How long a flush takes, so that a loss comes within one.
const FLUSH: Duration = Duration::from_micros(300);

enum Op {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Op {
    fn run(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                image.resize(image.len().max(at + data.len()), 0);
                image[*at..at + data.len()].copy_from_slice(data);
            }
            Self::Length(length) => image.resize(*length, 0),
        }
    }
}

/// What a file is to a process, and what of it is on the platter.
#[derive(Default)]
struct Disk {
    seen: Vec<u8>,
    flushed: Vec<u8>,
    since: Vec<Op>,
}

#[derive(Clone, Default)]
struct Lossy(Arc<Mutex<Disk>>);

impl std::fmt::Debug for Lossy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lossy")
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Lossy {
    fn op(&self, op: Op) {
        let mut disk = self.0.lock().unwrap();
        op.run(&mut disk.seen);
        disk.since.push(op);
    }

    /// What is found after the power is back: of every unflushed sector, the old or the new.
    fn after_loss(&self, mut random: impl FnMut() -> u64) -> Vec<u8> {
        let disk = self.0.lock().unwrap();
        let mut image = disk.flushed.clone();
        for op in &disk.since {
            match op {
                Op::Write(at, data) => {
                    for (i, sector) in data.chunks(SECTOR).enumerate().filter(|_| random().is_multiple_of(2)) {
                        Op::Write(at + i * SECTOR, sector.to_vec()).run(&mut image);
                    }
                }
                Op::Length(_) if random().is_multiple_of(2) => op.run(&mut image),
                Op::Length(_) => {}
            }
        }
        image
    }
}

impl StorageBackend for Lossy {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        out.copy_from_slice(&self.0.lock().unwrap().seen[place(offset)..place(offset) + out.len()]);
        Ok(())
    }
    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.op(Op::Length(place(length)));
        Ok(())
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        std::thread::sleep(FLUSH);
        let mut disk = self.0.lock().unwrap();
        disk.flushed = disk.seen.clone();
        disk.since.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.op(Op::Write(place(offset), data.to_vec()));
        Ok(())
    }
}

fn store_on(disk: Lossy) -> Store {
    let path = PathBuf::from("made-up");
    let database = redb::Database::builder()
        .set_check_integrity_on_open(true)
        .create_with_backend(disk)
        .expect("opens after the loss");
    let memory = Mutex::new(writer::load(&database, &path).expect("is whole after the loss"));
    Store { inner: Arc::new(Inner { path: path.clone(), memory, writer: Writer::start(database, path).unwrap() }) }
}

#[test]
fn after_a_power_loss_every_reported_write_is_there() {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut disk = Lossy::default();
    let database = redb::Database::builder().create_with_backend(disk.clone()).unwrap();
    writer::commit(&database, &[], &mut None).unwrap();
    drop(database);
    let (mut next, mut torn) = (0, 0);
    for loss in 0..LOSSES {
        let store = store_on(disk.clone());
        let (logged, voted) = (Arc::new(AtomicU64::new(next)), Arc::new(AtomicU64::new(0)));
        let mut terms = store.vote().map_or(0, |vote| vote.by.term);
        voted.store(terms, Ordering::SeqCst);
        for _ in 0..random() % 20 {
            std::thread::sleep(Duration::from_micros(random() % 500));
            let entries: Vec<Noted> = (next..=next + random() % 5).map(entry).collect();
            next += entries.len() as u64;
            let (logged, end) = (logged.clone(), next);
            store
                .append(entries, Box::new(move |done| logged.store(done.map(|()| end).unwrap(), Ordering::SeqCst)))
                .unwrap();
            if random().is_multiple_of(4) {
                terms += 1;
                let (voted, term) = (voted.clone(), terms);
                let vote = Ballot { by: Leadership { term, node: NodeId(1) }, won: false };
                store
                    .save_vote(vote, Box::new(move |done| voted.store(done.map(|()| term).unwrap(), Ordering::SeqCst)));
            }
        }
        // First what was reported, then the loss: in between only more is flushed.
        let (logged, voted) = (logged.load(Ordering::SeqCst), voted.load(Ordering::SeqCst));
        torn += u64::from(!disk.0.lock().unwrap().since.is_empty());
        let image = disk.after_loss(&mut random);
        drop(store);
        disk = Lossy::default();
        disk.op(Op::Write(0, image));
        disk.sync_data().unwrap();

        let store = store_on(disk.clone());
        let kept = store.entries(..);
        let len = kept.len() as u64;
        assert!(len >= logged, "loss {loss}: {logged} entries were reported, {len} are there");
        assert_eq!(kept, (0..len).map(entry).collect::<Vec<_>>());
        let term = store.vote().map_or(0, |vote| vote.by.term);
        assert!(term >= voted, "loss {loss}: a vote in term {voted} was reported, {term} is there");
        next = len;
    }
    println!("{LOSSES} losses, {torn} of them within a write, {next} entries");
    assert!(torn > LOSSES / 4, "only {torn} of {LOSSES} losses came within a write");
}
