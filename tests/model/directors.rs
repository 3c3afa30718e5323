//! The two directors: their minds, and the hands and gates that these order, without failure and at once.

use crate::cluster::{Cluster, GROUP, Way, id, membership};
use crate::story::Thing;
use crate::{LEASE, TICK, VOTERS, moment};
use hamesh_fencing::clock::{LATENESS, Moment, promise_for};
use hamesh_fencing::holder::{self, Action, Holder, Identity, Terms};
use hamesh_fencing::message::{Message, Renew};
use hamesh_fencing::record::MayAct;
use hamesh_fencing::voter;
use hamesh_raft::command::{Command, Definition, Family, GateId, NodeId, Token};
use hamesh_raft::state::Candidate;
use std::net::Ipv4Addr;

/// A director's process and machine.
#[derive(Clone, Debug, Hash)]
pub struct Director {
    pub holder: Holder,
    pub process: u64,
    incarnation: u64,
    /// What lies in /run.
    record: Option<MayAct>,
    /// Up to where its node has applied.
    pub applied: usize,
    /// The gate: until when it is armed, and what it holds open.
    pub armed: Option<Moment>,
    pub open: Option<Token>,
    /// The number of its latest transmission.
    pub sent: u64,
    /// What is on its way to the leader, or lost.
    pub proposed: Vec<Command>,
}

impl Director {
    pub fn new(at: usize) -> Self {
        let mut director = Self {
            holder: Holder::new(identity(at, 1, at as u64 + 1), terms()),
            process: at as u64 + 1,
            incarnation: 1,
            record: None,
            applied: 0,
            armed: None,
            open: None,
            sent: 0,
            proposed: Vec::new(),
        };
        director.want(at, moment(0));
        director
    }

    fn want(&mut self, at: usize, now: Moment) {
        let addresses = vec![Ipv4Addr::new(203, 0, 113, 1).into()];
        let definition = Definition { family: Family::V4, vrid: 1, addresses };
        let priority = if at == 0 { 200 } else { 100 };
        let candidate = Candidate { definition, priority, preempt: false };
        // It has nothing to order yet: no session, or one whose promises are older than this process.
        self.holder.handle(now, holder::Event::Want(GROUP.to_owned(), candidate));
    }
}

fn identity(at: usize, incarnation: u64, process: u64) -> Identity {
    Identity { node: NodeId(at as u64 + 1), incarnation, process, gate: gate(at) }
}

fn gate(at: usize) -> GateId {
    GateId(at as u128 + 1)
}

/// By the daemon's own rule. Clocks are exact here, so Lg comes to three ticks, one more than L: the gate may be late for all
/// of the tick between.
fn terms() -> Terms {
    Terms { ttl: LEASE, promise: promise_for(LEASE, LATENESS), renew: TICK }
}

impl Cluster {
    /// Whether the gate is open, and be it because it is late: a deadline is over when the tick of the deadline is.
    pub fn is_open(&self, at: usize) -> bool {
        let Director { armed, open, .. } = &*self.directors[at];
        open.is_some()
            && armed.is_some_and(|deadline| deadline == moment(self.tick) || !moment(self.tick).reached(deadline))
    }

    /// The first director runs. What it sends.
    pub fn run(&mut self) -> Vec<Renew> {
        let Director { applied, incarnation, .. } = *self.directors[0];
        let state = self.states[applied].clone();
        if let Some(member) = state.members.get(&NodeId(1)).filter(|m| m.incarnation != incarnation) {
            let (rack, address) = (member.rack.clone(), member.address);
            self.on_its_way(Command::Register { node: NodeId(1), incarnation, rack, address });
        }
        self.holder_acts(0, holder::Event::Tick)
    }

    pub fn exchange(&mut self, director: usize, renews: &[Renew], ways: [Way; VOTERS]) {
        let node = NodeId(director as u64 + 1);
        for renew in renews {
            for (voter, way) in ways.into_iter().enumerate() {
                let renewal = Message::Renew(renew.clone());
                match way {
                    Way::Lost => {}
                    Way::Done => self.arrive(director, voter, &renewal),
                    Way::RenewLate => {
                        self.faults.late -= 1;
                        self.late.insert((voter, renew.seq, false), (self.tick, renewal));
                    }
                    Way::AckLate => {
                        self.faults.late -= 1;
                        let event = voter::Event::Heard(node, &renewal);
                        for voter::Action::Answer(ack) in self.members[voter].voter.handle(moment(self.tick), event) {
                            self.late.insert((voter, renew.seq, true), (self.tick, ack));
                        }
                    }
                }
            }
        }
    }

