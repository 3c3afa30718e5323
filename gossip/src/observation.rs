//! What a director sees of the targets it watches, as facts.
//!
//! A change must not cost the whole: targets are spread over buckets by their id, each bucket is one fact, and only a bucket in
//! which something changed is gossiped again. 1,250 targets a director, of 10,000 shared by 24 with three observers each,
//! make buckets of about 350 bytes.

use std::collections::BTreeMap;
use std::fmt;

/// Facts of observations begin with this, before the bucket's number.
const PREFIX: &str = "seen/";
/// The bits of a target's id that choose its bucket.
const BUCKET_BITS: u32 = 6;

/// What is watched: an address and what is asked there. The same on every node whose configuration asks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u64);

/// What a director sees of a target, after as many answers as its check wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It answers.
    Up,
    /// It does not, or not as it should.
    Down,
}

impl TargetId {
    /// Of a target that is described so: the first 64 bits of the text's FNV-1a hash, which never changes. Two targets of one
    /// id would share their observations; among 10,000 that is as likely as 1 to 370 billion.
    pub fn of(description: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        let hash = description.bytes().fold(0xCBF2_9CE4_8422_2325, step);
        // FNV's first bits hardly differ for texts that differ at their end, and they choose the bucket.
        Self((hash ^ (hash >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9))
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The facts that say this; buckets without a target have none.
pub fn encode(seen: &BTreeMap<TargetId, Seen>) -> BTreeMap<String, String> {
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    for (target, seen) in seen {
        let fact = facts.entry(format!("{PREFIX}{:02x}", target.0 >> (u64::BITS - BUCKET_BITS))).or_default();
        fact.push_str(&target.to_string());
        fact.push(match seen {
            Seen::Up => 'u',
            Seen::Down => 'd',
        });
    }
    facts
}

/// What another director's facts say. What cannot be read is left out: it is a hint, and perhaps of a later version.
pub fn decode(facts: &BTreeMap<String, String>) -> BTreeMap<TargetId, Seen> {
    let buckets = facts.range(PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(PREFIX));
    let entries = buckets.flat_map(|(_, fact)| fact.as_bytes().chunks_exact(17));
    let entry = |entry: &[u8]| {
        let target = u64::from_str_radix(str::from_utf8(&entry[..16]).ok()?, 16).ok()?;
        let seen = match entry[16] {
            b'u' => Seen::Up,
            b'd' => Seen::Down,
            _ => return None,
        };
        Some((TargetId(target), seen))
    };
    entries.filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many() -> BTreeMap<TargetId, Seen> {
        (0..1_250).map(|n| (TargetId::of(&format!("10.0.0.1:{n} tcp")), Seen::Up)).collect()
    }

    #[test]
    fn what_is_said_is_heard() {
        let mut seen = many();
        seen.insert(TargetId(0), Seen::Down);
        seen.insert(TargetId(u64::MAX), Seen::Down);
        assert_eq!(decode(&encode(&seen)), seen);
    }

    #[test]
    fn one_change_changes_one_small_fact() {
        let mut seen = many();
        let before = encode(&seen);
        let first = *seen.keys().next().unwrap();
        seen.insert(first, Seen::Down);
        let after = encode(&seen);
        let changed: Vec<&String> = after.iter().filter(|(key, fact)| before[*key] != **fact).map(|(_, f)| f).collect();
        assert_eq!(changed.len(), 1);
        assert!(after.len() == 64 && after.values().all(|fact| (100..1_000).contains(&fact.len())), "even buckets");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let facts = [("seen/00", "0000000000000001d000000000000000xu0000000000000002?short"), ("segment", "zz")];
        let facts = facts.map(|(key, fact)| (key.to_owned(), fact.to_owned())).into();
        assert_eq!(decode(&facts), BTreeMap::from([(TargetId(1), Seen::Down)]));
    }
}
