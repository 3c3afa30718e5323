//! The picture of a running node that `hamesh status`, the admin socket and the metrics show.
//!
//! It is drawn from what this node knows, so it can be drawn without a quorum too; then it says so, and what to do next.
//! Field names stay once given.

use super::core::{Core, lock};
use super::lane::{GateStatus, LaneStatus};
use crate::bfd::SessionStatus;
use crate::health::ServiceStatus;
use crate::track::TrackStatus;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{NodeId, Sid, Token};
use hamesh_raft::state::{Group, State};
use hamesh_raft::voters;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Picture {
    /// hamesh's own version.
    pub version: String,
    /// The node that drew this.
    pub node: String,
    /// Whether it is the guard of a keepalived, which elects and serves.
    #[serde(default)]
    pub guard: bool,
    /// The whole.
    pub cluster: ClusterPicture,
    /// Its members.
    pub nodes: Vec<NodePicture>,
    /// Its VIP groups.
    pub vips: Vec<VipPicture>,
    /// Its services, as this node's configuration has them and this director sees them.
    pub services: Vec<ServiceStatus>,
    /// Its BFD sessions.
    #[serde(default)]
    pub bfd: Vec<SessionStatus>,
    /// What is wrong, and what to do next.
    pub warnings: Vec<String>,
}

/// The cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterPicture {
    /// For people.
    pub name: String,
    /// Random.
    pub id: String,
    /// The lineage's counter.
    pub lineage: u32,
    /// Whether this node is on the side of a quorum.
    pub quorum: bool,
    /// The Raft leader this node follows.
    pub leader: Option<String>,
    /// Raft's term.
    pub term: u64,
    /// The last applied entry here.
    pub applied: u64,
}

/// A member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodePicture {
    /// Its name.
    pub name: String,
    /// Its id, never reused.
    pub id: u64,
    /// `director` or `witness`.
    pub role: String,
    /// Where it stands.
    pub rack: String,
    /// Its mesh endpoint.
    pub address: String,
    /// Whether this node has a connection to it, both ways.
    pub reachable: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it is out of service, by somebody's order.
    #[serde(default)]
    pub drained: bool,
    /// Why it does not vote, or what keeps it away.
    pub why: Option<String>,
    /// Its hamesh version, by gossip.
    pub version: Option<String>,
    /// Its interfaces with VIP groups, by gossip.
    pub interfaces: Vec<String>,
    /// How often it was started.
    pub incarnation: u64,
}

/// A VIP group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VipPicture {
    /// As in `[vip.NAME]`.
    pub name: String,
    /// The sync group that it is in and moves with.
    #[serde(default)]
    pub sync: Option<String>,
    /// VRRP state of this node; `-` where it does not serve the group.
    pub state: String,
    /// The node whose session holds the lease.
    pub holder: Option<String>,
    /// The node that somebody has moved it to: it stays there until that node loses it.
    #[serde(default)]
    pub pinned: Option<String>,
    /// The fencing token, as one number that only grows.
    pub token: Option<u64>,
    /// The session of the token.
    pub session: Option<u64>,
    /// What is left of this node's lease, if it is the holder's.
    pub lease_remaining_ms: Option<u64>,
    /// `open`, `shut`, `off` (unsafe), or `-` where there is none.
    pub gate: String,
    /// Whether this node serves it without a lease: another director may too (`quorum_loss = "vrrp"`).
    #[serde(default)]
    pub unfenced: bool,
    /// The addresses as granted, or as this node has them.
    pub addresses: Vec<String>,
    /// The virtual router's id.
    pub vrid: Option<u8>,
    /// What this node's priority depends on, as it is now.
    #[serde(default)]
    pub track: Vec<TrackStatus>,
    /// Who would take it, best priority first.
    pub candidates: Vec<CandidatePicture>,
}

/// A candidate for a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CandidatePicture {
    /// Its node.
    pub node: String,
    /// Its effective priority.
    pub priority: u8,
    /// Why it could not be granted the group; absent when it could.
    pub obstacle: Option<String>,
    /// How often it has lost the group of late, without an order and to no better candidate.
    #[serde(default)]
    pub losses: u32,
    /// How long it is therefore held back from asking a living holder for it; 0 when it is not.
    #[serde(default)]
    pub held_back_ms: u64,
}

/// A token as one number: the log index, with the lineage above it from the second lineage on.
pub(crate) fn number(token: Token) -> u64 {
    u64::from(token.lineage.saturating_sub(1)) * 1_000_000_000_000 + token.index
}

