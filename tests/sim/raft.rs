//! A small faithful Raft: what matters to leases is in it (order, truncation, unflushed application, snapshots, joint
//! membership, two leaders in one term), and no leader lease or pre-vote hides a mistake.

mod leader;

use crate::clocks::Time;
use crate::log::{Disk, Entry, Snapshot, What, membership_of};
use hamesh_raft::command::{Command, Leadership, NodeId, Outcome, Sid};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const SNAPSHOT_EVERY: u64 = 25;
const BATCH: u64 = 20;

/// What Raft nodes say to each other.
#[derive(Clone, Debug)]
pub enum Rpc {
    Ballot { by: Leadership, last: (Leadership, u64) },
    Voted(Leadership),
    Refused(Leadership),
    Append { by: Leadership, prev: (Leadership, u64), entries: Vec<Arc<Entry>>, commit: u64 },
    Matched { by: Leadership, index: u64 },
    Mismatch { by: Leadership, last: u64 },
    Install { by: Leadership, snapshot: Snapshot },
}

/// What a Raft node brings about, in order; the log's observers are told by it as by the real store.
#[derive(Debug)]
pub enum Out {
    Send(NodeId, Rpc),
    Appended(u64, Arc<Entry>),
    Truncated(u64),
    Flushed(u64),
    /// Another session's time is over.
    Expired(Sid, NodeId),
    Applied,
    Compacted,
    Installed,
    Elected,
}

#[derive(Debug)]
enum Role {
    Follower,
    Candidate(BTreeSet<NodeId>),
    Leader { blank: u64, next: BTreeMap<NodeId, u64>, matched: BTreeMap<NodeId, u64>, heard: BTreeMap<NodeId, Time> },
}

/// One node of the group, in memory.
#[derive(Debug)]
pub struct Raft {
    me: NodeId,
    role: Role,
    vote: Leadership,
    /// The entry before the first of `log`.
    base: (Leadership, u64),
    log: Vec<Arc<Entry>>,
    durable: u64,
    /// Up to where the log is known to be the present leader's.
    verified: u64,
    commit: u64,
    pub applied: u64,
    pub state: Arc<State>,
    pub membership: Arc<Membership>,
    /// The membership in force: the last in the log.
    effective: Arc<Membership>,
    pub leader: Option<NodeId>,
    pub election_at: Time,
    /// Between two heartbeats of this node as a leader.
    heartbeat: Duration,
    beat_at: Time,
    out: Vec<Out>,
}

impl Raft {
    /// Starts from what the disk has; announces it like the real store.
    pub fn start(me: NodeId, disk: &Disk, heartbeat: Duration, election_at: Time) -> Self {
        let Snapshot { index, by, state, membership } = disk.snapshot.clone();
        let mut raft = Self {
            me,
            role: Role::Follower,
            vote: disk.vote,
            base: (by, index),
            log: disk.log.clone(),
            durable: 0,
            verified: 0,
            commit: index,
            applied: index,
            state,
            effective: Arc::new(membership.clone()),
            membership: Arc::new(membership),
            leader: None,
            election_at,
            heartbeat,
            beat_at: Time::ZERO,
            out: vec![Out::Applied],
        };
        raft.durable = raft.last().1;
        raft.find_effective();
        for (at, entry) in (index + 1..).zip(&raft.log) {
            raft.out.push(Out::Appended(at, entry.clone()));
        }
        raft.out.push(Out::Flushed(raft.durable));
        raft
    }

    pub fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    pub fn last(&self) -> (Leadership, u64) {
        let index = self.base.1 + self.log.len() as u64;
        (self.log.last().map_or(self.base.0, |entry| entry.by), index)
    }

    pub fn vote(&self) -> Leadership {
        self.vote
    }

    /// For the story.
    pub fn summary(&self) -> String {
        let role = match self.role {
            Role::Follower => "follower",
            Role::Candidate(_) => "candidate",
            Role::Leader { .. } => "leader",
        };
        let Self { vote, base, durable, verified, commit, applied, leader, .. } = self;
        let (last, effective) = (self.last(), self.effective());
        format!(
            "{role} of {leader:?} vote {vote:?} base {base:?} durable {durable} verified {verified} commit {commit} \
             applied {applied} last {last:?} voters {:?} by {}; {:?}",
            effective.halves, effective.index, self.state.groups
        )
    }

