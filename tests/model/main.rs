//! The leases of the smallest cluster in every way they can go: two directors, three voters, one VIP, bounded time.
//!
//! `model` searches every space of its list for what S1 to S5 forbid, with the daemon's own minds; README.md says what is in
//! it. `--long` searches larger ones; `--until-found SECONDS` stops at the first violation, or then.

mod begin;
mod checks;
mod cluster;
mod directors;
mod faults;
mod log;
mod part;
mod search;
mod story;
mod voters;

use cluster::Cluster;
use faults::Faults;
use hamesh_fencing::clock::Moment;
use search::{Found, search};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use story::{Thing, tell};

/// What passes between two moments: half of L, and all of R.
pub const TICK: Duration = Duration::from_millis(100);
/// L.
pub const LEASE: Duration = Duration::from_millis(200);
/// Each with a majority of one other.
pub const VOTERS: usize = 3;

/// The moment of a tick.
pub fn moment(tick: u32) -> Moment {
    let t = Duration::from_secs(1000) + TICK * tick;
    Moment::at(t, t)
}

/// So many ticks, with so many faults.
type Space = (u32, Faults);

/// The largest first, so that no core is left alone with one.
fn spaces(long: bool) -> Vec<Space> {
    let none = Faults::default();
    let calm = Faults { fences: 1, ..none };
    if long {
        return vec![
            (4, Faults { kills: 1, ..calm }),
            (4, Faults { kills: 1, moves: 1, ..none }),
            (3, Faults { kills: 1, learns: 1, ..calm }),
            (3, Faults { crashes: 1, elections: 1, ..calm }),
            (3, Faults { crashes: 1, late: 1, ..calm }),
            (4, Faults { crashes: 1, ..calm }),
            (4, Faults { elections: 1, ..calm }),
            (4, Faults { learns: 1, ..calm }),
            (3, Faults { learns: 2, ..calm }),
            (4, Faults { learns: 1, moves: 1, ..none }),
            (4, Faults { late: 2, ..calm }),
            (4, Faults { installs: 1, late: 1, ..calm }),
            (5, Faults { late: 1, ..calm }),
        ];
    }
    vec![
        (3, Faults { kills: 1, ..calm }),
        (3, Faults { kills: 1, moves: 1, ..none }),
        (3, Faults { elections: 1, ..calm }),
        (3, Faults { crashes: 1, ..calm }),
        (4, Faults { late: 1, ..calm }),
        (3, Faults { learns: 1, ..calm }),
        (3, Faults { installs: 1, late: 1, ..calm }),
        (3, Faults { learns: 1, moves: 1, ..none }),
    ]
}

fn main() -> ExitCode {
    let (long, at_most) = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("model: {why}; use --long | --until-found SECONDS");
            return ExitCode::from(2);
        }
    };
    let begin = Instant::now();
    let spaces = spaces(long);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let founds = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    // An equal share of the time for each.
    let share = at_most.map_or(Duration::MAX, |span| span.mul_f64(cores as f64 / spaces.len() as f64));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(space) = spaces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = explore(space, share, &stop);
                    if found.path.is_some() && at_most.is_some() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    founds.lock().unwrap_or_else(PoisonError::into_inner).push(found);
                }
            });
        }
    });
    let founds = founds.into_inner().unwrap_or_else(PoisonError::into_inner);
    conclude(&spaces, &founds, begin)
}

/// Searches a space, and says what that came to.
fn explore((ticks, faults): &Space, at_most: Duration, stop: &AtomicBool) -> Found {
    let Some(start) = Cluster::begin(*faults) else {
        println!("{faults:?}: the first director does not come to hold the VIP");
        return Found { broken_off: Some("not begun".to_owned()), ..Found::default() };
    };
    let begin = Instant::now();
    let found = search(&start, start.tick + ticks, at_most, stop);
    let Found { states, transitions, depth, path, broken_off, .. } = &found;
    let mut said = format!(
        "{ticks} ticks, {faults:?}: {states} states, {transitions} transitions, {depth} steps deep, {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    if let Some(why) = broken_off {
        said += &format!("; not exhaustive: {why}");
    }
    if let Some(path) = path {
        said += &format!("\n{}", tell(&start, path));
    }
    println!("{said}");
    found
}

fn conclude(spaces: &[Space], founds: &[Found], begin: Instant) -> ExitCode {
    let mut things: BTreeMap<Thing, u64> = BTreeMap::new();
    for found in founds {
        for (thing, times) in &found.things {
            *things.entry(*thing).or_default() += times;
        }
    }
    println!("transitions while the first director's lease was live, in which there was:");
    let mut never = Vec::new();
    for (thing, name) in Thing::ALL {
        let times = things.get(&thing).copied().unwrap_or_default();
        println!("  {times:>12}  {name}");
        if times == 0 {
            never.push(name);
        }
    }
    if !never.is_empty() {
        println!("never met, so nothing is shown about it: {never:?}");
    }
    let sum = |of: fn(&Found) -> u64| founds.iter().map(of).sum::<u64>();
    println!(
        "{} states, {} transitions, at most {} steps deep, {} violations, {:.0} s",
        sum(|found| found.states as u64),
        sum(|found| found.transitions),
        founds.iter().map(|found| found.depth).max().unwrap_or_default(),
        sum(|found| found.path.is_some().into()),
        begin.elapsed().as_secs_f64()
    );
    let passed = founds.iter().filter(|found| found.path.is_none() && found.broken_off.is_none()).count();
    println!("{passed} passed, {} failed", spaces.len() - passed);
    if passed == spaces.len() && never.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Result<(bool, Option<Duration>), String> {
    let (mut long, mut at_most) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--nocapture" | "--test-threads=1" | "--quiet" => {}
            "--long" => long = true,
            "--until-found" => {
                let seconds = arguments.next().and_then(|value| value.parse().ok());
                at_most = Some(Duration::from_secs(seconds.ok_or("--until-found needs a number")?));
            }
            _ => return Err(format!("no such argument: {name}")),
        }
    }
    Ok((long, at_most))
}
