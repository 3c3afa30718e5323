//! Two directors, one VIP: how long it is dark when the MASTER stops or dies, hamesh's and keepalived's in the same run. Fails
//! where hamesh is not as much shorter as it is to be.

use anyhow::{Context, Result};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::host::Process;
use hamesh::lab::legacy::{self, Dialect};
use hamesh::lab::scene::{Scene, fresh_dir};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Stops and deaths of each program at each setting
    #[arg(long, default_value_t = 10)]
    runs: u32,
}

/// One owner for this long is a steady VIP.
const STEADY: Duration = Duration::from_millis(700);
/// The slowest takeover of these, and some more.
const PATIENCE: Duration = Duration::from_secs(30);
/// After the end of the MASTER, until the VIP is surely back.
const LOOK: Duration = Duration::from_secs(6);

/// What both programs are configured with.
struct Setting {
    /// In seconds, as keepalived's file has it.
    interval: &'static str,
    /// hamesh's, which the interval of adverts follows.
    profile: &'static str,
    priorities: [u8; 2],
}

const SETTINGS: [Setting; 4] = [
    Setting { interval: "1", profile: "default", priorities: [150, 100] },
    Setting { interval: "1", profile: "default", priorities: [254, 253] },
    Setting { interval: "0.1", profile: "fast", priorities: [150, 100] },
    Setting { interval: "0.1", profile: "fast", priorities: [254, 253] },
];

/// How the MASTER ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// SIGTERM.
    Planned,
    /// The machine dies: its cables are silent, its processes gone.
    Crash,
}

/// The two directors under one of the programs.
trait Pair {
    fn end(&mut self, how: End) -> Result<()>;
    fn begin(&mut self) -> Result<()>;
}

impl Pair for Cluster {
    fn end(&mut self, how: End) -> Result<()> {
        match how {
            End::Planned => self.stop(0),
            End::Crash => self.kill(0),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.start(0, &[])?;
        self.wait_whole(0, PATIENCE)
    }
}

struct Keepaliveds<'a> {
    scene: &'a Scene,
    program: &'a Path,
    setting: &'a Setting,
    processes: [Option<Process>; 2],
}

impl Keepaliveds<'_> {
    fn start(&mut self, number: usize) -> Result<()> {
        let (host, priority) = (&self.scene.directors[number].host, self.setting.priorities[number]);
        let process = legacy::start_every(host, self.program, Dialect::V3, priority, None, self.setting.interval)?;
        self.processes[number] = Some(process);
        Ok(())
    }
}

impl Pair for Keepaliveds<'_> {
    fn end(&mut self, how: End) -> Result<()> {
        let mut process = self.processes[0].take().context("it does not run")?;
        match how {
            End::Planned => {
                process.signal(Signal::SIGTERM)?;
                process.wait(PATIENCE)?.context("keepalived does not end")?;
            }
            End::Crash => process.kill()?,
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let (host, nic) = (&self.scene.directors[0].host, hamesh::lab::LAN_NIC);
        // A machine that died comes back without it.
        host.remove_address(nic, hamesh::lab::VIP)?;
        self.start(0)
    }
}

/// A planned stop at priorities far apart is to be so many times shorter than keepalived's.
const PLANNED: u32 = 10;
/// A crash at those, in tenths: two and a half times.
const CRASH_TENTHS: u32 = 25;
/// A planned stop at priorities next to each other takes keepalived so long, and is to take no longer.
const PLANNED_NEXT: Duration = Duration::from_millis(20);

/// Whether hamesh's median is as short beside keepalived's as it is to be.
fn is_short(setting: &Setting, how: End, ours: Duration, theirs: Duration) -> bool {
    let apart = setting.priorities[0] - setting.priorities[1] > 1;
    match (how, apart) {
        (End::Planned, true) => ours * PLANNED <= theirs,
        (End::Planned, false) => ours <= theirs.max(PLANNED_NEXT),
        (End::Crash, true) => ours * CRASH_TENTHS <= theirs * 10,
        (End::Crash, false) => ours <= theirs,
    }
}

