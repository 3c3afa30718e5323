//! One schedule: a cluster, its faults and its healing, on one thread, all from one seed.

use crate::checks::Checks;
use crate::clocks::{Clocks, Time};
use crate::faults;
use crate::kernel::{Gate, Kind};
use crate::log::{Disk, Snapshot};
use crate::net::{Due, Net, What};
use crate::node::Node;
use crate::program::Program;
use crate::raft::Raft;
use crate::voters;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::Hearing;
use hamesh_raft::command::{
    Applicant, ClusterId, Command, Definition, Family, GateId, GroupName, InvitationId, Leadership, Lineage, NodeId,
    Role,
};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::{Candidate, State};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A cluster under test.
pub struct World {
    pub net: Net,
    pub nodes: Vec<Node>,
    pub groups: Vec<GroupName>,
    pub checks: Checks,
    pub kind: Kind,
    ends: Time,
    heals: bool,
}

impl World {
    pub fn new(seed: u64, told: bool, drift: u32) -> Self {
        let mut net = Net::new(seed, told, drift);
        let size = [2, 3, 3, 3, 4, 5, 5, 6][net.rng.usize(0..8)];
        let ids: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let voters = *net.rng.choice([1usize, 3, 3, 3, 5, 5].iter()).unwrap_or(&1);
        let voters = voters.min(if ids.len() % 2 == 1 { ids.len() } else { ids.len() - 1 });
        let witness = (ids.len() > 2 && net.rng.bool()).then(|| ids[net.rng.usize(0..voters)]);
        let groups: Vec<GroupName> =
            ["web", "api", "dns"].iter().take(net.rng.usize(1..=3)).map(|name| (*name).to_owned()).collect();
        let snapshot = founded(&ids, witness, voters);
        let kind = if net.rng.bool() { Kind::Nftables } else { Kind::Latest(net.lateness) };
        let mixed = net.rng.u8(0..4) == 0;
        let mut nodes = Vec::new();
        for id in &ids {
            let role = if Some(*id) == witness { Role::Witness } else { Role::Director };
            let disk = Disk { vote: Leadership { term: 1, node: ids[0] }, snapshot: snapshot.clone(), log: Vec::new() };
            let clocks = Clocks::any(&mut net.rng, net.drift);
            nodes.push(Node {
                id: *id,
                role,
                clocks,
                kind,
                profile: net.any_profile(),
                program: if mixed && net.rng.bool() { Program::Older } else { Program::Newer },
                disk,
                incarnation: 0,
                run: None,
                gates: vec![Gate::new(GateId(net.rng.u128(..)), kind)],
                process: None,
                frozen: Time::ZERO,
                slow_disk: Time::ZERO,
                dies_in: None,
                failing: None,
                broken: false,
                wishes: BTreeMap::new(),
                hears: BTreeMap::new(),
                voters: None,
                began: Time::ZERO,
            });
            if role == Role::Director {
                net.directors.push(*id);
            }
            let at = net.millis(0..50);
            net.at(at, Due::Start(*id));
        }
        let begin = net.millis(250..600);
        net.at(begin, Due::Fault);
        let ends = begin + net.leases(if net.quorum_loss.is_some() { 700..1200 } else { 150..500 });
        let heals = net.rng.u8(0..12) == 0;
        // In some, everybody hears the holders from the start: only then a better candidate may ask for a group.
        if net.rng.bool() {
            for node in &mut nodes {
                let heard = || ids.iter().map(|id| (*id, Hearing::Holder)).collect();
                node.hears = groups.iter().map(|group| (group.clone(), heard())).collect();
            }
        }
        let mut world = Self { net, nodes, groups, checks: Checks::default(), kind, ends, heals };
        world.want_everything();
        world
    }

    /// Runs to the end or to the first violation.
    pub fn run(&mut self) {
        self.run_until(self.ends);
        if self.checks.violation.is_none() && self.heals {
            self.recover();
        }
        let Self { net, nodes, .. } = self;
        for node in nodes {
            let raft = node.process.as_ref().map(|process| &process.raft);
            net.note(node.id, || raft.map_or_else(|| "does not run".to_owned(), Raft::summary));
        }
    }

    pub fn node(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    pub fn run_until(&mut self, end: Time) {
        while self.checks.violation.is_none() && self.step(end) {}
    }

    /// The next event before `end`; false when there is none.
    pub fn step(&mut self, end: Time) -> bool {
        match self.net.next(end) {
            Some(due) => self.happen(due),
            None => {
                self.net.now = self.net.now.max(end);
                return false;
            }
        }
        true
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Process { node, epoch, what, now } => return self.process(node, epoch, what, now),
            Due::Start(id) => self.start(id),
            Due::Resume(id) => {
                let now = self.net.now;
                self.net.opened = true;
                if let Some(node) = self.node(id) {
                    node.clocks.resume(now);
                }
            }
            Due::Kill(_) | Due::Cut(_) | Due::Voters(_) | Due::Campaign(_) if !self.net.hostile => {}
            Due::Kill(id) => {
                let pause = self.net.millis(1..40);
                self.kill(id, "killed", pause);
            }
            Due::Isolate(id) => faults::isolate(self, id),
            Due::Cut(links) => faults::cut(self, links),
            Due::Voters(target) => voters::want(self, &target),
            Due::Campaign(id) => voters::campaigns_after(self, id, Duration::ZERO),
            Due::Want(id, group) => self.wish(id, &group, true),
            Due::Uncut(cut) => {
                self.net.cuts.remove(&cut);
                self.net.lan_cuts.remove(&cut);
            }
            Due::Fault => faults::strike(self),
        }
        self.checks.look(&mut self.net, &self.nodes);
    }

