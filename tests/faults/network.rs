//! Faults of the two networks, and of the cables into them.

use crate::bench::{Bench, Measure, Seen};
use crate::catalogue::{NOTHING, PARTITION, healed, lease_of, seen, unmoved};
use crate::members::grow;
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::WITNESS;
use hamesh::lab::frame::Kind;
use hamesh::lab::switch::{Fault as Cut, Harm, Port};
use hamesh::lab::{LAN_NIC, VIP};
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A way of 200 ms, give or take a half: a round trip may take as long as an election.
const FAR: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(300));
/// 2 Mbit/s. Half of that is too little at times: connections that are lost are not made again then, see the figures.
const THIN: u32 = 256_000;
/// The leadership is where it belongs within this.
const PLACED: Duration = Duration::from_secs(15);
/// A stranger is shown within this.
const SHOWN: Duration = Duration::from_secs(1);
/// A released lease needs no time to run out.
pub const CARRIER_LOST: Duration = Duration::from_millis(300);

pub fn lan_cut(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let scene = &bench.scene;
    let near = [scene.directors[holder].lan, scene.clients[0].1];
    let far = scene.lan_without(holder, &near);
    let mut seen = cut(bench, PARTITION, |bench| bench.scene.lan.cut(&near, &far, Kind::Any))?;
    seen.blind = Some(0);
    Ok(seen)
}

/// The holder hears the LAN and is not heard: its lease is sound, and its VIP answers nobody.
pub fn lan_one_way(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let near = [bench.scene.directors[holder].lan];
    let far = bench.scene.lan_without(holder, &near);
    cut(bench, PARTITION, |bench| bench.scene.lan.cut_one_way(&near, &far, Kind::Any))
}

pub fn mesh_cut_holder(bench: &mut Bench, _: u32) -> Result<Seen> {
    let (own, others) = mesh_sides(bench, bench.holder()?);
    cut(bench, PARTITION, |bench| bench.scene.mesh.cut(&own, &others, Kind::Any))
}

pub fn mesh_cut_leader(bench: &mut Bench, _: u32) -> Result<Seen> {
    let leader = bench.leader()?;
    let bound = if leader == bench.holder()? { PARTITION } else { NOTHING };
    let (own, others) = mesh_sides(bench, leader);
    let mut seen = cut(bench, bound, |bench| bench.scene.mesh.cut(&own, &others, Kind::Any))?;
    seen.bite += &format!(", leader was {}", bench.cluster.name(leader));
    Ok(seen)
}

pub fn one_way_from_holder(bench: &mut Bench, _: u32) -> Result<Seen> {
    let (own, others) = mesh_sides(bench, bench.holder()?);
    cut(bench, PARTITION, |bench| bench.scene.mesh.cut_one_way(&own, &others, Kind::Any))
}

pub fn one_way_to_holder(bench: &mut Bench, _: u32) -> Result<Seen> {
    let (own, others) = mesh_sides(bench, bench.holder()?);
    cut(bench, PARTITION, |bench| bench.scene.mesh.cut_one_way(&others, &own, Kind::Any))
}

/// The holder and one other node, each of them in turn.
pub fn pair_cut(bench: &mut Bench, number: u32) -> Result<Seen> {
    let (own, others) = mesh_sides(bench, bench.holder()?);
    let turn = usize::try_from(number).unwrap_or(0) % others.len();
    cut(bench, PARTITION, |bench| bench.scene.mesh.cut(&own, &others[turn..=turn], Kind::Any))
}

pub fn mesh_sides(bench: &Bench, node: usize) -> (Vec<Port>, Vec<Port>) {
    (vec![bench.scene.mesh_port(node)], bench.scene.mesh_without(node))
}

fn cut(bench: &mut Bench, bound: Duration, make: impl FnOnce(&Bench) -> Cut) -> Result<Seen> {
    let lasting = bench.lasting(8);
    let from = Instant::now();
    let cut = make(bench);
    sleep(lasting);
    let dropped = cut.harmed();
    ensure!(dropped > 0, "the cut took no frame");
    drop(cut);
    let measure = if bound == NOTHING { Measure::Gap } else { Measure::Again };
    Ok(healed(from, Instant::now(), measure, bound, format!("{dropped} frames cut")))
}

