//! Hostile bytes for everything that reads the network or a file: `tests/run fuzz [--seconds N] [--seed N] [--only NAME,NAME]`.
//!
//! Inputs are mutated and joined out of a corpus. One that a reader answers in a way not seen before joins it, so the way to
//! the inner checks is found step by step; where a checksum stands before them it is mended in half of the inputs. What counts
//! as an answer are the reader's own words, without their numbers and quotes: its behaviours, and here they stand for coverage.
//!
//! A fault is a panic, or five seconds for one input; a reader that never answers ends the process, and its input is kept. Time
//! is the processor's: a busy machine takes longer, and does the same. Before anything else two planted faults must be found, one
//! behind a checksum and one behind the grammar of keepalived.conf. A stack that overflows ends the process, and so the part.

mod targets;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use targets::Target;

/// Of one input, mutated.
const LONGEST: usize = 4096;
/// Inputs that a corpus keeps.
const CORPUS: usize = 4096;
/// No reader may need so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// By the wall clock: so long even a busy machine needs for no input.
const STUCK: Duration = Duration::from_secs(30);
/// For each planted fault; found in far less.
const CONTROL: Duration = Duration::from_secs(60);

/// Hostile bytes for every reader of packets and files.
#[derive(Parser, Debug)]
struct Options {
    /// Seconds of processor time, for all targets together
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The same one gives the same inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// These targets, with commas between
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let Options { seconds, seed, only } = Options::parse();
    let mut targets = targets::all();
    if let Some(unknown) = only.iter().find(|name| targets.iter().all(|target| target.name != name.as_str())) {
        let names: Vec<_> = targets.iter().map(|target| target.name).collect();
        eprintln!("fuzz: there is no target `{unknown}`; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    targets.retain(|target| only.is_empty() || only.iter().any(|name| target.name == name));
    panic::set_hook(Box::new(|info| PANIC.set(info.to_string())));
    thread::spawn(watch);
    let (mut passed, mut failed) = (0, 0);
    let mut count = |good: bool| if good { passed += 1 } else { failed += 1 };

    for target in targets::planted() {
        let run = fuzz(&target, seed, CONTROL);
        match &run.fault {
            Some((_, what)) if what.contains("planted") => {
                println!("{}: found after {} executions", target.name, run.executions);
                count(true);
            }
            Some(_) | None => {
                println!("{}: NOT FOUND in {} executions", target.name, run.executions);
                count(false);
            }
        }
    }
    let slice = Duration::from_secs(seconds) / u32::try_from(targets.len()).unwrap_or(1);
    let (mut executions, mut corpus, mut behaviours) = (0, 0, 0);
    for target in &targets {
        let run = fuzz(target, seed, slice);
        println!(
            "{:<16} {:>9} executions, corpus {:>4}, behaviours {:>4}",
            target.name, run.executions, run.corpus, run.behaviours
        );
        executions += run.executions;
        corpus += run.corpus;
        behaviours += run.behaviours;
        if let Some((input, what)) = &run.fault {
            println!(
                "{}: {what}\n  input, kept in {}: {:?}",
                target.name,
                keep(target.name, input),
                String::from_utf8_lossy(input)
            );
        }
        count(run.fault.is_none());
    }
    println!(
        "fuzz: {executions} executions, corpus {corpus}, behaviours {behaviours}: {passed} passed, {failed} failed"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn keep(name: &str, input: &[u8]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", name.replace(' ', "-")));
    match std::fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(error) => error.to_string(),
    }
}

/// Target, input and beginning of what is read now.
static AT_WORK: Mutex<Option<(&str, Vec<u8>, Instant)>> = Mutex::new(None);

fn at_work() -> MutexGuard<'static, Option<(&'static str, Vec<u8>, Instant)>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process when a reader does not come back: no thread can be stopped from outside.
fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        if let Some((name, input, since)) = &*at_work()
            && since.elapsed() > STUCK
        {
            println!(
                "{name}: no answer after {STUCK:?}\n  input, kept in {}: {:?}\nfuzz: 0 passed, 1 failed",
                keep(name, input),
                String::from_utf8_lossy(input)
            );
            std::process::exit(1);
        }
    }
}

/// What one target came to.
struct Run {
    executions: u64,
    corpus: usize,
    behaviours: usize,
    /// The input, and what it did.
    fault: Option<(Vec<u8>, String)>,
}

fn fuzz(target: &Target, seed: u64, span: Duration) -> Run {
    // For each anew: how far one came is not to change what another does.
    fastrand::seed(seed);
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let (begun, mut executions) = (spent(), 0);
    let mut fault = None;
    while fault.is_none() && (executions < target.seeds.len() as u64 || spent() - begun < span) {
        let input = match target.seeds.get(usize::try_from(executions).unwrap_or(usize::MAX)) {
            Some(seed) => seed.clone(),
            None => mutate(target, &corpus),
        };
        *at_work() = Some((target.name, input.clone(), Instant::now()));
        let since = spent();
        let answer = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        executions += 1;
        let took = spent() - since;
        *at_work() = None;
        if took > PATIENCE {
            fault = Some((input, format!("took {took:?}")));
            break;
        }
        match answer {
            Ok(words) => {
                let fresh = words.iter().filter(|words| seen.insert(behaviour(words))).count() > 0;
                if (fresh || executions <= target.seeds.len() as u64) && corpus.len() < CORPUS {
                    corpus.push(input);
                }
            }
            Err(_) => fault = Some((input, PANIC.take())),
        }
    }
    Run { executions, corpus: corpus.len(), behaviours: seen.len(), fault }
}

/// Processor time, of this thread.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Words without what differs from input to input.
fn behaviour(words: &str) -> String {
    let outside = words.split('`').step_by(2).collect::<String>();
    outside.chars().filter(|c| !c.is_ascii_digit()).take(200).collect()
}

fn pick<T>(of: &[T]) -> Option<&T> {
    (!of.is_empty()).then(|| &of[fastrand::usize(..of.len())])
}

fn mutate(target: &Target, corpus: &[Vec<u8>]) -> Vec<u8> {
    // Most of a corpus is wrong in some way: what was right to begin with is half of the beginnings.
    let from = if fastrand::bool() { &target.seeds } else { corpus };
    let mut input = pick(from).cloned().unwrap_or_default();
    for _ in 0..=fastrand::usize(..4) {
        let at = fastrand::usize(..=input.len());
        let end = (at + fastrand::usize(..32)).min(input.len());
        match fastrand::u8(..8) {
            0 => input.insert(at, fastrand::u8(..)),
            1 => drop(input.drain(at..end)),
            2 => {
                let again = input[at..end].to_vec();
                drop(input.splice(at..at, again));
            }
            3 => {
                let word = pick(target.words).copied().unwrap_or("\0");
                // Often where a line begins: there words have a meaning.
                let begins = input[at..].iter().position(|byte| *byte == b'\n').filter(|_| fastrand::bool());
                let at = begins.map_or(at, |length| at + length + 1);
                drop(input.splice(at..at, word.bytes()));
            }
            4 => {
                let other = pick(corpus).cloned().unwrap_or_default();
                input.truncate(at);
                input.extend(&other[fastrand::usize(..=other.len())..]);
            }
            5 => {
                // The extremes of lengths and counts.
                if let Some(byte) = input.get_mut(at) {
                    *byte = *pick(&[0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff]).unwrap_or(&0);
                }
            }
            6 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << fastrand::u8(..8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = fastrand::u8(..);
                }
            }
        }
    }
    input.truncate(LONGEST);
    if fastrand::bool() {
        (target.mend)(&mut input);
    }
    input
}
