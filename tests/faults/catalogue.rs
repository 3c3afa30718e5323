//! The faults. Each makes its fault, proves that it bit, and heals it.

use crate::bench::{BLINK, Bench, Measure, Seen};
use crate::{alone, choice, disk, members, network, starved};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{GROUP, WITNESS, cluster_toml};
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::PRIORITIES;
use hamesh::lab::{LAN_NIC, VIP};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub struct Fault {
    pub name: &'static str,
    pub run: fn(&mut Bench, u32) -> Result<Seen>,
}

/// The order is that of the least to the most disturbing.
pub const CATALOGUE: [Fault; 58] = [
    Fault { name: "vip-move", run: vip_move },
    Fault { name: "drain", run: drain },
    Fault { name: "restart", run: restart },
    Fault { name: "vip-removed", run: vip_removed },
    Fault { name: "reload", run: reload },
    Fault { name: "reload-addresses", run: reload_addresses },
    Fault { name: "sigterm", run: sigterm },
    Fault { name: "kill", run: kill },
    Fault { name: "kill-restart", run: kill_restart },
    Fault { name: "preempt-delay", run: choice::preempt_delay },
    Fault { name: "killed-in-claim", run: killed_in_claim },
    Fault { name: "killed-in-release", run: killed_in_release },
    Fault { name: "sigstop", run: sigstop },
    Fault { name: "lan-cut", run: network::lan_cut },
    Fault { name: "lan-one-way", run: network::lan_one_way },
    Fault { name: "mesh-cut-holder", run: network::mesh_cut_holder },
    Fault { name: "mesh-cut-leader", run: network::mesh_cut_leader },
    Fault { name: "one-way-from-holder", run: network::one_way_from_holder },
    Fault { name: "one-way-to-holder", run: network::one_way_to_holder },
    Fault { name: "pair-cut", run: network::pair_cut },
    Fault { name: "loss-30-percent", run: network::loss },
    Fault { name: "mesh-cut-backup", run: network::mesh_cut_backup },
    Fault { name: "half-the-flows", run: network::half_the_flows },
    Fault { name: "loss-10-percent", run: network::loss_10 },
    Fault { name: "far-and-wild", run: network::far_and_wild },
    Fault { name: "thin", run: network::thin },
    Fault { name: "long-frames-lost", run: network::long_lost },
    Fault { name: "switch-forgets", run: network::switch_forgets },
    Fault { name: "switch-ages", run: network::switch_ages },
    Fault { name: "link-down", run: network::link_down },
    Fault { name: "link-flaps", run: network::link_flaps },
    Fault { name: "link-flaps-damped", run: choice::damped },
    Fault { name: "stranger", run: network::stranger },
    Fault { name: "witness-kill", run: network::witness_kill },
    Fault { name: "frozen-group", run: starved::frozen_group },
    Fault { name: "quota", run: starved::quota },
    Fault { name: "busy", run: starved::busy },
    Fault { name: "memory", run: starved::memory },
    Fault { name: "log-unread", run: starved::log_unread },
    Fault { name: "table-flushed", run: table_flushed },
    Fault { name: "many-vips", run: many_vips },
    Fault { name: "leader-kill", run: leader_kill },
    Fault { name: "leader-and-holder-kill", run: leader_and_holder_kill },
    Fault { name: "all-killed", run: all_killed },
    Fault { name: "quorum-lost-vrrp", run: alone::quorum_lost },
    Fault { name: "mesh-cut-vrrp", run: alone::mesh_cut },
    Fault { name: "disk-slow", run: disk::slow },
    Fault { name: "disk-stall", run: disk::stall },
    Fault { name: "disk-full", run: disk::full },
    Fault { name: "disk-fails", run: disk::fails },
    Fault { name: "leader-disk-fails", run: disk::leader_fails },
    Fault { name: "disk-spoilt", run: disk::spoilt },
    Fault { name: "power-loss", run: disk::power_loss },
    Fault { name: "far-behind", run: members::far_behind },
    Fault { name: "split-members", run: members::split },
    Fault { name: "storm", run: network::storm },
    Fault { name: "two-nics", run: two_nics },
    Fault { name: "cluster-toml", run: edited },
];

