//! kill -9 at any instant: what was acknowledged is there afterwards.

use super::{Deaf, Line, Lines, TIMING, invite};
use crate::command::NodeId;
use crate::entry::{Ballot, What};
use crate::raft::Raft;
use crate::store::Store;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DIR: &str = "HAMESH_RAFT_CRASH_DIR";
const RUNS: u64 = 30;

/// Not a test: the process that is killed. Proposes without end and says what it was told, a line each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as the child of the test below"]
async fn child() {
    let dir = std::env::var(DIR).expect("run by its parent only");
    let store = Store::open(Path::new(&dir)).unwrap();
    println!("\nincarnation {} 0", store.next_incarnation(7).unwrap());
    let (me, first) = (NodeId(1), store.is_blank());
    let line = Arc::new(Line { me, lines: Arc::new(Lines::default()) });
    let raft = Raft::start(me, store, TIMING, line, Arc::new(Deaf)).await.unwrap();
    if first {
        raft.found().await.unwrap();
    }
    let mut standing = raft.standing();
    let term = standing.wait_for(|standing| standing.leading.is_some()).await.unwrap().term;
    println!("term {term} 0");
    let next = Arc::new(AtomicU64::new(term << 32));
    for _ in 0..8 {
        let (raft, next) = (raft.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let index = raft.propose(invite(id)).await.unwrap().index;
                println!("entry {index} {id}");
            }
        });
    }
    // Should the parent be gone: an end.
    tokio::time::sleep(Duration::from_secs(20)).await;
}

/// Runs the child for `life` after its first word and kills it. What it said.
fn run_and_kill(dir: &Path, life: Duration) -> Vec<(String, u64, u64)> {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crash::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = |line: &str| {
        let mut words = line.split(' ');
        let (what, first, second) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((what.to_owned(), first, second))
    };
    let first = lines.by_ref().find_map(|line| said(&line.unwrap())).expect("the child says something");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(life);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    // A line that the kill cut short has no number at its end, or a number that is too small; the last is left out.
    let mut words = vec![first];
    words.extend(lines.map_while(Result::ok).filter_map(|line| said(&line)));
    killer.join().unwrap();
    words.pop();
    words
}

#[test]
fn after_kill_nine_everything_acknowledged_is_there_and_the_vote_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let mut entries = BTreeMap::new();
    let (mut vote, mut incarnation) = (None, 0);
    for run in 0..RUNS {
        let life = Duration::from_micros((u64::from(seed) / (run + 1)) % 900_000);
        let mut terms = 0;
        for (what, first, second) in run_and_kill(dir.path(), life) {
            match what.as_str() {
                "incarnation" => incarnation = first,
                "term" => terms = first,
                "entry" => assert_eq!(entries.insert(first, second), None, "two entries at {first}"),
                other => panic!("the child said {other}"),
            }
        }
        let store = Store::open(dir.path()).unwrap();
        assert!(store.incarnation() >= incarnation, "run {run}: the incarnation went back");
        let kept = store.vote();
        assert!(kept >= vote || vote.is_none(), "run {run}: {kept:?} after {vote:?}");
        assert!(kept.map_or(0, |kept: Ballot| kept.by.term) >= terms, "run {run}: it led in term {terms}");
        vote = kept;
        let begin = store.ends().0.map_or(0, |purged| purged.index + 1);
        let log = store.entries(..);
        for (index, id) in entries.range(begin..) {
            let entry = log.iter().find(|entry| entry.index == *index);
            let wanted = What::Command(Arc::new(invite(*id)));
            assert_eq!(entry.map(|entry| &entry.what), Some(&wanted), "run {run}: entry {index} after {life:?}");
        }
        let snapshot = store.snapshot().and_then(|snapshot| snapshot.last).map_or(0, |last| last.index);
        assert!(begin <= snapshot + 1, "run {run}: the log begins at {begin}, the snapshot ends at {snapshot}");
    }
    println!("{RUNS} kills, {} entries acknowledged, incarnation {incarnation}, vote {vote:?}", entries.len());
    assert!(entries.len() > 100, "only {} entries were acknowledged", entries.len());
}
