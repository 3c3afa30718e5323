//! The holder: one director's side of its leases.
//!
//! A session's deadline is `t0 + L` of a Renew that a quorum acked, with `t0` read before it was sent. Before the deadline
//! the holder may act for a group while its applied state says so, the pair is in its may-act record, and the token was
//! never put into a Release. A session dies with its deadline (V1): the gate is shut, everything is unclaimed, and the
//! next `Open` supersedes it.

mod claims;
mod promises;

use crate::clock::Moment;
use crate::message::{Ack, Renew};
use crate::record::MayAct;
use claims::Claims;
use hamesh_raft::command::{Command, Definition, GateId, GroupName, NodeId, Sid, Token};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::{Candidate, State};
use promises::Promises;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a proposal may stay without effect before it is made again.
const PATIENCE: Duration = Duration::from_millis(250);

/// The times of a session, from its profile and the gate it really has (H2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// L.
    pub ttl: Duration,
    /// Lg, see [`crate::clock::promise_for`].
    pub promise: Duration,
    /// R.
    pub renew: Duration,
}

/// Who this holder is.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Of this start.
    pub incarnation: u64,
    /// Random, of this process.
    pub process: u64,
    /// The gate in this network namespace.
    pub gate: GateId,
}

/// What happens to a holder.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    /// The replicated state after the entry of this index, and the membership in force.
    Applied(u64, Arc<State>, Membership),
    /// A voter promised.
    Heard(NodeId, Ack),
    /// Time has passed.
    Tick,
    /// This node is willing to hold the group.
    Want(GroupName, Candidate),
    /// This node is no longer willing to hold the group; it is given up if held.
    Refuse(GroupName),
    /// Every step of the claim is done.
    Claimed(GroupName, Token),
    /// A step of the claim failed; the gate is shut for the group again.
    ClaimFailed(GroupName, Token),
    /// The gate is shut for the group, and the kernel has said so.
    Unclaimed(GroupName, Token),
    /// What must not fail did: the gate could not be shut for a group, or the record not be replaced. The rest of that list
    /// of actions is void, and the lease is left to its deadline, which shuts the gate.
    Stuck,
    /// The whole gate is shut, and the kernel has said so.
    Shut,
    /// The leader asks for a group to be handed to a session.
    Move(GroupName, Token, Sid),
    /// Hand over and close.
    Stop,
}

/// What a holder orders. Performed in order, over all lists. A failed [`Action::Record`] or [`Action::Unclaim`] voids the
/// rest of its list and comes back as [`Event::Stuck`]; a failed [`Action::Claim`] undoes itself and voids nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send this to each of these voters.
    Send(BTreeSet<NodeId>, Renew),
    /// The gate stays open until this moment.
    Arm(Moment),
    /// Shut the whole gate. Answered by [`Event::Shut`]; repeated until it is.
    Shut,
    /// Replace the may-act record; `None` removes it.
    Record(Option<MayAct>),
    /// Claim the group, step by step. Answered by [`Event::Claimed`] or [`Event::ClaimFailed`].
    Claim(GroupName, Token, Definition),
    /// Unclaim the group, step by step. Answered by [`Event::Unclaimed`] or [`Event::Stuck`].
    Unclaim(GroupName, Token),
    /// Bring this to the leader. Its effect is awaited in the applied state.
    Propose(Command),
    /// The session is closed and nothing is held.
    Stopped,
}

/// What a person would like to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The session, while there is one.
    pub sid: Option<Sid>,
    /// What is left of the lease; `None` without a quorum's promise.
    pub remaining: Option<Duration>,
    /// Groups claimed, with their tokens.
    pub held: BTreeMap<GroupName, Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// No session; the gate must be shut before the next one.
    Shutting {
        asked: Moment,
    },
    /// No session; `Open` is on its way, or waits for the registration.
    Opening {
        proposed: Option<Moment>,
        /// How long this one is waited for; twice as long each time, or a slow commit would never be the latest.
        patience: Duration,
    },
    /// `Promises` has the deadline.
    Live {
        sid: Sid,
    },
    /// Everything is unclaimed; `Close` is on its way.
    Closing {
        sid: Sid,
        proposed: Moment,
    },
    Stopped,
}