    /// A Renew at a voter, answered at once, or an Ack at the holder.
    pub fn arrive(&mut self, director: usize, voter: usize, message: &Message) {
        let node = NodeId(director as u64 + 1);
        let acks = match message {
            Message::Renew(_) => {
                let answers = self.members[voter].voter.handle(moment(self.tick), voter::Event::Heard(node, message));
                answers.into_iter().map(|voter::Action::Answer(answer)| answer).collect()
            }
            Message::Ack(_) | Message::Ask(_) | Message::Tell(_) => vec![message.clone()],
        };
        for message in acks {
            if let Message::Ack(ack) = message {
                self.holder_acts(director, holder::Event::Heard(id(voter), ack));
            }
        }
    }

    /// Tells a holder and performs what it orders. What it sends comes back, and is lost unless the caller carries it.
    pub fn holder_acts(&mut self, at: usize, event: holder::Event) -> Vec<Renew> {
        let now = moment(self.tick);
        let mut events = vec![event];
        let mut renews = Vec::new();
        while let Some(event) = events.pop() {
            for action in self.directors[at].holder.handle(now, event) {
                let director = &mut self.directors[at];
                match action {
                    Action::Send(_, renew) => {
                        director.sent = renew.seq;
                        renews.push(renew);
                    }
                    Action::Arm(deadline) => director.armed = Some(deadline),
                    Action::Claim(group, token, _) => {
                        director.open = Some(token);
                        events.push(holder::Event::Claimed(group, token));
                    }
                    Action::Unclaim(group, token) => {
                        director.open = None;
                        events.push(holder::Event::Unclaimed(group, token));
                    }
                    Action::Shut => {
                        (director.armed, director.open) = (None, None);
                        events.push(holder::Event::Shut);
                    }
                    Action::Record(record) => director.record = record,
                    Action::Propose(command) if at == 0 => self.on_its_way(command),
                    Action::Propose(command) => self.propose(command),
                    Action::Stopped => {}
                }
            }
        }
        renews
    }

    fn on_its_way(&mut self, command: Command) {
        let proposed = &mut self.directors[0].proposed;
        if !proposed.contains(&command) {
            proposed.push(command);
        }
    }

    pub fn learn(&mut self) {
        self.faults.learns -= 1;
        let place = self.directors[0].applied + 1;
        self.director_applies(0, place);
    }

    /// A director never goes back; a new process begins anew.
    pub fn director_applies(&mut self, at: usize, place: usize) {
        if place >= self.directors[at].applied {
            let state = self.states[place].clone();
            self.directors[at].applied = place;
            self.holder_acts(at, holder::Event::Applied(self.index(place), state, membership()));
        }
    }

    /// kill -9, and a new process that resumes what the record says, or begins behind a shut gate.
    pub fn kill(&mut self) {
        self.faults.kills -= 1;
        let now = moment(self.tick);
        let director = &mut *self.directors[0];
        (director.process, director.incarnation) = (director.process + 10, director.incarnation + 1);
        let me = identity(0, director.incarnation, director.process);
        director.holder = match director.record.clone().filter(|record| record.gate == gate(0)) {
            Some(record) => {
                self.things.push(Thing::Resumed);
                Holder::resume(now, me, TICK, record)
            }
            None => {
                (director.armed, director.open) = (None, None);
                Holder::new(me, terms())
            }
        };
        director.want(0, now);
        // Its own log is replayed from the snapshot.
        director.applied = 0;
        self.director_applies(0, 0);
    }

    /// The leader asks the first director to hand over to the other.
    pub fn hand_over(&mut self) {
        self.faults.moves -= 1;
        let sessions = &self.truth().sessions;
        let to = sessions.iter().find(|(_, session)| session.node == NodeId(2)).map(|(sid, _)| *sid);
        if let (Some(to), Some(token)) = (to, self.directors[0].open) {
            self.holder_acts(0, holder::Event::Move(GROUP.to_owned(), token, to));
        }
    }
}
