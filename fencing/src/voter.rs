//! The voter: gives promises, and says how old they are.
//!
//! One voter stands under one lock, together with the noting of the log: check, promise, ack, answer and note never
//! interleave, and an entry is noted before its append is reported (H9). `now` is read after the message was received.

use crate::clock::Moment;
use crate::message::{Ack, Ask, Known, Message, Renew, Tell};
use hamesh_raft::command::{Command, GateId, NodeId, Sid};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::State;
use std::collections::BTreeMap;

/// What happens to a voter.
#[derive(Clone, Debug, Hash)]
pub enum Event<'a> {
    /// A command is in the log, perhaps not yet on disk.
    Appended(u64, &'a Command),
    /// A membership is in the log: it is in force from now on.
    MembershipAppended(Membership),
    /// The entries from this index on are gone from the log.
    Truncated(u64),
    /// The log is durable on this disk up to this index.
    Flushed(u64),
    /// The state after the entry of this index, with the membership that was applied last.
    Applied(u64, &'a State, &'a Membership),
    /// A member said this.
    Heard(NodeId, &'a Message),
}

/// What a voter orders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say this to whoever was heard.
    Answer(Message),
}

/// A voter's side of every lease.
#[derive(Clone, Debug, Hash)]
pub struct Voter {
    me: NodeId,
    started: Moment,
    voting_since: Option<Moment>,
    memberships: Vec<Membership>,
    sessions: BTreeMap<Sid, Watched>,
    unapplied: BTreeMap<u64, Ending>,
    durable: u64,
}

#[derive(Clone, Debug, Hash)]
struct Watched {
    node: NodeId,
    gate: GateId,
    opened: Moment,
    promised: Option<Moment>,
    acted: u64,
    fenced: Option<u64>,
}

/// An entry that ends sessions once it is applied; until then it stops their acks.
#[derive(Clone, Copy, Debug, Hash)]
enum Ending {
    Of(Sid),
    Superseded { node: NodeId, gate: GateId },
}

impl Ending {
    fn ends(&self, sid: Sid, watched: &Watched) -> bool {
        match self {
            Self::Of(ended) => *ended == sid,
            Self::Superseded { node, gate } => watched.node == *node && watched.gate == *gate,
        }
    }
}

impl Voter {
    /// A voter whose process begins at `started`, knowing nothing: its promises died with its predecessor.
    pub fn new(me: NodeId, started: Moment) -> Self {
        Self {
            me,
            started,
            voting_since: None,
            memberships: Vec::new(),
            sessions: BTreeMap::new(),
            unapplied: BTreeMap::new(),
            durable: 0,
        }
    }

    /// What happens now.
    pub fn handle(&mut self, now: Moment, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Appended(index, command) => self.note(index, command),
            Event::MembershipAppended(membership) => self.memberships.push(membership),
            Event::Truncated(from) => {
                self.unapplied.retain(|index, _| *index < from);
                self.memberships.retain(|membership| membership.index < from);
                self.durable = self.durable.min(from.saturating_sub(1));
            }
            Event::Flushed(index) => self.durable = self.durable.max(index),
            Event::Applied(index, state, membership) => self.apply(now, index, state, membership),
            Event::Heard(from, message) => {
                return self.answer(now, from, message).map(Action::Answer).into_iter().collect();
            }
        }
        Vec::new()
    }

    /// The membership in force by this voter's log.
    pub fn effective(&self) -> Option<&Membership> {
        self.memberships.last()
    }

    /// What this voter knows of a session, now.
    pub fn known(&self, now: Moment, sid: Sid) -> Option<Known> {
        let watched = self.sessions.get(&sid)?;
        let could_promise = self.started.later(self.voting_since?).later(watched.opened);
        let last = watched.promised.map_or(could_promise, |promised| promised.later(could_promise));
        Some(Known {
            silent: now.since(last),
            renewed: watched.promised.map(|promised| now.since(promised)),
            acted: watched.acted,
            bound: watched.fenced.is_some_and(|index| index <= self.durable),
        })
    }

    /// Every session that this voter watches.
    pub fn sessions(&self) -> impl Iterator<Item = Sid> {
        self.sessions.keys().copied()
    }

    fn note(&mut self, index: u64, command: &Command) {
        let ending = match command {
            Command::Fence { sid } | Command::Expire { sid, .. } | Command::Close { sid, .. } => Ending::Of(*sid),
            Command::Open { node, shut: Some(gate), .. } => Ending::Superseded { node: *node, gate: *gate },
            Command::Open { shut: None, .. }
            | Command::Found { .. }
            | Command::Invite { .. }
            | Command::Join { .. }
            | Command::Register { .. }
            | Command::Candidate { .. }
            | Command::Withdraw { .. }
            | Command::Release { .. }
            | Command::Grant { .. }
            | Command::Serve { .. }
            | Command::Pin { .. }
            | Command::Drain { .. }
            | Command::Remove { .. } => return,
        };
        self.unapplied.insert(index, ending);
    }

    fn apply(&mut self, now: Moment, index: u64, state: &State, membership: &Membership) {
        self.sessions.retain(|sid, _| state.sessions.contains_key(sid));
        for (sid, session) in &state.sessions {
            let watched = self.sessions.entry(*sid).or_insert_with(|| Watched {
                node: session.node,
                gate: session.gate,
                opened: now,
                promised: None,
                acted: 0,
                fenced: None,
            });
            watched.fenced = session.fenced;
        }
        self.unapplied.retain(|at, _| *at > index);
        // The one that was applied last, and what the log holds beyond it.
        self.memberships.retain(|appended| appended.index > membership.index);
        self.memberships.insert(0, membership.clone());
        match membership.is_voter(self.me) {
            true => self.voting_since = self.voting_since.or(Some(now)),
            false => self.voting_since = None,
        }
    }

    fn answer(&mut self, now: Moment, from: NodeId, message: &Message) -> Option<Message> {
        match message {
            Message::Renew(renew) => self.promise(now, from, renew).map(Message::Ack),
            Message::Ask(Ask { sid, round }) => {
                self.effective().filter(|membership| membership.is_voter(self.me))?;
                let known = self.known(now, *sid)?;
                Some(Message::Tell(Tell { sid: *sid, round: *round, known }))
            }
            Message::Ack(_) | Message::Tell(_) => None,
        }
    }

    fn promise(&mut self, now: Moment, from: NodeId, renew: &Renew) -> Option<Ack> {
        let membership = self.memberships.last().filter(|membership| membership.is_voter(self.me))?;
        let watched = self.sessions.get_mut(&renew.sid)?;
        let ending = self.unapplied.values().any(|ending| ending.ends(renew.sid, watched));
        if watched.node != from || watched.fenced.is_some() || ending {
            return None;
        }
        watched.promised = Some(now);
        watched.acted = watched.acted.max(renew.acted);
        let membership = Membership { learners: Default::default(), ..membership.clone() };
        Some(Ack { sid: renew.sid, seq: renew.seq, process: renew.process, membership })
    }
}

#[cfg(test)]
mod tests;
