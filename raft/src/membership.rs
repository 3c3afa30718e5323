//! Who votes, and what a quorum is, in one or two sets of voters.

use crate::command::{Leadership, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The voters in force from one log entry on. Two halves while the voters change (Raft's joint consensus).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// The leadership that wrote the entry; with `index` it names the membership.
    pub by: Leadership,
    /// The log index of the entry.
    pub index: u64,
    /// One set of voters, or two while they change.
    pub halves: Vec<BTreeSet<NodeId>>,
    /// Members that replicate and do not vote.
    pub learners: BTreeSet<NodeId>,
}

impl Membership {
    /// Every node that votes in either half.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.halves.iter().flatten().copied().collect()
    }

    /// Voters and learners.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters().union(&self.learners).copied().collect()
    }

    /// Whether `node` votes.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.halves.iter().any(|half| half.contains(&node))
    }

    /// Whether `nodes` hold a majority of every half. Nobody is a quorum of no voters.
    pub fn is_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.halves.is_empty() && self.halves.iter().all(|half| half.intersection(nodes).count() * 2 > half.len())
    }

    /// Whether `nodes` meet every majority of each half by itself. While the voters change that is more than
    /// [`Self::meets_every_quorum`]: it also meets the quorums of a change to or from either half, whoever wrote it.
    pub fn meets_every_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.halves.is_empty() && self.halves.iter().all(|half| half.difference(nodes).count() * 2 <= half.len())
    }

    /// Whether `nodes` meet every quorum: the voters outside them cannot form one.
    pub fn meets_every_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let rest: BTreeSet<NodeId> = self.voters().difference(nodes).copied().collect();
        !self.halves.is_empty() && !self.is_quorum(&rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_joint_membership_needs_both_halves() {
        let m = Membership { halves: vec![set(&[1, 2, 3]), set(&[3, 4, 5])], ..Default::default() };
        assert!(m.is_quorum(&set(&[1, 3, 4])));
        assert!(!m.is_quorum(&set(&[1, 2, 3])), "one of the new half is no majority of it");
        assert!(m.meets_every_quorum(&set(&[1, 2])), "no quorum without a majority of the old half");
        assert!(!m.meets_every_quorum(&set(&[1, 4])));
        assert!(!m.meets_every_majority(&set(&[1, 2])), "4 and 5 are a majority of the new half");
        assert!(m.meets_every_majority(&set(&[1, 3, 4])));
    }

    #[test]
    fn no_voters_are_no_quorum() {
        let m = Membership::default();
        assert!(!m.is_quorum(&set(&[])));
        assert!(!m.meets_every_quorum(&set(&[1])));
        assert!(!m.meets_every_majority(&set(&[1])));
    }
}
