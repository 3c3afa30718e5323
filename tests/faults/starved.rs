//! Faults of a machine that has too little of something: processor, memory, somebody who reads its log.

use crate::bench::{Bench, Measure, Seen};
use crate::catalogue::{CRASH, NOTHING, healed};
use crate::cgroup::Cgroup;
use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two accounts of processor time.
const PERIOD: Duration = Duration::from_millis(100);
/// Processes that never rest. They end with the sandbox at the latest.
const LOOPS: usize = 64;
/// What a group may use beyond what it has.
const SPARE: u64 = 2 << 20;
/// More than a pipe holds.
const PIPE: usize = 1 << 16;

/// The holder shares a twentieth of a processor with a process that never rests.
pub fn quota(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let group = Cgroup::new("cpu", bench.cluster.name(holder))?;
    group.set("cpu.cfs_period_us", &PERIOD.as_micros().to_string())?;
    group.set("cpu.cfs_quota_us", &(PERIOD / 20).as_micros().to_string())?;
    // A kernel that counts real time by group takes no such thread without.
    group.set("cpu.rt_runtime_us", &(Duration::from_secs(1) / 20).as_micros().to_string()).ok();
    let from = Instant::now();
    group.take(bench.cluster.process(holder)?.id())?;
    let loops = Loops::begin(1)?;
    group.take(loops.0[0].id())?;
    sleep(bench.lasting(30));
    drop(loops);
    let stat = group.get("cpu.stat")?;
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).context("no nr_throttled")?;
    let throttled: u64 = throttled.trim().parse()?;
    drop(group);
    ensure!(throttled > 0, "the quota was never used up: {stat}");
    Ok(healed(from, Instant::now(), Measure::Gap, NOTHING, format!("5 % of a processor, {throttled} times used up")))
}

/// The machine is held up as a whole by its hypervisor, as far as its processes can tell.
pub fn frozen_group(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let group = Cgroup::new("freezer", bench.cluster.name(holder))?;
    group.take(bench.cluster.process(holder)?.id())?;
    let lasting = bench.lasting(10);
    let from = Instant::now();
    group.set("freezer.state", "FROZEN")?;
    sleep(lasting);
    let state = group.get("freezer.state")?;
    group.set("freezer.state", "THAWED")?;
    ensure!(state == "FROZEN", "it was {state} at the end");
    Ok(healed(from, Instant::now(), Measure::Again, CRASH, format!("frozen for {lasting:?}")))
}

struct Loops(Vec<Child>);

impl Loops {
    fn begin(how_many: usize) -> Result<Self> {
        let mut loops = Self(Vec::new());
        for _ in 0..how_many {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            loops.0.push(command.spawn().context("sh")?);
        }
        Ok(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The whole machine computes.
pub fn busy(bench: &mut Bench, _: u32) -> Result<Seen> {
    let lasting = bench.lasting(30);
    let from = Instant::now();
    let loops = Loops::begin(LOOPS)?;
    sleep(lasting);
    let load = fs::read_to_string("/proc/loadavg")?;
    drop(loops);
    let load = load.split_whitespace().next().unwrap_or_default();
    Ok(healed(from, Instant::now(), Measure::Gap, NOTHING, format!("{LOOPS} busy loops, load {load}")))
}

/// The holder may have no more memory than it has, and others of its group want some.
pub fn memory(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    bench.cluster.stop(holder)?;
    let group = Cgroup::new("memory", bench.cluster.name(holder))?;
    bench.cluster.start(holder, &[])?;
    // At once: what it has had before is counted elsewhere.
    group.take(bench.cluster.process(holder)?.id())?;
    let done = bench.whole().and_then(|()| pressed(bench, &group, holder));
    group.set("memory.limit_in_bytes", "-1")?;
    done
}

fn pressed(bench: &mut Bench, group: &Cgroup, holder: usize) -> Result<Seen> {
    let used: u64 = group.get("memory.usage_in_bytes")?.parse()?;
    group.set("memory.limit_in_bytes", &(used + SPARE).to_string())?;
    let from = Instant::now();
    let end = from + bench.lasting(20);
    let file = bench.scene.dir.join("pressure");
    while Instant::now() < end {
        group.run("dd", &["if=/dev/zero", &format!("of={}", file.display()), "bs=64k", "count=256"])?;
    }
    let to = Instant::now();
    fs::remove_file(&file)?;
    let failed: u64 = group.get("memory.failcnt")?.parse()?;
    ensure!(failed > 0, "the limit was never reached");
    ensure!(bench.cluster.runs(holder), "the holder was killed for want of memory");
    let bite = format!("{} KiB and no more, {failed} times at the limit", (used + SPARE) >> 10);
    Ok(healed(from, to, Measure::Gap, NOTHING, bite))
}

/// Nobody reads what the holder says, and it says a lot.
pub fn log_unread(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    let (log, aside) = (bench.cluster.log(holder), bench.cluster.log(holder).with_extension("aside"));
    bench.cluster.stop(holder)?;
    fs::rename(&log, &aside)?;
    mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // Held at both ends: it fills up, and neither end blocks.
    let mut pipe = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&log)?;
    bench.cluster.start(holder, &[("HAMESH_LOG", "trace".to_owned())])?;
    let done = bench.whole().and_then(|()| {
        let from = Instant::now();
        sleep(bench.lasting(20));
        let to = Instant::now();
        let mut said = vec![0; PIPE];
        let length = pipe.read(&mut said).context("nothing was said")?;
        ensure!(length > PIPE / 2, "only {length} bytes were said");
        Ok(healed(from, to, Measure::Gap, NOTHING, format!("{length} bytes in a pipe that nobody reads")))
    });
    bench.cluster.stop(holder)?;
    fs::rename(&aside, &log)?;
    done
}
