//! Changes of voters, also those during which not everybody hears of them.

use crate::net::Due;
use crate::node::READY;
use crate::world::World;
use hamesh_raft::command::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// An operator wants these voters, whoever leads.
pub fn want(world: &mut World, target: &BTreeSet<NodeId>) {
    for node in &mut world.nodes {
        node.voters = Some(target.clone());
    }
}

/// Any others.
pub fn change(world: &mut World) {
    let mut ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    world.net.rng.shuffle(&mut ids);
    let most = if ids.len() % 2 == 1 { ids.len() } else { ids.len() - 1 };
    let count = [1, 3, 3, 5][world.net.rng.usize(0..4)].min(most);
    want(world, &ids.into_iter().take(count).collect());
}

/// The node's election timer is over after `span`.
pub fn campaigns_after(world: &mut World, id: NodeId, span: Duration) {
    let at = world.net.now + span;
    if let Some(process) = world.node(id).and_then(|node| node.process.as_mut()) {
        process.raft.election_at = at;
    }
}

/// Who plays which part in what is staged: there is a leader, and another that holds.
struct Cast {
    leader: NodeId,
    holder: NodeId,
    voters: BTreeSet<NodeId>,
    /// A voter that neither leads nor holds.
    voter: NodeId,
    /// A node without a vote, that does not hold.
    learner: NodeId,
    /// The holder's L.
    ttl: Duration,
}

fn cast(world: &mut World) -> Option<Cast> {
    let now = world.net.now;
    let raft = world.nodes.iter().filter_map(|node| Some((node.id, &node.process.as_ref()?.raft)));
    let (leader, effective) = raft.into_iter().find(|(_, raft)| raft.is_leader()).map(|(id, r)| (id, r.effective()))?;
    let [voters] = effective.halves.as_slice() else { return None };
    let open = |id: &NodeId| {
        let node = world.nodes.iter().find(|node| node.id == *id);
        node.is_some_and(|node| node.gates.iter().any(|gate| gate.is_alive(&node.clocks, now)))
    };
    let ids = || world.nodes.iter().map(|node| node.id).filter(|id| *id != leader);
    let holder = ids().find(open)?;
    let ttl = world.nodes.iter().find(|node| node.id == holder)?.process.as_ref()?.ttl;
    let (voting, not): (Vec<NodeId>, Vec<NodeId>) =
        ids().filter(|id| *id != holder).partition(|id| voters.contains(id));
    let voters = voters.clone();
    let (voter, learner) = (world.net.rng.choice(voting)?, world.net.rng.choice(not)?);
    Some(Cast { leader, holder, voters, voter, learner, ttl })
}

/// A voter is replaced and taken back while it hears of nothing, so it and a leader that it becomes may believe that it voted all
/// the time (H8). The holder lives by those that voted meanwhile, for longer than Lg, and then nobody hears it. In parts of its
/// lease: a change of voters takes a third of a short one.
pub fn replaces_one(world: &mut World) {
    let Some(Cast { leader, holder, voters, voter, learner, ttl }) = cast(world) else { return change(world) };
    if ttl * 2 > READY {
        return change(world);
    }
    world.net.count("a voter replaced and taken back");
    world.net.late = 15;
    let mut part = |range: std::ops::Range<u32>| ttl * world.net.rng.u32(range) / 100;
    let apart = part(25..50);
    let back = apart + part(110..130);
    let (lost, heard) = (back + part(5..40), back + part(25..45));
    let campaign = heard + part(12..25);
    let now = world.net.now;
    world.net.staged = now + heard + ttl;
    let mut meanwhile = voters.clone();
    meanwhile.remove(&voter);
    meanwhile.insert(learner);
    want(world, &meanwhile);
    world.net.at(now + back, Due::Voters(voters));
    campaigns_after(world, voter, back * 4);
    let others = world.nodes.iter().map(|node| node.id).filter(|id| *id != voter);
    let alone: BTreeSet<_> = others.flat_map(|other| [(voter, other), (other, voter)]).collect();
    cut_until(world, alone, heard);
    let links = BTreeSet::from([(leader, holder), (holder, leader), (voter, holder), (holder, voter)]);
    world.net.at(now + apart, Due::Cut(links));
    world.net.at(now + lost, Due::Isolate(holder));
    if world.net.rng.bool() {
        world.net.at(now + campaign, Due::Campaign(voter));
    }
}

/// One voter hears nothing of a change that another has heard of, and both hear the holder, which the leader and the newcomer do
/// not: two memberships are in force, and no quorum of either hears it (V5).
pub fn splits_a_change(world: &mut World) {
    let Some(Cast { leader, holder, voters, voter, learner, ttl }) = cast(world) else { return change(world) };
    world.net.count("a change of voters split");
    let now = world.net.now;
    world.net.staged = now + ttl * 2;
    let mut target = voters;
    target.remove(&voter);
    target.insert(learner);
    want(world, &target);
    let lasts = world.net.leases(200..500);
    campaigns_after(world, voter, lasts);
    cut_until(world, BTreeSet::from([(leader, voter), (voter, leader)]), lasts);
    let far = [leader, learner];
    let near: Vec<NodeId> = world.nodes.iter().map(|node| node.id).filter(|id| !far.contains(id)).collect();
    debug_assert!(near.contains(&holder), "the holder neither leads nor is new");
    let links = far.iter().flat_map(|a| near.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect();
    let apart = now + world.net.leases(10..50);
    world.net.at(apart, Due::Cut(links));
}

fn cut_until(world: &mut World, links: BTreeSet<(NodeId, NodeId)>, span: Duration) {
    let id = world.net.next_epoch();
    world.net.cuts.insert(id, links);
    world.net.at(world.net.now + span, Due::Uncut(id));
}
