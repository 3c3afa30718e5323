//! The fault judge: one cluster, every fault, judged from the wire.
//!
//! `faults --runs N [--only NAME,NAME] [--seed S] [--short]`. A run counts only if the VIP was answered before, the
//! fault was seen to bite, and the VIP is answered after. A control run with the gate off must show two owners,
//! else all is void.

mod alone;
mod bench;
mod catalogue;
mod cgroup;
mod choice;
mod control;
mod disk;
mod members;
mod network;
mod sampler;
mod starved;

use anyhow::{Context, Result, ensure};
use bench::{Bench, Verdict};
use catalogue::{CATALOGUE, Fault};
use clap::Parser;
use hamesh::lab::{sandbox, scene};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Every fault of the catalogue against one cluster.
#[derive(Parser, Debug)]
struct Options {
    /// Runs of each fault
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Only faults whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Decides what lossy cables lose and which kill points come first
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Short faults, for CI
    #[arg(long)]
    short: bool,
    /// Keep configurations, data and logs also after a success
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match sandbox::enter() {
        Ok(Some(code)) => return code,
        Ok(None) => judged(&options),
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| {
        eprintln!("faults: {error:#}");
        ExitCode::FAILURE
    })
}

fn judged(options: &Options) -> Result<ExitCode> {
    let dir = scene::fresh_dir("faults")?;
    println!("seed {}, files in {}", options.seed, dir.display());
    let passed = session(options, &dir).with_context(|| format!("logs are kept in {}", dir.display()))?;
    if passed && !options.keep {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    } else {
        println!("logs are kept in {}", dir.display());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs of one fault, summed up.
struct Line {
    name: &'static str,
    runs: u32,
    failed: u32,
    /// Runs left out because this machine was away and the figure is not hamesh's.
    noisy: u32,
    /// What is held against the bound, of each run that has a figure.
    held: Vec<Duration>,
    gap: Duration,
    two: Duration,
    bound: Duration,
}

/// How often a run that this machine spoilt is repeated.
const REPEATS: u32 = 8;

fn session(options: &Options, dir: &Path) -> Result<bool> {
    let named = |fault: &&Fault| options.only.is_empty() || options.only.iter().any(|only| fault.name.contains(only));
    let faults: Vec<&Fault> = CATALOGUE.iter().filter(named).collect();
    ensure!(!faults.is_empty(), "no fault is called {}; there are: {}", options.only.join(" or "), names());
    let begun = Instant::now();
    let program = Path::new(env!("CARGO_BIN_EXE_hamesh"));
    let mut bench = Bench::build(dir, program, options.seed, options.short)?;
    let samples = sampler::Sampler::start(&bench.cluster)?;
    let mut lines = Vec::new();
    for fault in &faults {
        let mut line = Line {
            name: fault.name,
            runs: 0,
            failed: 0,
            noisy: 0,
            held: Vec::new(),
            gap: Duration::ZERO,
            two: Duration::ZERO,
            bound: Duration::ZERO,
        };
        while line.runs < options.runs {
            let verdict = bench.run(fault, line.runs);
            println!("{:7.1} s  {:24} {verdict}", begun.elapsed().as_secs_f64(), fault.name);
            if matches!(&verdict, Verdict::Noisy(_)) && line.noisy < REPEATS {
                line.noisy += 1;
                continue;
            }
            line.add(&verdict);
        }
        lines.push(line);
    }
    let control = control::two_owners_without_gate(&mut bench);
    let tokens = samples.finish();
    let disk = bench.tokens_on_disk();
    Ok(report(&lines, &control, &tokens, &disk))
}

impl Line {
    fn add(&mut self, verdict: &Verdict) {
        self.runs += 1;
        if !matches!(verdict, Verdict::Passed(_)) {
            self.failed += 1;
        }
        if let Some(figures) = verdict.figures() {
            self.held.push(figures.figure);
            self.gap = self.gap.max(figures.gap);
            self.two = self.two.max(figures.two);
            self.bound = self.bound.max(figures.bound);
        }
    }
}

fn names() -> String {
    let names: Vec<&str> = CATALOGUE.iter().map(|fault| fault.name).collect();
    names.join(", ")
}

fn report(
    lines: &[Line],
    control: &Result<Duration>,
    tokens: &sampler::Findings,
    disk: &Result<Option<String>>,
) -> bool {
    println!(
        "\n{:24} {:>5} {:>10} {:>10} {:>10} {:>10} {:>11} {:>6}  verdict",
        "fault", "runs", "median", "worst", "bound", "worst gap", "two owners", "noisy"
    );
    for line in lines {
        let verdict = if line.failed == 0 { "ok".to_owned() } else { format!("{} FAILED", line.failed) };
        let mut held = line.held.clone();
        held.sort_unstable();
        let (median, worst) = (held.get(held.len() / 2).copied(), held.last().copied());
        let [median, worst, bound, gap, two] =
            [median.unwrap_or_default(), worst.unwrap_or_default(), line.bound, line.gap, line.two]
                .map(|time| time.as_millis());
        println!(
            "{:24} {:>5} {median:>7} ms {worst:>7} ms {bound:>7} ms {gap:>7} ms {two:>8} ms {:>6}  {verdict}",
            line.name, line.runs, line.noisy
        );
    }
    let (mut passed, mut failed) = (0, 0);
    for line in lines {
        passed += line.runs - line.failed;
        failed += line.failed;
    }
    let mut count = |good: bool, text: String| {
        println!("{text}");
        if good { passed += 1 } else { failed += 1 }
    };
    count(
        tokens.violations.is_empty(),
        format!("tokens in {} samples: {}", tokens.samples, all_well(&tokens.violations)),
    );
    match disk {
        Ok(Some(text)) => count(true, format!("tokens in the logs on disk: {text}")),
        Ok(None) => println!("tokens in the logs on disk: NOT READ, this hamesh has no `log` command"),
        Err(error) => count(false, format!("tokens in the logs on disk: {error:#}")),
    }
    match control {
        Ok(two) if !two.is_zero() => {
            count(
                true,
                format!("control with the gate off: two owners for {} ms, so the judge can see them", two.as_millis()),
            );
        }
        Ok(_) => count(false, "control with the gate off: 0 ms with two owners. ALL OF THE ABOVE IS VOID".to_owned()),
        Err(error) => count(false, format!("control with the gate off: {error:#}. ALL OF THE ABOVE IS VOID")),
    }
    let worst = lines.iter().map(|line| line.two).max().unwrap_or_default();
    println!("faults: {} ms with two owners at worst, {passed} passed, {failed} failed", worst.as_millis());
    failed == 0
}

fn all_well(violations: &[String]) -> String {
    if violations.is_empty() {
        "each for one holder, none smaller than before".to_owned()
    } else {
        violations.join("; ")
    }
}