/// The longest darkness of each run, sorted.
fn outages(scene: &Scene, pair: &mut dyn Pair, how: End, runs: u32) -> Result<Vec<Duration>> {
    let mut outages = Vec::new();
    for _ in 0..runs {
        let first = scene.directors[0].host.name();
        let deadline = Instant::now() + PATIENCE;
        while scene.settled(STEADY, PATIENCE)? != first {
            anyhow::ensure!(Instant::now() < deadline, "{first} does not take the VIP");
        }
        let from = Instant::now();
        if matches!(how, End::Crash) {
            plug(scene, false);
        }
        pair.end(how)?;
        sleep(LOOK);
        outages.push(scene.observer.longest_gap(from, Instant::now()));
        plug(scene, true);
        pair.begin()?;
    }
    outages.sort_unstable();
    Ok(outages)
}

fn plug(scene: &Scene, plugged: bool) {
    scene.lan.plug(scene.directors[0].lan, plugged);
    scene.mesh.plug(scene.directors[0].mesh, plugged);
}

fn measure(scene: &Scene, pair: &mut dyn Pair, runs: u32) -> Result<[Vec<Duration>; 2]> {
    Ok([outages(scene, pair, End::Planned, runs)?, outages(scene, pair, End::Crash, runs)?])
}

/// # Errors
/// A program cannot be started, or the VIP does not come back.
pub fn run(options: &Options) -> Result<bool> {
    let keepalived = legacy::keepalived().context("keepalived is not installed")?;
    let hamesh = Path::new(env!("CARGO_BIN_EXE_hamesh"));
    let dir = fresh_dir("failover")?;
    println!(
        "{:>8} {:>9} {:8} {:>22} {:>22} {:>7}",
        "adverts", "priority", "end", "hamesh median, worst", "keepalived", "ratio"
    );
    let (mut number, mut passed, mut failed) = (0, 0, 0);
    for setting in &SETTINGS {
        let mut stage = |name: &str| {
            number += 1;
            let dir = dir.join(format!("{number}-{name}"));
            fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
            Scene::set(&dir, 1)
        };
        let ours = {
            let scene = stage("hamesh")?;
            let toml = cluster_toml(Dialect::V3, &setting.priorities)
                .replace("profile = \"default\"", &format!("profile = \"{}\"", setting.profile))
                .replace("interval = \"1s\"", &format!("interval = \"{}ms\"", millis(setting.interval)?));
            let mut cluster = Cluster::form(&scene, hamesh, &toml, |_| {})?;
            measure(&scene, &mut cluster, options.runs)?
        };
        let theirs = {
            let scene = stage("keepalived")?;
            let program = &keepalived;
            let mut pair = Keepaliveds { scene: &scene, program, setting, processes: [None, None] };
            pair.start(0)?;
            pair.start(1)?;
            measure(&scene, &mut pair, options.runs)?
        };
        for ((end, ours), theirs) in [End::Planned, End::Crash].into_iter().zip(ours).zip(theirs) {
            let [(ours, ours_worst), (theirs, theirs_worst)] = [ours, theirs].map(|all| (middle(&all), last(&all)));
            let short = is_short(setting, end, ours, theirs);
            (passed, failed) = (passed + u32::from(short), failed + u32::from(!short));
            let ratio = theirs.as_secs_f64() / ours.as_secs_f64().max(0.001);
            let both =
                |median: Duration, worst: Duration| format!("{} ms, {} ms", median.as_millis(), worst.as_millis());
            println!(
                "{:>6} s {:>9} {:8} {:>22} {:>22} {ratio:>7.1}{}",
                setting.interval,
                format!("{}/{}", setting.priorities[0], setting.priorities[1]),
                format!("{end:?}").to_lowercase(),
                both(ours, ours_worst),
                both(theirs, theirs_worst),
                if short { "" } else { "  TOO LONG" }
            );
        }
    }
    fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    println!(
        "failover: {} runs of each, the ratio is how many times shorter hamesh's median is, {passed} passed, {failed} failed",
        options.runs
    );
    Ok(failed == 0)
}

fn millis(seconds: &str) -> Result<u128> {
    Ok(Duration::try_from_secs_f64(seconds.parse()?)?.as_millis())
}

fn middle(sorted: &[Duration]) -> Duration {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn last(sorted: &[Duration]) -> Duration {
    sorted.last().copied().unwrap_or_default()
}
