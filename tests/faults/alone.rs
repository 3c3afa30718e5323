//! A director without any other: `quorum_loss = "vrrp"`.

use crate::bench::{Bench, Measure, Seen};
use crate::catalogue::{PARTITION, cluster_text, lease_of, serve};
use crate::network::mesh_sides;
use anyhow::{Context, Result, ensure};
use hamesh::lab::frame::Kind;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// L, 3 s until it goes by VRRP alone, and the silence of a MASTER.
const ALONE: Duration = Duration::from_secs(9);

fn go_by_vrrp(bench: &mut Bench) -> Result<()> {
    serve(bench, &(cluster_text(bench.edited) + "quorum_loss = \"vrrp\"\nquorum_loss_after = \"3s\"\n"))
}

/// All but one director die for good, and the group goes by VRRP alone there; then they come back.
pub fn quorum_lost(bench: &mut Bench, _: u32) -> Result<Seen> {
    go_by_vrrp(bench)?;
    let holder = bench.holder()?;
    let (session, token) = lease_of(bench, holder)?;
    let others = (0..bench.cluster.size()).filter(|node| *node != holder);
    let from = Instant::now();
    for node in others.clone() {
        bench.cluster.kill(node)?;
    }
    sleep(Duration::from_millis(2500));
    let silent = bench.scene.observer.owners();
    ensure!(silent.is_empty(), "{silent:?} answers without a quorum, before the time to go by VRRP alone");
    let alone = bench.cluster.wait(holder, "VRRP alone", Duration::from_secs(15), |status| {
        status.vip().is_some_and(|vip| vip.unfenced && vip.state == "MASTER" && vip.gate == "open")
    })?;
    ensure!(!alone.cluster.quorum, "there is a quorum: {alone:?}");
    let owner = bench.scene.settled(Duration::from_secs(1), Duration::from_secs(5))?;
    ensure!(owner == bench.cluster.name(holder), "{owner} answers");
    // As shut as ever without the process: the gate is armed for three adverts.
    bench.cluster.freeze(holder)?;
    sleep(Duration::from_millis(3500));
    let frozen = bench.scene.observer.owners();
    ensure!(frozen.is_empty(), "{frozen:?} answers, though it is frozen for longer than three adverts");
    bench.cluster.thaw(holder)?;
    bench.scene.settled(Duration::from_millis(500), Duration::from_secs(10))?;
    let to = Instant::now();
    for node in others {
        bench.cluster.start(node, &[])?;
    }
    bench.whole()?;
    let fenced = bench.cluster.status(holder)?;
    ensure!(!fenced.vip().context("no VIP group")?.unfenced, "still without a lease: {fenced:?}");
    let after = lease_of(bench, holder)?;
    ensure!(after.0 > session && after.1 > token, "session and token were {session}, {token} and are {after:?}");
    serve(bench, &cluster_text(bench.edited))?;
    let bite = "one director left, by VRRP alone, frozen, and fenced again".to_owned();
    Ok(Seen { from, to, measure: Measure::Gap, bound: ALONE, healed: None, bite, blind: None })
}

/// The holder hears nobody in the mesh, but the MASTER of the others on the LAN: it leaves it the VIP, though its own priority
/// is higher.
pub fn mesh_cut(bench: &mut Bench, _: u32) -> Result<Seen> {
    go_by_vrrp(bench)?;
    let holder = bench.holder()?;
    let (own, others) = mesh_sides(bench, holder);
    let from = Instant::now();
    let cut = bench.scene.mesh.cut(&own, &others, Kind::Any);
    sleep(Duration::from_secs(12));
    let owner = bench.scene.settled(Duration::from_secs(1), Duration::from_secs(5))?;
    let status = bench.cluster.status(holder)?;
    let vip = status.vip().context("no VIP group")?;
    ensure!(owner != bench.cluster.name(holder), "{owner} answers, and the others have the quorum");
    ensure!(!vip.unfenced && vip.state == "BACKUP", "the one that is cut off serves: {status:?}");
    let dropped = cut.harmed();
    ensure!(dropped > 0, "the cut took no frame");
    drop(cut);
    let to = Instant::now();
    bench.whole()?;
    serve(bench, &cluster_text(bench.edited))?;
    let bite = format!("{dropped} frames cut, {owner} kept it");
    Ok(Seen { from, to, measure: Measure::Again, bound: PARTITION, healed: Some(to), bite, blind: None })
}
