//! What goes wrong. Half of it is aimed at whoever holds or leads, where it hurts.

mod links;
mod time;

pub use links::{cut, isolate};
pub use time::set_wall_clock;

use crate::clocks::Clocks;
use crate::hands::Failing;
use crate::kernel::Gate;
use crate::lan;
use crate::log::What;
use crate::net::{Due, Msg};
use crate::node::Node;
use crate::program;
use crate::voters;
use crate::world::{World, definition};
use hamesh_fencing::grantor::Hearing;
use hamesh_fencing::holder::Event;
use hamesh_raft::command::{Command, GateId, GroupName, NodeId, Role, Sid};
use links::{cuts_one_link, cuts_one_way, leaves_alone, splits, splits_the_lan};
use std::collections::BTreeSet;
use std::time::Duration;
use time::{dozes, freezes, sets_the_clock, slews, suspends};

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    DiesBetweenSteps,
    LosesPower,
    Freezes,
    Suspends,
    Splits,
    CutOneWay,
    CutOffTheLeader,
    Weather,
    SlowDisk,
    Campaigns,
    GivesUpAGroup,
    OperatorMoves,
    Priority,
    Definition,
    Voters,
    ReplacesAVoter,
    SplitsAChange,
    Stops,
    Namespace,
    DeafLan,
    FencesTheLiving,
    Ambush,
    Isolated,
    MovedByOrder,
    Drains,
    SplitsTheLan,
    LegacySpeaks,
    ForgesPackets,
    ForgesLeases,
    SomethingFails,
    Dozes,
    RecordIsStuck,
    Slews,
    SetsTheClock,
    Upgrades,
    NewCommand,
    Alone,
}

use Fault::*;

/// Everything, by how often.
#[rustfmt::skip]
const ALL: &[Fault] = &[
    Killed, DiesBetweenSteps, LosesPower, Freezes, Suspends, Splits, Splits, CutOneWay, CutOneWay, CutOffTheLeader, Weather,
    SlowDisk, Campaigns, GivesUpAGroup, GivesUpAGroup, OperatorMoves, Priority, Definition, Voters, Voters, ReplacesAVoter, SplitsAChange, Stops, Namespace,
    DeafLan, FencesTheLiving, Ambush, Ambush, Ambush, Ambush, Isolated, Isolated, Isolated, MovedByOrder, Drains,
    SplitsTheLan, LegacySpeaks, LegacySpeaks, ForgesPackets, ForgesLeases, SomethingFails, SomethingFails, Dozes, RecordIsStuck, Slews, SetsTheClock,
    Upgrades, NewCommand, Alone,
];

/// Half of the schedules have most of their faults of one family: what takes several of a kind in a row is rare among all.
#[rustfmt::skip]
const FAMILIES: &[&[Fault]] = &[
    ALL, ALL, ALL, ALL, ALL,
    // Restarts: what a killed process has promised, released or opened is on its way still.
    &[Killed, Killed, DiesBetweenSteps, DiesBetweenSteps, OperatorMoves, GivesUpAGroup, SomethingFails, Namespace, Weather, Campaigns, Stops,
      Upgrades, NewCommand,
      RecordIsStuck, RecordIsStuck],
    // Fences that not every voter has, or has on its disk.
    &[Ambush, Ambush, FencesTheLiving, SlowDisk, SlowDisk, Killed, Campaigns, CutOffTheLeader, Isolated, Weather],
    // The voters change while leaders do.
    &[Voters, Voters, Voters, ReplacesAVoter, ReplacesAVoter, SplitsAChange, SplitsAChange, Campaigns, Campaigns, FencesTheLiving, Ambush,
      Killed, Isolated, CutOffTheLeader, CutOneWay],
    // Time stands still for somebody.
    &[Freezes, Freezes, Suspends, Dozes, Dozes, Dozes, Slews, Slews, SetsTheClock, SetsTheClock, SetsTheClock, FencesTheLiving, Isolated, Weather],
    // Groups go to and fro.
    &[MovedByOrder, Drains, OperatorMoves, GivesUpAGroup, SomethingFails, SomethingFails, Definition, Priority, DeafLan, Campaigns, CutOneWay],
    // Somebody hears nobody for long (`quorum_loss`).
    &[Alone, Alone, Alone, SplitsTheLan, LegacySpeaks, LosesPower, Freezes, Priority, SomethingFails, GivesUpAGroup],
];

/// The place of the last family, which only some schedules have.
pub const ALONE: usize = FAMILIES.len() - 1;

