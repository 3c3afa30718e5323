//! What must never be seen, and what must.

use crate::clocks::Time;
use crate::net::Net;
use crate::node::Node;
use hamesh_raft::command::{GroupName, NodeId, Sid, Token};
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What the checks remember of one schedule.
#[derive(Default)]
pub struct Checks {
    /// The first violation.
    pub violation: Option<String>,
    /// The state after each entry: every node must come to the same.
    states: BTreeMap<u64, Arc<State>>,
    tokens: BTreeMap<(GroupName, Token), Sid>,
    latest: BTreeMap<GroupName, (u64, Token)>,
}

impl Checks {
    /// After every event.
    pub fn look(&mut self, net: &mut Net, nodes: &[Node]) {
        for (node, index, state) in std::mem::take(&mut net.applied) {
            self.tokens_grow(node, index, &state);
        }
        self.at_most_one(net, nodes);
    }

    /// S1: of every group and every address at most one gate is open.
    fn at_most_one(&mut self, net: &mut Net, nodes: &[Node]) {
        let mut groups: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, NodeId> = BTreeMap::new();
        let mut twice = None;
        for node in nodes {
            for gate in &node.gates {
                for (group, of_group) in gate.open(&node.clocks, net.now) {
                    let mut others = vec![groups.insert(group, node.id)];
                    let mut own: BTreeSet<IpAddr> = BTreeSet::new();
                    others.extend(of_group.iter().filter(|a| own.insert(**a)).map(|a| addresses.insert(*a, node.id)));
                    twice = twice.or(others.into_iter().flatten().next().map(|other| (group.clone(), other, node.id)));
                }
            }
        }
        net.live = !groups.is_empty();
        if let Some((group, one, other)) = twice {
            self.violated(net.now, format!("S1: vip.{group} is open on {one} and on {other}"));
        }
    }

    /// S2: tokens of a group only grow and never name two sessions; and all nodes agree.
    fn tokens_grow(&mut self, node: NodeId, index: u64, state: &Arc<State>) {
        let at = Time::ZERO;
        if self.states.get(&index).is_some_and(|known| !Arc::ptr_eq(known, state) && known != state) {
            self.violated(at, format!("{node} has another state after entry {index} than others"));
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

    /// Long after the faults: every group is open somewhere.
    pub fn is_well(&mut self, net: &Net, nodes: &[Node], groups: &[GroupName]) {
        let open: BTreeSet<&str> = nodes
            .iter()
            .flat_map(|node| node.gates.iter().flat_map(|gate| gate.open(&node.clocks, net.now)))
            .map(|(group, _)| group.as_str())
            .collect();
        if let Some(dark) = groups.iter().find(|group| !open.contains(group.as_str())) {
            let leader: Vec<NodeId> = nodes
                .iter()
                .filter(|node| node.process.as_ref().is_some_and(|process| process.raft.leading().is_some()))
                .map(|node| node.id)
                .collect();
            self.violated(net.now, format!("liveness: vip.{dark} is dark long after the faults; leaders {leader:?}"));
        }
    }

    fn violated(&mut self, at: Time, what: String) {
        self.violation.get_or_insert(format!("{:.4} s: {what}", at.as_secs_f64()));
    }
}
