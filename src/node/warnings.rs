//! What a person should look at, each with what to do next.

use super::certificate;
use super::core::{Core, lock};
use super::daemon::RAFT_STOPPED;
use super::lane::{GateStatus, InterfaceStatus, LaneStatus};
use crate::net::hello::wall_now;
use crate::net::neighbour::written;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{Family, NodeId, Role};
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a router outside the mesh has said is shown for so long.
const RECENT: Duration = Duration::from_secs(10);

impl Core {
    pub(super) fn warnings(
        &self,
        state: &State,
        lane: &LaneStatus,
        reachable: &BTreeSet<NodeId>,
        voting: &BTreeSet<NodeId>,
        quorum: bool,
    ) -> Vec<String> {
        let name = |node: &NodeId| state.members.get(node).map_or_else(|| node.to_string(), |m| m.name.clone());
        let list = |nodes: Vec<String>| nodes.join(", ");
        let mut warnings = Vec::new();
        for (node, facts) in self.gossip.facts().borrow().iter() {
            if let Some(why) = facts.values.get(RAFT_STOPPED) {
                warnings.push(format!(
                    "{}: Raft has stopped, its vote does not count: {why}. Look at its disk, then restart hamesh there; \
                     if it says so again, `hamesh join` anew",
                    name(node)
                ));
            }
        }
        let away: Vec<String> = voting.difference(reachable).map(name).collect();
        if !quorum {
            warnings.push(if away.is_empty() {
                "no leader yet: an election takes less than a second; if this stays, look at the clocks and logs of the voters".to_owned()
            } else {
                format!(
                    "no quorum: this node reaches {} of {} voters, so no lease can be renewed and VIPs are dark here. Bring back or reconnect: {}",
                    voting.len() - away.len(), voting.len(), list(away)
                )
            });
        } else if !away.is_empty() {
            warnings.push(format!("not reached: {}. Start hamesh there, or look at UDP between the nodes", list(away)));
        }
        let directors = state.members.values().filter(|m| m.role == Role::Director).count();
        if voting.len() < 3 {
            warnings.push(format!(
                "{} voter{}: the loss of one stops everything. `hamesh token` and `hamesh join` on another machine; a witness is enough ({directors} director{} now)",
                voting.len(), if voting.len() == 1 { "" } else { "s" }, if directors == 1 { "" } else { "s" }
            ));
        }
        for member in state.members.values().filter(|member| member.drained) {
            warnings.push(format!("{0} is drained: `hamesh node undrain {0}` puts it back into service", member.name));
        }
        warnings.extend(certificate::warnings(&self.identity, wall_now()));
        warnings.extend(lane.warnings.iter().cloned());
        self.warn_of_groups(state, lane, &name, &mut warnings);
        self.warn_of_wishes(state, &name, &mut warnings);
        warnings.extend(self.config().warnings.iter().map(ToString::to_string));
        let own = state.members.get(&self.me);
        if own.is_some_and(|member| member.role != self.config().node.role) {
            warnings.push("this node's role in its file is not the one it was admitted with, which counts".to_owned());
        }
        warnings
    }

