//! Clocks that are not what they seem: the gate of a stopped process while the machine's clocks are set and slewed.
//!
//! What is asked is when the last answer for the VIP came, by the clocks that a lease goes by, which nobody can set.

use anyhow::{Context, Result, ensure};
use hamesh::lab::VIP;
use hamesh::lab::gated::Cable;
use hamesh_fencing::clock::Moment;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// Long enough for an emulated machine.
const LEASE: Duration = Duration::from_secs(4);
/// Between two questions.
const TICK: Duration = Duration::from_millis(5);
/// Asked so long after the deadline too.
const TAIL: Duration = Duration::from_secs(1);

fn sh(script: &str) -> Result<String> {
    let done = Command::new("bash").args(["-ec", script]).output().context("bash")?;
    ensure!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// How long before its deadline a process that is stopped at the beginning of its lease was last heard of, while `meanwhile`
/// is done to the machine. What comes after the deadline is an error.
fn last_answer(meanwhile: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let mut cable = Cable::lay(VIP.into())?;
    let mut deadline = Moment::now() + LEASE;
    while !cable.arm(deadline)? {
        deadline = Moment::now() + LEASE;
    }
    cable.stop()?;
    cable.ask()?;
    sleep(20 * TICK);
    cable.answered()?.context("it does not answer in its lease")?;
    let mut last = Moment::now();
    meanwhile()?;
    // For whoever waits, by both clocks.
    while Moment::now().wait(deadline + TAIL) > Duration::ZERO {
        cable.ask()?;
        sleep(TICK);
        if cable.answered()?.is_some() {
            last = Moment::now();
        }
    }
    ensure!(!last.reached(deadline), "answered {:?} after its deadline", last.since(deadline));
    Ok(last.until(deadline))
}

fn millis(before: &[Duration]) -> String {
    before.iter().map(|before| before.as_millis().to_string()).collect::<Vec<_>>().join(", ")
}

/// What a wall clock is set wrong by, in seconds.
pub const HOUR: i64 = 3600;
/// See [`HOUR`].
pub const YEARS: i64 = 20 * 365 * 24 * HOUR;

/// Sets the wall clock, by whole seconds. Only this guest has it.
pub fn step(seconds: i64) -> Result<()> {
    sh(&format!("date -s @$(( $(date +%s) + {seconds} ))")).map(drop)
}

/// Back, the element's timeout is what is left; forward, the absolute deadline ends it at once.
pub fn are_set(_: &mut ()) -> Result<String> {
    let mut before = Vec::new();
    for by in [-HOUR, -YEARS, HOUR, YEARS] {
        let left = last_answer(|| step(by)).with_context(|| format!("a step by {by} s"))?;
        step(-by)?;
        ensure!(
            by < 0 || left > LEASE / 2,
            "a step forward by {by} s let it answer until {left:?} before its deadline"
        );
        before.push(left);
    }
    Ok(format!(
        "the last answer {} ms before the deadline, after steps by -1 h, -20 years, 1 h and 20 years",
        millis(&before)
    ))
}

/// As far as the kernel lets NTP: a tenth of each tick, and 500 ppm.
pub fn are_slewed(_: &mut ()) -> Result<String> {
    let slew = |tick: u32, frequency: i32| sh(&format!("busybox adjtimex -q -t {tick} -f {frequency}")).map(drop);
    let mut before = Vec::new();
    for (tick, frequency) in [(9000, -500 << 16), (11000, 500 << 16)] {
        slew(tick, frequency)?;
        let left = last_answer(|| Ok(()));
        slew(10_000, 0)?;
        before.push(left.with_context(|| format!("ticks of {tick} us"))?);
    }
    ensure!(
        before[0] < before[1],
        "slow clocks left {:?}, and fast ones {:?}: they were not slewed",
        before[0],
        before[1]
    );
    Ok(format!("the last answer {} ms before the deadline, with clocks 10.05 % slow and fast", millis(&before)))
}
