//! Three keepaliveds, unmodified, each with a hamesh that guards it: `guard [--short] [--only NAME]`.
//!
//! Whatever keepalived believes, two hosts never answer for the VIP: not at shut gates that hold back every advert, not with
//! VRRP cut between them, not when one or the other is killed. What keepalived's election is meant to bring about comes
//! about: priorities, preemption, tracking. Without guards the same cut makes several owners, or the laboratory is blind.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hamesh::lab::cluster::{Cluster, GROUP};
use hamesh::lab::frame::Kind;
use hamesh::lab::host::Process;
use hamesh::lab::legacy::{self, Auth, Dialect};
use hamesh::lab::sandbox;
use hamesh::lab::scene::{PRIORITIES, Scene, fresh_dir};
use hamesh::lab::switch::Port;
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Three keepaliveds, each with a guard.
#[derive(Parser, Debug)]
struct Options {
    /// Only the dialects that differ most
    #[arg(long)]
    short: bool,
    /// Only this act, by its name in the output
    #[arg(long)]
    only: Option<String>,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the owner must not have changed.
const STEADY: Duration = Duration::from_secs(1);
/// Longer than any keepalived waits before it is MASTER.
const WHILE: Duration = Duration::from_secs(6);

const V3: Dialect = Dialect::V3;
const IPV6: Dialect = Dialect { ipv6: true, ..V3 };
const MAC: Dialect = Dialect { mac: true, ..V3 };
const IPV6_MAC: Dialect = Dialect { ipv6: true, mac: true, ..V3 };
const V2: Dialect = Dialect::V2;
const AH: Dialect = Dialect { auth: Auth::Ah, ..V2 };

/// What a guard has no say in.
const OTHERS: &str = "    virtual_routes {\n        198.51.100.0/24 via 10.77.0.31 dev eth0\n    }\n";

type Act = fn(&mut Stage) -> Result<()>;

/// What is played: its name, how keepalived speaks, what its instance has more, the act, and whether the short form has it.
const ACTS: [(&str, Dialect, &str, Act, bool); 10] = [
    ("without guards", V3, "", unguarded, true),
    ("v3", V3, OTHERS, whole, true),
    ("v3 IPv6", IPV6, "", split_and_killed, false),
    ("v3 MAC", MAC, "", split_and_killed, true),
    ("v3 IPv6 MAC", IPV6_MAC, "", split_and_killed, true),
    ("v2", V2, "", split_and_killed, false),
    ("v2 AH", AH, "", split_and_killed, false),
    ("nopreempt", V3, "    nopreempt\n", nopreempt, true),
    ("tracking", V3, "    track_script {\n        sick\n    }\n", tracking, true),
    ("a script that asks the guard", V3, "    track_script {\n        lease\n    }\n", asking, true),
];

fn main() -> ExitCode {
    let options = Options::parse();
    match sandbox::enter() {
        Ok(Some(code)) => return code,
        Ok(None) => {}
        Err(error) => {
            eprintln!("guard: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, dialect, more, act, short) in ACTS {
        let wanted = options.only.as_ref().map_or(short || !options.short, |only| only == name);
        if !wanted {
            continue;
        }
        let begun = Instant::now();
        match play(dialect, more, act) {
            Ok(()) => {
                passed += 1;
                println!("{name}: ok, {} s", begun.elapsed().as_secs());
            }
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED {error:#}");
            }
        }
    }
    println!("guard: keepalived under a lease, never two owners, {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In a directory that stays after a failure.
fn play(dialect: Dialect, more: &str, act: Act) -> Result<()> {
    let dir = fresh_dir("guard")?;
    let kept = || format!("logs are kept in {}", dir.display());
    let mut stage = Stage::set(dialect, more, &dir).with_context(kept)?;
    act(&mut stage).with_context(kept)?;
    drop(stage);
    fs::remove_dir_all(&dir)?;
    Ok(())
}

struct Stage {
    // Dropped first: what runs on the scene.
    keepaliveds: Vec<Option<Process>>,
    cluster: Cluster,
    scene: Scene,
    dialect: Dialect,
    keepalived: PathBuf,
    began: Instant,
}

impl Stage {
    /// Hosts with their files; nothing runs.
    fn set(dialect: Dialect, more: &str, dir: &Path) -> Result<Self> {
        let keepalived = legacy::keepalived().context("keepalived is not installed")?;
        let scene = Scene::set_for(dir, 1, dialect.vip().0)?;
        let hamesh = Path::new(env!("CARGO_BIN_EXE_hamesh"));
        for director in &scene.directors {
            let dir = director.host.dir().display();
            let scripts = format!(
                "vrrp_script sick {{
    script \"/usr/bin/test ! -e {dir}/sick\"
    interval 1
    weight -120
    user root
}}
vrrp_script lease {{
    script \"{hamesh} guard --check {GROUP} --config {dir}/hamesh.toml\"
    interval 1
    timeout 3
    fall 2
    rise 1
    user root
}}
",
                hamesh = hamesh.display()
            );
            legacy::write(&director.host, dialect, director.priority, "1", (&scripts, more))?;
        }
        let cluster = Cluster::of_guards(&scene, hamesh)?;
        let keepaliveds = scene.directors.iter().map(|_| None).collect();
        Ok(Self { keepaliveds, cluster, scene, dialect, keepalived, began: Instant::now() })
    }

    fn start(&mut self, director: usize) -> Result<()> {
        let process = legacy::run(&self.scene.directors[director].host, &self.keepalived)?;
        self.keepaliveds[director] = Some(process);
        Ok(())
    }

    fn start_all(&mut self) -> Result<()> {
        (0..PRIORITIES.len()).try_for_each(|director| self.start(director))
    }

    fn process(&mut self, director: usize) -> Result<Process> {
        self.keepaliveds[director].take().context("keepalived does not run there")
    }

    /// Whether keepalived has put the VIP there, which it does as MASTER and as nothing else.
    fn has_vip(&self, director: usize) -> Result<bool> {
        let host = &self.scene.directors[director].host;
        let list = host.output(Path::new("/sbin/ip"), &["-o", "address"], PATIENCE)?;
        Ok(list.contains(&format!(" {}/", self.dialect.vip().0)))
    }

    /// Waits until keepalived is MASTER on these hosts and on no others.
    fn masters(&self, wanted: &[usize]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut there = Vec::new();
            for director in 0..PRIORITIES.len() {
                if self.has_vip(director)? {
                    there.push(director);
                }
            }
            if there == wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "keepalived is MASTER on {there:?} and not on {wanted:?}");
            sleep(Duration::from_millis(100));
        }
    }

    fn owned_by(&self, director: usize) -> Result<()> {
        let (name, begun) = (self.scene.directors[director].host.name(), Instant::now());
        loop {
            let owner = self.scene.settled(STEADY, PATIENCE)?;
            if owner == name {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{owner} owns the VIP, not {name}");
        }
    }

    /// For a while nobody but this one, and nobody less.
    fn stays_with(&self, director: usize, time: Duration) -> Result<()> {
        let (name, from) = (self.scene.directors[director].host.name(), Instant::now());
        sleep(time);
        let (hosts, to) = (self.scene.observer.hosts(), Instant::now());
        for span in self.scene.observer.spans(from, to) {
            ensure!(hosts[span.host] == name, "{} answered, and not {name}", hosts[span.host]);
        }
        let dark = self.scene.observer.longest_gap(from, to);
        ensure!(dark < Duration::from_secs(1), "nobody answered for {} ms", dark.as_millis());
        Ok(())
    }

    fn dark(&self, from: Instant) -> Result<()> {
        let (hosts, spans) = (self.scene.observer.hosts(), self.scene.observer.spans(from, Instant::now()));
        match spans.first() {
            Some(span) => bail!("{} answered", hosts[span.host]),
            None => Ok(()),
        }
    }

    /// The end of every act: two owners at no time.
    fn never_two(&self) -> Result<()> {
        let two = self.scene.observer.two_owners(self.began, Instant::now(), |_| true);
        ensure!(two.is_zero(), "two owners for {two:?}");
        Ok(())
    }

    fn lan(&self) -> Vec<Port> {
        self.scene.directors.iter().map(|director| director.lan).collect()
    }

    /// The exit code of the command for a `vrrp_script`.
    fn check(&self, director: usize) -> Result<()> {
        self.cluster.command(director, &["guard", "--check", GROUP]).map(drop)
    }
}

/// The control: what keepalived does by itself.
fn unguarded(stage: &mut Stage) -> Result<()> {
    stage.start_all()?;
    stage.owned_by(0)?;
    let lan = stage.lan();
    let from = Instant::now();
    let cut = stage.scene.lan.cut(&lan, &lan, Kind::Vrrp);
    stage.masters(&[0, 1, 2])?;
    sleep(Duration::from_secs(2));
    ensure!(cut.harmed() > 0, "nothing was cut");
    let two = stage.scene.observer.two_owners(from, Instant::now(), |_| true);
    ensure!(two > Duration::from_secs(1), "two owners for {two:?} only: the observer is blind");
    println!("without guards: two owners for {} ms", two.as_millis());
    Ok(())
}

/// The boot's gate, keepalived behind it, then the guards: the highest priority has the VIP, and the others are BACKUP.
fn gathered(stage: &mut Stage) -> Result<()> {
    for director in 0..PRIORITIES.len() {
        stage.cluster.command(director, &["guard", "--shut"])?;
    }
    stage.start_all()?;
    // No advert passes, so each is MASTER. Behind a virtual MAC's gate too.
    stage.masters(&[0, 1, 2])?;
    sleep(Duration::from_secs(1));
    stage.dark(stage.began).context("behind the gate that the boot has shut")?;
    let from = Instant::now();
    stage.cluster.gather(&mut |_| {})?;
    stage.owned_by(0).context("the highest priority")?;
    stage.masters(&[0]).context("the others hear it")?;
    let announced = stage.scene.observer.announcements(from, Instant::now());
    ensure!(announced.iter().any(|(_, host)| host == "lb1"), "the VIP was not announced: {announced:?}");
    stage.check(0)
}

/// VRRP cut: all of them MASTER, one of them owner.
fn split(stage: &Stage) -> Result<()> {
    let lan = stage.lan();
    let cut = stage.scene.lan.cut(&lan, &lan, Kind::Vrrp);
    stage.masters(&[0, 1, 2]).context("with VRRP cut")?;
    stage.stays_with(0, WHILE).context("with VRRP cut")?;
    ensure!(cut.harmed() > 0, "nothing was cut");
    drop(cut);
    stage.masters(&[0]).context("after the cut")?;
    stage.stays_with(0, Duration::from_secs(2)).context("after the cut")
}

/// `kill -9` of keepalived, whose address stays, and its return.
fn keepalived_killed(stage: &mut Stage) -> Result<()> {
    stage.process(0)?.kill()?;
    ensure!(stage.has_vip(0)?, "a killed keepalived leaves its address, or this shows nothing");
    stage.owned_by(1).context("with keepalived killed")?;
    stage.start(0)?;
    stage.owned_by(0).context("keepalived is back, and preempts")?;
    stage.masters(&[0])
}

fn split_and_killed(stage: &mut Stage) -> Result<()> {
    gathered(stage)?;
    split(stage)?;
    keepalived_killed(stage)?;
    stage.never_two()
}

fn whole(stage: &mut Stage) -> Result<()> {
    gathered(stage)?;
    let said = stage.cluster.command(0, &["status"])?;
    ensure!(said.contains("the guard of its keepalived"), "status says nothing of a guard: {said}");
    split(stage)?;
    keepalived_killed(stage)?;

    // The planned way.
    let from = Instant::now();
    let stopped = stage.process(0)?;
    stopped.signal(Signal::SIGTERM)?;
    stage.owned_by(1).context("with keepalived stopped")?;
    println!("keepalived stopped: dark for {} ms", stage.scene.observer.longest_gap(from, Instant::now()).as_millis());
    drop(stopped);
    stage.start(0)?;
    stage.owned_by(0)?;

    // The guard: dark there by the end of its lease, although keepalived goes on as MASTER.
    stage.cluster.kill(0)?;
    sleep(Duration::from_secs(2));
    let from = Instant::now();
    ensure!(stage.has_vip(0)?, "keepalived is MASTER still");
    stage.owned_by(1).context("with the guard killed")?;
    let hosts = stage.scene.observer.hosts();
    let spans = stage.scene.observer.spans(from, Instant::now());
    ensure!(spans.iter().all(|span| hosts[span.host] != "lb1"), "lb1 answered without a guard");
    stage.cluster.start(0, &[])?;
    stage.owned_by(0).context("with the guard back")?;

    // Stopped, it leaves the gate behind.
    stage.cluster.stop(0)?;
    stage.owned_by(1).context("with the guard stopped")?;
    stage.cluster.start(0, &[])?;
    stage.owned_by(0)?;
    stage.masters(&[0])?;

    // No quorum, no VIP.
    for node in 1..stage.cluster.size() {
        stage.cluster.kill(node)?;
    }
    sleep(Duration::from_secs(3));
    let from = Instant::now();
    sleep(Duration::from_secs(1));
    stage.dark(from).context("without a quorum")?;
    let refused = stage.check(0);
    ensure!(refused.as_ref().is_err_and(|error| format!("{error:#}").contains("no quorum")), "{refused:?}");
    for node in 1..stage.cluster.size() {
        stage.cluster.start(node, &[])?;
    }
    stage.owned_by(0).context("with a quorum again")?;
    stage.never_two()?;

    // Without its gate the host is as it was before: the end of a migration.
    stage.cluster.stop(2)?;
    stage.cluster.command(2, &["guard", "--off"])?;
    Ok(())
}

fn nopreempt(stage: &mut Stage) -> Result<()> {
    stage.cluster.gather(&mut |_| {})?;
    stage.start(1)?;
    stage.owned_by(1)?;
    stage.start(0)?;
    stage.stays_with(1, WHILE * 2).context("beside a higher priority that does not preempt")?;
    stage.masters(&[1])?;
    stage.process(1)?.kill()?;
    stage.owned_by(0)?;
    stage.start(1)?;
    stage.stays_with(0, WHILE)?;
    stage.never_two()
}

/// A lower priority, because of what keepalived tracks, is a lower one for the mesh.
fn tracking(stage: &mut Stage) -> Result<()> {
    gathered(stage)?;
    let sick = stage.scene.directors[0].host.dir().join("sick");
    fs::write(&sick, "")?;
    stage.owned_by(1).context("with a failing script of lb1")?;
    stage.masters(&[1])?;
    fs::remove_file(&sick)?;
    stage.owned_by(0).context("with its script well again")?;
    stage.masters(&[0])?;
    stage.never_two()
}

/// A `vrrp_script` that asks the guard: whoever is cut off from the mesh is MASTER of nothing.
fn asking(stage: &mut Stage) -> Result<()> {
    stage.cluster.gather(&mut |_| {})?;
    stage.start_all()?;
    stage.owned_by(0)?;
    stage.masters(&[0])?;
    let cut = stage.scene.mesh.cut(&[stage.scene.mesh_port(0)], &stage.scene.mesh_without(0), Kind::Any);
    stage.owned_by(1).context("with lb1 cut off from the mesh")?;
    stage.masters(&[1]).context("with lb1 cut off from the mesh")?;
    ensure!(cut.harmed() > 0, "nothing was cut");
    drop(cut);
    stage.owned_by(0).context("with lb1 in the mesh again")?;
    stage.masters(&[0])?;
    stage.never_two()
}
