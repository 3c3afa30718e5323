//! Time stands still for somebody, or runs otherwise.

use super::links::isolate;
use crate::net::Due;
use crate::world::World;
use hamesh_raft::command::NodeId;

/// Nobody hears it any more, and it is suspended for a part of the lease that it has left: then every clock of it counts.
pub(super) fn dozes(world: &mut World, victim: NodeId) {
    isolate(world, victim);
    let now = world.net.now;
    let until = now + world.net.leases(5..60);
    world.net.count("suspended");
    world.net.at(until, Due::Resume(victim));
    if let Some(node) = world.node(victim) {
        node.clocks.suspend(now);
        node.frozen = node.frozen.max(until);
    }
}

pub(super) fn freezes(world: &mut World, victim: NodeId) {
    let until = world.net.now + world.net.leases(1..350);
    world.net.count("frozen");
    world.net.note(victim, || "freezes".to_owned());
    if let Some(node) = world.node(victim) {
        node.frozen = node.frozen.max(until);
    }
}

pub(super) fn suspends(world: &mut World, victim: NodeId) {
    let now = world.net.now;
    let until = now + world.net.leases(1..350);
    world.net.count("suspended");
    world.net.note(victim, || "is suspended".to_owned());
    world.net.at(until, Due::Resume(victim));
    if let Some(node) = world.node(victim) {
        node.clocks.suspend(now);
        node.frozen = node.frozen.max(until);
    }
}

/// NTP begins to slew the machine's clocks, or ends, or turns.
pub(super) fn slews(world: &mut World, victim: NodeId) {
    let World { net, nodes, .. } = world;
    if let Some(node) = nodes.iter_mut().find(|node| node.id == victim) {
        net.count("slewed");
        node.clocks.slew(&mut net.rng, net.now);
    }
}
