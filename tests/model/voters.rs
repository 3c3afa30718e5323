//! The three voters and their disks, and the leader's grantor beside each.

use crate::cluster::{Cluster, GROUP, id, membership};
use crate::log::Entry;
use crate::part::Part;
use crate::story::Thing;
use crate::{LEASE, moment};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::{self, Grantor};
use hamesh_fencing::message::{Ask, Message};
use hamesh_fencing::voter::{self, Voter};
use hamesh_raft::command::{Command, NodeId, Sid};
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A voter and its disk. Lengths and indexes of the log count from the cluster's base.
#[derive(Clone, Debug, Hash)]
pub struct Member {
    pub log: Vec<Arc<Entry>>,
    pub flushed: usize,
    pub applied: usize,
    pub voter: Voter,
    /// Up to which entry the state on disk is.
    pub snapshot: usize,
    /// What the leader has asked last.
    pub asked: BTreeMap<Sid, u64>,
}

impl Member {
    /// One whose disk has all up to the base.
    pub fn new(at: usize, base: u64, state: &State) -> Self {
        let voter = started(at, moment(0), base, state);
        Self { log: Vec::new(), flushed: 0, applied: 0, voter, snapshot: 0, asked: BTreeMap::new() }
    }
}

fn started(at: usize, now: Moment, index: u64, state: &State) -> Voter {
    let mut voter = Voter::new(id(at), now);
    voter.handle(now, voter::Event::Applied(index, state, &membership()));
    voter.handle(now, voter::Event::Flushed(index));
    voter
}

impl Cluster {
    pub fn grantor_acts(&mut self, actions: Vec<grantor::Action>) {
        for action in actions {
            match action {
                grantor::Action::Propose(_, command) => self.append_own(command),
                grantor::Action::Ask(_, Ask { sid, round }) => {
                    // The step Fence is whatever a Fence may come of: nobody asks for it here.
                    if self.truth().sessions.get(&sid).is_some_and(|session| session.fenced.is_some()) {
                        for member in &mut self.members {
                            member.asked.insert(sid, round);
                        }
                    }
                }
                // Moves for the LAN's sake and by order are the step Move.
                grantor::Action::Move(..) => {}
            }
        }
    }

    /// Somebody asks the leader to propose this.
    pub fn propose(&mut self, command: Command) {
        if self.leads() {
            let command = self.grantors[self.leader].complete(command);
            self.append_own(command);
        }
    }

    /// The leader applies, looks and answers itself as soon as it can.
    pub fn leader_settles(&mut self) {
        loop {
            let at = self.leader;
            if self.applicable(at) {
                self.apply(at);
            } else if !self.members[at].asked.is_empty() {
                self.answer(at);
            } else {
                return;
            }
        }
    }

    pub fn answer(&mut self, at: usize) {
        let now = moment(self.tick);
        let (leader, leader_id) = (self.leader, id(self.leader));
        if self.members[at].flushed < self.members[at].applied {
            self.things.push(Thing::AskedBeforeTheFlush);
        }
        for (sid, round) in std::mem::take(&mut self.members[at].asked) {
            let ask = Message::Ask(Ask { sid, round });
            for voter::Action::Answer(answer) in
                self.members[at].voter.handle(now, voter::Event::Heard(leader_id, &ask))
            {
                if let Message::Tell(tell) = answer {
                    let actions = self.grantors[leader].handle(now, grantor::Event::Told(id(at), tell));
                    self.grantor_acts(actions);
                }
            }
        }
    }

    pub fn apply(&mut self, at: usize) {
        let place = self.members[at].applied + 1;
        let entry = self.members[at].log[place - 1].clone();
        let mut state = self.states[place - 1].clone();
        if let Some(command) = &entry.command {
            Arc::make_mut(&mut state).apply(self.index(place), entry.by, command);
        }
        match self.states.get(place) {
            None => self.first_applied(state),
            Some(known) if *known == state => {}
            Some(_) => self.violation = Some(format!("S2: w{} has another state after {:?}", at + 1, entry.command)),
        }
        self.applied(at, place);
        if at == self.leader {
            if entry.command.is_none() && entry.by == self.by {
                self.takes_the_lead();
            }
            self.director_applies(1, place);
        }
    }

    fn first_applied(&mut self, state: Arc<State>) {
        let token = |state: &State| state.holder(GROUP).map(|holder| holder.token);
        if token(&state).is_some() && token(&state) < self.newest {
            self.violation = Some(format!("S2: the token goes back to {:?}", token(&state)));
        }
        self.newest = self.newest.max(token(&state));
        Arc::make_mut(&mut self.states).push(state);
    }

    fn applied(&mut self, at: usize, place: usize) {
        let (now, index, state) = (moment(self.tick), self.index(place), self.states[place].clone());
        let member = &mut *self.members[at];
        member.voter.handle(now, voter::Event::Applied(index, &state, &membership()));
        member.applied = place;
        let actions = self.grantors[at].handle(now, grantor::Event::Applied(state, membership()));
        self.grantor_acts(actions);
    }

    pub fn takes_the_lead(&mut self) {
        let now = moment(self.tick);
        let all: BTreeSet<NodeId> = (1..=5).map(NodeId).collect();
        self.grantors[self.leader].handle(now, grantor::Event::Replicating(all));
        let actions = self.grantors[self.leader].handle(now, grantor::Event::Leads(Some(self.by)));
        self.grantor_acts(actions);
    }

    /// A follower that is behind gets the leader's state instead of the log, durable at once.
    pub fn install(&mut self, at: usize) {
        self.faults.installs -= 1;
        let leader = &self.members[self.leader];
        let (place, log) = (leader.applied, leader.log[..leader.applied].to_vec());
        let same = self.members[at].log.get(place - 1).map(|entry| entry.by) == log.last().map(|entry| entry.by);
        if !same && !self.members[at].log.is_empty() {
            self.truncate(at, 0);
        }
        let member = &mut *self.members[at];
        if !same {
            member.log = log;
        }
        member.flushed = member.flushed.max(place);
        member.snapshot = place;
        let index = self.index(place);
        self.applied(at, place);
        self.members[at].voter.handle(moment(self.tick), voter::Event::Flushed(index));
        self.commit();
    }

    /// It has what is on its disk, and no memory.
    pub fn crash(&mut self, at: usize, fresh: bool) {
        self.faults.crashes -= 1;
        let now = moment(self.tick);
        let base = self.base;
        let member = &mut *self.members[at];
        if fresh {
            member.snapshot = member.applied;
        }
        if member.flushed < member.log.len() {
            self.things.push(Thing::TailLost);
        }
        let place = member.snapshot;
        let state = self.states[place].clone();
        member.log.truncate(member.flushed);
        member.voter = started(at, now, base + place as u64, &state);
        for (before, entry) in member.log.iter().enumerate().skip(place) {
            if let Some(command) = &entry.command {
                member.voter.handle(now, voter::Event::Appended(base + before as u64 + 1, command));
            }
        }
        member.voter.handle(now, voter::Event::Flushed(base + member.flushed as u64));
        member.asked.clear();
        member.applied = place;
        self.grantors[at] = Part::new(Grantor::new(now, LEASE));
        self.grantors[at].handle(now, grantor::Event::Applied(state, membership()));
    }
}
