//! Time stands still for somebody, or runs otherwise.

use super::links::isolate;
use crate::net::{Due, What};
use crate::world::World;
use hamesh_raft::command::NodeId;
use std::time::Duration;

/// Whether the machine may be suspended: where its wall clock was set back and nothing was armed since, nothing would end the gate.
fn may_sleep(world: &mut World, victim: NodeId) -> bool {
    world.node(victim).is_some_and(|node| !node.gates.iter().any(|gate| gate.was_set_back(&node.clocks)))
}

/// Nobody hears it any more, and it is suspended for a part of the lease that it has left: then every clock of it counts.
pub(super) fn dozes(world: &mut World, victim: NodeId) {
    if !may_sleep(world, victim) {
        return;
    }
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
    if !may_sleep(world, victim) {
        return;
    }
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

/// Somebody sets the wall clock of a machine: by seconds or by years, forward or back.
pub(super) fn sets_the_clock(world: &mut World, victim: NodeId) {
    let (forward, unit) = (world.net.rng.bool(), [1, 3600, 86_400, 365 * 86_400][world.net.rng.usize(0..4)]);
    let by = Duration::from_millis(world.net.rng.u64(100..20_000) * unit);
    // Whoever freezes then does not arm again.
    if world.net.rng.u8(0..3) == 0 {
        freezes(world, victim);
    }
    let now = world.net.now;
    let back_is_safe = world.node(victim).is_some_and(|node| !node.relies_on_the_wall_clock(now));
    set_wall_clock(world, victim, forward || !back_is_safe, by);
}

pub fn set_wall_clock(world: &mut World, victim: NodeId, forward: bool, by: Duration) {
    let World { net, nodes, .. } = world;
    let Some(node) = nodes.iter_mut().find(|node| node.id == victim) else { return };
    net.count(if forward { "wall clock set forward" } else { "wall clock set back" });
    if net.now < node.frozen {
        net.count("wall clock set while frozen");
    }
    net.note(victim, || format!("its wall clock is set {} by {by:?}", if forward { "forward" } else { "back" }));
    node.clocks.set_wall(forward, by);
    // One set back opens again what only the absolute end had shut.
    net.opened = true;
    if let Some(process) = &node.process {
        let span = Duration::from_micros(net.rng.u64(10..300));
        net.after(span, victim, process.epoch, What::ClockSet);
    }
}
