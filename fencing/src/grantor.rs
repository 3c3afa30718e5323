//! The grantor: what the leader does about leases. Fence, wait out the promises, Expire, name the next holder.
//!
//! It acts only in a [`Leadership`] whose own no-op is applied, and everything it proposes is bound to that leadership. It
//! owns no time of the lease: how long a session has been silent is what a set of voters that meets every quorum says.

mod choice;
mod losses;

use crate::clock::{Moment, promise_for};
use crate::message::{Ask, Known, Tell};
use choice::Candidates;
use hamesh_raft::command::{Command, GroupName, Leadership, NodeId, Sid, Token};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::{Group, Session, State};
use losses::Losses;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a proposal or a request may stay without effect before it is made again.
const PATIENCE: Duration = Duration::from_millis(100);
/// And in the end, when it was made again and again.
const MOST_PATIENCE: Duration = Duration::from_secs(5);
/// How often voters are asked about a session under suspicion.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// A better candidate must have been one for this long before the holder is asked to move.
const PREEMPT_AFTER: Duration = Duration::from_secs(1);
/// After a group moved for the sake of the LAN it is not moved so again for this long.
const DAMPING: Duration = Duration::from_secs(5);

/// What a director hears of a group's holder on the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hearing {
    /// The holder, by its adverts or its own address.
    Holder,
    /// Not the holder, and in the same time a third host (V10).
    OnlyOthers,
    /// Nobody.
    Nobody,
}

/// What happens to a grantor.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    /// The replicated state, and the membership applied last.
    Applied(Arc<State>, Membership),
    /// This node leads, its own no-op applied; or it does not.
    Leads(Option<Leadership>),
    /// The nodes that replicate to this leader now.
    Replicating(BTreeSet<NodeId>),
    /// A voter's answer; this node's own voter answers too.
    Told(NodeId, Tell),
    /// What directors hear on the LAN of each group.
    Hears(BTreeMap<GroupName, BTreeMap<NodeId, Hearing>>),
    /// What this node's own voter knows of every session now. It moves nothing but suspicion, and free groups.
    Known(BTreeMap<Sid, Known>),
    /// The same, and time has passed: every group has its turn.
    Tick(BTreeMap<Sid, Known>),
}

/// What a grantor orders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Propose under this leadership only.
    Propose(Leadership, Command),
    /// Ask these voters.
    Ask(BTreeSet<NodeId>, Ask),
    /// Ask the holder's node to hand the group to a session.
    Move(NodeId, GroupName, Token, Sid),
}

/// The leader's side of every lease.
#[derive(Clone, Debug, Hash)]
pub struct Grantor {
    started: Moment,
    leadership: Option<Leadership>,
    state: Arc<State>,
    membership: Membership,
    voters_since: Moment,
    replicating: BTreeSet<NodeId>,
    hears: BTreeMap<GroupName, BTreeMap<NodeId, Hearing>>,
    own: BTreeMap<Sid, Known>,
    suspects: BTreeMap<Sid, Suspect>,
    groups: BTreeMap<GroupName, Attention>,
    /// Sessions that hold groups, with the index of their latest grant.
    latest: BTreeMap<Sid, u64>,
    losses: Losses,
    round: u64,
}

/// Which groups have their turn after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Those that nobody holds, while there are any.
    Free,
    /// Also those that an entry has changed.
    Changed,
    /// All.
    All,
}

/// A session that the leader has reason to ask about.
#[derive(Clone, Debug, Default, Hash)]
struct Suspect {
    round: u64,
    asked: Option<Moment>,
    proposed: Proposed,
    /// Whether the latest proposal was the Expire; the one after an applied Fence does not wait.
    expiring: bool,
    /// The latest answer of each voter, and when it came.
    told: BTreeMap<NodeId, (Moment, Known)>,
}

/// Whether an entry was proposed, and when it is proposed again: each time after twice as long. What was appended once stays
/// in this leader's log, and on lines that are thin more of the same keeps it from the followers.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Proposed(Option<(Moment, Duration)>);

impl Proposed {
    fn is_due(self, now: Moment) -> bool {
        self.0.is_none_or(|(at, patience)| now.since(at) >= patience)
    }

    fn now(self, now: Moment) -> Self {
        Self(Some((now, self.0.map_or(PATIENCE, |(_, patience)| (patience * 2).min(MOST_PATIENCE)))))
    }
}

/// What the leader remembers of a group.
#[derive(Clone, Debug, Default, Hash)]
struct Attention {
    proposed: Proposed,
    asked: Option<Moment>,
    /// The token in force and when this leader saw it first.
    granted: Option<(Token, Moment)>,
    /// The better candidate, and since when it has been one.
    better: Option<(Sid, Moment)>,
    moved_for_lan: Option<Moment>,
}

