//! What must be again when the faults are over: L1 to L3, each tried on the healed cluster.

use crate::clocks::{Clocks, Time};
use crate::faults;
use crate::kernel::Gate;
use crate::node::Node;
use crate::program;
use crate::world::World;
use hamesh_fencing::clock::LATENESS;
use hamesh_raft::command::{Command, GateId, GroupName, NodeId, Sid};
use std::collections::BTreeMap;
use std::time::Duration;

/// After the faults end, everything must be well again within this.
const RECOVERY: Duration = Duration::from_secs(8);
/// For so long without a change, before it counts as well: a lease given up is not fresh any more by then.
const STEADY: Duration = Duration::from_millis(150);
/// A planned move keeps a group dark for no longer: two commits, and the steps of two pairs of hands.
const MOVE: Duration = Duration::from_millis(40);
/// A few messages, and the steps that follow them.
const MESSAGES: Duration = Duration::from_millis(6);
/// A wall clock that is set keeps a group dark for no longer: the steps of one pair of hands.
const REARM: Duration = Duration::from_millis(5);
/// From the end of the lease, or of two elections, until the VIP answers.
const TAKEOVER: Duration = Duration::from_millis(500);

/// So many of the trials are made in one schedule, beside the crash at its end.
const TRIALS: usize = 3;

/// What was seen of the groups over a while.
#[derive(Default)]
struct Seen {
    dark: BTreeMap<GroupName, Duration>,
    elsewhere: Vec<GroupName>,
}

impl World {
    /// Ends the faults, and tries L1 to L3.
    pub fn recover(&mut self) {
        self.heal();
        // Who is frozen or asleep wakes by itself: what it has in its hand is as old as it is.
        let awake = self.nodes.iter().map(|node| node.frozen).max().unwrap_or_default();
        self.run_until(awake);
        self.net.healed = Some(self.net.now);
        let patience = RECOVERY + self.net.lan.patience();
        if !self.becomes_well(patience) {
            let dark = self.groups.iter().find(|group| self.owner(group).is_none());
            let leaders: Vec<NodeId> = self.nodes.iter().filter(|node| node.leads()).map(|node| node.id).collect();
            return self.fails(match dark {
                Some(dark) => format!("L1: vip.{dark} is dark long after the faults; leaders {leaders:?}"),
                None => format!("L1: the cluster does not come to rest after the faults; leaders {leaders:?}"),
            });
        }
        let mut trials: [fn(&mut Self); 7] = [
            Self::loses_the_leader,
            Self::restarts,
            Self::moves,
            Self::fails_to_claim,
            Self::hears_nothing,
            Self::grantee_is_cut_off,
            Self::sets_the_wall_clock,
        ];
        self.net.rng.shuffle(&mut trials);
        for trial in trials.into_iter().take(TRIALS) {
            trial(self);
            if self.checks.violation.is_none() && !self.becomes_well(RECOVERY) {
                self.fails("L1: the cluster does not come to rest after a trial".to_owned());
            }
            if self.checks.violation.is_some() {
                return;
            }
        }
        self.crashes();
    }

    fn fails(&mut self, what: String) {
        let now = self.net.now;
        self.checks.violated(now, what);
    }

    /// Whose gate is open for the group.
    fn owner(&self, group: &str) -> Option<NodeId> {
        let now = self.net.now;
        let open = |node: &&Node| node.gates.iter().any(|gate| gate.is_open(&node.clocks, now, group));
        self.nodes.iter().find(open).map(|node| node.id)
    }

    fn owners(&self) -> BTreeMap<GroupName, Option<NodeId>> {
        self.groups.iter().map(|group| (group.clone(), self.owner(group))).collect()
    }

    /// Somebody leads, no voters change, nothing is ordered, every session is that of a running process, and every group
    /// is open where the truth says.
    fn is_well(&self) -> bool {
        let leader = self.nodes.iter().find(|node| node.leads()).and_then(|node| node.process.as_ref());
        let settled = leader.is_some_and(|leader| leader.raft.effective().halves.len() == 1);
        let truth = &self.checks.truth;
        settled
            && self.nodes.iter().all(|node| node.process.is_some())
            && !self.is_ordered()
            && truth.sessions.iter().all(|(sid, session)| session.fenced.is_none() && self.works_in(session.node, *sid))
            && self.groups.iter().all(|group| {
                let owner = self.owner(group);
                owner.is_some() && owner == truth.holder_node(group)
            })
    }