/// One director's side of its leases, over all its sessions.
#[derive(Clone, Debug, Hash)]
pub struct Holder {
    me: Identity,
    terms: Terms,
    phase: Phase,
    attempt: u64,
    stopping: bool,
    promises: Promises,
    claims: Claims,
    wishes: BTreeMap<GroupName, Wish>,
    applied: u64,
    state: Arc<State>,
    membership: Membership,
}

#[derive(Clone, Debug, Hash)]
struct Wish {
    candidate: Candidate,
    wanted: bool,
    proposed: Option<Moment>,
    failures: u32,
    not_before: Option<Moment>,
}

impl Holder {
    /// A holder that begins with a shut gate and no session.
    pub fn new(me: Identity, terms: Terms) -> Self {
        Self {
            me,
            terms,
            phase: Phase::Opening { proposed: None, patience: PATIENCE },
            attempt: 0,
            stopping: false,
            promises: Promises::default(),
            claims: Claims::default(),
            wishes: BTreeMap::new(),
            applied: 0,
            state: Arc::new(State::default()),
            membership: Membership::default(),
        }
    }

    /// A holder that goes on with the session of a killed predecessor, whose gate, still in this network namespace, it
    /// has adopted. It acts for nothing but the recorded pairs, and for grants newer than its own registration (H1).
    pub fn resume(now: Moment, me: Identity, renew: Duration, record: MayAct) -> Self {
        let terms = Terms { ttl: record.ttl, promise: record.promise, renew };
        let mut holder = Self::new(me, terms);
        holder.phase = Phase::Live { sid: record.sid };
        holder.promises = Promises::begin(now, now + terms.ttl);
        holder.claims = Claims::resumed(record);
        holder
    }

