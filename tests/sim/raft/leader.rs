//! The leader's part of Raft: who it is, and what it brings to the others.

use super::{BATCH, Out, Raft, Role, Rpc};
use crate::clocks::Time;
use crate::log::What;
use hamesh_raft::command::{Leadership, NodeId};
use std::collections::{BTreeMap, BTreeSet};

impl Raft {
    /// Who answered this leader since `since`, itself included.
    pub fn replicating(&self, since: Time) -> BTreeSet<NodeId> {
        match &self.role {
            Role::Leader { heard, .. } => {
                let fresh = heard.iter().filter(|(_, at)| **at >= since).map(|(node, _)| *node);
                fresh.chain([self.me]).collect()
            }
            Role::Follower | Role::Candidate(_) => BTreeSet::new(),
        }
    }

    pub(super) fn count(&mut self, t: Time) {
        let effective = self.effective();
        if let Role::Candidate(votes) = &self.role
            && effective.is_quorum(votes)
        {
            let next = effective.members().into_iter().map(|node| (node, self.last().1 + 1)).collect();
            let blank = self.last().1 + 1;
            self.role = Role::Leader { blank, next, matched: BTreeMap::new(), heard: BTreeMap::new() };
            self.leader = Some(self.me);
            self.out.push(Out::Elected);
            self.propose(t, self.vote, What::Blank);
        }
    }

    pub(super) fn matched(&mut self, t: Time, from: NodeId, by: Leadership, index: u64) {
        if by != self.vote {
            return;
        }
        let Role::Leader { next, matched, heard, .. } = &mut self.role else { return };
        heard.insert(from, t);
        let known = matched.entry(from).or_default();
        *known = index.max(*known);
        let next = next.entry(from).or_insert(1);
        *next = (*next).max(index + 1);
        self.advance(t);
    }

    pub(super) fn advance(&mut self, t: Time) {
        let effective = self.effective();
        let Role::Leader { matched, .. } = &self.role else { return };
        let (durable, me) = (self.durable, self.me);
        let reached = |index: u64| -> BTreeSet<NodeId> {
            let others = matched.iter().filter(|(_, at)| **at >= index).map(|(node, _)| *node);
            others.chain((durable >= index).then_some(me)).collect()
        };
        let candidates = (self.commit + 1..=self.last().1).rev();
        let committed = candidates
            .take_while(|index| self.by_at(*index) == Some(self.vote))
            .find(|index| effective.is_quorum(&reached(*index)));
        if let Some(index) = committed {
            self.commit = index;
            self.apply();
            self.replicate(t);
        }
    }

    pub(super) fn replicate(&mut self, t: Time) {
        self.beat_at = t + self.heartbeat;
        for node in self.effective().members() {
            if node != self.me {
                self.send_to(node);
            }
        }
        self.advance_alone();
    }

    /// A cluster of one commits by its own disk.
    fn advance_alone(&mut self) {
        if self.durable > self.commit && self.effective().voters().len() == 1 {
            self.advance(self.beat_at - self.heartbeat);
        }
    }

    pub(super) fn send_to(&mut self, node: NodeId) {
        let Role::Leader { next, .. } = &self.role else { return };
        let first = next.get(&node).copied().unwrap_or(1).min(self.last().1 + 1);
        let by = self.vote;
        if first <= self.base.1 {
            return self.out.push(Out::Send(node, Rpc::Install { by, snapshot: self.snapshot() }));
        }
        let entries = (first..=self.last().1.min(first + BATCH)).map(|index| self.log[self.offset(index)].clone());
        let (entries, prev) = (entries.collect(), (self.by_at(first - 1).unwrap_or_default(), first - 1));
        self.out.push(Out::Send(node, Rpc::Append { by, prev, entries, commit: self.commit }));
    }
}
