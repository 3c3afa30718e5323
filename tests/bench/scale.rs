//! Two directors with many virtual routers: what they cost, how even their adverts are, and how owners change, hamesh's and
//! keepalived's in the same run.
//!
//! The LANs are plain cables between the two, so that nothing of the laboratory stands in the way.

mod stage;
mod wire;

use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::Cluster;
use hamesh::lab::host::Process;
use hamesh::lab::scene::fresh_dir;
use nix::sys::signal::Signal;
use rustix::process::{Resource, getrlimit, setrlimit};
use stage::{Size, Stage};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// How many virtual routers, of four addresses each
    #[arg(long, value_delimiter = ',', default_values_t = [250, 1000])]
    routers: Vec<u16>,
    /// Between two adverts, in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 100, 10])]
    intervals: Vec<u16>,
    /// How long each is watched, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// Until everybody has what is due to them.
const PATIENCE: Duration = Duration::from_secs(180);
/// Nothing has changed for this long.
const CALM: Duration = Duration::from_secs(5);

/// The two directors under one of the programs, the first with the higher priority.
trait Pair {
    /// The two processes.
    fn processes(&self) -> Result<[&Process; 2]>;
    /// `kill -9` of the first.
    fn kill(&mut self) -> Result<()>;
    fn begin(&mut self) -> Result<()>;
}

impl Pair for Cluster {
    fn processes(&self) -> Result<[&Process; 2]> {
        Ok([self.running(0)?, self.running(1)?])
    }

    fn kill(&mut self) -> Result<()> {
        Self::kill(self, 0)
    }

    fn begin(&mut self) -> Result<()> {
        self.start(0, &[])
    }
}

struct Keepaliveds<'a> {
    stage: &'a Stage,
    size: Size,
    processes: [Option<Process>; 2],
}

impl Keepaliveds<'_> {
    fn start(&mut self, number: usize) -> Result<()> {
        self.processes[number] = Some(self.stage.keepalived(number, self.size)?);
        Ok(())
    }
}

impl Pair for Keepaliveds<'_> {
    fn processes(&self) -> Result<[&Process; 2]> {
        let [Some(first), Some(second)] = &self.processes else { anyhow::bail!("a keepalived does not run") };
        Ok([first, second])
    }

    fn kill(&mut self) -> Result<()> {
        let mut process = self.processes[0].take().context("it does not run")?;
        process.kill()?;
        self.stage.clear(0)
    }

    fn begin(&mut self) -> Result<()> {
        self.start(0)
    }
}

/// What is written down of one program in one size.
struct Figures {
    /// Of the MASTER and of the BACKUP, in a core.
    cpu: [f64; 2],
    /// Of both, in MiB.
    memory: [u64; 2],
    /// Between two adverts of a virtual router, as shares of the interval: median, p99, longest.
    spacing: [f64; 3],
    /// Adverts of the BACKUP meanwhile.
    false_masters: u64,
    /// From the death of the MASTER until the last address was announced by the other.
    takeover: Option<Duration>,
    /// After it came back: how often an owner changed, of so many virtual routers, and how long that went on.
    back: Option<(u64, Duration)>,
}

fn measure(stage: &Stage, size: Size, seconds: u64, pair: &mut dyn Pair) -> Result<Figures> {
    let begun = Instant::now();
    while stage.present(0)? < size.addresses() {
        ensure!(begun.elapsed() < PATIENCE, "the first has {} of {} addresses", stage.present(0)?, size.addresses());
        sleep(CALM / 5);
    }
    sleep(CALM);
    let watch = Duration::from_secs(seconds);
    let before = pair.processes()?.map(Process::cpu);
    let heard = stage.listen(watch, size)?;
    let after = pair.processes()?.map(Process::cpu);
    let memory = pair.processes()?.map(|process| process.resident() >> 20);
    let cpu = [0, 1].map(|one| (after[one].saturating_sub(before[one])).as_secs_f64() / watch.as_secs_f64());
    // Owners are watched with an interval that leaves room for it.
    let (takeover, back) = if size.interval == stage::SLOWEST {
        let owners = stage.watch_owners()?;
        pair.kill()?;
        let takeover = owners.until_all(1, size, PATIENCE)?;
        sleep(CALM);
        owners.forget();
        pair.begin()?;
        owners.until_all(0, size, PATIENCE)?;
        sleep(CALM);
        (Some(takeover), Some(owners.changes()))
    } else {
        (None, None)
    };
    Ok(Figures { cpu, memory, spacing: heard.spacing, false_masters: heard.from_backup, takeover, back })
}

/// # Errors
/// A program cannot be started, or does not come to rest.
pub fn run(options: &Options) -> Result<bool> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let dir = fresh_dir("scale")?;
    println!(
        "{:>7} {:>8} {:10} {:>15} {:>13} {:>22} {:>6} {:>9} {:>17}",
        "routers",
        "interval",
        "program",
        "% of a core",
        "MiB",
        "advert p50, p99, max",
        "false",
        "takeover",
        "changes, fail-back"
    );
    let (mut passed, mut failed) = (0, 0);
    for &routers in &options.routers {
        for &interval in &options.intervals {
            let size = Size { routers, interval: Duration::from_millis(interval.into()) };
            for program in ["hamesh", "keepalived"] {
                let dir = dir.join(format!("{program}-{routers}-{interval}"));
                fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
                let figures = play(&dir, size, options.seconds, program)
                    .with_context(|| format!("{program}, {routers} virtual routers, {interval} ms"))?;
                print(size, program, &figures);
                if program == "hamesh" {
                    let clean = figures.false_masters == 0;
                    (passed, failed) = if clean { (passed + 1, failed) } else { (passed, failed + 1) };
                }
            }
        }
    }
    fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    println!("scale: sizes in which only the MASTER advertised, {passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn play(dir: &Path, size: Size, seconds: u64, program: &str) -> Result<Figures> {
    let stage = Stage::set(dir)?;
    if program == "hamesh" {
        let mut cluster = stage.cluster(size)?;
        return measure(&stage, size, seconds, &mut cluster);
    }
    let mut pair = Keepaliveds { stage: &stage, size, processes: [None, None] };
    pair.start(0)?;
    pair.start(1)?;
    let figures = measure(&stage, size, seconds, &mut pair);
    for mut process in pair.processes.into_iter().flatten() {
        process.signal(Signal::SIGTERM)?;
        process.wait(PATIENCE)?;
    }
    figures
}

fn print(size: Size, program: &str, figures: &Figures) {
    let Figures { cpu: [master, backup], memory: [m1, m2], spacing: [p50, p99, max], .. } = figures;
    let takeover = figures.takeover.map_or_else(|| "-".to_owned(), |took| format!("{} ms", took.as_millis()));
    let back = figures
        .back
        .map_or_else(|| "-".to_owned(), |(changes, took)| format!("{changes}, {:.1} s", took.as_secs_f64()));
    println!(
        "{:>7} {:>5} ms {program:10} {:>15} {:>13} {:>22} {:>6} {takeover:>9} {back:>17}",
        size.routers,
        size.interval.as_millis(),
        format!("{:.1} / {:.1}", master * 100.0, backup * 100.0),
        format!("{m1} / {m2}"),
        format!("{:.2}, {:.2}, {:.2}", p50, p99, max),
        figures.false_masters,
    );
}
