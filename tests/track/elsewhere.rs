//! A VIP on another interface than the one that the adverts go by: it is announced there, shut there too while its holder is frozen, and
//! its interface puts the group into FAULT, unless it is `no_track`.

use super::{PATIENCE, ip, moves_to, status};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::{PRIORITIES, Scene};
use hamesh::lab::{LAN_NIC, PREFIX, SECOND_NIC, VIP};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One that stays where the adverts go by.
const BESIDE: &str = "10.77.0.102";
/// How soon an address is where it is to be.
const SOON: Duration = Duration::from_secs(1);

pub fn story(dir: &Path, program: &Path) -> Result<u32> {
    let scene = Scene::set(dir, 4)?;
    for director in &scene.directors {
        scene.lan.plug(director.second, true);
    }
    let text = |more: &str| {
        let both = format!("\"{VIP}/{PREFIX} dev {SECOND_NIC} label {SECOND_NIC}:1{more}\", \"{BESIDE}/{PREFIX}\"");
        cluster_toml(Dialect::V3, &PRIORITIES).replace(&format!("\"{VIP}/{PREFIX}\""), &both)
    };
    let mut cluster = Cluster::form(&scene, program, &text(""), |command| println!("{command}"))?;
    let began = Instant::now();
    moves_to(&scene, "lb1")?;
    let there = on(&scene, 0, SECOND_NIC)?;
    let labelled = there.lines().any(|line| line.contains(&format!("{VIP}/{PREFIX}")) && line.contains(":1\\"));
    ensure!(labelled, "on the second interface: {there}");
    let there = on(&scene, 0, LAN_NIC)?;
    ensure!(there.contains(BESIDE) && !there.contains(&format!("{VIP}/")), "on the LAN's: {there}");

    // What a host knew before is put right by the announcement.
    let legacy = &scene.legacy;
    let known = ["neigh", "replace", &VIP.to_string(), "lladdr", "02:00:00:00:00:09", "dev", LAN_NIC, "nud", "stale"];
    legacy.output(Path::new("/sbin/ip"), &known, PATIENCE)?;
    cluster.freeze(0)?;
    println!("frozen, it moved after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let learned = legacy.output(Path::new("/sbin/ip"), &["neigh", "show", &VIP.to_string()], PATIENCE)?;
    ensure!(learned.contains("02:00:0a:4d:01:0c"), "announced with lb2's second MAC: {learned}");
    cluster.thaw(0)?;
    moves_to(&scene, "lb1")?;
    ensure!(!on(&scene, 1, SECOND_NIC)?.contains(&format!("{VIP}/")), "lb2 has left it");

    ip(&scene, 0, &["link", "set", SECOND_NIC, "down"])?;
    println!("without that interface it moved after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let (said, state) = status(&cluster)?;
    ensure!(state == "FAULT", "lb1 is in {state}");
    ensure!(
        said.contains(&format!("the interface {SECOND_NIC} of some of its addresses is down")),
        "status says why: {said}"
    );
    ip(&scene, 0, &["link", "set", SECOND_NIC, "up"])?;
    moves_to(&scene, "lb1")?;
    ip(&scene, 0, &["link", "del", SECOND_NIC])?;
    moves_to(&scene, "lb2")?;
    attach(&scene)?;
    moves_to(&scene, "lb1")?;
    ensure!(on(&scene, 0, SECOND_NIC)?.contains(&format!("{VIP}/")), "it is on the new one");

    for node in 0..PRIORITIES.len() {
        fs::write(cluster.cluster_file(node), text(" no_track"))?;
        cluster.command(node, &["reload"])?;
    }
    ip(&scene, 0, &["link", "del", SECOND_NIC])?;
    sleep(SOON);
    let (_, state) = status(&cluster)?;
    ensure!(state == "MASTER", "lb1 needs it no more, and is in {state}");
    attach(&scene)?;
    let came = Instant::now();
    while !on(&scene, 0, SECOND_NIC)?.contains(&format!("{VIP}/")) {
        ensure!(came.elapsed() < SOON, "it is not put there when that interface comes");
        sleep(Duration::from_millis(10));
    }
    println!("on an interface that came, {} ms after it had", came.elapsed().as_millis());
    moves_to(&scene, "lb1")?;

    // A LAN for adverts alone that is down everywhere.
    for node in 0..PRIORITIES.len() {
        fs::write(cluster.cluster_file(node), text("") + "needs_interface = false\n")?;
        cluster.command(node, &["reload"])?;
    }
    let cut = Instant::now();
    let all =
        |state: &str| (0..PRIORITIES.len()).try_for_each(|node| ip(&scene, node, &["link", "set", LAN_NIC, state]));
    all("down")?;
    sleep(SOON * 3);
    moves_to(&scene, "lb1")?;
    let gap = scene.observer.longest_gap(cut, Instant::now());
    ensure!(gap < SOON / 2, "nobody answered for {gap:?} when the LAN of the adverts went down");
    cluster.kill(0)?;
    println!("killed, with no LAN for adverts: it moved after {} ms", moves_to(&scene, "lb2")?.as_millis());
    cluster.start(0, &[])?;
    all("up")?;
    moves_to(&scene, "lb1")?;

    // Back to where the adverts go by: another place for an address that is held.
    for node in 0..PRIORITIES.len() {
        fs::write(cluster.cluster_file(node), text("").replace(&format!(" dev {SECOND_NIC}"), ""))?;
        cluster.command(node, &["reload"])?;
    }
    let told = Instant::now();
    while !on(&scene, 0, LAN_NIC)?.contains(&format!("{VIP}/"))
        || on(&scene, 0, SECOND_NIC)?.contains(&format!("{VIP}/"))
    {
        ensure!(told.elapsed() < PATIENCE, "a reload has not moved it: {}", on(&scene, 0, SECOND_NIC)?);
        sleep(Duration::from_millis(10));
    }
    moves_to(&scene, "lb1")?;
    let two = scene.observer.two_owners(began, Instant::now(), |_| true);
    ensure!(two.is_zero(), "two owners for {two:?}");
    cluster.stop(0)?;
    ensure!(!on(&scene, 0, LAN_NIC)?.contains(BESIDE), "a stop has left an address");
    Ok(1)
}

/// lb1's second interface, made anew.
fn attach(scene: &Scene) -> Result<()> {
    let host = &scene.directors[0].host;
    scene.lan.attach(host, SECOND_NIC, [2, 0, 10, 77, 1, 11])?;
    host.address(SECOND_NIC, std::net::Ipv4Addr::new(10, 77, 0, 111), 32)
}

/// The IPv4 addresses of an interface of a director.
fn on(scene: &Scene, director: usize, interface: &str) -> Result<String> {
    let host = &scene.directors[director].host;
    host.output(Path::new("/sbin/ip"), &["-o", "-4", "address", "show", "dev", interface], PATIENCE)
        .with_context(|| format!("{interface} of {}", host.name()))
}
