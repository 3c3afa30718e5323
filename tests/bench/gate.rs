//! The gate of a process that is stopped with SIGSTOP in the middle of its lease: when does the last answer leave?
//!
//! The judge is a client on a veth that asks for the VIP every millisecond, by ARP or by neighbour discovery; the kernel stamps what comes in. In every
//! tenth trial somebody flushes the rule set while the process is stopped, where nobody can (Linux 6.9). A trial in which
//! the client itself was away says nothing and is counted as blind.

use anyhow::{Context, Result, ensure};
use hamesh::kernel::realtime;
use hamesh::lab::gated::Cable;
use hamesh::lab::host::Netns;
use hamesh::lab::{VIP, VIP6};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::gate::{Devices, Gate};
use hamesh_raft::command::{Definition, Family, GateId};
use rtnetlink::LinkVeth;
use rustix::time::{ClockId, clock_gettime};
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Trials of each length of lease
    #[arg(long, default_value_t = 100)]
    trials: usize,
    /// So many processes are stopped at the same time
    #[arg(long, default_value_t = 8)]
    lanes: usize,
    /// The lengths, in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [125, 1000, 2000, 3000])]
    leases: Vec<u64>,
}

const TICK: Duration = Duration::from_millis(1);
/// Asked so long after the deadline too.
const TAIL: Duration = Duration::from_millis(100);
/// Two questions further apart leave a hole that a late answer could have fallen into.
const HOLE: Duration = Duration::from_millis(5);
/// What is armed, as the gate's documentation has it.
const ARMED_PERCENT: u32 = 89;
const ARMED_LESS: Duration = Duration::from_millis(20);

fn wall_clock() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What one trial saw, relative to the deadline on the wall clock.
struct Trial {
    /// When the last answer came. Negative: before the deadline. In microseconds, as all of these.
    last: i64,
    /// When the gate was to shut.
    nominal: i64,
    blind: bool,
}

/// `None` when the gate was not opened, because the machine was away.
fn trial(cable: &mut Cable, lease: Duration, flush: bool) -> Result<Option<Trial>> {
    let end = Moment::now() + lease;
    let begun = wall_clock();
    let (deadline, nominal) = (begun + lease, begun + (lease * ARMED_PERCENT / 100).saturating_sub(ARMED_LESS));
    if !cable.arm(end)? {
        return Ok(None);
    }
    cable.stop()?;
    cable.answered()?;
    if flush {
        let flushed = cable.director().run(|| Ok(Command::new("nft").args(["flush", "ruleset"]).status()?))?;
        ensure!(flushed.success(), "nft flush ruleset: {flushed}");
    }
    let (mut last, mut asked, mut widest) = (None, wall_clock(), Duration::ZERO);
    let mut next = Instant::now();
    while asked < deadline + TAIL {
        cable.ask()?;
        let now = wall_clock();
        // Only where an answer would be late does a hole hide anything.
        if now > nominal {
            widest = widest.max(now.saturating_sub(asked.max(nominal)));
        }
        asked = now;
        next = (next + TICK).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
        last = cable.answered()?.or(last);
    }
    cable.go_on()?;
    let last = last.context("no answer at all: the gate was never open")?;
    let relative = |at: Duration| {
        let (at, deadline) = (at.as_micros().cast_signed(), deadline.as_micros().cast_signed());
        i64::try_from(at - deadline).unwrap_or(i64::MAX)
    };
    Ok(Some(Trial { last: relative(last), nominal: relative(nominal), blind: widest > HOLE }))
}