/// No lease moves and no packet is lost, as far as client and observer can tell: a machine that runs all of the laboratory is
/// itself away for 10 to 30 ms now and then, and a client notices 20.
pub const NOTHING: Duration = Duration::from_millis(50);
/// An address that somebody removes is back within this.
const PUT_BACK: Duration = Duration::from_millis(100);
/// L1 of the default profile: max(L, 2 x election) + 0.5 s.
pub const CRASH: Duration = Duration::from_millis(1500);
/// A hand-over to a director whose addresses differ: it cannot be named before the old ones are free, so a grant and its
/// commit come on top of a planned move.
const OTHER_ADDRESSES: Duration = Duration::from_millis(200);
/// A planned move; where the node leads too, the grant may wait for its successor.
const DRAIN: Duration = Duration::from_millis(100);
/// 2 L + 1 s.
pub const PARTITION: Duration = Duration::from_secs(3);

pub fn seen(from: Instant, measure: Measure, bound: Duration, bite: String) -> Seen {
    Seen { from, to: Instant::now(), measure, bound, healed: None, bite, blind: None }
}

pub fn healed(from: Instant, healed: Instant, measure: Measure, bound: Duration, bite: String) -> Seen {
    Seen { from, to: healed, measure, bound, healed: Some(healed), bite, blind: None }
}

/// To another director. The way back by priorities is shown apart.
fn vip_move(bench: &mut Bench, number: u32) -> Result<Seen> {
    let other = bench.cluster.name(1 + usize::try_from(number).unwrap_or(0) % 2).to_owned();
    let from = Instant::now();
    let said = bench.cluster.command(WITNESS, &["vip", "move", GROUP, "--to", &other])?;
    // Longer than a better candidate waits before it asks for the group.
    sleep(Duration::from_millis(1500));
    let owner = bench.scene.settled(Duration::from_millis(200), Duration::from_secs(5))?;
    ensure!(owner == other, "moved to {other}, and {owner} answers");
    let moved = seen(from, Measure::Change, BLINK, said.trim().to_owned());
    bench.cluster.command(WITNESS, &["vip", "unpin", GROUP])?;
    bench.whole()?;
    Ok(moved)
}

fn drain(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.cluster.name(bench.holder()?).to_owned();
    let from = Instant::now();
    let said = bench.cluster.command(WITNESS, &["node", "drain", &holder])?;
    let owner = bench.scene.settled(Duration::from_millis(500), Duration::from_secs(5))?;
    ensure!(owner != holder, "{holder} is drained and answers");
    bench.cluster.command(WITNESS, &["node", "undrain", &holder])?;
    bench.whole()?;
    Ok(seen(from, Measure::Gap, DRAIN, said.trim().to_owned()))
}

/// Restarts the holder in place, many times in a row. Not one question of a client may stay without an answer.
fn restart(bench: &mut Bench, _: u32) -> Result<Seen> {
    let times = if bench.short { 5 } else { 100 };
    let holder = bench.holder()?;
    let lease = lease_of(bench, holder)?;
    let unanswered = |bench: &Bench| bench.scene.clients.iter().map(|(client, _)| client.unanswered()).sum::<u64>();
    let from = Instant::now();
    let before = unanswered(bench);
    let mut longest = Duration::ZERO;
    for _ in 0..times {
        longest = longest.max(bench.cluster.restart(holder)?);
        bench.cluster.wait_whole(holder, Duration::from_secs(20))?;
    }
    let lost = unanswered(bench).saturating_sub(before);
    let after = lease_of(bench, holder)?;
    ensure!(after == lease, "session and token were {lease:?} and are {after:?}");
    // One of each client may be on its way.
    let on_the_way = u64::try_from(bench.scene.clients.len())?;
    ensure!(lost <= on_the_way, "{lost} questions were not answered");
    let bite = format!("{times} restarts, the longest {} ms, {lost} questions not answered", longest.as_millis());
    Ok(seen(from, Measure::Gap, NOTHING, bite))
}

/// A file that is wrong changes nothing; other priorities, intervals and prefixes change no lease and leave no gap.
fn reload(bench: &mut Bench, number: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let lease = lease_of(bench, holder)?;
    let from = Instant::now();
    let good = cluster_text(bench.edited);
    for wrong in ["", "[vip.web", "[vip.web]\ninterface = 5\n", "[lease]\nttl = \"2s\"\n"] {
        write_cluster(bench, holder, wrong)?;
        let said = bench.cluster.command(holder, &["reload"]);
        ensure!(said.is_err(), "a wrong cluster.toml was taken: {said:?}");
    }
    let interval = if number.is_multiple_of(2) { "500ms" } else { "750ms" };
    let other = good.replace("advertisement_interval = \"1s\"", &format!("advertisement_interval = \"{interval}\""));
    let other = other.replace("lb1 = 200", "lb1 = 210").replace(".100/24", ".100/25");
    ensure!(other != good, "the edit is none");
    for text in [&other, &good] {
        write_cluster(bench, holder, text)?;
        bench.cluster.command(holder, &["reload"])?;
        sleep(Duration::from_secs(2));
        let after = lease_of(bench, holder)?;
        ensure!(after == lease, "session and token were {lease:?} and are {after:?}");
    }
    Ok(seen(from, Measure::Gap, NOTHING, "four wrong files and two good ones".to_owned()))
}

