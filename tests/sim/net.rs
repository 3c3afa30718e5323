//! Time, the network and chance: everything that the nodes of one schedule share.

use crate::clocks::Time;
use crate::faults;
use crate::lan::{Lan, Packet};
use crate::queue::{Counts, Queue};
use crate::raft::Rpc;
use hamesh::config::profile::{LeaseProfile, PROFILES};
use hamesh_fencing::clock::{LATENESS, Moment, promise_for};
use hamesh_fencing::holder::Terms;
use hamesh_fencing::message::Message;
use hamesh_raft::command::{Command, GroupName, NodeId, Sid, Token};
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// No message of a storm is later than this once it is over.
const LATE: Duration = Duration::from_millis(100);
/// Six nodes at most, counted from 1, and a router outside the mesh as 0.
const PLACES: usize = 7;

/// What goes from node to node.
#[derive(Clone, Debug)]
pub enum Msg {
    Raft(Rpc),
    /// A connection is tried, or answered: all that one says who is silent.
    Hello {
        answered: bool,
    },
    Lease(Message),
    /// A command for the leader, and how often it was passed on.
    Propose(Command, u8),
    Move(GroupName, Token, Sid),
    /// On the LAN.
    Packet(Packet),
    /// On the lease plane, and not from whom it says.
    Forged(Message),
}

/// What happens to a process.
#[derive(Clone, Debug)]
pub enum What {
    Tick,
    /// The disk has written up to an index; of which generation of the log.
    Flush(u64, u64),
    Hands,
    /// Somebody has set the wall clock.
    ClockSet,
    Heard(NodeId, Box<Msg>),
}

/// What is due.
#[derive(Clone, Debug)]
pub enum Due {
    /// For a process; `None` for whichever runs then.
    Process {
        node: NodeId,
        epoch: Option<u64>,
        what: What,
        /// The clock as it was read before the process was frozen. Boxed, as it is rare: the queue moves what is in it.
        now: Option<Box<Moment>>,
    },
    Start(NodeId),
    Resume(NodeId),
    Kill(NodeId),
    Isolate(NodeId),
    Cut(BTreeSet<(NodeId, NodeId)>),
    /// An operator wants these voters.
    Voters(BTreeSet<NodeId>),
    /// Its election timer is over.
    Campaign(NodeId),
    Want(NodeId, GroupName),
    Uncut(u64),
    Fault,
}

/// The shared part of a schedule.
pub struct Net {
    pub now: Time,
    pub rng: fastrand::Rng,
    /// Whether faults happen.
    pub hostile: bool,
    /// When they had ended, and everybody was awake.
    pub healed: Option<Time>,
    /// Directed links that pass nothing, by the cut that made them.
    pub cuts: BTreeMap<u64, BTreeSet<(NodeId, NodeId)>>,
    /// The same on the LAN, which is another network.
    pub lan_cuts: BTreeMap<u64, BTreeSet<(NodeId, NodeId)>>,
    pub lan: Lan,
    /// Everybody with a place on the LAN.
    pub directors: Vec<NodeId>,
    /// After how long without a member `quorum_loss = "vrrp"` serves, in schedules that have it.
    pub quorum_loss: Option<Duration>,
    /// Nodes that may have a gate open without a lease.
    pub unfenced: BTreeSet<NodeId>,
    /// The longest time between two faults, in hundredths of L: some mistakes show in a storm, some between two blows.
    pub calm: u64,
    /// What goes wrong most.
    pub family: usize,
    /// Lost messages per thousand.
    pub loss: u32,
    /// Messages of the lease plane per thousand that come late: in bad times it is most of them.
    pub late: u32,
    /// Whether a gate was open after the latest event.
    pub live: bool,
    /// Whether a gate may have opened since the last check; by themselves they only close.
    pub opened: bool,
    /// What was seen on the spot, for the checks.
    pub violations: Vec<String>,
    /// Sessions expired since the last check, with their nodes.
    pub expired: Vec<(Sid, NodeId)>,
    /// When a change of voters was last applied anywhere.
    pub voters_changed: Time,
    /// Groups that a holder was asked to give up for a better candidate.
    pub preempting: Vec<(GroupName, Token)>,
    /// States applied since the last check.
    pub applied: Vec<(NodeId, u64, Arc<State>)>,
    /// How often each fault happened while a lease was live.
    pub counts: Counts,
    /// A compact trace, when it is wanted.
    pub story: Option<Vec<String>>,
    pub events: u64,
    pub hash: u64,
    queue: Queue<Due>,
    /// When the latest of what each node has sent to each arrives, in nanoseconds.
    arrives: [[u64; PLACES]; PLACES],
    epochs: u64,
    profiles: [LeaseProfile; 2],
    /// What the mesh adds to every message: nothing, or what a wide area does.
    pub base: Duration,
    /// How late this schedule's gates may be; it goes into Lg.
    pub lateness: Duration,
    /// How far clocks drift, in ppm.
    pub drift: u32,
    /// Nothing else goes wrong until then: what takes several steps is being staged.
    pub staged: Time,
}