/// The family of a schedule.
pub fn any_family(rng: &mut fastrand::Rng) -> usize {
    rng.usize(0..ALONE)
}

/// One fault, and the time of the next.
pub fn strike(world: &mut World) {
    if !world.net.hostile {
        return;
    }
    if world.net.now < world.net.staged {
        return world.net.at(world.net.staged, Due::Fault);
    }
    let pause = world.net.leases(1..world.net.calm);
    world.net.at(world.net.now + pause, Due::Fault);
    let victim = victim(world);
    let family = if world.net.rng.u8(0..5) == 0 { ALL } else { FAMILIES[world.net.family] };
    match family[world.net.rng.usize(0..family.len())] {
        Killed => {
            let pause = short_or_long(world);
            world.kill(victim, "killed", pause);
        }
        DiesBetweenSteps => dies_between_steps(world, victim),
        LosesPower => loses_power(world, victim),
        Freezes => freezes(world, victim),
        Suspends => suspends(world, victim),
        Splits => splits(world),
        CutOneWay => cuts_one_way(world, victim),
        CutOffTheLeader => cuts_one_link(world, victim),
        Weather => {
            world.net.loss = [0, 10, 50, 300][world.net.rng.usize(0..4)];
            world.net.late = [0, 15, 100, 400][world.net.rng.usize(0..4)];
        }
        SlowDisk => {
            let until = world.net.now + world.net.leases(10..400);
            if let Some(node) = world.node(victim) {
                node.slow_disk = until;
            }
        }
        Campaigns => campaigns(world),
        GivesUpAGroup => gives_up_a_group(world, victim),
        OperatorMoves => operator_moves(world),
        Priority => priority_changes(world, victim),
        Definition => definition_changes(world, victim),
        Voters => voters::change(world),
        ReplacesAVoter => voters::replaces_one(world),
        SplitsAChange => voters::splits_a_change(world),
        Stops => stops(world, victim),
        Namespace => new_namespace(world, victim),
        DeafLan => deaf_lan(world),
        FencesTheLiving => fences_the_living(world),
        Ambush => ambushes(world),
        Isolated => {
            // What was promised last comes back when nobody hears the holder any more.
            world.net.late = 700;
            let then = world.net.now + world.net.leases(2..40);
            world.net.at(then, Due::Isolate(victim));
        }
        MovedByOrder => moves_by_order(world),
        Drains => drains(world, victim),
        SplitsTheLan => splits_the_lan(world),
        LegacySpeaks => {
            let (group, priority) = (group(world), [0, 1, 254, 255][world.net.rng.usize(0..4)]);
            lan::legacy_speaks(&mut world.net, &group, priority);
        }
        ForgesPackets => {
            let group = group(world);
            lan::forge_packets(&mut world.net, &group);
        }
        ForgesLeases => lan::forge_leases(&mut world.net, &world.nodes),
        SomethingFails => something_fails(world, victim),
        Dozes => dozes(world, victim),
        RecordIsStuck => record_is_stuck(world, victim),
        Slews => slews(world, victim),
        Upgrades => program::changes(world, victim),
        Alone => leaves_alone(world, victim),
        NewCommand => program::asks_for_what_is_new(world),
        SetsTheClock => sets_the_clock(world, victim),
    }
}

/// The record cannot be written when a group is given up, and the process that knows so dies; the next hears no leader.
fn record_is_stuck(world: &mut World, victim: NodeId) {
    if let Some(node) = world.node(victim) {
        node.failing = Some(Failing::Record);
    }
    gives_up_a_group(world, victim);
    let dies = world.net.now + world.net.leases(1..30);
    world.net.at(dies, Due::Kill(victim));
    let leads = |node: &&Node| node.process.as_ref().is_some_and(|process| process.raft.is_leader());
    if let Some(leader) = world.nodes.iter().find(leads).map(|node| node.id) {
        cut(world, BTreeSet::from([(leader, victim)]));
    }
}

/// Somebody orders a group to a node, or lets it go by priorities again.
fn moves_by_order(world: &mut World) {
    let group = group(world);
    let node = world.nodes[world.net.rng.usize(0..world.nodes.len())].id;
    let node = (world.net.rng.u8(0..4) > 0).then_some(node);
    order(world, &Command::Pin { group, node });
}

/// Somebody takes a node out of service, or back.
fn drains(world: &mut World, victim: NodeId) {
    let drained = world.net.rng.u8(0..3) > 0;
    order(world, &Command::Drain { node: victim, drained });
}

