//! The leases under fire: the real minds, a model of Raft, of the kernel's gate and of everything that goes wrong.
//!
//! `sim` runs about 20 s of schedules; `--minutes M` and `--runs N` run longer, `--from S` begins at another seed, and
//! `--seed N` replays one schedule and tells its story. One thread, one seed: a replay is the same bit for bit.

mod checks;
mod clocks;
mod faults;
mod hands;
mod kernel;
mod log;
mod net;
mod node;
mod raft;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use world::World;

/// Every one of these must have happened while a lease was live, or the run proves nothing about it.
const MUST_HAPPEN: &[&str] = &[
    "ambush",
    "applied before the flush",
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
    "frozen",
    "frozen between clock and act",
    "gate stuck",
    "grantor moves",
    "group refused",
    "holder unheard on the LAN",
    "isolated",
    "killed",
    "killed between steps",
    "late arming undone",
    "link to the leader cut",
    "lost power",
    "message cut",
    "message doubled",
    "message late",
    "message lost",
    "moved by order",
    "namespace replaced",
    "one-way cut",
    "open",
    "partition",
    "priority changed",
    "profile changed",
    "record not written",
    "release",
    "resumed",
    "slow flush",
    "snapshot installed",
    "stopped by SIGTERM",
    "suspended",
    "the living fenced",
    "truncated",
    "unflushed tail lost",
    "voters changed",
];

/// Fewer schedules than this do not show every fault.
const FEWEST: u64 = 40;

/// How long to run.
enum Span {
    Runs(u64),
    For(Duration),
    Seed(u64),
}

fn main() -> ExitCode {
    let (span, from) = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("sim: {why}; use --minutes M | --runs N | --seed N, and --from S");
            return ExitCode::from(2);
        }
    };
    match span {
        Span::Seed(seed) => replay(seed),
        Span::Runs(runs) => explore(from, |done, _| done < runs),
        Span::For(span) => explore(from, |done, since| done < FEWEST || since.elapsed() < span),
    }
}

fn arguments() -> Result<(Span, u64), String> {
    let (mut span, mut from) = (Span::For(Duration::from_secs(20)), 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if ["--nocapture", "--test-threads=1", "--quiet"].contains(&name.as_str()) {
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a number"))?;
        let value: u64 = value.parse().map_err(|_| format!("{name} {value} is no number"))?;
        match name.as_str() {
            "--minutes" => span = Span::For(Duration::from_secs(value * 60)),
            "--runs" => span = Span::Runs(value),
            "--seed" => span = Span::Seed(value),
            "--from" => from = value,
            _ => return Err(format!("no such argument: {name}")),
        }
    }
    Ok((span, from))
}

fn replay(seed: u64) -> ExitCode {
    let mut world = World::new(seed, true);
    world.run();
    for line in world.net.story.iter().flatten() {
        println!("{line}");
    }
    let mut again = World::new(seed, false);
    again.run();
    println!("seed {seed}: {} events, trace {:016x} and {:016x}", world.net.events, world.net.hash, again.net.hash);
    if world.net.hash != again.net.hash {
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

fn explore(from: u64, goes_on: impl Fn(u64, Instant) -> bool) -> ExitCode {
    let begin = Instant::now();
    let (mut runs, mut events, mut failed) = (0, 0, 0);
    let mut counts: BTreeMap<&'static str, u64> = MUST_HAPPEN.iter().map(|what| (*what, 0)).collect();
    while goes_on(runs, begin) {
        let seed = from + runs;
        let mut world = World::new(seed, false);
        world.run();
        runs += 1;
        events += world.net.events;
        for (what, times) in world.net.counts {
            *counts.entry(what).or_default() += times;
        }
        if let Some(violation) = world.checks.violation {
            failed += 1;
            println!("seed {seed}: {violation}");
        }
    }
    println!("while a lease was live:");
    for (what, times) in &counts {
        println!("  {times:>9}  {what}");
    }
    let never: Vec<&str> = MUST_HAPPEN.iter().filter(|what| counts[**what] == 0).copied().collect();
    if !never.is_empty() {
        println!("never happened while a lease was live, so nothing is shown about it: {never:?}");
    }
    println!(
        "{runs} schedules from seed {from}, {events} events, {failed} violations in {:.0} s (replay: --seed N)",
        begin.elapsed().as_secs_f64()
    );
    println!("{} passed, {failed} failed", runs - failed);
    if failed == 0 && never.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
