//! One state of the small cluster, what may happen next in it, and what must never be seen.
//!
//! Everything is as quick as can be but the first director's node, the followers, their disks and the ways between: whoever
//! is slow is the one that may do harm. So the other director and the leader act at once in every step.

use crate::faults::Faults;
use crate::part::{Part, digest};
use crate::story::Thing;
use crate::voters::Member;
use crate::{VOTERS, moment};
use hamesh_fencing::grantor::{self, Grantor};
use hamesh_fencing::holder;
use hamesh_fencing::message::{Message, Renew};
use hamesh_raft::command::{Command, Leadership, NodeId, Sid, Token};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use crate::directors::Director;

/// The VIP.
pub const GROUP: &str = "web";

/// A state.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub tick: u32,
    pub faults: Faults,
    pub members: [Part<Member>; VOTERS],
    pub grantors: [Part<Grantor>; VOTERS],
    pub directors: [Part<Director>; 2],
    pub leader: usize,
    pub by: Leadership,
    pub committed: usize,
    /// The index after which every log of the search begins; places in a log count from there.
    pub base: u64,
    /// The state after each entry, by place: it follows from the logs.
    pub states: Arc<Vec<Arc<State>>>,
    /// What is late: a Renew for a voter, or its Ack.
    pub late: BTreeMap<(usize, u64, bool), (u32, Message)>,
    /// This state when time has passed and the first director has run: what [`Step::Run`] begins with, and what was sent.
    pub ahead: Option<Arc<(Self, Vec<Renew>)>>,
    /// The newest token that was granted.
    pub newest: Option<Token>,
    pub violation: Option<String>,
    /// What has happened in the last step; no part of the state.
    pub things: Vec<Thing>,
}

/// How one exchange of Renew and Ack goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Done,
    Lost,
    RenewLate,
    AckLate,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Half of L passes, and the first director does not run: it is frozen.
    Freeze,
    /// Half of L passes, and the first director runs; what it sends to each voter goes these ways.
    Run([Way; VOTERS]),
    /// Something late arrives: for or from whom, which transmission, and whether it is the Ack.
    Arrive(usize, u64, bool),
    Append(usize),
    Flush(usize),
    Apply(usize),
    /// A follower answers what the leader has asked it last.
    Answer(usize),
    Install(usize),
    /// Dies and starts again: from its old snapshot, or from one of all that it has applied.
    Crash(usize, bool),
    Elect(usize),
    Fence,
    /// The first director hears of one more entry.
    Learn,
    /// What it has proposed comes to the leader.
    Deliver(usize),
    Kill,
    Move,
}

impl Cluster {
    /// What stands for this state: two that differ in nothing but how they came about are one.
    pub fn digest(&mut self) -> u128 {
        let mut parts = [0; 2 * VOTERS + 2];
        let members = self.members.iter_mut().map(Part::digest);
        let grantors = self.grantors.iter_mut().map(Part::digest);
        let directors = self.directors.iter_mut().map(Part::digest);
        for (place, part) in parts.iter_mut().zip(members.chain(grantors).chain(directors)) {
            *place = part;
        }
        let Self { tick, faults, leader, by, committed, late, newest, .. } = self;
        digest(&(parts, tick, faults, leader, by, committed, late, newest))
    }

    /// What may happen next, until this tick.
    pub fn steps(&mut self, until: u32) -> Vec<Step> {
        let Faults { late, crashes, elections, installs, fences, learns, kills, moves } = self.faults;
        let mut steps = Vec::new();
        if self.is_over() {
            return steps;
        }
        if self.tick < until {
            steps.push(Step::Freeze);
            self.runs(late.into(), &mut steps);
        }
        for at in 0..VOTERS {
            let member = &self.members[at];
            if member.flushed < member.log.len() {
                steps.push(Step::Flush(at));
            }
            if at == self.leader {
                continue;
            }
            if self.next_of(at).is_some() {
                steps.push(Step::Append(at));
            }
            if self.applicable(at) {
                steps.push(Step::Apply(at));
            }
            if !member.asked.is_empty() {
                steps.push(Step::Answer(at));
            }
            if installs > 0 && member.applied < self.members[self.leader].applied {
                steps.push(Step::Install(at));
            }
            if crashes > 0 {
                steps.push(Step::Crash(at, false));
                if member.applied > member.snapshot && member.applied <= member.flushed {
                    steps.push(Step::Crash(at, true));
                }
            }
            if elections > 0 && self.may_win(at) {
                steps.push(Step::Elect(at));
            }
        }
        steps.extend(self.late.keys().map(|(voter, seq, ack)| Step::Arrive(*voter, *seq, *ack)));
        let director = &self.directors[0];
        if fences > 0 && self.leads() && self.fenceable().is_some() {
            steps.push(Step::Fence);
        }
        if learns > 0 && self.members[self.leader].applied > director.applied {
            steps.push(Step::Learn);
        }
        if self.leads() {
            steps.extend((0..director.proposed.len()).map(Step::Deliver));
        }
        if kills > 0 {
            steps.push(Step::Kill);
        }
        if moves > 0 && director.holder.uses(GROUP) {
            steps.push(Step::Move);
        }
        steps
    }

