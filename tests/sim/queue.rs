//! What is due, in order, and how often what was. Both are in the hottest place of all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Things by when they are due, and among those of one moment in the order in which they came.
pub struct Queue<T> {
    /// The time in nanoseconds; a count, and the place of the thing, which is too large to be moved about.
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    things: Vec<Option<T>>,
    free: Vec<u64>,
    seq: u64,
}

/// Of the second word of a key: the place. The rest is the count.
const PLACE: u32 = 20;

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), things: Vec::new(), free: Vec::new(), seq: 0 }
    }

    pub fn push(&mut self, at: u64, thing: T) {
        let place = self.free.pop().unwrap_or(self.things.len() as u64);
        assert!(place < 1 << PLACE, "a schedule has no million things due at once");
        let index = usize::try_from(place).unwrap_or(usize::MAX);
        if index == self.things.len() {
            self.things.push(Some(thing));
        } else {
            self.things[index] = Some(thing);
        }
        self.seq += 1;
        self.heap.push(Reverse((at, self.seq << PLACE | place)));
    }

    /// The next thing that is due by `end`: its time, its count and it.
    pub fn pop(&mut self, end: u64) -> Option<(u64, u64, T)> {
        if self.heap.peek().is_none_or(|Reverse((at, _))| *at > end) {
            return None;
        }
        let Reverse((at, key)) = self.heap.pop()?;
        Some((at, key >> PLACE, self.take(key)?))
    }

    /// Forgets what `stays` says no to.
    pub fn retain(&mut self, stays: impl Fn(u64, &T) -> bool) {
        let mut heap = std::mem::take(&mut self.heap).into_vec();
        heap.retain(|Reverse((at, key))| {
            let keeps = self.things[index(*key)].as_ref().is_some_and(|thing| stays(*at, thing));
            if !keeps {
                self.take(*key);
            }
            keeps
        });
        self.heap = heap.into();
    }

    fn take(&mut self, key: u64) -> Option<T> {
        self.free.push(key & ((1 << PLACE) - 1));
        self.things[index(key)].take()
    }
}

fn index(key: u64) -> usize {
    usize::try_from(key & ((1 << PLACE) - 1)).unwrap_or(usize::MAX)
}

/// How often each thing happened, found by the address of its name: what was counted last comes first.
#[derive(Default)]
pub struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    pub fn add(&mut self, what: &'static str) {
        match self.0.iter().position(|(known, _)| std::ptr::eq(*known, what)) {
            Some(place) => {
                self.0[place].1 += 1;
                self.0.swap(place, place.saturating_sub(1));
            }
            None => self.0.push((what, 1)),
        }
    }

    /// All of them; one name may come more than once.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }
}
