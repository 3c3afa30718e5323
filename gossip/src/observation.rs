//! What a director sees of the targets it watches, as facts.
//!
//! A change must not cost the whole: targets are spread over buckets by their id, each bucket is one fact, and only a bucket in
//! which something changed is gossiped again. 1,250 targets a director, of 10,000 shared by 24 with three observers each,
//! make buckets of about 350 bytes. Weights, and why something is down, are facts of their own: most targets have neither, and a
//! build that does not know them reads the rest.

use std::collections::BTreeMap;
use std::fmt;

/// Facts of observations begin with this, before the bucket's number.
const SEEN: &str = "seen/";
/// The same of weights that are not the configured ones.
const WEIGHT: &str = "weight/";
/// The same of why targets are down.
const WHY: &str = "why/";
/// The bits of a target's id that choose its bucket.
const BUCKET_BITS: u32 = 6;
/// The bytes of a reason that are told to others.
const REASON: usize = 100;
/// The bytes of one bucket's reasons: with all its others a fact has to fit into a message of gossip.
const REASONS: usize = 8 * 1024;

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

/// The weight that an answer gives a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// As configured.
    #[default]
    Configured,
    /// This instead.
    Exactly(u32),
    /// So much more, or less.
    More(i64),
}

/// What a director finds that a server is to weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// By what it has answered.
    pub share: Share,
    /// What of that is left, in percent, because it answers slowly.
    pub percent: u8,
}

/// What a director finds of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Whether it is up.
    pub seen: Seen,
    /// What it is to weigh while it is.
    pub weight: Weight,
}

impl Default for Weight {
    /// All that is configured.
    fn default() -> Self {
        Self { share: Share::Configured, percent: 100 }
    }
}

impl From<Seen> for Observation {
    fn from(seen: Seen) -> Self {
        Self { seen, weight: Weight::default() }
    }
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
pub fn encode(observations: &BTreeMap<TargetId, Observation>) -> BTreeMap<String, String> {
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    for (target, Observation { seen, weight }) in observations {
        let fact = facts.entry(bucket(SEEN, *target)).or_default();
        fact.push_str(&target.to_string());
        fact.push(match seen {
            Seen::Up => 'u',
            Seen::Down => 'd',
        });
        if *seen == Seen::Up && *weight != Weight::default() {
            let Weight { share, percent } = weight;
            let fact = facts.entry(bucket(WEIGHT, *target)).or_default();
            fact.push_str(&match share {
                Share::Configured => format!("{target}%{percent};"),
                Share::Exactly(weight) => format!("{target}={weight}%{percent};"),
                Share::More(more) => format!("{target}{more:+}%{percent};"),
            });
        }
    }
    facts
}

/// What another director's facts say. What cannot be read is left out: it is a hint, and perhaps of a later version.
pub fn decode(facts: &BTreeMap<String, String>) -> BTreeMap<TargetId, Observation> {
    let entries = of(SEEN, facts).flat_map(|fact| fact.as_bytes().chunks_exact(17));
    let entry = |entry: &[u8]| {
        let target = target(str::from_utf8(&entry[..16]).ok()?)?;
        let seen = match entry[16] {
            b'u' => Seen::Up,
            b'd' => Seen::Down,
            _ => return None,
        };
        Some((target, seen.into()))
    };
    let mut observations: BTreeMap<TargetId, Observation> = entries.filter_map(entry).collect();
    for (id, weight) in of(WEIGHT, facts).flat_map(|fact| fact.split(';')).filter_map(weight) {
        // The two facts may come one after the other.
        if let Some(observation) = observations.get_mut(&id).filter(|observation| observation.seen == Seen::Up) {
            observation.weight = weight;
        }
    }
    observations
}

/// The facts that say why targets are down. Of more reasons than a fact holds the rest is not said.
pub fn encode_reasons<'a>(reasons: impl Iterator<Item = (TargetId, &'a str)>) -> BTreeMap<String, String> {
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    for (target, reason) in reasons {
        let fact = facts.entry(bucket(WHY, target)).or_default();
        let end = reason.floor_char_boundary(REASON);
        if fact.len() + end < REASONS {
            let line = reason[..end].replace(|c: char| c.is_control(), " ");
            *fact += &format!("{target}{line}\n");
        }
    }
    facts
}

/// Why another director's facts say that targets are down.
pub fn decode_reasons(facts: &BTreeMap<String, String>) -> BTreeMap<TargetId, &str> {
    let lines = of(WHY, facts).flat_map(str::lines);
    lines.filter_map(|line| line.split_at_checked(16)).filter_map(|(id, why)| Some((target(id)?, why))).collect()
}

