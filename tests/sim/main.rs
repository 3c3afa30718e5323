//! The leases under fire: the real minds, a model of Raft, of the kernel's gate and of everything that goes wrong.
//!
//! `sim` runs about 20 s of schedules; `--minutes M` and `--runs N` run longer, `--from S` begins at another seed, and
//! `--seed N` replays one schedule and tells its story; `--drift PPM` has clocks that drift otherwise than they may. A schedule is one
//! seed on one thread, so a replay is the same bit for bit; the first few of every run are run again to see that. Every core runs
//! schedules of its own. The end of the first story that went wrong is told by itself.

mod checks;
mod clocks;
mod faults;
mod hands;
mod kernel;
mod lan;
mod liveness;
mod log;
mod net;
mod node;
mod program;
mod queue;
mod raft;
mod voters;
mod world;

use clocks::MILLION;
use hamesh_fencing::clock::DRIFT_PPM;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use world::World;

/// Every one of these must have happened while a lease was live, or the run proves nothing about it.
const MUST_HAPPEN: &[&str] = &[
    "a change of voters split",
    "a new command",
    "a program does not start on this disk",
    "a voter replaced and taken back",
    "advert lost",
    "ambush",
    "an older program cannot read it",
    "an older program leads",
    "another program started",
    "applied before the flush",
    "armed by a clock that drifts",
    "armed by a clock that is slewed",
    "asked before the flush",
    "asked to move",
    "campaign forced",
    "claim failed",
    "close",
    "compacted",
    "definition changed",
    "drained",
    "elected",
    "expire",
    "fence",
    "forged on the lease plane",
    "frozen between clock and act",
    "frozen",
    "gate stuck",
    "grantor moves",
    "group refused",
    "holder unheard on the LAN",
    "isolated",
    "killed between steps",
    "killed",
    "LAN split",
    "late arming undone",
    "left alone",
    "legacy peer heard",
    "link to the leader cut",
    "lost power",
    "message cut",
    "message doubled",
    "message late",
    "message lost",
    "message overtakes another",
    "moved by order",
    "namespace replaced",
    "one-way cut",
    "open",
    "packet discarded",
    "partition",
    "preempted by the mesh",
    "preempted by VRRP",
    "priority changed",
    "profile changed",
    "record not written",
    "release",
    "resumed",
    "served without a lease",
    "session of 300 ms",
    "session of default",
    "session of fast",
    "session of vm",
    "session of wan",
    "sessions of different L",
    "several groups in one session",
    "silent among members",
    "slewed",
    "slow flush",
    "snapshot installed",
    "stopped by SIGTERM",
    "suspended",
    "the living fenced",
    "trial: claims fail",
    "trial: crash",
    "trial: grantee cut off",
    "trial: hears nothing",
    "trial: leader lost",
    "trial: move",
    "trial: restart",
    "trial: wall clock set",
    "truncated",
    "unflushed tail lost",
    "voters changed",
    "wall clock set back",
    "wall clock set forward",
    "wall clock set while frozen",
];

/// Fewer schedules than this do not show every fault.
const FEWEST: u64 = 40;

/// So many lines of a story are told without being asked for.
const TOLD: usize = 200;

/// So many are run again, to see that they are the same bit for bit.
const REPLAYED: u64 = 8;

/// How long to run.
enum Span {
    Runs(u64),
    For(Duration),
    /// So long, or until the first violation.
    UntilFound(Duration),
    Seed(u64),
}

fn main() -> ExitCode {
    let Arguments { span, from, drift } = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!(
                "sim: {why}; use --minutes M | --runs N | --until-found SECONDS | --seed N, and --from S, --drift PPM"
            );
            return ExitCode::from(2);
        }
    };
    match span {
        Span::Seed(seed) => replay(seed, drift),
        Span::Runs(runs) => explore(from, drift, |done, _, _| done < runs),
        Span::For(span) => explore(from, drift, |done, since, _| done < FEWEST || since.elapsed() < span),
        Span::UntilFound(span) => explore(from, drift, |_, since, failed| failed == 0 && since.elapsed() < span),
    }
}

struct Arguments {
    span: Span,
    from: u64,
    drift: u32,
}