    /// Whether the node's process goes on in this session.
    fn works_in(&self, node: NodeId, sid: Sid) -> bool {
        let node = self.nodes.iter().find(|other| other.id == node);
        let Some((node, process)) = node.and_then(|node| Some((node, node.process.as_ref()?))) else { return false };
        let status = process.holder.as_ref().map(|holder| holder.status(node.clocks.read(self.net.now)));
        status.is_some_and(|status| {
            // Fresh: its renewals come through.
            status.sid == Some(sid) && status.remaining.is_some_and(|left| left * 4 >= process.ttl * 3)
        })
    }

    /// Whether anybody's order is in force.
    fn is_ordered(&self) -> bool {
        let truth = &self.checks.truth;
        truth.groups.values().any(|group| group.pinned.is_some()) || truth.members.values().any(|member| member.drained)
    }

    /// False if it does not within `patience`, or something else went wrong.
    fn becomes_well(&mut self, patience: Duration) -> bool {
        let end = self.net.now + patience;
        let mut since = None;
        let mut before = BTreeMap::new();
        let ttl = self.nodes.iter().filter_map(|node| node.process.as_ref()).map(|process| process.ttl).max();
        let steady = STEADY + ttl.unwrap_or_default() / 5;
        let mut ordered: Option<Time> = None;
        while self.checks.violation.is_none() && self.net.now < end {
            self.run_until(self.net.now + Duration::from_millis(10));
            if self.is_ordered() && ordered.is_none_or(|at| self.net.now >= at + Duration::from_millis(200)) {
                faults::orders_end(self);
                ordered = Some(self.net.now);
            }
            let owners = self.owners();
            if !self.is_well() || owners != before {
                (since, before) = (None, owners);
            } else if self.net.now - *since.get_or_insert(self.net.now) >= steady {
                return true;
            }
        }
        self.checks.violation.is_some()
    }

    /// Goes on for a while, and looks at the groups after every event.
    fn watch(&mut self, span: Duration, until: impl Fn(&Self) -> bool) -> Seen {
        let end = self.net.now + span;
        let before = self.owners();
        let mut seen = Seen::default();
        let mut dark_since: BTreeMap<GroupName, Time> = BTreeMap::new();
        while self.checks.violation.is_none() && !until(self) && self.step(end) {
            for group in &self.groups {
                match self.owner(group) {
                    None => drop(dark_since.entry(group.clone()).or_insert(self.net.now)),
                    Some(owner) => {
                        if let Some(since) = dark_since.remove(group) {
                            let longest = seen.dark.entry(group.clone()).or_default();
                            *longest = (self.net.now - since).max(*longest);
                        }
                        if before[group].is_some_and(|before| before != owner) && !seen.elsewhere.contains(group) {
                            seen.elsewhere.push(group.clone());
                        }
                    }
                }
            }
        }
        for (group, since) in dark_since {
            seen.dark.insert(group, self.net.now - since);
        }
        seen
    }

    /// L2: the loss of the leader alone moves no VIP.
    fn loses_the_leader(&mut self) {
        let Some(leader) = self.nodes.iter().find(|node| node.leads()).map(|node| node.id) else { return };
        let voters = self.node(leader).and_then(|node| Some(node.process.as_ref()?.raft.effective().voters()));
        let Some(voters) = voters.filter(|voters| voters.len() >= 3) else { return };
        self.net.note(leader, || "TRIAL: the leader is lost".to_owned());
        self.net.count("trial: leader lost");
        if self.owners().values().any(|owner| *owner == Some(leader)) {
            // It holds a group and lives on: another takes the leadership.
            let others: Vec<NodeId> = voters.into_iter().filter(|node| *node != leader).collect();
            let rival = self.net.rng.choice(others);
            let now = self.net.now;
            if let Some(process) = rival.and_then(|id| self.node(id)).and_then(|node| node.process.as_mut()) {
                process.raft.election_at = now;
            }
        } else {
            let pause = self.net.millis(50..600);
            self.kill(leader, "killed", pause);
        }
        // As long as any lease lasts, or an election.
        let running = self.nodes.iter().filter_map(|node| Some((node.process.as_ref()?.ttl, node.profile.raft)));
        let span = running.map(|(ttl, timing)| ttl.max(timing.election_max * 2)).max().unwrap_or_default();
        let seen = self.watch(span + Duration::from_millis(400), |_| false);
        if let Some(group) = seen.dark.keys().next().or(seen.elsewhere.first()) {
            self.fails(format!("L2: the loss of the leader, {leader}, was seen at vip.{group}"));
        }
    }