fn bucket(prefix: &str, target: TargetId) -> String {
    format!("{prefix}{:02x}", target.0 >> (u64::BITS - BUCKET_BITS))
}

/// The buckets of one kind.
fn of<'a>(prefix: &'static str, facts: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a str> {
    let buckets = facts.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix));
    buckets.map(|(_, fact)| fact.as_str())
}

fn target(digits: &str) -> Option<TargetId> {
    u64::from_str_radix(digits, 16).ok().map(TargetId)
}

/// `TARGET[=N|+N|-N]%P`.
fn weight(entry: &str) -> Option<(TargetId, Weight)> {
    let (id, rest) = entry.split_at_checked(16)?;
    let (share, percent) = rest.split_once('%')?;
    let share = match share.as_bytes() {
        [] => Share::Configured,
        [b'=', ..] => Share::Exactly(share[1..].parse().ok()?),
        [b'+' | b'-', ..] => Share::More(share.parse().ok()?),
        _ => return None,
    };
    let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent))?;
    Some((target(id)?, Weight { share, percent }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many() -> BTreeMap<TargetId, Observation> {
        (0..1_250).map(|n| (TargetId::of(&format!("10.0.0.1:{n} tcp")), Seen::Up.into())).collect()
    }

    #[test]
    fn what_is_said_is_heard() {
        let mut seen = many();
        assert!(encode(&seen).keys().all(|key| key.starts_with(SEEN)), "what weighs as configured costs nothing");
        seen.insert(TargetId(0), Seen::Down.into());
        seen.insert(TargetId(u64::MAX), Seen::Down.into());
        let weights = [
            (Share::Exactly(0), 100),
            (Share::Exactly(u32::MAX), 100),
            (Share::More(7), 40),
            (Share::More(0), 100),
            (Share::More(i64::MIN), 1),
            (Share::Configured, 99),
        ];
        for (id, (share, percent)) in (1..).zip(weights) {
            seen.insert(TargetId(id), Observation { seen: Seen::Up, weight: Weight { share, percent } });
        }
        assert_eq!(decode(&encode(&seen)), seen);
        let weighs = Weight { share: Share::Exactly(3), percent: 100 };
        let down = BTreeMap::from([(TargetId(1), Observation { seen: Seen::Down, weight: weighs })]);
        assert_eq!(decode(&encode(&down)), BTreeMap::from([(TargetId(1), Seen::Down.into())]), "it weighs nothing now");
    }

    #[test]
    fn one_change_changes_one_small_fact() {
        let mut seen = many();
        let before = encode(&seen);
        let first = *seen.keys().next().unwrap();
        seen.insert(first, Seen::Down.into());
        let after = encode(&seen);
        let changed: Vec<&String> = after.iter().filter(|(key, fact)| before[*key] != **fact).map(|(_, f)| f).collect();
        assert_eq!(changed.len(), 1);
        assert!(after.len() == 64 && after.values().all(|fact| (100..1_000).contains(&fact.len())), "even buckets");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let facts = [
            ("seen/00", "0000000000000001d000000000000000xu0000000000000002?0000000000000003ushort"),
            ("segment", "zz"),
            (
                "weight/00",
                "0000000000000003=x%100;0000000000000003=1%0;0000000000000003;x;0000000000000009=1%100;;\u{fc}",
            ),
            ("why/00", "short\n0000000000000001no\n\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}"),
        ];
        let facts = facts.map(|(key, fact)| (key.to_owned(), fact.to_owned())).into();
        let said = BTreeMap::from([(TargetId(1), Seen::Down.into()), (TargetId(3), Seen::Up.into())]);
        assert_eq!(decode(&facts), said);
        assert_eq!(decode_reasons(&facts), BTreeMap::from([(TargetId(1), "no")]));
    }

    #[test]
    fn a_reason_is_one_line_and_a_fact_holds_so_many() {
        let long = "\u{fc}".repeat(80);
        let ids = || (0..1_000).map(TargetId);
        let facts = encode_reasons(ids().map(|id| (id, if id.0 == 0 { "a\nb" } else { long.as_str() })));
        let read = decode_reasons(&facts);
        assert_eq!((read[&TargetId(0)], read[&TargetId(1)]), ("a b", "\u{fc}".repeat(50).as_str()));
        assert!(facts["why/00"].len() <= REASONS + REASON && read.len() > 50, "{}", read.len());
    }
}
