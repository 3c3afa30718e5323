//! An interface that is missing at the start, comes, goes, is made anew, is renamed, and whose name another one takes: the group
//! is in FAULT while it is not there, and comes back by itself. With and without the virtual MAC.

use super::{PATIENCE, ip, moves_to, status};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::{PRIORITIES, Scene, routers};
use hamesh::lab::{LAN_NIC, PREFIX, VIP, VRID};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a group may be in FAULT whose interface is there again.
const BACK: Duration = Duration::from_secs(1);
/// What an interface is renamed to.
const AWAY: &str = "away0";
/// What comes after a reload.
const LATE: &str = "late0";

pub fn story(dir: &Path, program: &Path, dialect: Dialect) -> Result<u32> {
    let scene = Scene::set(dir, 3)?;
    ip(&scene, 0, &["link", "del", LAN_NIC])?;
    let cluster = Cluster::form(&scene, program, &cluster_toml(dialect, &PRIORITIES), |command| println!("{command}"))?;
    let stage = Stage { scene, cluster, device: dialect.mac.then(|| format!("vrrp.{VRID}")) };
    let began = Instant::now();
    moves_to(&stage.scene, "lb2")?;
    let (said, state) = status(&stage.cluster)?;
    ensure!(state == "FAULT", "lb1 is in {state}");
    ensure!(said.contains("its interface eth0 is not there"), "status says why: {said}");

    println!("missing at the start; back {} ms after it has come", stage.comes()?.as_millis());
    ip(&stage.scene, 0, &["link", "del", LAN_NIC])?;
    moves_to(&stage.scene, "lb2")?;
    println!("removed; back {} ms after it was made anew", stage.comes()?.as_millis());

    stage.rename(LAN_NIC, AWAY)?;
    moves_to(&stage.scene, "lb2")?;
    stage.left_nothing()?;
    stage.rename(AWAY, LAN_NIC)?;
    println!("renamed; back {} ms after it has its name again", stage.is_back()?.as_millis());

    stage.rename(LAN_NIC, AWAY)?;
    ip(&stage.scene, 0, &["address", "flush", "dev", AWAY])?;
    moves_to(&stage.scene, "lb2")?;
    println!("renamed; back {} ms after another one has taken its name", stage.comes()?.as_millis());
    stage.left_nothing()?;

    if let Some(device) = &stage.device {
        stage.is_on_the_lan(device)?;
        ip(&stage.scene, 0, &["link", "del", device])?;
        println!("back {} ms after the virtual MAC's device was removed", stage.is_on_the_lan(device)?.as_millis());
        stage.is_back()?;
        ip(&stage.scene, 0, &["link", "set", device, "down"])?;
        moves_to(&stage.scene, "lb2")?;
        ip(&stage.scene, 0, &["link", "set", device, "up"])?;
        stage.is_back()?;
    }
    println!("a group that a reload brings: up {} ms after its interface has come", stage.reloads()?.as_millis());
    let two = stage.scene.observer.two_owners(began, Instant::now(), |_| true);
    ensure!(two.is_zero(), "two owners for {two:?}");
    Ok(1)
}

struct Stage {
    scene: Scene,
    cluster: Cluster,
    /// That with the virtual MAC.
    device: Option<String>,
}

impl Stage {
    /// An interface comes, with lb1's address.
    fn comes(&self) -> Result<Duration> {
        let host = &self.scene.directors[0].host;
        self.scene.lan.attach(host, LAN_NIC, [2, 0, 10, 77, 0, 11])?;
        host.address(LAN_NIC, routers(false).1[0], PREFIX)?;
        self.is_back()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        ip(&self.scene, 0, &["link", "set", from, "name", to])
    }

    /// Waits until lb1 is not in FAULT any more, how long that takes, and until it has the VIP.
    fn is_back(&self) -> Result<Duration> {
        let began = Instant::now();
        while status(&self.cluster)?.1 == "FAULT" {
            ensure!(began.elapsed() < PATIENCE, "lb1 stays in FAULT: {}", status(&self.cluster)?.0);
            sleep(Duration::from_millis(10));
        }
        let took = began.elapsed();
        moves_to(&self.scene, "lb1")?;
        ensure!(took < BACK, "lb1 was in FAULT for {took:?}");
        Ok(took)
    }

    /// Waits until the device with the virtual MAC is there, on the LAN's interface, and how long that takes.
    fn is_on_the_lan(&self, device: &str) -> Result<Duration> {
        let (began, host) = (Instant::now(), &self.scene.directors[0].host);
        let (show, on_it) = (["-o", "link", "show", device], format!("{device}@{LAN_NIC}:"));
        while !host.output(Path::new("/sbin/ip"), &show, PATIENCE).is_ok_and(|shown| shown.contains(&on_it)) {
            ensure!(began.elapsed() < BACK, "{device} is not on {LAN_NIC} after {BACK:?}");
            sleep(Duration::from_millis(10));
        }
        Ok(began.elapsed())
    }

    /// A reload brings a group whose interface is nowhere; then lb1 gets it.
    fn reloads(&self) -> Result<Duration> {
        for node in 0..PRIORITIES.len() {
            let file = self.cluster.cluster_file(node);
            let text = fs::read_to_string(&file)?;
            let late = format!("[vip.late]\ninterface = \"{LATE}\"\nvrid = 60\naddresses = [\"10.99.0.100/24\"]\n");
            fs::write(&file, format!("{text}\n{late}"))?;
            self.cluster.command(node, &["reload"])?;
        }
        let state = || -> Result<String> {
            let status = self.cluster.status(0)?;
            Ok(status.vips.iter().find(|vip| vip.name == "late").context("no such group")?.state.clone())
        };
        let began = Instant::now();
        // What is shown is drawn twenty times a second.
        while state()? != "FAULT" {
            ensure!(began.elapsed() < BACK, "without its interface it is in {}", state()?);
            sleep(Duration::from_millis(10));
        }
        ip(&self.scene, 0, &["link", "add", LATE, "type", "veth", "peer", "name", "late1"])?;
        ip(&self.scene, 0, &["link", "set", "late1", "up"])?;
        ip(&self.scene, 0, &["link", "set", LATE, "up"])?;
        ip(&self.scene, 0, &["address", "add", "10.99.0.11/24", "dev", LATE])?;
        let began = Instant::now();
        let mut up = None;
        while state()? != "MASTER" {
            if up.is_none() && state()? != "FAULT" {
                up = Some(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "it stays in {}", state()?);
            sleep(Duration::from_millis(10));
        }
        let took = up.context("it was never BACKUP")?;
        ensure!(took < BACK, "it was in FAULT for {took:?}");
        let host = &self.scene.directors[0].host;
        let shown = host.output(Path::new("/sbin/ip"), &["-o", "-4", "address", "show", "dev", LATE], PATIENCE)?;
        ensure!(shown.contains("10.99.0.100/24"), "MASTER, and the VIP is not there: {shown}");
        Ok(took)
    }

    /// An interface that has only another name now has no VIP.
    fn left_nothing(&self) -> Result<()> {
        let host = &self.scene.directors[0].host;
        let shown = host.output(Path::new("/sbin/ip"), &["-o", "-4", "address", "show", "dev", AWAY], PATIENCE)?;
        ensure!(!shown.contains(&VIP.to_string()), "the VIP is left on {AWAY}: {shown}");
        Ok(())
    }
}
