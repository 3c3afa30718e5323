//! Options of an instance that change what is on the wire, here and in a real keepalived: each hears the other, and says the same.

use super::{ABOVE, ADVERT, BELOW, CAPTURE, PATIENCE, Stage, end};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::cluster_toml;
use hamesh::lab::frame::Kind;
use hamesh::lab::host::{Process, local_output};
use hamesh::lab::legacy::{self, Dialect};
use hamesh::lab::scene::PRIORITIES;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one is looked at.
const WATCH: Duration = Duration::from_secs(5);

/// `vmac_xmit_base`: adverts from the interface's own MAC, and announcements of the virtual one.
pub fn plain_adverts(dir: &Path) -> Result<String> {
    let dialect = Dialect { mac: true, ..Dialect::V3 };
    let toml = cluster_toml(dialect, &PRIORITIES) + "plain_adverts = true\n";
    let said = beside(dir, dialect, &toml, "    vmac_xmit_base\n", "vrrp && eth.src[0:5] == 00:00:5e:00:01")?;
    Ok(format!("{said}, none from a virtual MAC"))
}

/// `mcast_dst_ip`: another multicast group.
pub fn multicast(dir: &Path) -> Result<String> {
    let toml = cluster_toml(Dialect::V3, &PRIORITIES) + "multicast = \"224.0.0.77\"\n";
    let said = beside(dir, Dialect::V3, &toml, "    mcast_dst_ip 224.0.0.77\n", "vrrp && ip.dst != 224.0.0.77")?;
    Ok(format!("{said}, all to 224.0.0.77"))
}

/// The same over IPv6.
pub fn multicast_v6(dir: &Path) -> Result<String> {
    let dialect = Dialect { ipv6: true, ..Dialect::V3 };
    let toml = cluster_toml(dialect, &PRIORITIES) + "multicast = \"ff02::77\"\n";
    let said = beside(dir, dialect, &toml, "    mcast_dst_ip ff02::77\n", "vrrp && ipv6.dst != ff02::77")?;
    Ok(format!("{said}, all to ff02::77"))
}

/// A weaker keepalived keeps quiet, a stronger one is obeyed, and nobody sends what `wrong` finds.
fn beside(dir: &Path, dialect: Dialect, toml: &str, line: &str, wrong: &str) -> Result<String> {
    let stage = Stage::set(dialect, toml, dir)?;
    stage.scene.lan.capture(&dir.join(CAPTURE), Kind::Vrrp)?;
    let weak = start(&stage, BELOW, line)?;
    let from = Instant::now();
    sleep(ADVERT * 3 + WATCH);
    let others = stage.scene.observer.adverts(from + ADVERT * 2, Instant::now());
    let others: Vec<_> = others.iter().filter(|advert| advert.host != "lb1").collect();
    ensure!(others.is_empty(), "beside lb1 {others:?} speak: lb1 is not heard");
    end(weak)?;
    let strong = start(&stage, ABOVE, line)?;
    stage.owned_by("legacy").context("a stronger one is not heard")?;
    sleep(ADVERT * 2 + WATCH);
    stage.owned_by("legacy")?;
    end(strong)?;
    stage.owned_by("lb1")?;
    stage.scene.lan.captured()?;
    let file = dir.join(CAPTURE).display().to_string();
    let read = |filter: &str| -> Result<usize> {
        let (status, said, error) =
            local_output(Path::new("tshark"), &["-n", "-r", &file, "-Y", filter], PATIENCE * 3)?;
        ensure!(status.success(), "tshark: {error}");
        Ok(said.lines().count())
    };
    let (all, wrong) = (read("vrrp")?, read(wrong)?);
    ensure!(all > 15 && wrong == 0, "{wrong} of {all} adverts are not as they are to be");
    Ok(format!("{all} adverts"))
}

fn start(stage: &Stage, priority: u8, line: &str) -> Result<Process> {
    let program = legacy::keepalived().context("keepalived is not installed")?;
    let host = &stage.scene.legacy;
    legacy::write(host, stage.dialect, priority, "1", ("", line))?;
    legacy::run(host, &program)
}

/// `no_accept`, and `strict_mode`, which means it: the owner is told of, and takes nothing. As keepalived does it.
pub fn no_accept(dir: &Path) -> Result<String> {
    let toml = cluster_toml(Dialect::V3, &PRIORITIES);
    let mut stage = Stage::set(Dialect::V3, &toml, dir)?;
    let taken =
        |stage: &Stage| stage.scene.clients.iter().all(|(client, _)| client.last_answer().0.elapsed() < ADVERT / 2);
    ensure!(taken(&stage), "what is sent to the VIP is not answered, and this test shows nothing");
    for node in 0..PRIORITIES.len() {
        std::fs::write(stage.cluster.cluster_file(node), format!("{toml}accept = false\n"))?;
        stage.cluster.command(node, &["reload"])?;
    }
    let quiet = |stage: &Stage, owner: &str| -> Result<()> {
        let began = Instant::now();
        while stage.scene.observer.owners() != [owner] {
            ensure!(began.elapsed() < PATIENCE, "{:?} own the VIP, not {owner}", stage.scene.observer.owners());
            sleep(ADVERT / 10);
        }
        sleep(ADVERT * 2);
        let none = |client: &hamesh::lab::client::Client| client.last_answer().0.elapsed() > ADVERT;
        ensure!(stage.scene.clients.iter().all(|(client, _)| none(client)), "{owner} takes what is sent to the VIP");
        ensure!(stage.scene.observer.owners() == [owner], "{owner} is not found any more");
        Ok(())
    };
    quiet(&stage, "lb1").context("after a reload")?;
    let strong = start(&stage, ABOVE, "    strict_mode\n")?;
    quiet(&stage, "legacy").context("keepalived itself")?;
    end(strong)?;
    quiet(&stage, "lb1")?;
    stage.cluster.kill(0)?;
    quiet(&stage, "lb2").context("after a takeover")?;
    stage.cluster.start(0, &[])?;
    quiet(&stage, "lb1").context("after a start")?;
    for node in 0..PRIORITIES.len() {
        std::fs::write(stage.cluster.cluster_file(node), &toml)?;
        stage.cluster.command(node, &["reload"])?;
    }
    let began = Instant::now();
    while !taken(&stage) {
        ensure!(began.elapsed() < PATIENCE, "what is sent to the VIP is not taken again");
        sleep(ADVERT / 10);
    }
    Ok("told where it is, and nothing taken: by hamesh, and by keepalived in strict mode".to_owned())
}
