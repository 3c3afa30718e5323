//! The search: every state that can be reached, once.
//!
//! Depth first, so that what waits is a path and not a frontier; what is known of a state that was seen is 16 bytes.

use crate::cluster::{Cluster, Step};
use crate::story::Thing;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// States of one search: two such searches at once stay below 4 GB.
const LIMIT: usize = 45_000_000;

/// What a search came to.
#[derive(Default)]
pub struct Found {
    pub states: usize,
    pub transitions: u64,
    pub depth: usize,
    pub things: BTreeMap<Thing, u64>,
    /// The shortest way to a violation that could be made of the one that was met.
    pub path: Option<Vec<Step>>,
    /// Why it is not exhaustive.
    pub broken_off: Option<String>,
}

/// Searches all that may follow `start` until the tick `until`, for so long at most and until somebody says stop.
pub fn search(start: &Cluster, until: u32, at_most: Duration, stop: &AtomicBool) -> Found {
    let begin = Instant::now();
    let mut found = Found::default();
    let mut seen: HashSet<u128, BuildHasherDefault<Whole>> = HashSet::default();
    seen.insert(start.clone().digest());
    let mut first = start.clone();
    let steps = first.steps(until);
    let mut path: Vec<(Cluster, Vec<Step>, Step)> = vec![(first, steps, Step::Freeze)];
    while let Some((cluster, steps, _)) = path.last_mut() {
        let Some(step) = steps.pop() else {
            path.pop();
            continue;
        };
        let mut next = cluster.after(step);
        let is_new = seen.insert(next.digest());
        if is_new && matches!(step, Step::Freeze | Step::Run(_)) {
            next.strangers_move_nothing();
        }
        found.transitions += 1;
        for thing in &next.things {
            *found.things.entry(*thing).or_default() += 1;
        }
        if next.violation.is_some() {
            let steps = path.iter().skip(1).map(|(_, _, step)| *step).chain([step]).collect();
            found.path = Some(shorten(start, until, steps));
            break;
        }
        if !is_new {
            continue;
        }
        let steps = next.steps(until);
        path.push((next, steps, step));
        found.depth = found.depth.max(path.len() - 1);
        if seen.len() >= LIMIT {
            found.broken_off = Some(format!("more than {LIMIT} states"));
            break;
        }
        if found.transitions.is_multiple_of(1 << 10) && (begin.elapsed() > at_most || stop.load(Ordering::Relaxed)) {
            found.broken_off = Some("stopped".to_owned());
            break;
        }
    }
    found.states = seen.len();
    found
}

/// Leaves out what is not needed for the violation.
fn shorten(start: &Cluster, until: u32, mut path: Vec<Step>) -> Vec<Step> {
    loop {
        let without = |at: usize| {
            let mut shorter = path.clone();
            shorter.remove(at);
            replay(start, until, &shorter)
        };
        match (0..path.len()).find_map(without) {
            Some(shorter) => path = shorter,
            None => return path,
        }
    }
}

/// The path up to its violation, if it can be gone and ends in one.
fn replay(start: &Cluster, until: u32, path: &[Step]) -> Option<Vec<Step>> {
    let mut cluster = start.clone();
    for (at, step) in path.iter().enumerate() {
        if !cluster.steps(until).contains(step) {
            return None;
        }
        cluster = cluster.after(*step);
        cluster.strangers_move_nothing();
        if cluster.violation.is_some() {
            return Some(path[..=at].to_vec());
        }
    }
    None
}

/// A digest is a hash already.
#[derive(Default)]
struct Whole(u64);

impl Hasher for Whole {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = u64::try_from(digest >> 64).unwrap_or_default();
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
