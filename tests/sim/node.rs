//! One machine and the process on it: the minds wired to the models, the way the daemon wires them to the world.

mod alone;
mod replica;

pub use alone::{IDLE, UNFENCED};

use crate::clocks::{Clocks, Time};
use crate::hands::{Failing, Hands, Step};
use crate::kernel::{Gate, Kind};
use crate::log::{self, Disk};
use crate::net::{Msg, Net, What};
use crate::program::Program;
use crate::raft::Raft;
use alone::Solitude;
use hamesh::config::profile::{LeaseProfile, RaftTiming};
use hamesh::vrrp::router::Router;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::{self, Grantor, Hearing};
use hamesh_fencing::holder::{self, Holder, Identity};
use hamesh_fencing::message::Message;
use hamesh_fencing::record::MayAct;
use hamesh_fencing::voter::{self, Voter};
use hamesh_raft::command::{Command, GateId, GroupName, Leadership, NodeId, Role, Sid};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::{Candidate, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a registration may stay without effect before it is made again.
const PATIENCE: Duration = Duration::from_millis(200);
/// Who has answered the leader for so long may be made a voter, as with the daemon's.
pub const READY: Duration = Duration::from_secs(1);
/// Between two looks of whoever has something to look at.
const LOOK: Duration = Duration::from_millis(10);
/// The longest pause of a director that loses a group again and again; short, as everything is quick here.
const DAMPING: Duration = Duration::from_secs(4);

/// What directors hear on the LAN of each group.
pub type Hears = BTreeMap<GroupName, BTreeMap<NodeId, Hearing>>;

/// A machine.
pub struct Node {
    pub id: NodeId,
    pub role: Role,
    pub clocks: Clocks,
    pub kind: Kind,
    pub profile: LeaseProfile,
    pub program: Program,
    pub disk: Disk,
    pub incarnation: u64,
    /// What lies in /run.
    pub run: Option<MayAct>,
    /// One per network namespace; the last is the one that processes start in.
    pub gates: Vec<Gate>,
    pub process: Option<Process>,
    /// Frozen until then.
    pub frozen: Time,
    pub slow_disk: Time,
    /// The process ends after this many steps of its hands.
    pub dies_in: Option<u32>,
    /// What fails the next time.
    pub failing: Option<Failing>,
    /// Every claim fails.
    pub broken: bool,
    pub wishes: BTreeMap<GroupName, (bool, Candidate)>,
    /// What this node, as a leader, is told of the LAN.
    pub hears: Hears,
    /// The voters that an operator wants.
    pub voters: Option<BTreeSet<NodeId>>,
    /// When the process began.
    pub began: Time,
}

/// A run of hamesh.
pub struct Process {
    pub epoch: u64,
    /// Which of the machine's gates it works.
    pub gate: usize,
    pub raft: Raft,
    pub voter: Voter,
    pub grantor: Grantor,
    pub holder: Option<Holder>,
    pub hands: Hands,
    pub routers: BTreeMap<GroupName, Router>,
    pub solitude: Solitude,
    /// The present session's L, as this process has it.
    pub ttl: Duration,
    flushing: bool,
    generation: u64,
    leading: Option<Leadership>,
    registering: Option<Time>,
    /// The membership that was applied last.
    voting: Arc<Membership>,
    /// What the grantor was told last of what is heard on the LAN.
    heard: Hears,
}

impl Process {
    /// Whether a leader has nothing to judge and nothing to grant.
    fn is_quiet(&self, now: Moment) -> bool {
        let state = &self.raft.state;
        let renews = |(sid, session): (&Sid, &Session)| {
            session.fenced.is_none() && self.voter.known(now, *sid).is_some_and(|known| known.silent * 2 < session.ttl)
        };
        state.groups.values().all(|group| group.holder.is_some()) && state.sessions.iter().all(renews)
    }
}

impl Node {
    /// Starts the process, by the rules of the restart.
    pub fn start(&mut self, net: &mut Net) {
        let t = net.now;
        let now = self.clocks.read(t);
        self.incarnation += 1;
        let epoch = net.next_epoch();
        let gate = self.gates.len() - 1;
        let me = Identity {
            node: self.id,
            incarnation: self.incarnation,
            process: net.rng.u64(..),
            gate: self.gates[gate].id,
        };
        let holder = match self.role {
            Role::Witness => None,
            Role::Director => Some(self.begin(net, now, me)),
        };
        let raft = Raft::start(
            self.id,
            &self.disk,
            self.profile.raft.heartbeat,
            t + election_timeout(&mut net.rng, self.profile.raft),
        );
        let (routers, ttl) = (self.routers(net), self.run.as_ref().map_or(self.profile.ttl, |record| record.ttl));
        self.process = Some(Process {
            epoch,
            gate,
            raft,
            voter: Voter::new(self.id, now),
            grantor: Grantor::new(now, DAMPING),
            holder,
            hands: Hands::default(),
            routers,
            solitude: Solitude::default(),
            ttl,
            flushing: false,
            generation: 0,
            leading: None,
            registering: None,
            voting: Arc::new(self.disk.snapshot.membership.clone()),
            heard: BTreeMap::new(),
        });
        self.began = t;
        self.start_routers(net, now);
        self.perform_raft(net, now);
        net.after(Duration::ZERO, self.id, epoch, What::Tick);
    }

    /// Resumes the recorded session if the gate is the same one, else begins anew behind a shut gate (H1, H7).
    fn begin(&mut self, net: &mut Net, now: Moment, mut me: Identity) -> Holder {
        let gate = self.gates.len() - 1;
        if let Some(record) = self.run.clone().filter(|record| record.gate == me.gate)
            && !net.chance(100)
        {
            net.count("resumed");
            net.note(self.id, || format!("resumes {record:?}"));
            return Holder::resume(now, me, record.ttl / 5, record);
        }
        self.run = None;
        self.gates[gate].shut();
        net.unfenced.remove(&self.id);
        if net.chance(200) {
            // Somebody removed the table: a new gate in its place.
            me.gate = GateId(net.rng.u128(..));
            self.gates[gate].id = me.gate;
        }
        if net.chance(150) {
            self.profile = net.any_profile();
            net.count("profile changed");
        }
        net.note(self.id, || format!("begins anew, gate {}", me.gate));
        Holder::new(me, net.terms(self.profile))
    }

    /// Ends the process where it stands: kill -9.
    pub fn kill(&mut self, net: &mut Net, why: &'static str) {
        if let Some(process) = self.process.take() {
            net.count(why);
            if process.raft.has_unflushed() {
                net.count("unflushed tail lost");
            }
            net.note(self.id, || format!("dies: {why}"));
        }
        self.dies_in = None;
    }

    pub fn leads(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.raft.leading().is_some())
    }

    /// The process executes something.
    pub fn runs(&mut self, net: &Net) {
        let t = net.now;
        let unfenced = self.serves_unfenced(net).unwrap_or_default();
        if let Some(process) = &self.process {
            self.gates[process.gate].served(t, process.ttl.max(unfenced), net.drift);
        }
    }

    /// One event of this process.
    pub fn happens(&mut self, net: &mut Net, now: Moment, what: What) {
        match what {
            What::Tick => self.tick(net, now),
            What::Flush(generation, index) => self.flushed(net, now, generation, index),
            What::Hands => self.step(net, now),
            What::ClockSet => self.arm_again(net, now),
            What::Heard(from, msg) => self.heard(net, now, from, *msg),
        }
    }

    fn tick(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = &mut self.process else { return };
        process.raft.tick(net.now, election_timeout(&mut net.rng, self.profile.raft));
        self.perform_raft(net, now);
        self.register(net);
        self.change_voters(net);
        self.look_around(net, now);
        self.tick_routers(net, now);
        self.hold(net, now, holder::Event::Tick);
        self.look_alone(net, now);
        self.sleep(net, now);
    }

    /// What only a leader needs to know; the others' grantors do nothing with it.
    fn look_around(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = self.process.as_mut().filter(|process| process.raft.is_leader()) else { return };
        let own = process.voter.sessions().filter_map(|sid| Some((sid, process.voter.known(now, sid)?))).collect();
        let replicating = process.raft.replicating(net.now.saturating_sub(self.profile.raft.heartbeat * 4));
        if process.heard != self.hears {
            process.heard.clone_from(&self.hears);
            process.grantor.handle(now, grantor::Event::Hears(self.hears.clone()));
        }
        process.grantor.handle(now, grantor::Event::Replicating(replicating));
        let actions = process.grantor.handle(now, grantor::Event::Tick(own));
        self.grant(net, actions);
    }

    /// Until the next thing that is due by the clock; the daemon looks around every 10 ms, most times for nothing, and with a long
    /// lease for nothing much more often.
    fn sleep(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = &self.process else { return };
        let routers = process.routers.values().filter_map(Router::next_deadline);
        let holder = process.holder.as_ref().and_then(|holder| holder.next_deadline(now));
        let mut pause = process.raft.next().saturating_sub(net.now).min(Duration::from_millis(100));
        pause = routers.chain(holder).map(|deadline| now.until(deadline)).fold(pause, Duration::min);
        if process.solitude.is_silent() {
            pause = pause.min(LOOK);
        }
        if process.raft.is_leader() {
            let quiet = process.is_quiet(now);
            let look = if quiet { LOOK * 5 } else { LOOK.max(process.ttl / 30) };
            pause = pause.min(look);
            let own = process.voter.sessions().filter_map(|sid| Some((sid, process.voter.known(now, sid)?))).collect();
            pause = process.grantor.pause(now, &own).map_or(pause, |looks| looks.min(pause));
        }
        let pause = pause + Duration::from_micros(net.rng.u64(200..2_000));
        net.after(pause, self.id, process.epoch, What::Tick);
    }

    fn register(&mut self, net: &mut Net) {
        let (id, incarnation, t) = (self.id, self.incarnation, net.now);
        let Some(process) = &mut self.process else { return };
        let Some(member) = process.raft.state.members.get(&id) else { return };
        let due = process.registering.is_none_or(|at| t >= at + PATIENCE);
        if member.incarnation != incarnation && due {
            let (rack, address) = (member.rack.clone(), member.address);
            process.registering = Some(t);
            self.propose(net, Command::Register { node: id, incarnation, rack, address });
        }
    }

    fn change_voters(&mut self, net: &mut Net) {
        let t = net.now;
        let (Some(process), Some(target)) = (&mut self.process, &self.voters) else { return };
        let Some(leadership) = process.raft.leading() else { return };
        let effective = process.raft.effective();
        if effective.index > process.raft.applied || effective.halves.len() != 1 || effective.halves[0] == *target {
            return;
        }
        let replicating = process.raft.replicating(t.saturating_sub(READY));
        // As the daemon's: the leader goes on voting, and a lone voter too. Else a node that votes no more may be the only one
        // to know that, and nobody can be elected.
        let old = &effective.halves[0];
        let stays = target.contains(&self.id) && (old.len() > 1 || old.is_subset(target));
        if process.grantor.may_change_voters() && target.is_subset(&replicating) && stays {
            net.count("voters changed");
            net.note(self.id, || format!("voters {:?} -> {target:?}", effective.halves[0]));
            let learners = effective.members().difference(target).copied().collect();
            let halves = vec![effective.halves[0].clone(), target.clone()];
            process.raft.propose(t, leadership, log::What::Membership(halves, learners));
        }
    }

    fn flushed(&mut self, net: &mut Net, now: Moment, generation: u64, index: u64) {
        let Some(process) = &mut self.process else { return };
        if process.generation == generation {
            process.flushing = false;
            process.raft.flushed(net.now, index);
            process.raft.on_disk(&mut self.disk);
        }
        self.perform_raft(net, now);
    }

    fn heard(&mut self, net: &mut Net, now: Moment, from: NodeId, msg: Msg) {
        let (id, t) = (self.id, net.now);
        if !self.program.reads(&msg) {
            return net.count("an older program cannot read it");
        }
        let in_the_mesh = !matches!(msg, Msg::Packet(_));
        if in_the_mesh && !self.listens(net, now, from, &msg) {
            return;
        }
        let Some(process) = &mut self.process else { return };
        match msg {
            Msg::Hello { answered: false } => net.send(id, from, Msg::Hello { answered: true }),
            Msg::Hello { answered: true } => {}
            Msg::Raft(rpc) => {
                process.raft.heard(t, from, rpc, election_timeout(&mut net.rng, self.profile.raft));
                self.perform_raft(net, now);
            }
            Msg::Lease(message) => self.lease(net, now, from, message),
            Msg::Forged(message) => self.forged(net, now, from, &message),
            Msg::Packet(packet) => self.packet(net, now, &packet),
            Msg::Propose(command, hops) => match (process.raft.leading(), process.raft.leader) {
                (Some(leadership), _) => {
                    let command = self.program.prefers(&process.raft.state, process.grantor.complete(command));
                    net.count_command(&command);
                    net.note(id, || format!("proposes {command:?}"));
                    process.raft.propose(t, leadership, log::What::Command(command));
                    self.perform_raft(net, now);
                }
                (None, Some(leader)) if leader != id && hops < 2 => {
                    self.say(net, leader, Msg::Propose(command, hops + 1));
                }
                (None, Some(_) | None) => {}
            },
            Msg::Move(group, token, to) => {
                net.count("asked to move");
                self.hold(net, now, holder::Event::Move(group, token, to));
            }
        }
    }

    /// A message of the lease plane.
    pub fn lease(&mut self, net: &mut Net, now: Moment, from: NodeId, message: Message) {
        let Some(process) = &mut self.process else { return };
        match message {
            Message::Ack(ack) => self.hold(net, now, holder::Event::Heard(from, ack)),
            Message::Tell(tell) => {
                net.note(self.id, || format!("is told by {from}: {tell:?}"));
                let actions = process.grantor.handle(now, grantor::Event::Told(from, tell));
                self.grant(net, actions);
            }
            Message::Renew(_) | Message::Ask(_) => {
                if let Message::Ask(ask) = &message
                    && !process.raft.is_flushed()
                    && process.raft.state.sessions.get(&ask.sid).is_some_and(|session| session.fenced.is_some())
                {
                    net.count("asked before the flush");
                }
                for voter::Action::Answer(answer) in process.voter.handle(now, voter::Event::Heard(from, &message)) {
                    self.say(net, from, Msg::Lease(answer));
                }
            }
        }
    }

    /// Tells the holder, and passes on what it orders. Renews go at once, the rest through the hands in order.
    pub fn hold(&mut self, net: &mut Net, now: Moment, event: holder::Event) {
        let id = self.id;
        if matches!(event, holder::Event::Applied(..) | holder::Event::Stop) {
            // A lease begins beside nothing.
            self.rejoin(net, now);
        }
        let Some(process) = &mut self.process else { return };
        let Some(holder) = &mut process.holder else { return };
        let mut orders = Vec::new();
        for action in holder.handle(now, event) {
            if let holder::Action::Send(voters, renew) = action {
                for voter in voters {
                    net.send(id, voter, Msg::Lease(Message::Renew(renew.clone())));
                }
            } else {
                net.note(id, || format!("holder orders {action:?}"));
                orders.push(Step::Ordered(action));
            }
        }
        process.hands.take(orders);
        self.hurry(net);
    }

    /// Makes the hands take their next step.
    pub fn hurry(&mut self, net: &mut Net) {
        let id = self.id;
        let Some(process) = &mut self.process else { return };
        if process.hands.begin() {
            let slow = net.hostile && net.rng.u8(0..100) == 0;
            let span = if slow { net.rng.u64(2_000..60_000) } else { net.rng.u64(10..400) };
            net.after(Duration::from_micros(span), id, process.epoch, What::Hands);
        }
    }

    /// Brings a command to the leader.
    pub fn propose(&mut self, net: &mut Net, command: Command) {
        let Some(process) = &self.process else { return };
        if let Some(leader) = process.raft.leader {
            self.say(net, leader, Msg::Propose(command, 0));
        }
    }

    /// Says something in the mesh, unless it is silent there.
    fn say(&self, net: &mut Net, to: NodeId, msg: Msg) {
        if to == self.id || self.process.as_ref().is_none_or(|process| !process.solitude.is_silent()) {
            net.send(self.id, to, msg);
        }
    }
}

fn election_timeout(rng: &mut fastrand::Rng, timing: RaftTiming) -> Duration {
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.u64(micros(timing.election_min)..micros(timing.election_max)))
}