impl Net {
    pub fn new(seed: u64, told: bool, drift: u32) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let profile = any_profile(&mut rng);
        let profiles = [profile, if rng.bool() { profile } else { any_profile(&mut rng) }];
        let wide = profiles.iter().all(|profile| profile.ttl >= Duration::from_secs(1)) && rng.bool();
        let base = if wide { Duration::from_millis(20) } else { Duration::ZERO };
        let calm = [15, 40, 100, 250][rng.usize(0..4)];
        // That of nf_tables, and that of address lifetimes where there is no better gate.
        let lateness = [LATENESS, LATENESS * 20][rng.usize(0..2)];
        let late = [15, 15, 100, 400][rng.usize(0..4)];
        let lan = Lan::any(&mut rng);
        let quorum_loss = (rng.u8(0..16) == 0).then(|| profiles[0].ttl.max(profiles[1].ttl) * 3);
        let family = if quorum_loss.is_some() { faults::ALONE } else { faults::any_family(&mut rng) };
        Self {
            now: Time::ZERO,
            rng,
            hostile: true,
            healed: None,
            cuts: BTreeMap::new(),
            lan_cuts: BTreeMap::new(),
            lan,
            directors: Vec::new(),
            quorum_loss,
            unfenced: BTreeSet::new(),
            calm,
            family,
            loss: 10,
            late,
            live: false,
            opened: false,
            violations: Vec::new(),
            expired: Vec::new(),
            voters_changed: Time::ZERO,
            preempting: Vec::new(),
            applied: Vec::new(),
            counts: Counts::default(),
            story: told.then(Vec::new),
            events: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            queue: Queue::new(),
            arrives: [[0; PLACES]; PLACES],
            epochs: 0,
            profiles,
            base,
            lateness,
            drift,
            staged: Time::ZERO,
        }
    }

    /// One of the schedule's two profiles.
    pub fn any_profile(&mut self) -> LeaseProfile {
        self.profiles[self.rng.usize(0..2)]
    }

    /// A session's terms under a profile.
    pub fn terms(&self, profile: LeaseProfile) -> Terms {
        let LeaseProfile { ttl, renew, .. } = profile;
        Terms { ttl, promise: promise_for(ttl, self.lateness), renew }
    }

    pub fn next_epoch(&mut self) -> u64 {
        self.epochs += 1;
        self.epochs
    }

    /// Whether something of this many per thousand happens, while faults do.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.hostile && self.rng.u32(0..1000) < per_mille
    }

    /// So many hundredths of the schedule's longer L.
    pub fn leases(&mut self, range: std::ops::Range<u64>) -> Duration {
        let hundredth =
            u64::try_from(self.profiles[0].ttl.max(self.profiles[1].ttl).as_micros()).unwrap_or(u64::MAX) / 100;
        Duration::from_micros(self.rng.u64(range.start * hundredth..range.end * hundredth))
    }

    pub fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_micros(self.rng.u64(range.start * 1000..range.end * 1000))
    }

    pub fn count(&mut self, what: &'static str) {
        if self.live {
            self.counts.add(what);
        }
    }

    pub fn count_command(&mut self, command: &Command) {
        let kinds = [
            ("fence", matches!(command, Command::Fence { .. })),
            ("expire", matches!(command, Command::Expire { .. })),
            ("release", matches!(command, Command::Release { .. })),
            ("close", matches!(command, Command::Close { .. })),
            ("open", matches!(command, Command::Open { .. })),
            ("moved by order", matches!(command, Command::Pin { node: Some(_), .. })),
            ("drained", matches!(command, Command::Drain { drained: true, .. })),
        ];
        if let Some((kind, _)) = kinds.into_iter().find(|(_, is)| *is) {
            self.count(kind);
        }
    }

    pub fn note(&mut self, node: NodeId, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>10.4} {node} {}", self.now.as_secs_f64(), what()));
        }
    }

    pub fn at(&mut self, at: Time, due: Due) {
        self.queue.push(nanos(at), due);
    }

    pub fn after(&mut self, span: Duration, node: NodeId, epoch: u64, what: What) {
        self.at(self.now + span, Due::Process { node, epoch: Some(epoch), what, now: None });
    }

    /// The next thing that is due before `end`.
    pub fn next(&mut self, end: Time) -> Option<Due> {
        let (at, seq, due) = self.queue.pop(nanos(end))?;
        self.now = self.now.max(Time::from_nanos(at));
        self.events += 1;
        for word in [at, seq, self.rng.get_seed()] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
        Some(due)
    }

    /// The faults end. What people and the leader have asked for and what is very late would fall into a calm time: there a
    /// Renew of somebody who is dead by then would have the voters wait for Lg from its arrival.
    pub fn heals(&mut self) {
        self.hostile = false;
        let late = nanos(self.now + LATE);
        self.queue.retain(|at, due| match due {
            Due::Process { what: What::Heard(_, msg), .. } => {
                let order =
                    matches!(**msg, Msg::Move(..) | Msg::Propose(Command::Pin { .. } | Command::Drain { .. }, _));
                !order && at < late
            }
            Due::Process { .. }
            | Due::Start(_)
            | Due::Resume(_)
            | Due::Kill(_)
            | Due::Isolate(_)
            | Due::Cut(_)
            | Due::Voters(_)
            | Due::Campaign(_)
            | Due::Want(..)
            | Due::Uncut(_)
            | Due::Fault => true,
        });
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    pub fn is_cut_on_the_lan(&self, from: NodeId, to: NodeId) -> bool {
        self.lan_cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    /// A packet on the LAN.
    pub fn packet(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        if self.chance(self.loss) {
            return self.count("advert lost");
        }
        let span = Duration::from_micros(self.rng.u64(20..300));
        self.deliver(span, from, to, Msg::Packet(packet));
    }

    /// Sends: it may be lost, doubled, late and out of order.
    pub fn send(&mut self, from: NodeId, to: NodeId, msg: Msg) {
        if from == to {
            let span = Duration::from_micros(self.rng.u64(5..50));
            return self.deliver(span, from, to, msg);
        }
        if self.unfenced.contains(&from) && !matches!(msg, Msg::Forged(_) | Msg::Hello { .. }) {
            self.violations.push(format!("S1: {from} serves without a lease and says {msg:?} to {to}"));
        }
        if self.is_cut(from, to) {
            return self.count("message cut");
        }
        if self.chance(self.loss) {
            return self.count("message lost");
        }
        let mut span = Duration::from_micros(self.rng.u64(100..1500)) + self.base * self.rng.u32(50..150) / 100;
        let late = match msg {
            // A proposal may wait out an election or sit in a retry anywhere.
            Msg::Propose(..) => 60,
            Msg::Lease(_) => self.late,
            Msg::Raft(_) | Msg::Hello { .. } | Msg::Move(..) | Msg::Packet(_) | Msg::Forged(_) => 15,
        };
        if self.chance(late) {
            let most = [10, 50, 250][self.rng.usize(0..3)];
            span += self.leases(0..most);
            self.count("message late");
        } else if self.chance(50) {
            span += self.millis(0..60);
        }
        if self.chance(8) {
            let again = span + self.leases(0..120);
            self.count("message doubled");
            self.deliver(again, from, to, msg.clone());
        }
        self.deliver(span, from, to, msg);
    }

    fn deliver(&mut self, span: Duration, from: NodeId, to: NodeId, msg: Msg) {
        let (at, place) = (self.now + span, |node: NodeId| usize::try_from(node.0).unwrap_or(0));
        let latest = &mut self.arrives[place(from)][place(to)];
        if nanos(at) < *latest {
            self.count("message overtakes another");
        } else {
            *latest = nanos(at);
        }
        let what = What::Heard(from, Box::new(msg));
        self.at(at, Due::Process { node: to, epoch: None, what, now: None });
    }
}

/// Mostly a short one: what goes wrong in terms of L goes wrong sooner.
fn any_profile(rng: &mut fastrand::Rng) -> LeaseProfile {
    PROFILES
        .get(rng.usize(0..10))
        .map_or_else(|| LeaseProfile::with_ttl(Duration::from_millis(300)).unwrap_or_default(), |(_, profile)| *profile)
}

/// A schedule takes seconds.
fn nanos(at: Time) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