fn arguments() -> Result<Arguments, String> {
    let (mut span, mut from, mut drift) = (Span::For(Duration::from_secs(20)), 1, DRIFT_PPM);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if ["--nocapture", "--test-threads=1", "--quiet"].contains(&name.as_str()) {
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a number"))?;
        let value: u64 = value.parse().map_err(|_| format!("{name} {value} is no number"))?;
        match name.as_str() {
            "--minutes" => span = Span::For(Duration::from_secs(value * 60)),
            "--until-found" => span = Span::UntilFound(Duration::from_secs(value)),
            "--runs" => span = Span::Runs(value),
            "--seed" => span = Span::Seed(value),
            "--from" => from = value,
            "--drift" if value < MILLION.into() => drift = u32::try_from(value).unwrap_or(MILLION),
            _ => return Err(format!("no such argument: {name}")),
        }
    }
    Ok(Arguments { span, from, drift })
}

fn replay(seed: u64, drift: u32) -> ExitCode {
    let world = run(seed, drift, true);
    for line in world.net.story.iter().flatten() {
        println!("{line}");
    }
    println!("seed {seed}: {} events, trace {:016x}", world.net.events, world.net.hash);
    if !is_the_same(seed, drift) {
        println!("the replay differs: the simulation itself is not deterministic");
        return ExitCode::FAILURE;
    }
    match world.checks.violation {
        Some(violation) => {
            println!("{violation}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
        None => {
            println!("1 passed, 0 failed");
            ExitCode::SUCCESS
        }
    }
}

/// The end of a story, and how to see all of it.
fn tell(seed: u64, drift: u32) {
    let world = run(seed, drift, true);
    let story = world.net.story.unwrap_or_default();
    let from = story.len().saturating_sub(TOLD);
    println!("the story of seed {seed}, without its first {from} lines:");
    for line in &story[from..] {
        println!("{line}");
    }
    println!("  {}", world.checks.violation.unwrap_or_default());
    let drift = if drift == DRIFT_PPM { String::new() } else { format!(" --drift {drift}") };
    println!("all of it: tests/run sim --seed {seed}{drift}");
}

fn run(seed: u64, drift: u32, told: bool) -> World {
    let mut world = World::new(seed, told, drift);
    world.run();
    world
}

/// Whether a schedule is the same bit for bit when it is run again: story, violation and trace, told or not.
fn is_the_same(seed: u64, drift: u32) -> bool {
    let (one, other, untold) = (run(seed, drift, true), run(seed, drift, true), run(seed, drift, false));
    let traces = one.net.hash == other.net.hash && one.net.hash == untold.net.hash;
    traces && one.net.story == other.net.story && one.checks.violation == other.checks.violation
}

/// What was seen in many schedules.
#[derive(Default)]
struct Sum {
    runs: u64,
    events: u64,
    failed: u64,
    /// The lowest seed that failed.
    first: Option<u64>,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs schedules on every core until `goes_on` says no.
fn explore(from: u64, drift: u32, goes_on: impl Fn(u64, Instant, u64) -> bool + Sync) -> ExitCode {
    let begin = Instant::now();
    let sum = Mutex::new(Sum { counts: MUST_HAPPEN.iter().map(|what| (*what, 0)).collect(), ..Sum::default() });
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let failed = sum.lock().unwrap_or_else(PoisonError::into_inner).failed;
                    if !goes_on(number, begin, failed) {
                        break;
                    }
                    let seed = from + number;
                    let world = run(seed, drift, false);
                    let same = number >= REPLAYED || is_the_same(seed, drift);
                    sum.lock().unwrap_or_else(PoisonError::into_inner).take(seed, &world, same);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("while a lease was live:");
    for (what, times) in &sum.counts {
        println!("  {times:>9}  {what}");
    }
    let never: Vec<&str> = MUST_HAPPEN.iter().filter(|what| sum.counts[**what] == 0).copied().collect();
    if !never.is_empty() {
        println!("never happened while a lease was live, so nothing is shown about it: {never:?}");
    }
    let Sum { runs, events, failed, first, .. } = sum;
    if let Some(seed) = first {
        tell(seed, drift);
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{runs} schedules from seed {from} on {cores} cores, {events} events, {failed} violations in {seconds:.0} s, \
         {:.0} schedules/s",
        runs as f64 / seconds
    );
    println!("{} passed, {failed} failed", runs - failed);
    if failed == 0 && never.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Sum {
    fn take(&mut self, seed: u64, world: &World, same: bool) {
        self.runs += 1;
        self.events += world.net.events;
        for (what, times) in world.net.counts.all() {
            *self.counts.entry(what).or_default() += times;
        }
        let differs = || "the replay differs: the simulation itself is not deterministic".to_owned();
        if let Some(violation) = world.checks.violation.clone().or_else(|| (!same).then(differs)) {
            self.failed += 1;
            self.first = Some(self.first.map_or(seed, |first| first.min(seed)));
            println!("seed {seed}: {violation}, gate {:?}", world.kind);
        }
    }
}