impl Core {
    /// Draws the picture.
    pub(crate) fn picture(&self) -> Picture {
        let view = self.raft.view().borrow().clone();
        let standing = self.raft.standing().borrow().clone();
        let reach = self.mesh.reachable().borrow().clone();
        let lane = lock(&self.lane_status).clone();
        let state = &view.state;
        let here = |node: NodeId| node == self.me || reach.get(&node).is_some_and(crate::net::Reach::is_up);
        let name = |node: NodeId| state.members.get(&node).map_or_else(|| node.to_string(), |m| m.name.clone());
        let reachable: BTreeSet<NodeId> = state.members.keys().copied().filter(|node| here(*node)).collect();
        let leader = standing.leader.filter(|leader| here(*leader));
        let quorum = leader.is_some() && view.effective.is_quorum(&reachable);
        let voting = view.effective.voters();
        let facts = self.gossip.facts().borrow().clone();
        let nodes = state.members.iter().map(|(id, member)| {
            let voter = voting.contains(id);
            let trouble = reach.get(id).and_then(|reach| reach.trouble.clone()).filter(|_| !here(*id));
            let values = facts.get(id).map(|facts| &*facts.values);
            let places = values.into_iter().flatten().filter_map(|(key, value)| {
                let group = key.strip_prefix(super::lan::FACT)?;
                let place: super::lan::Place = serde_json::from_str(value).ok()?;
                let address = place.address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
                let up = if place.up { "up" } else { "down" };
                Some(format!("{} {up} {address} ({group})", place.interface))
            });
            NodePicture {
                name: member.name.clone(),
                id: id.0,
                role: member.role.to_string(),
                rack: member.rack.clone(),
                address: member.address.to_string(),
                reachable: here(*id),
                voter,
                drained: member.drained,
                why: trouble.or_else(|| (!voter).then(|| voters::why_learner(state, &voting))),
                version: values.and_then(|values| values.get("version")).cloned(),
                interfaces: places.collect(),
                incarnation: member.incarnation,
            }
        });
        let config = self.config();
        // The lease of a sync group is shown with each of its groups.
        let leases = state.groups.keys().filter(|lease| !config.syncs.contains_key(*lease));
        let names: BTreeSet<&String> = leases.chain(config.groups.keys()).collect();
        let vips = names.into_iter().map(|group| self.vip(group, state, &lane, &name));
        let cluster = state.cluster.as_ref();
        Picture {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.name.clone(),
            guard: config.node.guard,
            cluster: ClusterPicture {
                name: cluster.map_or_else(|| self.identity.record.cluster_name.clone(), |c| c.name.clone()),
                id: self.identity.record.cluster.to_string(),
                lineage: self.identity.record.lineage.counter,
                quorum,
                leader: leader.map(name),
                term: standing.term,
                applied: view.applied,
            },
            nodes: nodes.collect(),
            vips: vips.collect(),
            services: self.services(state),
            bfd: self.bfd.borrow().clone(),
            warnings: self.warnings(state, &lane, &reachable, &voting, quorum),
        }
    }

    fn services(&self, state: &State) -> Vec<ServiceStatus> {
        let names = state.members.iter().map(|(node, member)| (*node, member.name.clone())).collect();
        let mut services = lock(&self.health).status(&names);
        let (counts, config) = (self.balance.status().counts, self.config());
        for service in &mut services {
            let found = config.services.get(&service.name).into_iter().flat_map(|service| &service.listen);
            found.filter_map(|key| counts.get(key)).for_each(|count| service.add(count));
        }
        services
    }

    fn vip(&self, group: &str, state: &State, lane: &LaneStatus, name: &dyn Fn(NodeId) -> String) -> VipPicture {
        let (empty, config) = (Arc::<Group>::default(), self.config());
        let lease = config.lease(group);
        let known = state.groups.get(lease).unwrap_or(&empty);
        let node_of = |sid: Sid| state.sessions.get(&sid).map_or_else(|| sid.to_string(), |session| name(session.node));
        let local = lane.groups.get(group);
        let holder = known.holder.as_ref();
        let ours = holder.filter(|holder| Some(holder.sid) == lane.session);
        let wish = config.groups.get(group).map(crate::config::VipGroup::definition);
        let sync = config.groups.get(group).and_then(|group| group.sync.clone());
        // That of a sync group is not this group's.
        let granted = holder.filter(|_| sync.is_none()).map(|holder| &holder.definition);
        let described = granted.or(wish.as_ref());
        let (now, grantor) = (Moment::now(), lock(&self.grantor));
        let mut candidates: Vec<CandidatePicture> = known
            .candidates
            .iter()
            .map(|(sid, candidate)| {
                let session = state.sessions.get(sid);
                let losses = session.map(|session| grantor.losses(now, lease, session.node));
                let (losses, held_back) = losses.unwrap_or_default();
                CandidatePicture {
                    node: node_of(*sid),
                    priority: candidate.priority,
                    obstacle: state.obstacle(lease, *sid),
                    losses,
                    held_back_ms: u64::try_from(held_back.as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect();
        drop(grantor);
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
        VipPicture {
            name: group.to_owned(),
            sync,
            state: local.map_or_else(|| "-".to_owned(), |local| local.vrrp.state.to_string()),
            holder: holder.map(|holder| node_of(holder.sid)),
            pinned: known.pinned.map(name),
            token: holder.map(|holder| number(holder.token)),
            session: holder.map(|holder| holder.sid.0),
            lease_remaining_ms: ours
                .and(lane.remaining)
                .map(|remaining| u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX)),
            gate: match (&lane.gate, local) {
                (Some(GateStatus::Off), Some(_)) => "off",
                (Some(_), Some(local)) if local.open => "open",
                (Some(_), Some(_)) => "shut",
                (None, _) | (_, None) => "-",
            }
            .to_owned(),
            unfenced: local.is_some_and(|local| local.unfenced),
            addresses: described.map(|d| d.addresses.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            vrid: described.map(|d| d.vrid),
            track: lock(&self.tracks).status(group),
            candidates,
        }
    }

    /// What VRRP has seen on this node, by group.
    pub(crate) fn vrrp(&self) -> BTreeMap<String, super::lane::GroupStatus> {
        lock(&self.lane_status).groups.clone()
    }
}