pub fn run(options: &Options) -> Result<bool> {
    ensure!(options.trials > 0 && options.lanes > 0, "at least one trial and one lane");
    println!(
        "The last answer of a process stopped in its lease, in ms before (-) or after (+) its deadline, and how late the"
    );
    println!("gate shut by what was armed (0.89 L less 20 ms).");
    println!(
        "\n         L  trials  flushed  blind      median  p99.9 late       worst   late by: median    p99.9    worst"
    );
    let (mut passed, mut failed) = (0, 0);
    for vip in [VIP.into(), VIP6.into()] {
        for lease in &options.leases {
            let (in_time, late) = length(options, vip, Duration::from_millis(*lease))?;
            (passed, failed) = (passed + in_time, failed + late);
        }
    }
    println!("bench gate: {}, {passed} passed, {failed} failed", costs()?);
    Ok(failed == 0)
}
/// How many trials saw no answer after the deadline, and how many saw one.
fn length(options: &Options, vip: IpAddr, lease: Duration) -> Result<(usize, usize)> {
    let share = options.trials.div_ceil(options.lanes);
    let worker = move || -> Result<(Vec<Trial>, usize)> {
        let mut cable = Cable::lay(vip)?;
        // On a busy machine the figures must be the gate's, not ours.
        realtime::raise(realtime::INTERFACES);
        let (mut trials, mut flushed) = (Vec::new(), 0);
        for number in 0..share {
            let flush = cable.is_persistent() && number % 10 == 5;
            flushed += usize::from(flush);
            trials.extend(trial(&mut cable, lease, flush)?);
        }
        Ok((trials, flushed))
    };
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.lanes).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?).collect()
    });
    let (mut trials, mut flushed) = (Vec::new(), 0);
    for result in results {
        let (some, times) = result?;
        trials.extend(some);
        flushed += times;
    }
    let blind = trials.iter().filter(|trial| trial.blind).count();
    let sorted = |of: &dyn Fn(&Trial) -> i64| {
        let mut values: Vec<i64> = trials.iter().filter(|trial| !trial.blind).map(of).collect();
        values.sort_unstable();
        values
    };
    let (last, late) = (sorted(&|trial| trial.last), sorted(&|trial| trial.last - trial.nominal));
    ensure!(!last.is_empty(), "every trial was blind: this machine is too busy");
    let of = |values: &[i64], permille: usize| {
        let place = (values.len() * permille).div_ceil(1000).clamp(1, values.len()) - 1;
        f64::from(i32::try_from(values[place]).unwrap_or(i32::MAX)) / 1000.0
    };
    println!(
        "{:>10}  {:>6}  {flushed:>7}  {blind:>5}  {:>+10.1}  {:>+10.1}  {:>+10.1}   {:>+15.1}  {:>+7.1}  {:>+7.1}",
        format!("v{} {} ms", if vip.is_ipv4() { 4 } else { 6 }, lease.as_millis()),
        trials.len(),
        of(&last, 500),
        of(&last, 999),
        of(&last, 1000),
        of(&late, 500),
        of(&late, 999),
        of(&late, 1000),
    );
    // What is blind proves nothing; but a late answer that it saw it saw.
    let late = trials.iter().filter(|trial| trial.last >= 0).count();
    Ok((trials.iter().filter(|trial| trial.last < 0 && !trial.blind).count(), late))
}

/// What a renewal costs with more and more VIPs, half of them IPv6, and with more interfaces.
fn costs() -> Result<String> {
    const RENEWALS: usize = 200;
    println!("\n  VIPs  interfaces  a renewal: median      p99    worst");
    let mut medians = Vec::new();
    for (vips, interfaces) in [(2_u32, 1_usize), (200, 1), (2000, 1), (8000, 1), (2000, 8)] {
        let netns = Netns::new()?;
        let names: Vec<String> = (0..interfaces).map(|number| format!("v{number}")).collect();
        for name in &names {
            netns.netlink(|handle| async move {
                handle.link().add(LinkVeth::new(name, &format!("{name}x")).build()).execute().await?;
                Ok(())
            })?;
        }
        let mut times = netns.run(|| {
            let four = (0..vips / 2).map(|number| IpAddr::from((0x0a09_0100 + number).to_be_bytes()));
            let six =
                (0..vips / 2).map(|number| Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 1, u16::try_from(number).unwrap_or(0)));
            let groups = [
                Definition { family: Family::V4, vrid: 51, addresses: four.collect() },
                Definition { family: Family::V6, vrid: 51, addresses: six.map(IpAddr::V6).collect() },
            ];
            let mut gate =
                Gate::acquire()?.install(GateId(1), &groups, &Devices { vrrp: names, ..Devices::default() })?;
            gate.hold(&groups)?;
            let mut times = Vec::new();
            for _ in 0..RENEWALS {
                let start = Instant::now();
                // One that took too long on a busy machine was undone, and counts all the same.
                gate.arm(Moment::now() + Duration::from_secs(1)).ok();
                times.push(start.elapsed());
            }
            Ok(times)
        })?;
        times.sort_unstable();
        let [median, high, worst] =
            [RENEWALS / 2, RENEWALS * 99 / 100, RENEWALS - 1].map(|place| times[place].as_micros());
        println!("{vips:>6}  {interfaces:>10}  {median:>15} us  {high:>4} us  {worst:>4} us");
        medians.push(median);
    }
    Ok(format!("a renewal takes {} us with 2 VIPs, {} us with 8000", medians[0], medians[3]))
}