    /// L2: a restart within L drops no packet. That of a leader takes an election, too; and a leader of another profile may
    /// say too seldom what is committed.
    fn restarts(&mut self) {
        let leaders = self.nodes.iter().filter(|node| node.leads());
        let Some(every) = leaders.map(|node| node.profile.raft.heartbeat).max() else { return };
        let holders = self.nodes.iter().filter(|node| !node.leads());
        let owners = self.owners();
        let holders = holders.filter(|node| owners.values().any(|owner| *owner == Some(node.id)));
        let terms = holders.filter_map(|node| Some((node.id, node.process.as_ref()?.ttl)));
        let Some((id, ttl)) = terms.into_iter().find(|(_, ttl)| every * 4 <= *ttl) else { return };
        self.net.note(id, || "TRIAL: a restart within L".to_owned());
        self.net.count("trial: restart");
        // The gate was armed for 0.89 L - 20 ms, up to R ago, on timers that may be slewed; and the new process waits for a heartbeat.
        let armed = (ttl * 89 / 100).saturating_sub(Duration::from_millis(20)) * 92 / 100;
        let leaves = armed.saturating_sub(ttl / 5 + every + MESSAGES);
        let pause = leaves.min(ttl / 4).mul_f64(self.net.rng.f64());
        self.kill(id, "killed", pause);
        let seen = self.watch(ttl * 2, |_| false);
        if let Some(group) = seen.dark.keys().next().or(seen.elsewhere.first()) {
            self.fails(format!("L2: the restart of {id} within L was seen at vip.{group}"));
        }
    }

    /// L3: a planned move costs milliseconds, and says on the LAN that the old MASTER is none.
    fn moves(&mut self) {
        let Some((group, from, to)) = self.any_move() else { return };
        self.net.note(to, || format!("TRIAL: vip.{group} is moved here"));
        self.net.count("trial: move");
        let begun = self.net.now;
        faults::order(self, &Command::Pin { group: group.clone(), node: Some(to) });
        let seen = self.watch(Duration::from_secs(3), |world| world.owner(&group) == Some(to));
        if self.owner(&group) != Some(to) {
            return self.fails(format!("L3: vip.{group} was not moved to {to} by order"));
        }
        if let Some(gap) = seen.dark.get(&group).filter(|gap| **gap > MOVE + self.net.base * 12) {
            return self.fails(format!("L3: the move of vip.{group} kept it dark for {gap:?}"));
        }
        let heard = self.net.lan.heard.get(&group).copied().unwrap_or_default();
        if heard.resigned.is_none_or(|(node, at)| node != from || at < begun) {
            return self.fails(format!("L3: {from} gave up vip.{group} and told nobody on the LAN"));
        }
        if heard.advert.is_none_or(|(node, at)| node != to || at < begun) {
            self.fails(format!("L3: {to} took vip.{group} and told nobody on the LAN"));
        }
    }

    /// A group, its owner, and another director that it could go to.
    fn any_move(&mut self) -> Option<(GroupName, NodeId, NodeId)> {
        let chosen = self.net.rng.usize(0..self.groups.len());
        let group = self.groups[chosen].clone();
        let from = self.owner(&group)?;
        let targets = self.eligible(&group, from);
        Some((group, from, self.net.rng.choice(targets)?))
    }

