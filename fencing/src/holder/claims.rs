//! What one session does about each group that the applied state gives it.

use super::{Action, Wish};
use crate::clock::Moment;
use crate::record::MayAct;
use hamesh_raft::command::{Command, GroupName, Sid, Token};
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};

/// The groups of one session.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Claims {
    groups: BTreeMap<GroupName, Claim>,
    /// The may-act record's pairs: written before a claim, removed before its Release is sent.
    pairs: BTreeSet<(GroupName, Token)>,
    /// Tokens that were put into a Release: never claimed again, whatever became of the Release (H1).
    released: BTreeSet<Token>,
    /// Grants up to this index may have been released by a killed predecessor. `None`: not known yet.
    predecessor_until: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Claim {
    token: Token,
    step: Step,
    /// To whom it is to be handed, once it is unclaimed.
    to: Option<Sid>,
    proposed: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The kernel goes on as the killed predecessor left it.
    Resumed,
    Claiming,
    Held,
    Unclaiming,
    Releasing,
}

impl Claim {
    fn is_ours(&self, group: &str, sid: Sid, state: &State) -> bool {
        state.holder(group).is_some_and(|holder| holder.sid == sid && holder.token == self.token)
    }
}

impl Claims {
    /// Of a session that this process has opened: every grant to it is newer.
    pub(super) fn new(sid: Sid) -> Self {
        Self { predecessor_until: Some(sid.0), ..Self::default() }
    }

    /// Of a session that a killed predecessor has opened.
    pub(super) fn resumed(record: MayAct) -> Self {
        let resumed = |token| Claim { token, step: Step::Resumed, to: None, proposed: None };
        let groups = record.pairs.iter().map(|(group, token)| (group.clone(), resumed(*token))).collect();
        Self { groups, pairs: record.pairs, ..Self::default() }
    }

    /// Whether the gate may be armed: everything it holds open is ours by the applied state. Before our registration is
    /// applied, a resumed pair that is missing there may just not have been replayed yet.
    pub(super) fn may_arm(&self, sid: Sid, state: &State) -> bool {
        self.predecessor_until.is_some() || self.groups.iter().all(|(group, claim)| claim.is_ours(group, sid, state))
    }

    /// Our own registration is in the state of this index: what is granted later, no predecessor has seen.
    pub(super) fn registered_by(&mut self, index: u64) {
        self.predecessor_until.get_or_insert(index);
    }

    pub(super) fn claimed(&mut self, group: &str, token: Token) -> bool {
        match self.groups.get_mut(group) {
            Some(claim) if claim.token == token && claim.step == Step::Claiming => {
                claim.step = Step::Held;
                true
            }
            Some(_) | None => false,
        }
    }

    pub(super) fn unclaimed(&mut self, group: &str, token: Token) {
        if let Some(claim) = self.groups.get_mut(group).filter(|claim| claim.token == token) {
            (claim.step, claim.proposed) = (Step::Releasing, None);
        }
    }

    pub(super) fn all_unclaimed(&mut self) {
        *self = Self::default();
    }

    pub(super) fn hand_to(&mut self, group: &str, token: Token, to: Sid) {
        if let Some(claim) = self.groups.get_mut(group).filter(|claim| claim.token == token) {
            claim.to = Some(to);
        }
    }

    pub(super) fn held(&self) -> BTreeMap<GroupName, Token> {
        self.groups.iter().filter(|(_, c)| c.step == Step::Held).map(|(group, c)| (group.clone(), c.token)).collect()
    }

    /// Whether nothing is claimed or being unclaimed.
    pub(super) fn is_idle(&self) -> bool {
        self.groups.values().all(|claim| claim.step == Step::Releasing)
    }