/// Adds an address to the group, or removes it again, on one node after the other; the holder comes last.
fn reload_addresses(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    bench.edited = !bench.edited;
    let text = cluster_text(bench.edited);
    let from = Instant::now();
    node_by_node(bench, holder, &text, |bench, node| {
        bench.cluster.command(node, &["reload"])?;
        sleep(Duration::from_millis(300));
        Ok(())
    })?;
    bench.whole()?;
    let status = bench.cluster.status(holder)?;
    let addresses = status.vip().context("no VIP group")?.addresses.len();
    ensure!(addresses == if bench.edited { 2 } else { 1 }, "{addresses} addresses are held");
    Ok(seen(from, Measure::Gap, OTHER_ADDRESSES, format!("{addresses} addresses now")))
}

pub fn cluster_text(edited: bool) -> String {
    let text = cluster_toml(Dialect::V3, &PRIORITIES);
    if edited { text.replace("10.77.0.100/24\"", "10.77.0.100/24\", \"10.77.0.101/24\"") } else { text }
}

pub fn write_cluster(bench: &Bench, node: usize, text: &str) -> Result<()> {
    let file = bench.cluster.cluster_file(node);
    fs::write(&file, text).with_context(|| file.display().to_string())
}

/// A fault that moves no lease.
pub fn unmoved(bench: &mut Bench, fault: impl FnOnce(&mut Bench) -> Result<Seen>) -> Result<Seen> {
    let holder = bench.holder()?;
    let before = lease_of(bench, holder)?;
    let seen = fault(bench)?;
    let after = lease_of(bench, holder)?;
    ensure!(after == before, "session and token were {before:?} and are {after:?}");
    Ok(seen)
}

/// The session and the token that the VIP is held with.
pub fn lease_of(bench: &Bench, node: usize) -> Result<(u64, u64)> {
    let status = bench.cluster.status(node)?;
    let vip = status.vip().context("no VIP group")?;
    vip.session.zip(vip.token).context("nobody holds the VIP")
}

/// By an operator, from under the holder.
fn vip_removed(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let from = Instant::now();
    let was_there = bench.scene.directors[holder].host.remove_address(LAN_NIC, VIP)?;
    ensure!(was_there, "the holder has no address that could be removed");
    sleep(Duration::from_secs(1));
    let owner = bench.scene.settled(Duration::from_millis(500), Duration::from_secs(5))?;
    ensure!(owner == bench.cluster.name(holder), "removed from {}, and {owner} answers", bench.cluster.name(holder));
    Ok(seen(from, Measure::Gap, PUT_BACK, "removed".to_owned()))
}

/// Every table of the holder's machine is flushed, again and again, as a firewall that starts does it.
fn table_flushed(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let host = bench.scene.directors[holder].host.clone();
    let from = Instant::now();
    let mut refused = 0;
    for _ in 0..20 {
        // Where the table has an owner (Linux 6.9) it is left alone or the flush is refused as a whole.
        refused += u32::from(host.output(Path::new("nft"), &["flush", "ruleset"], Duration::from_secs(5)).is_err());
        sleep(Duration::from_millis(100));
    }
    // What is frozen now must be as shut as ever.
    let mut seen = frozen(bench, |_, _| {})?;
    (seen.from, seen.bound) = (from, CRASH + Duration::from_secs(4));
    seen.bite += &format!(", after 20 flushes of which {refused} were refused");
    Ok(seen)
}

