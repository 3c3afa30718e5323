//! What must never be seen: S1 to S5, after every event.
//!
//! S1 and S3 are looked at when a gate may have opened or the truth has changed: by themselves gates only close. S5 is
//! seen where a packet is heard ([`crate::lan`]), and reported here.

use crate::clocks::Time;
use crate::kernel::Gate;
use crate::net::Net;
use crate::node::{Node, UNFENCED};
use hamesh::config::profile::PROFILES;
use hamesh_raft::command::{GroupName, NodeId, Sid, Token};
use hamesh_raft::state::State;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What the checks remember of one schedule.
#[derive(Default)]
pub struct Checks {
    /// The first violation.
    pub violation: Option<String>,
    /// The state that was committed last, as far as any node has applied: the truth.
    pub truth: Arc<State>,
    newest: u64,
    /// When each session was first seen.
    born: BTreeMap<Sid, Time>,
    /// The state after each entry: every node must come to the same.
    states: BTreeMap<u64, Arc<State>>,
    tokens: BTreeMap<(GroupName, Token), Sid>,
    latest: BTreeMap<GroupName, (u64, Token)>,
}

impl Checks {
    /// After every event.
    pub fn look(&mut self, net: &mut Net, nodes: &[Node]) {
        let mut turned = std::mem::take(&mut net.opened);
        for (node, index, state) in std::mem::take(&mut net.applied) {
            self.tokens_grow(net.now, node, index, &state);
            if index >= self.newest {
                preempted(net, &state);
                self.no_newborn_is_fenced(net, &state);
                (self.newest, self.truth, turned) = (index, state, true);
            }
        }
        for (sid, node) in std::mem::take(&mut net.expired) {
            self.really_expired(net.now, sid, nodes.iter().find(|other| other.id == node));
        }
        for violation in std::mem::take(&mut net.violations) {
            self.violated(net.now, violation);
        }
        let now = net.now;
        if net.live || turned {
            net.live = nodes.iter().any(|node| node.gates.iter().any(|gate| gate.is_alive(&node.clocks, now)));
        }
        for node in nodes {
            let overdue = |gate: &&Gate| now > gate.at_latest() && gate.is_alive(&node.clocks, now);
            if node.gates.iter().any(|gate| overdue(&gate)) {
                let id = node.id;
                self.violated(now, format!("S4: {id} has not run for its whole lease and its gate is open"));
            }
        }
        if turned {
            self.at_most_one(net.now, nodes);
            self.only_with_a_lease(net.now, nodes);
            self.unfenced_beside_none_of_its_own(net, nodes);
        }
    }

    /// L1: no session that was opened in calm times is fenced while it is younger than its lease (V2). One that was opened
    /// before may be: the Fence may have waited for a disk or a link.
    fn no_newborn_is_fenced(&mut self, net: &mut Net, state: &State) {
        for (sid, session) in &state.sessions {
            if !self.born.contains_key(sid) {
                net.count(named(session.ttl));
                if state.sessions.values().any(|other| other.ttl != session.ttl) {
                    net.count("sessions of different L");
                }
            }
            let born = *self.born.entry(*sid).or_insert(net.now);
            let fresh = session.fenced.is_some() && self.truth.sessions.get(sid).is_none_or(|s| s.fenced.is_none());
            if fresh && net.healed.is_some_and(|healed| born > healed) && net.now < born + session.ttl {
                let age = net.now - born;
                self.violated(
                    net.now,
                    format!("L1: session {sid} of {} was fenced {age:?} after its Open", session.node),
                );
            }
        }
    }

    /// S1: of every group and every address at most one gate is open.
    fn at_most_one(&mut self, now: Time, nodes: &[Node]) {
        let mut groups: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, (&str, NodeId)> = BTreeMap::new();
        let mut twice = None;
        for node in nodes {
            for gate in &node.gates {
                for (group, (_, of_group)) in fenced(gate.open(&node.clocks, now)) {
                    let here = node.id;
                    if let Some(other) = groups.insert(group, here) {
                        twice.get_or_insert(format!("S1: vip.{group} is open on {other} and on {here}"));
                        continue;
                    }
                    for address in of_group {
                        let other = addresses.insert(*address, (group, here));
                        if let Some((other, there)) = other.filter(|(other, _)| *other != group) {
                            twice.get_or_insert(format!(
                                "S1: {address} is open as vip.{other} on {there} and as vip.{group} on {here}"
                            ));
                        }
                    }
                }
            }
        }
        if let Some(twice) = twice {
            self.violated(now, twice);
        }
    }