impl Grantor {
    /// Of a process that begins at `started`. A director that loses a group again and again is held back from asking for
    /// it, for `damping` at most; zero holds nobody back.
    pub fn new(started: Moment, damping: Duration) -> Self {
        Self {
            started,
            leadership: None,
            state: Arc::new(State::default()),
            membership: Membership::default(),
            voters_since: started,
            replicating: BTreeSet::new(),
            hears: BTreeMap::new(),
            own: BTreeMap::new(),
            suspects: BTreeMap::new(),
            groups: BTreeMap::new(),
            latest: BTreeMap::new(),
            losses: Losses::new(damping),
            round: 0,
        }
    }

    /// What happens now.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let before = self.state.clone();
        let mut turn = Turn::Free;
        match event {
            Event::Applied(state, membership) => {
                // Another leader's changes may be applied several at once and end where they began: any entry counts. Our
                // own are applied one by one, and one that changes learners only delays nothing (V6).
                let other = self.membership.index != membership.index && self.leadership != Some(membership.by);
                let changed = other || self.membership.halves != membership.halves;
                if changed {
                    self.voters_since = now;
                }
                (self.state, self.membership) = (state, membership);
                turn = if before.members == self.state.members { Turn::Changed } else { Turn::All };
                for (sid, suspect) in &mut self.suspects {
                    let fenced =
                        |state: &State| state.sessions.get(sid).is_some_and(|session| session.fenced.is_some());
                    if fenced(&self.state) && !fenced(&before) {
                        // What binds the voters is news: they are asked at once.
                        suspect.asked = None;
                    }
                }
                self.latest = latest(&self.state);
                self.losses.applied(now, &self.state);
                self.suspects.retain(|sid, _| self.state.sessions.contains_key(sid));
            }
            Event::Leads(leadership) => {
                if self.leadership != leadership {
                    self.leadership = leadership;
                    // Nothing is inherited: what an earlier leadership measured is void.
                    self.suspects.clear();
                    self.groups.clear();
                    turn = Turn::All;
                }
            }
            // These two move nothing by themselves: the next tick goes by them.
            Event::Replicating(nodes) => {
                self.replicating = nodes;
                return Vec::new();
            }
            Event::Hears(hears) => {
                self.hears = hears;
                return Vec::new();
            }
            Event::Told(from, tell) => {
                if let Some(suspect) = self.suspects.get_mut(&tell.sid).filter(|s| s.round == tell.round) {
                    suspect.told.insert(from, (now, tell.known));
                }
            }
            Event::Known(own) => self.own = own,
            Event::Tick(own) => (self.own, turn) = (own, Turn::All),
        }
        let Some(leadership) = self.leadership else { return Vec::new() };
        let mut actions = Vec::new();
        self.judge(now, leadership, &mut actions);
        let names = self.in_turn(turn, &before);
        self.grant(now, leadership, &names, &mut actions);
        self.improve(now, &names, &mut actions);
        actions
    }

    /// The groups that are looked at: of a thousand, an entry changes one, and most moments none.
    fn in_turn(&self, turn: Turn, before: &State) -> Vec<GroupName> {
        let has = |(name, group): &(&GroupName, &Arc<Group>)| match turn {
            Turn::Free => group.holder.is_none(),
            Turn::Changed => {
                group.holder.is_none() || before.groups.get(*name).is_none_or(|before| !Arc::ptr_eq(before, group))
            }
            Turn::All => true,
        };
        self.state.groups.iter().filter(has).map(|(name, _)| name.clone()).collect()
    }

    /// Completes an entry that frees groups with the names of the next holders (H12). Only a leader may be asked.
    pub fn complete(&self, command: Command) -> Command {
        match command {
            Command::Release { group, token, to } => {
                let leaving = self.state.holder(&group).map(|holder| holder.sid);
                let taken = OnceCell::new();
                let fit = self.candidates(&group, &self.state, &taken).fit();
                let to =
                    to.filter(|sid| fit.contains(sid)).or_else(|| fit.into_iter().find(|sid| Some(*sid) != leaving));
                Command::Release { group, token, to }
            }
            Command::Close { sid, .. } => Command::Close { sid, grants: self.successors(sid) },
            Command::Expire { sid, by, .. } => Command::Expire { sid, by, grants: self.successors(sid) },
            Command::Found { .. }
            | Command::Invite { .. }
            | Command::Join { .. }
            | Command::Register { .. }
            | Command::Open { .. }
            | Command::Candidate { .. }
            | Command::Withdraw { .. }
            | Command::Fence { .. }
            | Command::Grant { .. }
            | Command::Pin { .. }
            | Command::Drain { .. }
            | Command::Remove { .. }
            | Command::Serve { .. } => command,
        }
    }

    /// Whether a change of voters may be proposed now: not while a session is fenced and not expired (V6).
    pub fn may_change_voters(&self) -> bool {
        self.state.sessions.values().all(|session| session.fenced.is_none())
    }

    /// How long until [`Event::Known`] is due, if something can be said of that: a session turns silent, the voters are asked
    /// about it again, or the last promise that stands in the way of its end runs out. `own` is what this node's voter knows now.
    pub fn pause(&self, now: Moment, own: &BTreeMap<Sid, Known>) -> Option<Duration> {
        self.leadership?;
        let pause = |(sid, session): (&Sid, &Session)| match self.suspects.get(sid) {
            None => dead_after(session).checked_sub(own.get(sid)?.silent).filter(|left| !left.is_zero()),
            Some(suspect) => {
                let over = |(at, known): &(Moment, Known)| now.wait(*at + session.promise.saturating_sub(known.silent));
                let over = suspect.told.values().map(over).filter(|left| !left.is_zero());
                over.chain(suspect.asked.map(|at| now.wait(at + ASK_EVERY))).min()
            }
        };
        self.state.sessions.iter().filter_map(pause).min()
    }

    /// How often `node` has lost `group` of late though nobody ordered it and no better candidate asked for it, and how
    /// long it is held back from asking for it now.
    pub fn losses(&self, now: Moment, group: &str, node: NodeId) -> (u32, Duration) {
        self.losses.of(now, group, node)
    }

    fn judge(&mut self, now: Moment, leadership: Leadership, actions: &mut Vec<Action>) {
        for (sid, session) in &self.state.clone().sessions {
            let own = self.own.get(sid);
            // A grantee that does not take what it was given (V3). One that has seen its latest grant has taken all.
            let seen = own.is_some_and(|known| self.latest.get(sid).is_none_or(|index| known.acted >= *index));
            let untaken = if seen { None } else { self.untaken(now, *sid, session.ttl) };
            let dead = dead_after(session);
            let silent = own.is_none_or(|known| known.silent >= dead);
            let fenced = session.fenced.is_some();
            if !fenced && !silent && untaken.is_none_or(|index| own.is_some_and(|known| known.acted >= index)) {
                self.suspects.remove(sid);
                continue;
            }
            let round = self.round + 1;
            let suspect = self.suspects.entry(*sid).or_insert_with(|| Suspect { round, ..Suspect::default() });
            self.round = self.round.max(suspect.round);
            if suspect.asked.is_none_or(|at| now.since(at) >= ASK_EVERY) {
                suspect.asked = Some(now);
                actions.push(Action::Ask(self.membership.voters(), Ask { sid: *sid, round: suspect.round }));
            }
            let those = |says: &dyn Fn(&Moment, &Known) -> bool| -> BTreeSet<NodeId> {
                suspect.told.iter().filter(|(_, (at, known))| says(at, known)).map(|(node, _)| *node).collect()
            };
            let lg = session.promise;
            let verdict = if fenced {
                // The age was true when it was told and only grows: a bound voter never acks again (H6).
                let over = those(&|at, known| known.bound && now.since(*at) + known.silent >= lg);
                let settled = now.since(self.voters_since) >= lg && now.since(self.started) >= lg;
                // Each half by itself: a voter may ack under a change to one half that was never committed.
                (settled && self.membership.meets_every_majority(&over)).then(|| Command::Expire {
                    sid: *sid,
                    by: leadership,
                    grants: Vec::new(),
                })
            } else {
                let recent = |at: &Moment| now.since(*at) < session.ttl / 4;
                let hushed = those(&|at, known| recent(at) && known.silent >= dead);
                let unseen = untaken.map(|index| those(&|at, known| recent(at) && known.acted < index));
                let gone = silent && self.membership.meets_every_quorum(&hushed);
                let idle = unseen.is_some_and(|unseen| self.membership.meets_every_quorum(&unseen));
                (gone || idle).then_some(Command::Fence { sid: *sid })
            };
            if let Some(command) = verdict
                && (suspect.expiring != fenced || suspect.proposed.is_due(now))
            {
                let before = if suspect.expiring == fenced { suspect.proposed } else { Proposed::default() };
                (suspect.proposed, suspect.expiring) = (before.now(now), fenced);
                let command = self.complete(command);
                actions.push(Action::Propose(leadership, command));
            }
        }
    }

    /// The index of a grant that `sid` should have taken by now.
    fn untaken(&self, now: Moment, sid: Sid, ttl: Duration) -> Option<u64> {
        let held = self.state.held_by(sid).filter_map(|(group, holder)| {
            let (token, since) = self.groups.get(group)?.granted?;
            (token == holder.token && now.since(since) >= ttl).then_some(token.index)
        });
        held.max()
    }

    fn grant(&mut self, now: Moment, leadership: Leadership, names: &[GroupName], actions: &mut Vec<Action>) {
        let (state, taken) = (self.state.clone(), OnceCell::new());
        self.groups.retain(|name, _| state.groups.contains_key(name));
        for name in names {
            let Some(group) = state.groups.get(name) else { continue };
            let free = group.holder.is_none();
            let best = if free { self.candidates(name, &state, &taken).fit().first().copied() } else { None };
            let attention = self.groups.entry(name.clone()).or_default();
            match &group.holder {
                Some(holder) => {
                    if attention.granted.is_none_or(|(token, _)| token != holder.token) {
                        attention.granted = Some((holder.token, now));
                        (attention.proposed, attention.asked) = (Proposed::default(), None);
                    }
                }
                None => {
                    if let Some(to) = best
                        && attention.proposed.is_due(now)
                    {
                        attention.proposed = attention.proposed.now(now);
                        let command = Command::Grant { group: name.clone(), to };
                        actions.push(Action::Propose(leadership, command));
                    }
                }
            }
        }
    }

    /// Asks holders to move: by somebody's order, because the LAN does not hear them, or for a better candidate.
    fn improve(&mut self, now: Moment, names: &[GroupName], actions: &mut Vec<Action>) {
        let (state, taken) = (self.state.clone(), OnceCell::new());
        for name in names {
            let Some(holder) = state.holder(name) else { continue };
            let Some(node) = state.holder_node(name) else { continue };
            let candidates = self.candidates(name, &state, &taken);
            let (ordered, unheard, better) =
                (candidates.ordered(), candidates.unheard_holder(), candidates.better(now));
            let Some(attention) = self.groups.get_mut(name) else { continue };
            let damped = attention.moved_for_lan.is_some_and(|at| now.since(at) < DAMPING);
            let ready = attention.asked.is_none_or(|at| now.since(at) >= PATIENCE * 5);
            if let Some(to) = ordered.filter(|_| ready) {
                attention.asked = Some(now);
                actions.push(Action::Move(node, name.clone(), holder.token, to));
                continue;
            }
            if let Some(to) = unheard.filter(|_| !damped && ready) {
                (attention.asked, attention.moved_for_lan) = (Some(now), Some(now));
                actions.push(Action::Move(node, name.clone(), holder.token, to));
                continue;
            }
            attention.better = match (better, attention.better) {
                (Some(sid), Some((same, since))) if sid == same => Some((sid, since)),
                (Some(sid), Some(_) | None) => Some((sid, now)),
                (None, Some(_) | None) => None,
            };
            if let Some((to, _)) = attention.better.filter(|(_, since)| ready && now.since(*since) >= PREEMPT_AFTER) {
                attention.asked = Some(now);
                actions.push(Action::Move(node, name.clone(), holder.token, to));
            }
        }
    }

    fn successors(&self, leaving: Sid) -> Vec<(GroupName, Sid)> {
        let (held, taken) = (self.state.held_by(leaving), OnceCell::new());
        let next = held.filter_map(|(group, _)| {
            let fit = self.candidates(group, &self.state, &taken).fit();
            Some((group.clone(), fit.into_iter().find(|sid| *sid != leaving)?))
        });
        next.collect()
    }

    fn candidates<'a, 's>(
        &'a self,
        group: &'a str,
        state: &'s State,
        taken: &'a OnceCell<BTreeMap<IpAddr, &'s GroupName>>,
    ) -> Candidates<'a, 's> {
        let (replicating, own, hears) = (&self.replicating, &self.own, self.hears.get(group));
        Candidates { group, state, replicating, own, hears, taken, losses: &self.losses }
    }
}

/// A session that no quorum has promised anything for so long is dead, its own deadline is over: a Fence takes nothing from
/// it. The promises last longer, and the Fence is on its way meanwhile.
fn dead_after(session: &Session) -> Duration {
    promise_for(session.ttl, Duration::ZERO)
}

/// The latest grant of each session that holds groups.
fn latest(state: &State) -> BTreeMap<Sid, u64> {
    let mut latest = BTreeMap::new();
    for holder in state.groups.values().filter_map(|group| group.holder.as_ref()) {
        let index = latest.entry(holder.sid).or_insert(holder.token.index);
        *index = holder.token.index.max(*index);
    }
    latest
}

#[cfg(test)]
mod tests;