/// A group of many addresses moves, and its holder dies.
fn many_vips(bench: &mut Bench, _: u32) -> Result<Seen> {
    let text = |many: bool| {
        let text = cluster_toml(Dialect::V3, &PRIORITIES);
        let more: Vec<String> = (101..=220).map(|last| format!(", \"10.77.0.{last}/24\"")).collect();
        text.replace(
            "10.77.0.100/24\"",
            &format!("10.77.0.100/24\"{}", if many { more.concat() } else { String::new() }),
        )
    };
    serve(bench, &text(true))?;
    let holder = bench.holder()?;
    let other = bench.cluster.name((holder + 1) % 3).to_owned();
    let from = Instant::now();
    bench.cluster.command(WITNESS, &["vip", "move", GROUP, "--to", &other])?;
    sleep(Duration::from_secs(1));
    let moved = bench.holder()?;
    ensure!(bench.cluster.name(moved) == other, "moved to {other}, and {} answers", bench.cluster.name(moved));
    bench.cluster.kill(moved)?;
    sleep(Duration::from_secs(3));
    let to = Instant::now();
    let addresses = bench.cluster.status(WITNESS)?.vip().context("no VIP group")?.addresses.len();
    ensure!(addresses == 121, "{addresses} addresses are held");
    bench.whole()?;
    serve(bench, &text(false))?;
    let bite = format!("{addresses} addresses moved, and lost their holder");
    Ok(Seen { from, to, measure: Measure::Gap, bound: CRASH, healed: None, bite, blind: None })
}

/// Reloads a cluster.toml on one node after the other.
pub fn serve(bench: &mut Bench, text: &str) -> Result<()> {
    let holder = bench.holder()?;
    node_by_node(bench, holder, text, |bench, node| bench.cluster.command(node, &["reload"]).map(drop))?;
    sleep(Duration::from_secs(1));
    bench.whole()
}

/// Gives a cluster.toml to one node after the other, each of which takes it up; the holder comes last.
pub fn node_by_node(
    bench: &mut Bench,
    holder: usize,
    text: &str,
    mut take_up: impl FnMut(&mut Bench, usize) -> Result<()>,
) -> Result<()> {
    let backups = (0..bench.cluster.size()).filter(|node| *node != holder);
    for node in backups.chain([holder]) {
        write_cluster(bench, node, text)?;
        take_up(bench, node)?;
    }
    Ok(())
}

fn sigterm(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let from = Instant::now();
    bench.cluster.stop(holder)?;
    bench.wait_takeover(from, holder, Duration::from_secs(10))?;
    sleep(Duration::from_secs(1));
    Ok(seen(from, Measure::Gap, BLINK, "ended with code 0".to_owned()))
}

fn kill(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let from = Instant::now();
    bench.cluster.kill(holder)?;
    bench.wait_takeover(from, holder, Duration::from_secs(10))?;
    sleep(Duration::from_secs(2));
    Ok(seen(from, Measure::Again, CRASH, "killed".to_owned()))
}

fn kill_restart(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let from = Instant::now();
    bench.cluster.kill(holder)?;
    bench.cluster.start(holder, &[])?;
    let down = from.elapsed();
    sleep(Duration::from_secs(4));
    Ok(seen(from, Measure::Gap, NOTHING, format!("started again {} ms after the kill", down.as_millis())))
}

/// Where a daemon can be told to kill itself: before, between and after the steps, and around the may-act record.
const IN_CLAIM: [&str; 5] = ["claim:1", "claim:2", "claim:3", "record:1", "record:2"];
const IN_RELEASE: [&str; 3] = ["release:1", "release:2", "release:3"];

fn killed_in_claim(bench: &mut Bench, number: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let point = point(bench, number, &IN_CLAIM);
    bench.cluster.stop(holder)?;
    // It comes back, takes the VIP by its priority, and dies while claiming it.
    let from = Instant::now();
    bench.cluster.start(holder, &[("HAMESH_KILL_POINT", point.clone())])?;
    let bite = died(bench, holder, &point)?;
    sleep(Duration::from_secs(3));
    Ok(seen(from, Measure::Gap, CRASH, bite))
}

fn killed_in_release(bench: &mut Bench, number: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let point = point(bench, number, &IN_RELEASE);
    // A restart within L keeps the VIP; the second life dies while giving it up.
    bench.cluster.kill(holder)?;
    bench.cluster.start(holder, &[("HAMESH_KILL_POINT", point.clone())])?;
    bench.whole()?;
    let from = Instant::now();
    bench.cluster.process(holder)?.signal(Signal::SIGTERM)?;
    let bite = died(bench, holder, &point)?;
    sleep(Duration::from_secs(3));
    Ok(seen(from, Measure::Again, CRASH, bite))
}