pub fn loss(bench: &mut Bench, _: u32) -> Result<Seen> {
    let lasting = if bench.short { Duration::from_secs(8) } else { Duration::from_secs(40) };
    let ports: Vec<Port> = (0..=WITNESS).map(|node| bench.scene.mesh_port(node)).collect();
    let from = Instant::now();
    let loss = bench.scene.mesh.lossy(&ports, 300);
    sleep(lasting);
    let dropped = loss.harmed();
    ensure!(dropped > 0, "no frame was lost");
    drop(loss);
    Ok(healed(from, Instant::now(), Measure::Gap, PARTITION, format!("{dropped} frames lost")))
}

fn harmed(bench: &mut Bench, what: &str, make: impl FnOnce(&Bench) -> Vec<Cut>) -> Result<Seen> {
    unmoved(bench, |bench| {
        let lasting = bench.lasting(40);
        let from = Instant::now();
        let harms = make(bench);
        sleep(lasting);
        let count: u64 = harms.iter().map(Cut::harmed).sum();
        ensure!(count > 0, "no frame was {what}");
        drop(harms);
        Ok(healed(from, Instant::now(), Measure::Gap, NOTHING, format!("{count} frames {what}")))
    })
}

/// A backup is alone; the holder is with the others.
pub fn mesh_cut_backup(bench: &mut Bench, number: u32) -> Result<Seen> {
    let backup = (bench.holder()? + 1 + usize::try_from(number).unwrap_or(0) % 2) % 3;
    let (own, others) = mesh_sides(bench, backup);
    unmoved(bench, |bench| cut(bench, NOTHING, |bench| bench.scene.mesh.cut(&own, &others, Kind::Any)))
}

/// The witness leads where it can, because it holds nothing: without it a director that holds nothing does, and then it again.
pub fn witness_kill(bench: &mut Bench, _: u32) -> Result<Seen> {
    unmoved(bench, |bench| {
        let holder = bench.cluster.name(bench.holder()?).to_owned();
        let witness = bench.cluster.name(WITNESS).to_owned();
        let from = Instant::now();
        bench.cluster.kill(WITNESS)?;
        let led_by = |bench: &mut Bench, what: &str, is: &dyn Fn(&str) -> bool| {
            bench.cluster.wait(0, what, PLACED, |status| status.cluster.leader.as_deref().is_some_and(is))
        };
        let other = led_by(bench, "a leader that holds nothing", &|leader| leader != witness && leader != holder)?;
        sleep(bench.lasting(8));
        bench.cluster.start(WITNESS, &[])?;
        led_by(bench, "the witness as leader", &|leader| leader == witness)?;
        let bite = format!("killed, {} led, and started", other.cluster.leader.unwrap_or_default());
        Ok(seen(from, Measure::Gap, NOTHING, bite))
    })
}

/// As a dead member of a link aggregate does it: some pairs of nodes are cut, others are not.
pub fn half_the_flows(bench: &mut Bench, _: u32) -> Result<Seen> {
    let ports = bench.scene.mesh_ports();
    cut(bench, PARTITION, |bench| bench.scene.mesh.cut(&ports, &ports, Kind::EverySecondFlow))
}

pub fn loss_10(bench: &mut Bench, _: u32) -> Result<Seen> {
    harmed(bench, "lost", |bench| vec![bench.scene.mesh.lossy(&bench.scene.mesh_ports(), 100)])
}

/// Late, out of order, twice, and now and then with a bit turned.
pub fn far_and_wild(bench: &mut Bench, _: u32) -> Result<Seen> {
    harmed(bench, "late, twice or spoilt", |bench| {
        let ports = bench.scene.mesh_ports();
        let harms = [Harm::Repeat(50), Harm::Flip(10), Harm::Delay(FAR.0, FAR.1)];
        harms.map(|harm| bench.scene.mesh.harm(&ports, &ports, Kind::Any, harm)).into()
    })
}