    /// L1: a director whose claims fail lets others have the group (V4).
    fn fails_to_claim(&mut self) {
        let Some((group, _, to)) = self.any_move() else { return };
        self.net.note(to, || format!("TRIAL: vip.{group} is moved here, and claims fail"));
        self.net.count("trial: claims fail");
        if let Some(node) = self.node(to) {
            node.broken = true;
        }
        faults::order(self, &Command::Pin { group: group.clone(), node: Some(to) });
        self.watch(Duration::from_millis(400), |_| false);
        self.watch(Duration::from_secs(1), |world| world.owner(&group).is_some());
        if self.owner(&group).is_none() {
            self.fails(format!("L1: vip.{group} stays with {to}, whose claims fail"));
        }
        if let Some(node) = self.node(to) {
            node.broken = false;
        }
    }

    /// L1: a holder that is heard and hears nothing loses its groups to others (V1). Not a voter: that would be the Raft's affair.
    fn hears_nothing(&mut self) {
        let Some((group, from, _)) = self.any_move() else { return };
        let Some((ttl, promise)) = self.terms(from).filter(|_| !self.votes(from)) else { return };
        self.net.note(from, || "TRIAL: hears nothing any more".to_owned());
        self.net.count("trial: hears nothing");
        let others = self.nodes.iter().map(|node| node.id).filter(|id| *id != from);
        self.net.cuts.insert(0, others.map(|other| (other, from)).collect());
        let span = ttl + promise + TAKEOVER * 2 + self.net.base * 12;
        self.watch(span, |world| world.owner(&group).is_some_and(|owner| owner != from));
        if self.owner(&group).is_none_or(|owner| owner == from) {
            self.fails(format!("L1: vip.{group} stays with {from}, which hears nothing, for {span:?}"));
        }
        self.net.cuts.clear();
    }

    /// L1: a grantee that cannot take what it was given loses it (V3).
    fn grantee_is_cut_off(&mut self) {
        let Some((group, _, to)) = self.any_move() else { return };
        let Some(leader) = self.nodes.iter().find(|node| node.leads()).map(|node| node.id) else { return };
        let Some((ttl, promise)) = self.terms(to).filter(|_| !self.votes(to) && to != leader) else { return };
        self.net.note(to, || format!("TRIAL: vip.{group} is moved here, and the leader is not heard"));
        self.net.count("trial: grantee cut off");
        self.net.cuts.insert(0, [(to, leader), (leader, to)].into());
        let chosen = self.nodes.iter().position(|node| node.id == leader).unwrap_or(0);
        let Self { net, nodes, .. } = self;
        nodes[chosen].propose(net, Command::Pin { group: group.clone(), node: Some(to) });
        self.watch(Duration::from_millis(200) + self.net.base * 8, |_| false);
        let span = ttl + promise + TAKEOVER * 2 + self.net.base * 12;
        self.watch(span, |world| world.owner(&group).is_some());
        if self.owner(&group).is_none() {
            self.fails(format!("L1: vip.{group} was granted to {to}, which cannot know, and is dark for {span:?}"));
        }
        self.net.cuts.clear();
    }

    /// L2: the wall clock of a holder is set, and it arms again at once.
    fn sets_the_wall_clock(&mut self) {
        let Some((_, holder, _)) = self.any_move() else { return };
        self.net.note(holder, || "TRIAL: the wall clock is set".to_owned());
        self.net.count("trial: wall clock set");
        let forward = self.net.rng.bool();
        faults::set_wall_clock(self, holder, forward, Duration::from_secs(365 * 86_400));
        let seen = self.watch(Duration::from_secs(1), |_| false);
        let longest = seen.dark.iter().max_by_key(|(_, gap)| **gap).filter(|(_, gap)| **gap > REARM);
        if let Some((group, gap)) = longest {
            self.fails(format!("L2: vip.{group} was dark for {gap:?} after the wall clock of {holder} was set"));
        }
    }

    /// L and Lg of a node's session.
    fn terms(&self, node: NodeId) -> Option<(Duration, Duration)> {
        let session = self.checks.truth.sessions.values().find(|session| session.node == node)?;
        Some((session.ttl, session.promise))
    }

    fn votes(&self, node: NodeId) -> bool {
        let leader = self.nodes.iter().find(|node| node.leads()).and_then(|node| node.process.as_ref());
        leader.is_some_and(|leader| leader.raft.effective().is_voter(node))
    }