/// The runs go through all points; the seed says where they begin.
fn point(bench: &Bench, number: u32, of: &[&str]) -> String {
    let first = bench.random.clone().usize(0..of.len());
    of[(first + usize::try_from(number).unwrap_or(0)) % of.len()].to_owned()
}

fn died(bench: &mut Bench, node: usize, point: &str) -> Result<String> {
    let status = bench.cluster.process(node)?.wait(Duration::from_secs(20))?;
    let signal = status.with_context(|| format!("still alive 20 s later: {point} was not reached"))?.signal();
    ensure!(signal == Some(9), "ended by {signal:?}, not killed at {point}");
    Ok(format!("died at {point}"))
}

fn sigstop(bench: &mut Bench, _: u32) -> Result<Seen> {
    frozen(bench, |_, _| {})
}

fn two_nics(bench: &mut Bench, _: u32) -> Result<Seen> {
    frozen(bench, |bench, holder| bench.scene.lan.plug(bench.scene.directors[holder].second, true))
}

fn frozen(bench: &mut Bench, prepare: impl FnOnce(&Bench, usize)) -> Result<Seen> {
    let holder = bench.holder()?;
    prepare(bench, holder);
    sleep(Duration::from_millis(200));
    let lasting = bench.lasting(10);
    let from = Instant::now();
    bench.cluster.freeze(holder)?;
    sleep(lasting);
    let state = bench.cluster.process(holder)?.state();
    ensure!(state == Some('T'), "in state {state:?} at the end, not stopped");
    let thawed = Instant::now();
    bench.cluster.thaw(holder)?;
    Ok(healed(from, thawed, Measure::Again, CRASH, format!("stopped for {lasting:?}")))
}

fn leader_kill(bench: &mut Bench, _: u32) -> Result<Seen> {
    let leader = bench.leader()?;
    let bound = if leader == bench.holder()? { CRASH } else { NOTHING };
    let from = Instant::now();
    bench.cluster.kill(leader)?;
    sleep(Duration::from_secs(3));
    let new = bench.leader().context("3 s after the leader's end")?;
    ensure!(new != leader, "the killed node is still called the leader");
    let names = format!("{} killed, {} leads", bench.cluster.name(leader), bench.cluster.name(new));
    Ok(seen(from, if bound == NOTHING { Measure::Gap } else { Measure::Again }, bound, names))
}

fn leader_and_holder_kill(bench: &mut Bench, _: u32) -> Result<Seen> {
    let (leader, holder) = (bench.leader()?, bench.holder()?);
    let from = Instant::now();
    bench.cluster.kill(holder)?;
    // Two of three voters may be gone: then only their restart brings the quorum back.
    let (bound, down) = if leader == holder {
        (CRASH, Duration::from_secs(3))
    } else {
        bench.cluster.kill(leader)?;
        (Duration::from_secs(2) + PARTITION, Duration::from_secs(2))
    };
    sleep(down);
    for node in [leader, holder] {
        if !bench.cluster.runs(node) {
            bench.cluster.start(node, &[])?;
        }
    }
    sleep(PARTITION);
    let names = format!("{} and {} killed", bench.cluster.name(leader), bench.cluster.name(holder));
    Ok(seen(from, Measure::Again, bound, names))
}

fn all_killed(bench: &mut Bench, _: u32) -> Result<Seen> {
    let from = Instant::now();
    for node in 0..bench.cluster.size() {
        bench.cluster.kill(node)?;
    }
    sleep(Duration::from_secs(2));
    let silent = bench.scene.observer.owners();
    ensure!(silent.is_empty(), "{silent:?} still answers 2 s after every node was killed");
    for node in 0..bench.cluster.size() {
        bench.cluster.start(node, &[])?;
    }
    sleep(Duration::from_secs(8));
    // Start, election, a fence and the ages of the sessions of before.
    Ok(seen(from, Measure::Again, Duration::from_secs(8), "all nodes killed, the VIP went dark".to_owned()))
}

/// Adds an address to the group, or removes it again, on one node after the other; the holder comes last.
fn edited(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    bench.edited = !bench.edited;
    let text = cluster_text(bench.edited);
    let from = Instant::now();
    node_by_node(bench, holder, &text, |bench, node| {
        bench.cluster.stop(node)?;
        bench.cluster.start(node, &[])?;
        bench.cluster.wait_whole(node, Duration::from_secs(20))
    })?;
    sleep(Duration::from_secs(2));
    Ok(seen(from, Measure::Gap, OTHER_ADDRESSES, "edited and restarted node by node".to_owned()))
}
