//! Tokens and holders, asked of every node all the time.

use anyhow::Result;
use hamesh::lab::cluster::{Asker, Cluster};
use hamesh::lab::status::Status;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(100);

/// More of them say no more.
const TOLD: usize = 10;

#[derive(Default)]
pub struct Findings {
    pub samples: u64,
    pub violations: Vec<String>,
}

#[derive(Default)]
struct Book {
    findings: Findings,
    session_of: HashMap<u64, u64>,
    /// Largest token that a node said it acts with, and when that answer was in hand.
    acted: Option<(u64, Instant)>,
    /// The smaller token a node's last answer acted with. Just woken from SIGSTOP it may say once what was true
    /// before; twice is a claim.
    suspect: HashMap<String, u64>,
    /// Largest token each node has named since it last was out of reach: one that starts again replays its log.
    named: HashMap<String, u64>,
}

pub struct Sampler {
    book: Arc<Mutex<Book>>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sampler {
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let book = Arc::new(Mutex::new(Book::default()));
        let ends = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for node in 0..cluster.size() {
            let (asker, book, ends) = (cluster.asker(node), Arc::clone(&book), Arc::clone(&ends));
            threads
                .push(thread::Builder::new().name("sampler".to_owned()).spawn(move || sample(&asker, &book, &ends))?);
        }
        Ok(Self { book, ends, threads })
    }

    pub fn finish(self) -> Findings {
        self.ends.store(true, Ordering::Relaxed);
        let panicked = self.threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut findings = std::mem::take(&mut book.findings);
        if panicked > 0 {
            findings.violations.push(format!("{panicked} samplers panicked"));
        }
        if findings.samples == 0 {
            findings.violations.push("no node ever named a token".to_owned());
        }
        findings
    }
}

fn sample(asker: &Asker, book: &Mutex<Book>, ends: &AtomicBool) {
    let mut next = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let status = asker.status();
        let mut open = book.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Ok(status) => open.note(asker.name(), &status, asked),
            Err(_) => drop(open.named.remove(asker.name())),
        }
        drop(open);
        next = (next + PERIOD).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

impl Book {
    fn note(&mut self, node: &str, status: &Status, asked: Instant) {
        let Some(vip) = status.vip() else { return };
        let (Some(token), Some(session)) = (vip.token, vip.session) else { return };
        self.findings.samples += 1;
        let first = *self.session_of.entry(token).or_insert(session);
        if first != session {
            self.violation(format!("token {token} is of session {first} and, says {node}, of {session}"));
        }
        let named = self.named.entry(node.to_owned()).or_insert(token);
        let before = *named;
        *named = before.max(token);
        if token < before {
            self.violation(format!("{node} named token {token} after {before}"));
        }
        if vip.state == "MASTER" && vip.holder.as_deref() == Some(node) {
            match self.acted {
                Some((largest, at)) if token < largest && asked > at => {
                    if self.suspect.insert(node.to_owned(), token) == Some(token) {
                        self.violation(format!("{node} acts with token {token} after {largest} was acted with"));
                    }
                    return;
                }
                Some((largest, _)) if token <= largest => {}
                Some(_) | None => self.acted = Some((token, Instant::now())),
            }
        }
        self.suspect.remove(node);
    }

    fn violation(&mut self, what: String) {
        if self.findings.violations.len() < TOLD {
            self.findings.violations.push(what);
        }
    }
}
