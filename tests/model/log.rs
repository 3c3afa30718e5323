//! The log: Raft as far as a lease can tell, one leader at a time.
//!
//! What an older leader goes on to propose is of no account: what it proposes before a majority has the next one's first entry
//! may as well come before the election, and what comes later is never committed.

use crate::cluster::{Cluster, id};
use crate::part::Part;
use crate::story::Thing;
use crate::voters::Member;
use crate::{VOTERS, moment};
use hamesh_fencing::{grantor, voter};
use hamesh_raft::command::{Command, Leadership};
use std::sync::Arc;

/// An entry of the log; a leader's first is blank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub by: Leadership,
    pub command: Option<Command>,
}

impl Cluster {
    /// The real index of a place in the log.
    pub fn index(&self, place: usize) -> u64 {
        self.base + place as u64
    }

    /// Whether the leader's own first entry is applied.
    pub fn leads(&self) -> bool {
        let leader = &self.members[self.leader];
        leader.log[..leader.applied].last().map_or(self.by.term == 1, |entry| entry.by == self.by)
    }

    pub fn append_own(&mut self, command: Command) {
        let leader = &self.members[self.leader];
        let entry = Arc::new(Entry { by: self.by, command: Some(command) });
        // The same again, before the first has had its effect, would only make the log longer.
        if !leader.log[leader.applied..].contains(&entry) {
            self.push(self.leader, entry);
        }
    }

    fn push(&mut self, at: usize, entry: Arc<Entry>) {
        let index = self.index(self.members[at].log.len() + 1);
        let member = &mut self.members[at];
        if let Some(command) = &entry.command {
            member.voter.handle(moment(self.tick), voter::Event::Appended(index, command));
        }
        member.log.push(entry);
        // Only the loss of power tells what is on a disk from what is not.
        if self.faults.crashes == 0 {
            self.flush(at);
        }
    }

    /// Where a voter's log leaves the leader's, if it does or is shorter.
    pub fn next_of(&self, at: usize) -> Option<usize> {
        let (leads, follows) = (&self.members[self.leader].log, &self.members[at].log);
        let same = leads.iter().zip(follows).take_while(|(a, b)| a.by == b.by).count();
        (same < leads.len()).then_some(same)
    }

    pub fn append(&mut self, at: usize) {
        let Some(same) = self.next_of(at) else { return };
        let entry = self.members[self.leader].log[same].clone();
        if self.members[at].log.len() > same {
            self.truncate(at, same);
        }
        self.push(at, entry);
    }

    pub fn truncate(&mut self, at: usize, same: usize) {
        let from = self.index(same + 1);
        let member = &mut self.members[at];
        member.log.truncate(same);
        member.flushed = member.flushed.min(same);
        member.voter.handle(moment(self.tick), voter::Event::Truncated(from));
        self.things.push(Thing::Truncated);
    }

    pub fn flush(&mut self, at: usize) {
        let index = self.index(self.members[at].log.len());
        let member = &mut self.members[at];
        member.flushed = member.log.len();
        member.voter.handle(moment(self.tick), voter::Event::Flushed(index));
        self.commit();
    }

    /// What a majority has on disk, of the leader's own.
    pub fn commit(&mut self) {
        let log = &self.members[self.leader].log;
        let has = |place: usize| {
            let has = |m: &&Part<Member>| m.flushed >= place && m.log[place - 1].by == log[place - 1].by;
            self.members.iter().filter(has).count()
        };
        let mut places = (self.committed + 1..=log.len()).rev();
        let committed = places.find(|place| log[place - 1].by == self.by && has(*place) * 2 > VOTERS);
        self.committed = committed.unwrap_or(self.committed);
    }

    pub fn applicable(&self, at: usize) -> bool {
        let next = self.members[at].applied;
        let by = |member: &Member| member.log.get(next).map(|entry| entry.by);
        next < self.committed && by(&self.members[at]) == by(&self.members[self.leader])
    }

    /// Whether a majority has no better log.
    pub fn may_win(&self, at: usize) -> bool {
        let last = |member: &Member| (member.log.last().map(|entry| entry.by), member.log.len());
        let mine = last(&self.members[at]);
        self.members.iter().filter(|member| last(member) <= mine).count() * 2 > VOTERS
    }

    pub fn elect(&mut self, at: usize) {
        self.faults.elections -= 1;
        self.grantors[self.leader].handle(moment(self.tick), grantor::Event::Leads(None));
        (self.leader, self.by) = (at, Leadership { term: self.by.term + 1, node: id(at) });
        for member in &mut self.members {
            member.asked.clear();
        }
        self.push(at, Arc::new(Entry { by: self.by, command: None }));
    }
}