    fn process(&mut self, id: NodeId, epoch: Option<u64>, what: What, now: Option<Box<Moment>>) {
        let Self { net, nodes, .. } = self;
        let Some(node) = nodes.iter_mut().find(|node| node.id == id) else { return };
        if node.process.as_ref().is_none_or(|process| epoch.is_some_and(|epoch| epoch != process.epoch)) {
            return;
        }
        let t = net.now;
        if t < node.frozen {
            if !(node.clocks.is_suspended() && matches!(what, What::Heard(..))) {
                let again = node.frozen + Duration::from_micros(net.rng.u64(0..300));
                net.at(again, Due::Process { node: id, epoch, what, now });
            }
            return;
        }
        let fresh = now.is_none();
        let read = now.map_or_else(|| node.clocks.read(t), |now| *now);
        if fresh && net.chance(1) {
            // Frozen between reading the clock and acting on it.
            node.frozen = t + net.leases(1..250);
            net.count("frozen between clock and act");
            net.note(id, || "freezes with the clock in its hand".to_owned());
            // It dies with this process, and so does its reading of this boot's clocks.
            let epoch = node.process.as_ref().map(|process| process.epoch);
            return net.at(node.frozen, Due::Process { node: id, epoch, what, now: Some(Box::new(read)) });
        }
        node.runs(net);
        node.happens(net, read, what);
        self.checks.look(&mut self.net, &self.nodes);
    }

    pub fn start(&mut self, id: NodeId) {
        let Self { net, nodes, .. } = self;
        if let Some(node) = nodes.iter_mut().find(|node| node.id == id && node.process.is_none()) {
            node.start(net);
        }
    }

    /// Kills the process, if there is one, and starts it again after a while.
    pub fn kill(&mut self, id: NodeId, why: &'static str, pause: Duration) {
        let Self { net, nodes, .. } = self;
        if let Some(node) = nodes.iter_mut().find(|node| node.id == id) {
            node.kill(net, why);
            net.at(net.now + pause, Due::Start(id));
        }
    }

    pub fn wish(&mut self, id: NodeId, group: &str, wanted: bool) {
        let Self { net, nodes, .. } = self;
        if let Some(node) = nodes.iter_mut().find(|node| node.id == id)
            && let Some(wish) = node.wishes.get_mut(group)
        {
            wish.0 = wanted;
            let now = node.clocks.read(net.now);
            node.wish(net, now, group);
        }
    }

    pub fn want_everything(&mut self) {
        let Self { net, nodes, groups, .. } = self;
        for node in nodes.iter_mut().filter(|node| node.role == Role::Director) {
            for (number, group) in (0u8..).zip(&*groups) {
                let candidate = Candidate {
                    definition: definition(number, 0),
                    priority: net.rng.u8(50..250),
                    preempt: net.rng.bool(),
                };
                node.wishes.insert(group.clone(), (true, candidate));
            }
        }
    }
}

/// The group's addresses: its own, and `borrowed` ones of the next group.
pub fn definition(number: u8, borrowed: u8) -> Definition {
    let address = |last: u8| IpAddr::V4(Ipv4Addr::new(203, 0, 113, last));
    let own = [address(10 + number * 10), address(11 + number * 10)];
    let addresses = own.into_iter().chain((0..borrowed).map(|other| address(20 + number * 10 + other))).collect();
    Definition { family: Family::V4, vrid: 51 + number, addresses }
}

/// The state of a cluster whose nodes have all joined.
fn founded(ids: &[NodeId], witness: Option<NodeId>, voters: usize) -> Snapshot {
    let by = Leadership { term: 1, node: ids[0] };
    let mut state = State::default();
    let mut index = 0;
    for id in ids {
        let applicant = Applicant {
            name: format!("lb{}", id.0),
            role: if Some(*id) == witness { Role::Witness } else { Role::Director },
            rack: String::new(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 7112)),
            key: [0; 32],
        };
        let invitation = InvitationId(id.0);
        let commands = if index == 0 {
            let lineage = Lineage { counter: 1, id: 1 };
            vec![Command::Found { cluster: ClusterId(1), name: "sim".to_owned(), lineage, founder: applicant }]
        } else {
            let (role, expires_at) = (applicant.role, Duration::from_secs(1));
            vec![
                Command::Invite { id: invitation, secret_hash: [0; 32], role, expires_at },
                Command::Join { invitation, applicant, at: Duration::ZERO },
            ]
        };
        for command in commands {
            index += 1;
            state.apply(index, by, &command);
        }
    }
    let halves = vec![ids[..voters].iter().copied().collect()];
    let learners: BTreeSet<NodeId> = ids[voters..].iter().copied().collect();
    let membership = Membership { by, index, halves, learners };
    Snapshot { index, by, state: Arc::new(state), membership }
}
