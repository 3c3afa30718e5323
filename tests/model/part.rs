//! What states share: most steps change one part of a cluster, and only that one is copied and digested again.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A part of a state, shared with other states until it changes.
#[derive(Clone, Debug)]
pub struct Part<T> {
    it: Arc<T>,
    /// None since the last change.
    digest: Option<u128>,
}

impl<T: Hash> Part<T> {
    pub fn new(it: T) -> Self {
        Self { it: Arc::new(it), digest: None }
    }

    pub fn digest(&mut self) -> u128 {
        *self.digest.get_or_insert_with(|| digest(&*self.it))
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.it
    }
}

impl<T: Clone> DerefMut for Part<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.digest = None;
        Arc::make_mut(&mut self.it)
    }
}

/// 128 bits of everything in it: among a hundred million states two share one with a chance of 1 in 10^22.
pub fn digest(it: &impl Hash) -> u128 {
    let mut lanes = Lanes::default();
    it.hash(&mut lanes);
    let mix = |lane: u64| (lane ^ lane >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    u128::from(mix(lanes.0)) << 64 | u128::from(mix(lanes.1))
}

/// Two lanes of 64 bits; the standard hasher has one, and takes most of the time of a search.
#[derive(Default)]
struct Lanes(u64, u64);

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            self.write_u64(word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 =
            (self.1 ^ word.wrapping_mul(0xd6e8_feb8_6659_fd93)).rotate_left(29).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