/// All is as it was before anybody ordered anything.
pub fn orders_end(world: &mut World) {
    for group in world.groups.clone() {
        order(world, &Command::Pin { group, node: None });
    }
    for node in world.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
        order(world, &Command::Drain { node, drained: false });
    }
}

/// At whichever node, which brings it to the leader it knows of.
pub fn order(world: &mut World, command: &Command) {
    let World { net, nodes, .. } = world;
    let at = net.rng.usize(0..nodes.len());
    nodes[at].propose(net, command.clone());
}

/// The next record, claim or unclaim fails, and is soon needed.
fn something_fails(world: &mut World, victim: NodeId) {
    let what = [Failing::Record, Failing::Claim, Failing::Claim, Failing::Unclaim][world.net.rng.usize(0..4)];
    for node in &mut world.nodes {
        if what == Failing::Claim || node.id == victim {
            node.failing = Some(what);
        }
    }
    gives_up_a_group(world, victim);
}

/// Why a session is fenced must not matter: here for no reason at all.
fn fences_the_living(world: &mut World) {
    let World { net, nodes, .. } = world;
    let leads = nodes.iter_mut().filter_map(|node| node.process.as_mut()).find_map(|p| Some((p.raft.leading()?, p)));
    let Some((leadership, process)) = leads else { return };
    let holders: Vec<Sid> = process.raft.state.groups.values().filter_map(|g| Some(g.holder.as_ref()?.sid)).collect();
    if let Some(sid) = net.rng.choice(holders) {
        net.count("the living fenced");
        process.raft.propose(net.now, leadership, What::Command(Command::Fence { sid }));
    }
}

/// A holder is fenced and does not hear of it, while the voters that have bound themselves forget what memory forgets.
fn ambushes(world: &mut World) {
    let leads = |node: &&Node| node.process.as_ref().is_some_and(|process| process.raft.leading().is_some());
    let Some(leader) = world.nodes.iter().find(leads).map(|node| node.id) else { return };
    let now = world.net.now;
    let open = |node: &&Node| node.gates.iter().any(|gate| gate.is_alive(&node.clocks, now));
    let Some(holder) = world.nodes.iter().find(open).map(|node| node.id) else { return };
    cut(world, BTreeSet::from([(leader, holder)]));
    fences_the_living(world);
    world.net.count("ambush");
    let others: Vec<NodeId> = world.nodes.iter().map(|node| node.id).filter(|id| *id != holder).collect();
    for other in others {
        let dies = world.net.now + world.net.leases(1..150);
        if world.net.rng.u8(0..3) > 0 {
            world.net.at(dies, Due::Kill(other));
        }
        let slow = world.net.rng.u8(0..3) == 0;
        if let Some(node) = world.node(other).filter(|_| slow) {
            node.slow_disk = dies;
        }
    }
    if world.net.rng.u8(0..3) == 0 {
        voters::change(world);
    }
}

/// A holder, the leader, or anybody.
fn victim(world: &mut World) -> NodeId {
    let now = world.net.now;
    let open = |node: &Node| node.gates.iter().any(|gate| gate.is_alive(&node.clocks, now));
    let leads = |node: &Node| node.process.as_ref().is_some_and(|process| process.raft.is_leader());
    let aimed = world.net.rng.u8(0..4);
    let ids: Vec<NodeId> = world
        .nodes
        .iter()
        .filter(|node| match aimed {
            0 | 1 => open(node),
            2 => leads(node),
            _ => true,
        })
        .map(|node| node.id)
        .collect();
    let fallback = world.nodes[world.net.rng.usize(0..world.nodes.len())].id;
    world.net.rng.choice(ids.iter()).copied().unwrap_or(fallback)
}

fn group(world: &mut World) -> GroupName {
    world.groups[world.net.rng.usize(0..world.groups.len())].clone()
}

fn short_or_long(world: &mut World) -> Duration {
    if world.net.rng.bool() { world.net.leases(1..10) } else { world.net.leases(10..400) }
}

fn dies_between_steps(world: &mut World, victim: NodeId) {
    let (steps, pause) = (world.net.rng.u32(0..8), short_or_long(world) + world.net.leases(30..31));
    world.net.at(world.net.now + pause, Due::Start(victim));
    if let Some(node) = world.node(victim) {
        node.dies_in = Some(steps);
    }
    // Something to do meanwhile, so that the death falls into it.
    match world.net.rng.u8(0..3) {
        0 => gives_up_a_group(world, victim),
        1 => operator_moves(world),
        _ => {}
    }
}