/// The least MTU of IPv6, 1280, and Ethernet's header.
const NARROW: usize = 1294;

/// What a node lacks that comes back over a thin line: more than one heartbeat's time carries, and no snapshot yet.
const LACKING: u32 = 400;

/// Every node has a thin line, and one comes back that has to be told much.
pub fn thin(bench: &mut Bench, _: u32) -> Result<Seen> {
    unmoved(bench, |bench| {
        let (holder, leader) = (bench.holder()?, bench.leader()?);
        let away = (0..WITNESS).find(|node| *node != holder && *node != leader).context("nobody to be away")?;
        bench.cluster.kill(away)?;
        grow(&bench.cluster.socket(leader), LACKING)?;
        let all = bench.cluster.status(leader)?.cluster.applied;
        let from = Instant::now();
        let ports = bench.scene.mesh_ports();
        let lines = ports.iter().map(|port| bench.scene.mesh.harm(&[*port], &ports, Kind::Any, Harm::Throttle(THIN)));
        let lines: Vec<Cut> = lines.collect();
        bench.cluster.start(away, &[])?;
        sleep(bench.lasting(40));
        let (lost, end) = (lines.iter().map(Cut::harmed).sum::<u64>(), Instant::now());
        let applied = bench.cluster.status(away)?.cluster.applied;
        ensure!(applied >= all, "it has {applied} of {all} entries");
        drop(lines);
        let bite = format!(
            "{} kbit/s a node, over which {} was told {LACKING} entries; {lost} frames lost in the queues",
            THIN * 8 / 1000,
            bench.cluster.name(away)
        );
        Ok(healed(from, end, Measure::Gap, NOTHING, bite))
    })
}

/// The mesh's way is narrower than its ends know, and nobody tells them: for what runs, and for a node that starts.
pub fn long_lost(bench: &mut Bench, _: u32) -> Result<Seen> {
    unmoved(bench, |bench| {
        let backup = (bench.holder()? + 1) % 3;
        let ports = bench.scene.mesh_ports();
        let from = Instant::now();
        let way = bench.scene.mesh.harm(&ports, &ports, Kind::Any, Harm::LoseLonger(NARROW));
        bench.cluster.kill(backup)?;
        bench.cluster.start(backup, &[])?;
        sleep(bench.lasting(20));
        let (lost, end) = (way.harmed(), Instant::now());
        ensure!(bench.cluster.status(backup)?.cluster.quorum, "the node that was started is not back");
        drop(way);
        ensure!(lost > 0, "no frame was too long");
        Ok(healed(from, end, Measure::Gap, NOTHING, format!("{lost} frames lost, all longer than {NARROW} bytes")))
    })
}

/// The LAN's switch forgets who is where, again and again.
pub fn switch_forgets(bench: &mut Bench, _: u32) -> Result<Seen> {
    let end = Instant::now() + bench.lasting(10);
    let from = Instant::now();
    let mut times = 0;
    while Instant::now() < end {
        bench.scene.lan.forget();
        times += 1;
        sleep(Duration::from_millis(200));
    }
    Ok(seen(from, Measure::Gap, NOTHING, format!("forgot {times} times")))
}

/// Ports are forgotten sooner than hosts ask who has the VIP: frames to it are flooded until the MASTER is heard again.
pub fn switch_ages(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let times = if bench.short { 2 } else { 10 };
    let from = Instant::now();
    for _ in 0..times {
        bench.scene.lan.forget();
        sleep(Duration::from_secs(3));
    }
    ensure!(bench.holder()? == holder, "the VIP has moved");
    Ok(seen(from, Measure::Gap, NOTHING, format!("every port forgotten after 3 s, {times} times")))
}