    /// The state applied last, as a snapshot.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            index: self.applied,
            by: self.by_at(self.applied).unwrap_or_default(),
            state: self.state.clone(),
            membership: Membership::clone(&self.membership),
        }
    }

    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    pub fn is_flushed(&self) -> bool {
        self.applied <= self.durable
    }

    /// This leadership, once its own blank entry is applied.
    pub fn leading(&self) -> Option<Leadership> {
        match self.role {
            Role::Leader { blank, .. } if self.applied >= blank => Some(self.vote),
            Role::Leader { .. } | Role::Follower | Role::Candidate(_) => None,
        }
    }

    /// The membership in force: the last in the log.
    pub fn effective(&self) -> Arc<Membership> {
        self.effective.clone()
    }

    fn find_effective(&mut self) {
        let found = (self.base.1 + 1..=self.last().1).rev().zip(self.log.iter().rev());
        let found = found.into_iter().find_map(|(index, entry)| membership_of(index, entry));
        self.effective = found.map_or_else(|| self.membership.clone(), Arc::new);
    }

    /// Appends under the leadership `under`; false when that is over.
    pub fn propose(&mut self, t: Time, under: Leadership, what: What) -> bool {
        if !self.is_leader() || self.vote != under {
            return false;
        }
        self.append(Arc::new(Entry { by: under, what }));
        self.replicate(t);
        true
    }

    /// When [`Self::tick`] does something.
    pub fn next(&self) -> Time {
        match self.role {
            Role::Leader { .. } => self.beat_at,
            Role::Follower | Role::Candidate(_) => self.election_at,
        }
    }

    pub fn tick(&mut self, t: Time, timeout: Duration) {
        match self.role {
            Role::Leader { .. } if t >= self.beat_at => {
                self.replicate(t);
                let effective = self.effective();
                if effective.index <= self.applied && effective.halves.len() == 2 {
                    let new = effective.halves[1].clone();
                    let learners = effective.members().difference(&new).copied().collect();
                    self.propose(t, self.vote, What::Membership(vec![new], learners));
                } else if effective.index <= self.applied && !effective.is_voter(self.me) {
                    self.role = Role::Follower;
                }
            }
            Role::Follower | Role::Candidate(_) if t >= self.election_at => {
                self.election_at = t + timeout;
                let effective = self.effective();
                // One that is voted out may still be needed, until that is committed.
                if effective.is_voter(self.me) || self.membership.is_voter(self.me) {
                    self.vote = Leadership { term: self.vote.term + 1, node: self.me };
                    self.role = Role::Candidate(BTreeSet::from([self.me]));
                    self.leader = None;
                    let (by, last) = (self.vote, self.last());
                    for node in effective.voters().into_iter().filter(|node| *node != self.me) {
                        self.out.push(Out::Send(node, Rpc::Ballot { by, last }));
                    }
                    self.count(t);
                }
            }
            Role::Leader { .. } | Role::Follower | Role::Candidate(_) => {}
        }
    }

    pub fn heard(&mut self, t: Time, from: NodeId, rpc: Rpc, timeout: Duration) {
        match rpc {
            Rpc::Ballot { by, last } => {
                if by > self.vote && last >= self.last() {
                    self.follow(by, None, t + timeout);
                    self.out.push(Out::Send(from, Rpc::Voted(by)));
                } else if by < self.vote {
                    self.out.push(Out::Send(from, Rpc::Refused(self.vote)));
                } else if !self.is_leader() {
                    // The term, not the vote: or one with a better log might stay behind for ever.
                    self.vote = self.vote.max(Leadership { term: by.term, node: NodeId(0) });
                    self.role = Role::Follower;
                }
            }
            Rpc::Voted(by) => {
                if by == self.vote
                    && let Role::Candidate(votes) = &mut self.role
                {
                    votes.insert(from);
                    self.count(t);
                }
            }
            Rpc::Refused(vote) => {
                if vote > self.vote {
                    // Only the term is taken over: that node's vote is not ours.
                    self.follow(Leadership { term: vote.term, node: NodeId(0) }.max(self.vote), None, self.election_at);
                }
            }
            Rpc::Append { by, prev, entries, commit } => self.accept(t, from, by, prev, entries, commit, timeout),
            Rpc::Install { by, snapshot } => {
                if by < self.vote {
                    return self.out.push(Out::Send(from, Rpc::Refused(self.vote)));
                }
                self.follow(by, Some(from), t + timeout);
                self.install(snapshot);
                self.confirm();
            }
            Rpc::Matched { by, index } => self.matched(t, from, by, index),
            Rpc::Mismatch { by, last } => {
                if by == self.vote
                    && let Role::Leader { next, heard, .. } = &mut self.role
                {
                    heard.insert(from, t);
                    next.insert(from, last + 1);
                    self.send_to(from);
                }
            }
        }
    }

    /// Everything up to `index` is on disk.
    pub fn flushed(&mut self, t: Time, index: u64) {
        self.durable = self.durable.max(index);
        self.out.push(Out::Flushed(index));
        if self.is_leader() { self.advance(t) } else { self.confirm() }
    }

    /// What the disk has once everything up to the durable index is written.
    pub fn on_disk(&self, disk: &mut Disk) {
        disk.vote = self.vote;
        let keep = self.durable.saturating_sub(self.base.1);
        disk.log = self.log.iter().take(usize::try_from(keep).unwrap_or(usize::MAX)).cloned().collect();
    }

    pub fn has_unflushed(&self) -> bool {
        self.durable < self.last().1
    }

    /// Replaces the applied part of the log by a snapshot that is durable at once.
    pub fn compact(&mut self, disk: &mut Disk) {
        if self.applied < self.base.1 + SNAPSHOT_EVERY {
            return;
        }
        let snapshot = self.snapshot();
        let by = snapshot.by;
        self.log.drain(..self.offset(self.applied + 1));
        self.base = (by, self.applied);
        disk.snapshot = snapshot;
        self.out.push(Out::Compacted);
        if self.durable < self.applied {
            self.durable = self.applied;
            self.out.push(Out::Flushed(self.applied));
        }
    }

    fn follow(&mut self, vote: Leadership, leader: Option<NodeId>, election_at: Time) {
        if vote != self.vote {
            self.verified = 0;
        }
        (self.vote, self.leader, self.role, self.election_at) = (vote, leader, Role::Follower, election_at);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message, and the two times of its receipt")]
    fn accept(
        &mut self,
        t: Time,
        from: NodeId,
        by: Leadership,
        prev: (Leadership, u64),
        entries: Vec<Arc<Entry>>,
        commit: u64,
        timeout: Duration,
    ) {
        if by < self.vote {
            return self.out.push(Out::Send(from, Rpc::Refused(self.vote)));
        }
        self.follow(by, Some(from), t + timeout);
        if prev.1 > self.base.1 && self.by_at(prev.1) != Some(prev.0) {
            let last = self.last().1.min(prev.1 - 1);
            return self.out.push(Out::Send(from, Rpc::Mismatch { by, last }));
        }
        let end = prev.1 + entries.len() as u64;
        for (index, entry) in (prev.1 + 1..).zip(entries) {
            if index <= self.base.1 || self.by_at(index) == Some(entry.by) {
                continue;
            }
            if index <= self.last().1 {
                self.truncate(index);
            }
            self.append(entry);
        }
        self.verified = self.verified.max(end);
        self.commit = self.commit.max(commit.min(self.verified));
        self.apply();
        self.confirm();
    }

    fn append(&mut self, entry: Arc<Entry>) {
        self.log.push(entry.clone());
        if let Some(membership) = membership_of(self.last().1, &entry) {
            self.effective = Arc::new(membership);
        }
        self.out.push(Out::Appended(self.last().1, entry));
    }

    fn truncate(&mut self, from: u64) {
        assert!(from > self.commit, "a committed entry is truncated: the model of Raft is wrong");
        self.log.truncate(self.offset(from));
        self.durable = self.durable.min(from - 1);
        self.find_effective();
        self.out.push(Out::Truncated(from));
    }

    fn install(&mut self, snapshot: Snapshot) {
        if snapshot.index <= self.commit {
            return;
        }
        if self.by_at(snapshot.index) == Some(snapshot.by) {
            self.log.drain(..self.offset(snapshot.index + 1));
        } else {
            if !self.log.is_empty() {
                self.out.push(Out::Truncated(self.base.1 + 1));
            }
            self.log.clear();
            self.durable = snapshot.index;
        }
        self.durable = self.durable.max(snapshot.index);
        self.base = (snapshot.by, snapshot.index);
        (self.commit, self.applied, self.verified) = (snapshot.index, snapshot.index, snapshot.index);
        (self.state, self.membership) = (snapshot.state, Arc::new(snapshot.membership));
        self.find_effective();
        self.out.extend([Out::Installed, Out::Applied, Out::Flushed(snapshot.index)]);
    }

    /// Tells the leader what is both its own and on this disk.
    fn confirm(&mut self) {
        if let (Some(leader), Role::Follower) = (self.leader, &self.role) {
            let index = self.verified.min(self.durable);
            self.out.push(Out::Send(leader, Rpc::Matched { by: self.vote, index }));
        }
    }

    fn apply(&mut self) {
        if self.applied >= self.commit {
            return;
        }
        while self.applied < self.commit {
            let index = self.applied + 1;
            let entry = self.log[self.offset(index)].clone();
            if let What::Command(command) = &entry.what {
                let mut expires = None;
                if let Command::Expire { sid, .. } = command {
                    expires = self.state.sessions.get(sid).map(|session| Out::Expired(*sid, session.node));
                }
                let outcome = Arc::make_mut(&mut self.state).apply(index, entry.by, command);
                self.out.extend(expires.filter(|_| outcome == Outcome::Done));
            }
            if let Some(membership) = membership_of(index, &entry) {
                self.membership = Arc::new(membership);
            }
            self.applied = index;
        }
        self.out.push(Out::Applied);
    }

    fn offset(&self, index: u64) -> usize {
        usize::try_from(index - self.base.1 - 1).unwrap_or(usize::MAX)
    }

    fn by_at(&self, index: u64) -> Option<Leadership> {
        match index.checked_sub(self.base.1)? {
            0 => Some(self.base.0),
            _ => self.log.get(self.offset(index)).map(|entry| entry.by),
        }
    }
}
