//! Which directors watch a target: rendezvous hashing, so that a director that comes or goes moves only its own share.
//!
//! Every director ranks all of them for each target by a hash of both, and the first few watch it (Thaler and Ravishankar,
//! "Using name-based mappings to increase hit rates", 1998). All compute the same from the same list; while their lists
//! differ a target is watched by a few more or fewer.

use crate::observation::TargetId;
use hamesh_raft::command::NodeId;
use std::collections::BTreeSet;

/// The `count` of `directors` that watch `target`; all, when there are not more.
pub fn observers(target: TargetId, directors: &BTreeSet<NodeId>, count: usize) -> BTreeSet<NodeId> {
    let mut ranked: Vec<(u64, NodeId)> = directors.iter().map(|node| (rank(target, *node), *node)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, node)| node).collect()
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): neighbouring node ids come far apart.
fn rank(target: TargetId, node: NodeId) -> u64 {
    let mut x = target.0 ^ node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> BTreeSet<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    fn targets() -> impl Iterator<Item = TargetId> {
        (0..10_000u64).map(|n| TargetId::of(&n.to_string()))
    }

    #[test]
    fn shares_are_even() {
        let mut shares = vec![0; 25];
        for target in targets() {
            let watching = observers(target, &nodes(24), 3);
            assert_eq!(watching.len(), 3);
            watching.iter().for_each(|node| shares[usize::try_from(node.0).unwrap()] += 1);
        }
        // 10,000 x 3 / 24 is 1250.
        assert!(shares[1..].iter().all(|share| (1100..1400).contains(share)), "{shares:?}");
    }

    #[test]
    fn a_director_that_goes_moves_only_its_own_share() {
        let (all, mut fewer) = (nodes(24), nodes(24));
        fewer.remove(&NodeId(7));
        for target in targets() {
            let (before, after) = (observers(target, &all, 3), observers(target, &fewer, 3));
            let stayed = before.iter().filter(|node| after.contains(node)).count();
            assert_eq!(stayed, if before.contains(&NodeId(7)) { 2 } else { 3 });
        }
    }

    #[test]
    fn fewer_directors_than_wanted_all_watch() {
        assert_eq!(observers(TargetId(1), &nodes(2), 3), nodes(2));
    }
}