    /// Whether nothing can happen to the VIP any more: the first director has no session, so no promise can reach it, and it
    /// will not hear of another one, or the other director is open and well, and nobody takes the VIP from it.
    fn is_over(&self) -> bool {
        let Faults { learns, kills, .. } = self.faults;
        let lost = self.directors[0].holder.status(moment(self.tick)).sid.is_none() && kills == 0;
        lost && (learns == 0 || self.is_open(1))
    }

    /// Every way in which the first director's exchange with the voters may go.
    fn runs(&mut self, late: usize, steps: &mut Vec<Step>) {
        let (next, renews) = self.look_ahead();
        let ways: &[Way] = match (renews.is_empty(), late) {
            (true, _) => &[Way::Lost],
            (false, 0) => &[Way::Done, Way::Lost],
            (false, _) => &[Way::Done, Way::Lost, Way::RenewLate, Way::AckLate],
        };
        for a in ways {
            for b in ways {
                for c in ways {
                    let is_late = |way: &&&Way| matches!(way, Way::RenewLate | Way::AckLate);
                    if [a, b, c].iter().filter(is_late).count() <= late {
                        steps.push(Step::Run([*a, *b, *c]));
                    }
                }
            }
        }
        self.ahead = Some(Arc::new((next, renews)));
    }

    fn look_ahead(&self) -> (Self, Vec<Renew>) {
        let mut next = Self { ahead: None, things: Vec::new(), ..self.clone() };
        next.pass();
        let renews = next.run();
        (next, renews)
    }

    /// The state after a step.
    pub fn after(&self, step: Step) -> Self {
        let live = self.is_open(0);
        let (mut next, renews) = match (step, &self.ahead) {
            (Step::Run(_), Some(ahead)) => (**ahead).clone(),
            (Step::Run(_), None) => self.look_ahead(),
            (_, _) => (Self { ahead: None, things: Vec::new(), ..self.clone() }, Vec::new()),
        };
        match step {
            Step::Freeze => next.pass(),
            Step::Run(ways) => next.exchange(0, &renews, ways),
            Step::Arrive(voter, seq, ack) => {
                if let Some((_, message)) = next.late.remove(&(voter, seq, ack)) {
                    next.arrive(0, voter, &message);
                }
            }
            Step::Append(at) => next.append(at),
            Step::Flush(at) => next.flush(at),
            Step::Apply(at) => next.apply(at),
            Step::Answer(at) => next.answer(at),
            Step::Install(at) => next.install(at),
            Step::Crash(at, fresh) => next.crash(at, fresh),
            Step::Elect(at) => next.elect(at),
            Step::Fence => {
                next.faults.fences -= 1;
                if let Some(sid) = next.fenceable() {
                    next.propose(Command::Fence { sid });
                }
            }
            Step::Learn => next.learn(),
            Step::Deliver(which) => {
                let command = next.directors[0].proposed.remove(which);
                next.propose(command);
            }
            Step::Kill => next.kill(),
            Step::Move => next.hand_over(),
        }
        next.leader_settles();
        next.look();
        Thing::of(step, self, &mut next, live);
        next
    }

    /// Time passes, the other director renews, and the leader looks around.
    fn pass(&mut self) {
        self.tick += 1;
        // What is older than L, two ticks, prolongs nothing any more: at a voter it could only put off the end.
        let tick = self.tick;
        self.late.retain(|_, (sent, _)| tick - *sent < 2);
        let renews = self.holder_acts(1, holder::Event::Tick);
        self.exchange(1, &renews, [Way::Done; VOTERS]);
        let now = moment(self.tick);
        let voter = &self.members[self.leader].voter;
        let own = voter.sessions().filter_map(|sid| Some((sid, voter.known(now, sid)?))).collect();
        let actions = self.grantors[self.leader].handle(now, grantor::Event::Tick(own));
        self.grantor_acts(actions);
    }

    /// A session of the first director that nobody has fenced.
    fn fenceable(&self) -> Option<Sid> {
        let sessions = &self.truth().sessions;
        sessions.iter().find(|(_, s)| s.node == NodeId(1) && s.fenced.is_none()).map(|(sid, _)| *sid)
    }

    /// The state that was committed last. The leader applies at once.
    pub fn truth(&self) -> &Arc<State> {
        &self.states[self.members[self.leader].applied]
    }
}

/// The node of a voter.
pub fn id(voter: usize) -> NodeId {
    NodeId(voter as u64 + 3)
}

/// The one membership there is.
pub fn membership() -> Membership {
    let by = Leadership { term: 1, node: id(0) };
    Membership { by, index: 1, halves: vec![(0..VOTERS).map(id).collect()], learners: BTreeSet::new() }
}