pub fn link_down(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let host = bench.scene.directors[holder].host.clone();
    let from = Instant::now();
    host.set_up(LAN_NIC, false)?;
    let taken = bench.wait_takeover(from, holder, Duration::from_secs(10));
    sleep(Duration::from_secs(1));
    host.set_up(LAN_NIC, true)?;
    taken?;
    Ok(seen(from, Measure::Again, CARRIER_LOST, "its cable is out".to_owned()))
}

/// So long is a cable that flaps out, and then in: long enough to be the best candidate again for a second.
const FLAP: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(2000));

/// Takes a director's cable out and puts it in, again and again. Returns how often.
pub fn flap(bench: &Bench, director: usize, lasting: Duration) -> Result<u32> {
    let host = &bench.scene.directors[director].host;
    let (from, mut flaps) = (Instant::now(), 0);
    while from.elapsed() < lasting {
        for (up, span) in [(false, FLAP.0), (true, FLAP.1)] {
            host.set_up(LAN_NIC, up)?;
            sleep(span);
        }
        flaps += 1;
    }
    Ok(flaps)
}

/// A cable that is out and in.
pub fn link_flaps(bench: &mut Bench, _: u32) -> Result<Seen> {
    let (holder, lasting, from) = (bench.holder()?, bench.lasting(30), Instant::now());
    let flaps = flap(bench, holder, lasting)?;
    Ok(seen(from, Measure::Gap, CARRIER_LOST, format!("out {flaps} times in {lasting:?}")))
}

/// Somebody on the LAN takes the VIP for itself, and only answers for it. No lease moves for that; it is said within a second.
pub fn stranger(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let lease = lease_of(bench, holder)?;
    let host = bench.scene.legacy.clone();
    let from = Instant::now();
    host.address(LAN_NIC, VIP, 32)?;
    let shown = bench
        .cluster
        .wait(holder, "a conflict", SHOWN, |status| status.warnings.iter().any(|warning| warning.contains("CONFLICT")));
    let shown_after = from.elapsed().as_millis();
    sleep(Duration::from_secs(2));
    host.remove_address(LAN_NIC, VIP)?;
    shown.context("1 s after a stranger took the VIP")?;
    let after = lease_of(bench, holder)?;
    ensure!(after == lease, "session and token were {lease:?} and are {after:?}");
    sleep(Duration::from_secs(1));
    let bite = format!("a stranger answered too, shown after {shown_after} ms");
    Ok(seen(from, Measure::Again, PARTITION + PARTITION, bite))
}

/// Two of these at a time, at random.
pub fn storm(bench: &mut Bench, _: u32) -> Result<Seen> {
    let lasting = if bench.short { Duration::from_secs(15) } else { Duration::from_secs(120) };
    let from = Instant::now();
    let mut done = Vec::new();
    while from.elapsed() < lasting {
        let (one, two) = (bench.random.usize(0..3), bench.random.usize(0..=WITNESS));
        let (own, others) = mesh_sides(bench, two);
        let cut = match bench.random.u8(0..3) {
            0 => bench.scene.mesh.cut(&own, &others, Kind::Any),
            1 => bench.scene.mesh.cut_one_way(&own, &others, Kind::Any),
            _ => bench.scene.mesh.lossy(&bench.scene.mesh_ports(), 300),
        };
        let pause = Duration::from_millis(bench.random.u64(100..3000));
        match bench.random.u8(0..3) {
            0 => {
                bench.cluster.freeze(one)?;
                sleep(pause);
                bench.cluster.thaw(one)?;
            }
            1 => {
                bench.cluster.kill(one)?;
                sleep(pause);
                bench.cluster.start(one, &[])?;
            }
            _ => {
                bench.cluster.process(one)?.signal(Signal::SIGUSR2)?;
                sleep(pause);
            }
        }
        drop(cut);
        done.push(bench.cluster.name(one).to_owned());
    }
    let bite = format!("{} pairs of faults", done.len());
    let end = Instant::now();
    bench.whole()?;
    Ok(healed(from, end, Measure::Again, lasting + PARTITION * 3, bite))
}
