//! Links that pass nothing, on the mesh and on the LAN.

use crate::net::Due;
use crate::node::IDLE;
use crate::world::World;
use hamesh_raft::command::NodeId;
use std::collections::BTreeSet;

pub fn cut(world: &mut World, links: BTreeSet<(NodeId, NodeId)>) {
    let (id, until) = (world.net.next_epoch(), world.net.now + world.net.leases(5..500));
    world.net.note(NodeId(0), || format!("cut {links:?} until {until:?}"));
    world.net.cuts.insert(id, links);
    world.net.at(until, Due::Uncut(id));
}

pub(super) fn splits(world: &mut World) {
    let side: Vec<(NodeId, u8)> = world.nodes.iter().map(|node| node.id).zip((0..).map(|_| 0)).collect();
    let side: Vec<(NodeId, u8)> = side.into_iter().map(|(id, _)| (id, world.net.rng.u8(0..3))).collect();
    let pairs = side.iter().flat_map(|(a, x)| side.iter().filter(move |(_, y)| x != y).map(move |(b, _)| (*a, *b)));
    let links = pairs.collect();
    world.net.count("partition");
    cut(world, links);
}

/// Adverts pass no more between some directors; the mesh does not notice.
pub(super) fn splits_the_lan(world: &mut World) {
    let side: Vec<(NodeId, bool)> =
        world.net.directors.clone().into_iter().map(|id| (id, world.net.rng.bool())).collect();
    let pairs = side.iter().flat_map(|(a, x)| side.iter().filter(move |(_, y)| x != y).map(move |(b, _)| (*a, *b)));
    let (id, until) = (world.net.next_epoch(), world.net.now + world.net.leases(5..300));
    world.net.count("LAN split");
    world.net.lan_cuts.insert(id, pairs.collect());
    world.net.at(until, Due::Uncut(id));
}

pub(super) fn cuts_one_way(world: &mut World, victim: NodeId) {
    let out = world.net.rng.bool();
    let all = world.net.rng.bool();
    let others: Vec<NodeId> = world.nodes.iter().map(|node| node.id).filter(|id| *id != victim).collect();
    let chosen: Vec<NodeId> = others.into_iter().filter(|_| all || world.net.rng.bool()).collect();
    world.net.count("one-way cut");
    cut(world, chosen.into_iter().map(|other| if out { (victim, other) } else { (other, victim) }).collect());
}

/// Cuts every link of a node.
pub fn isolate(world: &mut World, victim: NodeId) {
    if !world.net.hostile {
        return;
    }
    world.net.count("isolated");
    world.net.late = 15;
    let others = world.nodes.iter().map(|node| node.id).filter(|id| *id != victim);
    let links = others.flat_map(|other| [(victim, other), (other, victim)]).collect();
    cut(world, links);
}

pub(super) fn cuts_one_link(world: &mut World, victim: NodeId) {
    let Some(leader) = world.nodes.iter().find(|n| n.process.as_ref().is_some_and(|p| p.raft.is_leader())) else {
        return;
    };
    let leader = leader.id;
    world.net.count("link to the leader cut");
    cut(world, BTreeSet::from([(leader, victim), (victim, leader)]));
}

/// A node hears nobody for as long as `quorum_loss` waits and longer, and may hear nobody on the LAN either.
pub(super) fn leaves_alone(world: &mut World, victim: NodeId) {
    let Some(after) = world.net.quorum_loss else { return isolate(world, victim) };
    let lasts = after + IDLE + world.net.leases(30..250);
    let others: Vec<NodeId> = world.nodes.iter().map(|node| node.id).filter(|id| *id != victim).collect();
    let links: BTreeSet<_> = others.into_iter().flat_map(|other| [(victim, other), (other, victim)]).collect();
    let (id, until) = (world.net.next_epoch(), world.net.now + lasts);
    world.net.count("left alone");
    world.net.note(victim, || format!("is alone for {lasts:?}"));
    if world.net.rng.bool() {
        world.net.lan_cuts.insert(id, links.clone());
    }
    world.net.cuts.insert(id, links);
    world.net.at(until, Due::Uncut(id));
}