    /// S3: what is open is held by the truth, with this very token. So it is seen too when nobody else has opened yet.
    fn only_with_a_lease(&mut self, now: Time, nodes: &[Node]) {
        for node in nodes {
            for gate in &node.gates {
                for (group, (token, _)) in fenced(gate.open(&node.clocks, now)) {
                    let holder = self.truth.holder(group).filter(|holder| holder.token == *token);
                    if holder.is_none() || self.truth.holder_node(group) != Some(node.id) {
                        let (id, truth) = (node.id, self.truth.holder(group).map(|holder| holder.token));
                        return self.violated(
                            now,
                            format!("S3: vip.{group} is open on {id} under token {token}, and the lease is {truth:?}"),
                        );
                    }
                }
            }
        }
    }

    /// S1 with `quorum_loss = "vrrp"`: two nodes that do not hear each other may both serve, but not under a lease that one of them
    /// has promised. A node that serves so says nothing in the mesh either: that is looked at where messages are sent.
    fn unfenced_beside_none_of_its_own(&mut self, net: &Net, nodes: &[Node]) {
        for node in nodes.iter().filter(|node| net.unfenced.contains(&node.id)) {
            let Some(process) = &node.process else { continue };
            let now = node.clocks.read(net.now);
            for (group, _) in node.gates[process.gate].open(&node.clocks, net.now).filter(|(_, (t, _))| *t == UNFENCED)
            {
                let Some(holder) = self.truth.holder(group) else { continue };
                let Some(session) = self.truth.sessions.get(&holder.sid) else { continue };
                let known = process.voter.known(now, holder.sid);
                if known.and_then(|known| known.renewed).is_some_and(|age| age < session.promise) {
                    let (id, sid) = (node.id, holder.sid);
                    let what =
                        format!("S1: vip.{group} is open on {id} without a lease, which has promised it to {sid}");
                    return self.violated(net.now, what);
                }
            }
        }
    }

    /// S3: a session that was expired has no time left on its holder's clocks.
    fn really_expired(&mut self, now: Time, sid: Sid, node: Option<&Node>) {
        let Some((node, holder)) = node.and_then(|node| Some((node, node.process.as_ref()?.holder.as_ref()?))) else {
            return;
        };
        let status = holder.status(node.clocks.read(now));
        if let Some(left) = status.remaining.filter(|left| status.sid == Some(sid) && !left.is_zero()) {
            self.violated(now, format!("S3: session {sid} of {} was expired {left:?} before its deadline", node.id));
        }
    }

    /// S2: tokens of a group only grow and never name two sessions; and all nodes agree.
    fn tokens_grow(&mut self, at: Time, node: NodeId, index: u64, state: &Arc<State>) {
        if self.states.get(&index).is_some_and(|known| !Arc::ptr_eq(known, state) && known != state) {
            self.violated(at, format!("S2: {node} has another state after entry {index} than others"));
        }
        self.states.insert(index, state.clone());
        for (name, group) in &state.groups {
            let Some(holder) = &group.holder else { continue };
            let session = *self.tokens.entry((name.clone(), holder.token)).or_insert(holder.sid);
            let latest = self.latest.entry(name.clone()).or_insert((index, holder.token));
            let shrinks =
                (index > latest.0 && holder.token < latest.1) || (index < latest.0 && holder.token > latest.1);
            if index > latest.0 {
                *latest = (index, holder.token);
            }
            if session != holder.sid {
                self.violated(
                    at,
                    format!("S2: token {} of vip.{name} names {session} and {}", holder.token, holder.sid),
                );
            }
            if shrinks {
                self.violated(at, format!("S2: the token of vip.{name} goes back to {}", holder.token));
            }
        }
    }

    pub fn violated(&mut self, at: Time, what: String) {
        self.violation.get_or_insert(format!("{:.4} s: {what}", at.as_secs_f64()));
    }
}

/// Counts the groups that have gone to the better candidate that the grantor asked them for.
fn preempted(net: &mut Net, state: &State) {
    if net.preempting.is_empty() {
        return;
    }
    let mut asked = std::mem::take(&mut net.preempting);
    asked.retain(|(group, token)| {
        let holder = state.holder(group);
        if holder.is_some_and(|holder| holder.token != *token) {
            net.count("preempted by the mesh");
        }
        holder.is_some_and(|holder| holder.token == *token)
    });
    net.preempting = asked;
}

/// A session by its profile.
fn named(ttl: Duration) -> &'static str {
    match PROFILES.into_iter().find(|(_, profile)| profile.ttl == ttl) {
        Some(("fast", _)) => "session of fast",
        Some(("default", _)) => "session of default",
        Some(("vm", _)) => "session of vm",
        Some(("wan", _)) => "session of wan",
        Some(_) | None => "session of 300 ms",
    }
}

/// What a lease stands behind.
fn fenced<'a, T: 'a>(
    open: impl Iterator<Item = (&'a GroupName, &'a (Token, T))>,
) -> impl Iterator<Item = (&'a GroupName, &'a (Token, T))> {
    open.filter(|(_, (token, _))| *token != UNFENCED)
}