    /// What happens now.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Applied(index, state, membership) => {
                (self.applied, self.state, self.membership) = (index, state, membership);
                if self.registered() {
                    self.claims.registered_by(index);
                }
            }
            Event::Heard(from, ack) => self.heard(now, from, &ack, &mut actions),
            Event::Tick => {}
            Event::Want(group, candidate) => self.want(group, candidate),
            Event::Refuse(group) => {
                if let Some(wish) = self.wishes.get_mut(&group) {
                    wish.wanted = false;
                }
            }
            Event::Claimed(group, token) => {
                if self.claims.claimed(&group, token)
                    && let Some(wish) = self.wishes.get_mut(&group)
                {
                    (wish.failures, wish.not_before) = (0, None);
                }
            }
            Event::ClaimFailed(group, token) => {
                if let Some(wish) = self.wishes.get_mut(&group) {
                    wish.failed(now);
                }
                self.claims.unclaimed(&group, token);
            }
            Event::Unclaimed(group, token) => self.claims.unclaimed(&group, token),
            Event::Stuck => self.promises.give_up(),
            Event::Shut => {
                if let Phase::Shutting { .. } = self.phase {
                    self.claims.all_unclaimed();
                    self.phase = Phase::Opening { proposed: None, patience: PATIENCE };
                }
            }
            Event::Move(group, token, to) => self.claims.hand_to(&group, token, to),
            Event::Stop => self.stopping = true,
        }
        self.settle(now, &mut actions);
        actions
    }

    /// When to be asked again at the latest.
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        match self.phase {
            Phase::Live { .. } => Some(self.promises.next_deadline(now + PATIENCE)),
            Phase::Shutting { .. } | Phase::Opening { .. } | Phase::Closing { .. } => Some(now + PATIENCE / 4),
            Phase::Stopped => None,
        }
    }

    /// What a person would like to know.
    pub fn status(&self, now: Moment) -> Status {
        let sid = match self.phase {
            Phase::Live { sid } | Phase::Closing { sid, .. } => Some(sid),
            Phase::Shutting { .. } | Phase::Opening { .. } | Phase::Stopped => None,
        };
        let remaining = self.promises.deadline().filter(|_| sid.is_some()).map(|deadline| now.until(deadline));
        Status { sid, remaining, held: self.claims.held() }
    }

    /// Whether the gate may be open for the group, or may come to be: a claim is on its way, held, or not yet undone.
    pub fn uses(&self, group: &str) -> bool {
        self.claims.uses(group)
    }

    /// Whether a session is over and the kernel has not said yet that its gate is shut.
    pub fn is_shutting(&self) -> bool {
        matches!(self.phase, Phase::Shutting { .. })
    }

    /// Whether the last session is over and the kernel has shut its gate, and the next one is not there yet.
    pub fn is_between_sessions(&self) -> bool {
        matches!(self.phase, Phase::Opening { .. })
    }

    fn registered(&self) -> bool {
        self.state.members.get(&self.me.node).is_some_and(|member| member.incarnation == self.me.incarnation)
    }

    fn want(&mut self, group: GroupName, candidate: Candidate) {
        let fresh = Wish { candidate: candidate.clone(), wanted: true, proposed: None, failures: 0, not_before: None };
        let wish = self.wishes.entry(group).or_insert(fresh);
        if wish.candidate != candidate {
            wish.proposed = None;
        }
        (wish.candidate, wish.wanted) = (candidate, true);
    }

    fn heard(&mut self, now: Moment, from: NodeId, ack: &Ack, actions: &mut Vec<Action>) {
        if ack.process != self.me.process || self.phase != (Phase::Live { sid: ack.sid }) {
            return;
        }
        if let Some(deadline) = self.promises.heard(now, from, ack, self.terms) {
            // What the kernel may open must be what we may act for, before it is armed.
            if self.claims.may_arm(ack.sid, &self.state) {
                self.claims.forget_lost(ack.sid, &self.state, actions);
                actions.push(Action::Arm(deadline));
            }
        }
    }

    /// Brings everything in line with the applied state and the time; called after each event.
    fn settle(&mut self, now: Moment, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Live { sid } => self.live(now, sid, actions),
            Phase::Shutting { asked } => {
                if now.since(asked) >= PATIENCE {
                    self.phase = Phase::Shutting { asked: now };
                    // The record too: what failed may have been its removal, and `Open` must find none (H1).
                    actions.extend([Action::Record(None), Action::Shut]);
                }
            }
            Phase::Opening { proposed, patience } => self.opening(now, proposed, patience, actions),
            Phase::Closing { sid, proposed } => {
                if !self.state.sessions.contains_key(&sid) {
                    self.phase = Phase::Stopped;
                    actions.push(Action::Stopped);
                } else if now.since(proposed) >= PATIENCE {
                    self.phase = Phase::Closing { sid, proposed: now };
                    actions.push(Action::Record(None));
                    actions.push(Action::Propose(Command::Close { sid, grants: Vec::new() }));
                }
            }
            Phase::Stopped => {}
        }
    }

    fn opening(&mut self, now: Moment, proposed: Option<Moment>, patience: Duration, actions: &mut Vec<Action>) {
        if self.stopping {
            self.phase = Phase::Stopped;
            actions.push(Action::Stopped);
            return;
        }
        // Only the latest Open counts, and only since the gate was shut: the session that died may still be in the state,
        // and an earlier Open that comes late is superseded by the one still on its way.
        let ours = self.state.sessions.iter().find(|(_, session)| {
            proposed.is_some()
                && session.node == self.me.node
                && session.incarnation == self.me.incarnation
                && session.attempt == self.attempt
                && session.fenced.is_none()
        });
        if let Some((sid, _)) = ours {
            let sid = *sid;
            self.phase = Phase::Live { sid };
            // Newborn: it dies too if no quorum ever promises.
            self.promises = Promises::begin(now, now + self.terms.promise * 2);
            self.claims = Claims::new(sid);
            self.live(now, sid, actions);
        } else if self.registered() && proposed.is_none_or(|at| now.since(at) >= patience) {
            self.attempt += 1;
            let patience = if proposed.is_some() { (patience * 2).min(PATIENCE * 8) } else { patience };
            self.phase = Phase::Opening { proposed: Some(now), patience };
            actions.push(Action::Propose(Command::Open {
                node: self.me.node,
                incarnation: self.me.incarnation,
                attempt: self.attempt,
                ttl: self.terms.ttl,
                promise: self.terms.promise,
                gate: self.me.gate,
                shut: Some(self.me.gate),
            }));
        }
    }

    fn live(&mut self, now: Moment, sid: Sid, actions: &mut Vec<Action>) {
        // Before our own registration is applied, a state without the session may just be an old one.
        let over = match self.state.sessions.get(&sid) {
            Some(session) => session.fenced.is_some(),
            None => self.registered(),
        };
        if over || self.promises.is_dead(now) {
            return self.die(now, actions);
        }
        if self.promises.deadline().is_some() && self.claims.may_arm(sid, &self.state) {
            self.claims.settle(now, sid, &self.state, self.stopping, &self.wishes, actions, self.record_of(sid));
        }
        if self.stopping && self.claims.is_idle() {
            actions.push(Action::Record(None));
            actions.push(Action::Propose(Command::Close { sid, grants: Vec::new() }));
            self.phase = Phase::Closing { sid, proposed: now };
            return;
        }
        self.stand(now, sid, actions);
        if let Some(seq) = self.promises.renew(now, self.terms.renew) {
            let voters = self.promises.voters(&self.membership);
            let acted = if self.promises.deadline().is_some() { self.applied } else { 0 };
            actions.push(Action::Send(voters, Renew { sid, seq, process: self.me.process, acted }));
        }
    }

    /// The record goes first (H1), then the gate, then the rest; `Open` waits until the gate is shut.
    fn die(&mut self, now: Moment, actions: &mut Vec<Action>) {
        actions.push(Action::Record(None));
        actions.push(Action::Shut);
        actions.extend(self.claims.abandon());
        self.promises = Promises::default();
        self.phase = Phase::Shutting { asked: now };
    }

    fn record_of(&self, sid: Sid) -> MayAct {
        let Terms { ttl, promise, .. } = self.terms;
        MayAct { sid, ttl, promise, gate: self.me.gate, pairs: BTreeSet::new() }
    }

    /// Candidacies follow the wishes.
    fn stand(&mut self, now: Moment, sid: Sid, actions: &mut Vec<Action>) {
        for (group, wish) in &mut self.wishes {
            let standing = self.state.groups.get(group).and_then(|g| g.candidates.get(&sid));
            let waits = wish.not_before.is_some_and(|at| !now.reached(at)) || self.claims.is_leaving(group);
            let command = match (standing, wish.wanted && !self.stopping) {
                (Some(_), false) => Command::Withdraw { sid, group: group.clone() },
                (None, true) if waits => continue,
                // The Release withdraws it.
                (Some(_), true) if self.claims.is_leaving(group) => continue,
                (Some(candidate), true) if *candidate == wish.candidate => continue,
                (None | Some(_), true) => {
                    let Candidate { definition, priority, preempt } = wish.candidate.clone();
                    Command::Candidate { sid, group: group.clone(), definition, priority, preempt }
                }
                (None, false) => continue,
            };
            if wish.proposed.is_none_or(|at| now.since(at) >= PATIENCE) {
                wish.proposed = Some(now);
                actions.push(Action::Propose(command));
            }
        }
    }
}

impl Wish {
    /// 1 s, doubling to 1 min (V4).
    fn failed(&mut self, now: Moment) {
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(Duration::from_secs(60));
        self.failures += 1;
        self.not_before = Some(now + pause);
    }
}

#[cfg(test)]
mod tests;