    /// L1: after the crash of any one machine every VIP that another director may have answers again in time.
    fn crashes(&mut self) {
        // The bound is of one crash, outside a change of voters: a leader that has just started waits from there.
        let began = self.nodes.iter().map(|node| node.began).max().unwrap_or_default().max(self.net.voters_changed);
        let longest = self.checks.truth.sessions.values().map(|session| session.promise).max().unwrap_or_default();
        self.run_until(began + longest);
        let owners = self.owners();
        let holders: Vec<NodeId> = owners.values().flatten().copied().collect();
        let Some(victim) = self.net.rng.choice(holders) else { return };
        let enough = |node: &Node| node.process.as_ref().is_some_and(|p| p.raft.effective().voters().len() >= 3);
        if !self.nodes.iter().filter(|node| node.leads()).all(enough) {
            return;
        }
        let lost = owners.iter().filter(|(_, owner)| **owner == Some(victim)).map(|(group, _)| group.clone());
        let lost: Vec<_> = lost.filter(|group| !self.eligible(group, victim).is_empty()).collect();
        let truth = self.checks.truth.clone();
        let ttl = truth.sessions.values().filter(|session| session.node == victim).map(|session| session.ttl);
        // A gate that is later than rules are makes everybody wait for as much longer.
        let lease = ttl.max().unwrap_or_default() + self.net.lateness.saturating_sub(LATENESS);
        self.net.note(victim, || "TRIAL: the machine is gone".to_owned());
        self.net.count("trial: crash");
        let crashed = self.net.now;
        self.kill(victim, "lost power", RECOVERY);
        let Self { net, nodes, .. } = self;
        if let Some(node) = nodes.iter_mut().find(|node| node.id == victim) {
            node.clocks = Clocks::any(&mut net.rng, net.drift);
            node.gates = vec![Gate::new(GateId(net.rng.u128(..)), node.kind)];
            net.unfenced.remove(&victim);
        }
        let elections = self.nodes.iter().map(|node| node.profile.raft.election_max * 2).max().unwrap_or_default();
        let answers = |world: &Self| lost.iter().all(|group| world.owner(group).is_some());
        self.watch(lease.max(elections) + TAKEOVER, answers);
        if !answers(self) {
            let took = self.net.now - crashed;
            self.fails(format!("L1: {lost:?} of {victim} are not all open {took:?} after its crash"));
        }
    }

    /// The other nodes that the group could go to at once.
    fn eligible(&self, group: &str, from: NodeId) -> Vec<NodeId> {
        let truth = &self.checks.truth;
        let candidates = truth.groups.get(group).into_iter().flat_map(|group| group.candidates.keys());
        let free = candidates.filter(|sid| truth.obstacle(group, **sid).is_none());
        let free = free.filter_map(|sid| truth.sessions.get(sid)).map(|session| session.node);
        // One that has just started may still listen for a router outside the mesh.
        let wants = |id: &NodeId| {
            let process = self.nodes.iter().find(|node| node.id == *id).and_then(|node| node.process.as_ref());
            process.and_then(|process| process.routers.get(group)).is_some_and(|router| router.status().candidate)
        };
        free.filter(|node| *node != from && wants(node)).collect()
    }

    fn heal(&mut self) {
        self.net.cuts.clear();
        self.net.lan_cuts.clear();
        self.net.heals();
        self.net.note(NodeId(0), || "HEALED".to_owned());
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        for id in &ids {
            if let Some(node) = self.node(*id) {
                (node.slow_disk, node.dies_in, node.failing, node.voters) = (Time::ZERO, None, None, None);
                node.hears.clear();
            }
            self.start(*id);
        }
        program::upgrade_all(self);
        self.want_everything();
        for id in ids {
            for group in self.groups.clone() {
                self.wish(id, &group, true);
                let Self { net, nodes, .. } = self;
                if let Some(node) = nodes.iter_mut().find(|node| node.id == id) {
                    let now = node.clocks.read(net.now);
                    node.reweigh(net, now, &group);
                }
            }
        }
    }
}