    /// Whether the group is on its way out of this session.
    pub(super) fn is_leaving(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|c| c.to.is_some() || matches!(c.step, Step::Unclaiming | Step::Releasing))
    }

    pub(super) fn uses(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|claim| claim.step != Step::Releasing)
    }

    /// Orders everything unclaimed, after the gate was shut as a whole.
    pub(super) fn abandon(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (group, claim) in &mut self.groups {
            if claim.step != Step::Releasing {
                claim.step = Step::Unclaiming;
                actions.push(Action::Unclaim(group.clone(), claim.token));
            }
        }
        actions
    }

    /// Unclaims what the applied state no longer gives this session.
    pub(super) fn forget_lost(&mut self, sid: Sid, state: &State, actions: &mut Vec<Action>) {
        self.groups.retain(|group, claim| {
            let ours = claim.is_ours(group, sid, state);
            match claim.step {
                Step::Resumed | Step::Claiming | Step::Held if !ours => {
                    claim.step = Step::Unclaiming;
                    actions.push(Action::Unclaim(group.clone(), claim.token));
                    true
                }
                Step::Resumed | Step::Claiming | Step::Held | Step::Unclaiming => true,
                Step::Releasing => ours,
            }
        });
    }

    /// Claims what the applied state gives, unclaims and releases what is not wanted or asked for.
    #[expect(clippy::too_many_arguments, reason = "the whole of what a claim depends on")]
    pub(super) fn settle(
        &mut self,
        now: Moment,
        sid: Sid,
        state: &State,
        stopping: bool,
        wishes: &BTreeMap<GroupName, Wish>,
        actions: &mut Vec<Action>,
        record: MayAct,
    ) {
        self.forget_lost(sid, state, actions);
        for (group, holder) in state.held_by(sid) {
            let (token, definition) = (holder.token, &holder.definition);
            let fits = |wish: &&Wish| wish.wanted && wish.candidate.definition == *definition && !stopping;
            let wish = wishes.get(group).filter(fits);
            match self.groups.get_mut(group) {
                None => {
                    let Some(predecessor_until) = self.predecessor_until else { continue };
                    let fresh = token.index > predecessor_until && !self.released.contains(&token);
                    let step = if fresh && wish.is_some() { Step::Claiming } else { Step::Releasing };
                    self.groups.insert(group.clone(), Claim { token, step, to: None, proposed: None });
                    if step == Step::Claiming {
                        self.pairs.insert((group.clone(), token));
                        actions.push(Action::Record(Some(MayAct { pairs: self.pairs.clone(), ..record.clone() })));
                        actions.push(Action::Claim(group.clone(), token, definition.clone()));
                    }
                }
                // Unclaimed first; the new token's turn comes after that.
                Some(claim) if claim.token != token => {}
                Some(claim) => match claim.step {
                    Step::Resumed if wish.is_some() && claim.to.is_none() => {
                        claim.step = Step::Claiming;
                        actions.push(Action::Claim(group.clone(), token, definition.clone()));
                    }
                    Step::Resumed | Step::Held if wish.is_none() || claim.to.is_some() => {
                        claim.step = Step::Unclaiming;
                        actions.push(Action::Unclaim(group.clone(), token));
                    }
                    Step::Resumed | Step::Claiming | Step::Held | Step::Unclaiming | Step::Releasing => {}
                },
            }
        }
        if !stopping {
            self.release(now, actions, &record);
        }
    }

    /// The pair leaves the record before the Release is sent, each time: an earlier write may have failed. The Release is
    /// repeated until it is applied.
    fn release(&mut self, now: Moment, actions: &mut Vec<Action>, record: &MayAct) {
        for (group, claim) in &mut self.groups {
            let due = claim.proposed.is_none_or(|at| now.since(at) >= super::PATIENCE);
            if claim.step != Step::Releasing || !due {
                continue;
            }
            claim.proposed = Some(now);
            self.released.insert(claim.token);
            self.pairs.remove(&(group.clone(), claim.token));
            actions.push(Action::Record(Some(MayAct { pairs: self.pairs.clone(), ..record.clone() })));
            let (group, token, to) = (group.clone(), claim.token, claim.to);
            actions.push(Action::Propose(Command::Release { group, token, to }));
        }
    }
}