    fn warn_of_groups(
        &self,
        state: &State,
        lane: &LaneStatus,
        name: &dyn Fn(&NodeId) -> String,
        warnings: &mut Vec<String>,
    ) {
        let config = self.config();
        for (lease, known) in &state.groups {
            let group = if config.syncs.contains_key(lease) { format!("sync.{lease}") } else { format!("vip.{lease}") };
            if known.holder.is_none() {
                warnings.push(format!("{group} has no holder: see its candidates' obstacles"));
            }
            for (sid, candidate) in &known.candidates {
                let Some(node) = state.sessions.get(sid).map(|session| name(&session.node)) else { continue };
                if let Some(holder) = &known.holder
                    && candidate.definition != holder.definition
                {
                    warnings.push(format!(
                        "{group}: {node} has vrid {} {:?}, the holder vrid {} {:?}. {node} cannot take it over as it is: make the files equal and restart it",
                        candidate.definition.vrid, candidate.definition.addresses, holder.definition.vrid, holder.definition.addresses
                    ));
                }
            }
        }
        let now = Moment::now();
        for (group, local) in &lane.groups {
            if local.unfenced {
                warnings.push(format!(
                    "vip.{group}: SERVED HERE WITHOUT A LEASE (quorum_loss = \"vrrp\"): a director that does not hear this one \
                     may serve it too. Bring the other nodes back"
                ));
            }
            match local.interface {
                InterfaceStatus::Up => {}
                InterfaceStatus::Down => {
                    let six = config.groups.get(group).is_some_and(|config| config.family == Family::V6);
                    let own = if six { "link-local IPv6 address" } else { "IPv4 address" };
                    warnings.push(format!("vip.{group}: its interface is down here, or has no {own} of its own"));
                }
                InterfaceStatus::Absent => {
                    let name = config.groups.get(group).map_or("-", |config| &config.interface);
                    warnings.push(format!(
                        "vip.{group}: its interface {name} is not there: FAULT here until it is. See `ip link`"
                    ));
                }
            }
            for name in &local.missing {
                warnings.push(format!(
                    "vip.{group}: the interface {name} of some of its addresses is down or not there: FAULT here until it is up"
                ));
            }
            for track in lock(&self.tracks).status(group).into_iter().filter(|track| track.fault || track.adds < 0) {
                let why = track.why.map(|why| format!(" ({why})")).unwrap_or_default();
                let effect = if track.fault { "FAULT".to_owned() } else { track.adds.to_string() };
                warnings.push(format!("vip.{group}: {} is {}{why}: {effect} here", track.what, track.state));
            }
            if local.leftovers > 0 {
                warnings.push(format!(
                    "vip.{group}: {} of its addresses could not be removed here; the gate keeps them silent",
                    local.leftovers
                ));
            }
            if let Some((at, source, why)) = local.last_discard
                && now.since(at) < RECENT
            {
                warnings.push(format!(
                    "vip.{group}: what {source} sends for its virtual router is discarded: {why}. Another cluster on this LAN \
                     with the same vrid, or a router that is configured otherwise?"
                ));
            }
            if let Some(conflict) = local.conflict
                && now.since(conflict.heard_at) < RECENT
            {
                warnings.push(format!(
                    "vip.{group}: CONFLICT: the host with the MAC {} answers for {} too, and takes clients away. No lease moves for \
                     that; hamesh announces itself again. Find it by its MAC and take the address from it",
                    written(conflict.mac),
                    conflict.address
                ));
            }
            if let Some(foreign) = local.vrrp.foreign
                && now.since(foreign.heard_at) < RECENT
            {
                let held = state.holder(config.lease(group)).is_some();
                let what = if held {
                    "FOREIGN: it claims the VIP beside our holder"
                } else {
                    "it is MASTER; the mesh leaves it the VIP"
                };
                warnings.push(format!(
                    "vip.{group}: {} outside the mesh sends adverts with priority {}, not fenced. {what}{}",
                    foreign.source,
                    foreign.priority,
                    if foreign.obeyed { "" } else { " (not in legacy_peers, so it changes nothing)" }
                ));
            }
        }
        warnings.extend(lane.gate.into_iter().flat_map(gate_warnings));
    }

    /// A node's file is its wish. Every difference is shown with both values, gathered by gossip.
    fn warn_of_wishes(&self, state: &State, name: &dyn Fn(&NodeId) -> String, warnings: &mut Vec<String>) {
        let mut wishes: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
        let facts = self.gossip.facts().borrow().clone();
        for (node, facts) in facts.iter().filter(|(node, facts)| facts.alive && state.members.contains_key(node)) {
            for (key, value) in &*facts.values {
                if let Some(subject) = key.strip_prefix("wish/") {
                    wishes.entry(subject).or_default().entry(value).or_default().push(name(node));
                }
            }
        }
        for (subject, values) in wishes.into_iter().filter(|(_, values)| values.len() > 1) {
            let said: Vec<String> =
                values.iter().map(|(value, nodes)| format!("{} on {}", value, nodes.join(", "))).collect();
            warnings.push(format!("configuration files differ: {subject} is {}", said.join("; ")));
        }
        let lead = self.identity.record.lineage;
        if state.cluster.as_ref().is_some_and(|cluster| cluster.lineage != lead) {
            warnings.push("this node's disk is on another lineage than its state".to_owned());
        }
    }
}

/// What this node's kernel has no means for.
fn gate_warnings(gate: GateStatus) -> Vec<String> {
    let (persistent, packet_sockets) = match gate {
        GateStatus::Rules { persistent, packet_sockets } => (persistent, packet_sockets),
        GateStatus::Lifetimes(lateness) => {
            return vec![format!(
                "NO GATE: this kernel has no nf_tables. The lifetimes of addresses end a claim here, up to {:.1} s later than a gate \
                 would, and the others wait for as much longer. A holder that is frozen is killed. Load nf_tables, and restart",
                lateness.as_secs_f32()
            )];
        }
        GateStatus::Off => {
            return vec![
                "THE GATE IS OFF (HAMESH_UNSAFE_NO_GATE): nothing keeps a frozen node from answering. For experiments only"
                    .to_owned(),
            ];
        }
    };
    let older = [
        (persistent, "this kernel is older than 6.9: others can flush the gate; a running hamesh puts it back"),
        (
            packet_sockets,
            "this kernel is older than 5.16: the gate does not see announcements; hamesh looks at the clock before each",
        ),
    ];
    older.into_iter().filter(|(is, _)| !is).map(|(_, why)| why.to_owned()).collect()
}