fn loses_power(world: &mut World, victim: NodeId) {
    let pause = world.net.leases(20..400);
    world.kill(victim, "lost power", pause);
    let World { net, nodes, .. } = world;
    if let Some(node) = nodes.iter_mut().find(|node| node.id == victim) {
        node.clocks = Clocks::any(&mut net.rng, net.drift);
        node.run = None;
        node.gates = vec![Gate::new(GateId(net.rng.u128(..)), node.kind)];
        net.unfenced.remove(&victim);
        node.frozen = Duration::ZERO;
    }
}

fn campaigns(world: &mut World) {
    let now = world.net.now;
    // Sometimes two at once: one term, two leaders.
    for _ in 0..world.net.rng.u8(1..3) {
        let chosen = world.net.rng.usize(0..world.nodes.len());
        if let Some(process) = &mut world.nodes[chosen].process {
            process.raft.election_at = process.raft.election_at.min(now);
            world.net.count("campaign forced");
        }
    }
}

fn gives_up_a_group(world: &mut World, victim: NodeId) {
    let group = group(world);
    let back = world.net.now + world.net.leases(1..300);
    world.net.at(back, Due::Want(victim, group.clone()));
    world.net.count("group refused");
    world.wish(victim, &group, false);
}

fn operator_moves(world: &mut World) {
    let group = group(world);
    let Some(state) = world.nodes.iter().filter_map(|n| n.process.as_ref()).map(|p| p.raft.state.clone()).next() else {
        return;
    };
    let Some(holder) = state.holder(&group) else { return };
    let Some(session) = state.sessions.get(&holder.sid) else { return };
    let Some(candidates) = state.groups.get(&group).map(|g| g.candidates.keys().copied().collect::<Vec<_>>()) else {
        return;
    };
    if let Some(to) = world.net.rng.choice(candidates.iter()) {
        world.net.send(session.node, session.node, Msg::Move(group, holder.token, *to));
    }
}

fn priority_changes(world: &mut World, victim: NodeId) {
    let group = group(world);
    let World { net, nodes, .. } = world;
    let Some(node) = nodes.iter_mut().find(|node| node.id == victim) else { return };
    if let Some((_, candidate)) = node.wishes.get_mut(&group) {
        candidate.priority = net.rng.u8(1..=255);
        candidate.preempt = true;
        net.count("priority changed");
        let now = node.clocks.read(net.now);
        node.reweigh(net, now, &group);
    }
}

fn definition_changes(world: &mut World, victim: NodeId) {
    let chosen = world.net.rng.usize(0..world.groups.len());
    let group = world.groups[chosen].clone();
    let World { net, nodes, .. } = world;
    let Some(node) = nodes.iter_mut().find(|node| node.id == victim) else { return };
    if let Some((_, candidate)) = node.wishes.get_mut(&group) {
        candidate.definition = definition(u8::try_from(chosen).unwrap_or(0), net.rng.u8(0..3));
        net.count("definition changed");
        let now = node.clocks.read(net.now);
        node.reweigh(net, now, &group);
    }
}

fn stops(world: &mut World, victim: NodeId) {
    let World { net, nodes, .. } = world;
    let Some(node) = nodes.iter_mut().find(|node| node.id == victim && node.role == Role::Director) else { return };
    let now = node.clocks.read(net.now);
    net.note(victim, || "gets SIGTERM".to_owned());
    node.hold(net, now, Event::Stop);
    let back = net.now + net.leases(50..400);
    net.at(back, Due::Start(victim));
}

/// A container starts again on the same host: its old namespace lives on, its /run perhaps too.
fn new_namespace(world: &mut World, victim: NodeId) {
    // What is served without a lease outlives its namespace by three adverts, and no new process there knows of it.
    if world.net.unfenced.contains(&victim) {
        return;
    }
    let pause = short_or_long(world);
    world.kill(victim, "namespace replaced", pause);
    let World { net, nodes, .. } = world;
    if let Some(node) = nodes.iter_mut().find(|node| node.id == victim) {
        if net.rng.bool() {
            node.run = None;
        }
        node.gates.push(Gate::new(GateId(net.rng.u128(..)), node.kind));
    }
}

/// Most candidates hear others on the LAN and not the holder.
fn deaf_lan(world: &mut World) {
    let group = group(world);
    world.net.count("holder unheard on the LAN");
    let World { net, nodes, .. } = world;
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let what = [Hearing::Holder, Hearing::Holder, Hearing::OnlyOthers, Hearing::Nobody][net.rng.usize(0..4)];
    for node in nodes {
        node.hears.insert(group.clone(), ids.iter().map(|id| (*id, what)).collect());
    }
}
