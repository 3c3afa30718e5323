//! Faults of disks: a node's data is put on an ext4 of its own for the time, and that stalls, fills up, fails, or loses its power.

use crate::bench::{Bench, Measure, Seen};
use crate::catalogue::{NOTHING, healed, lease_of, seen, unmoved};
use crate::cgroup::Cgroup;
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::GROUP;
use hamesh::lab::host::local_output;
use hamesh::lab::status::Status;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A tool of the system that takes longer hangs.
const TOOL: Duration = Duration::from_secs(20);
/// Of an image.
const SIZE: u64 = 48 << 20;
/// Writes a second that a slow disk does: some of them make a flush of 200 ms.
const SLOW: u32 = 12;
/// All nodes lose their power at once: start, election, a fence and the ages of the sessions of before.
const POWER_CYCLE: Duration = Duration::from_secs(8);
/// What a node writes, in its data directory.
const STORE: &str = "raft.redb";

/// A file system in a file, on which a node's data lies.
struct Disk {
    image: PathBuf,
    data: PathBuf,
    aside: PathBuf,
    frozen: bool,
}

fn tool<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let (status, out, err) = local_output(Path::new(program), args, TOOL)?;
    ensure!(status.success(), "{program}: {status}: {}", err.trim());
    Ok(out)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    tool("cp", &[OsStr::new("-a"), from.join(".").as_os_str(), to.as_os_str()]).map(drop)
}

impl Disk {
    /// Moves the data of a node that does not run onto a new disk.
    fn under(data: PathBuf) -> Result<Self> {
        let (image, aside) = (data.with_extension("img"), data.with_extension("aside"));
        File::create(&image)?.set_len(SIZE)?;
        // Without the share that only root may fill.
        tool("mkfs.ext4", &[OsStr::new("-q"), "-m".as_ref(), "0".as_ref(), image.as_os_str()])?;
        fs::rename(&data, &aside)?;
        fs::create_dir(&data)?;
        let disk = Self { image, data, aside, frozen: false };
        disk.mount("rw")?;
        copy(&disk.aside, &disk.data)?;
        // What was there before the fault is there after it.
        tool("sync", &[OsStr::new("-f"), disk.data.as_os_str()])?;
        Ok(disk)
    }

    fn mount(&self, how: &str) -> Result<()> {
        let options = format!("loop,{how}");
        let args = [OsStr::new("-o"), options.as_ref(), self.image.as_os_str(), self.data.as_os_str()];
        tool("mount", &args).map(drop)
    }

    fn unmount(&self) -> Result<()> {
        tool("umount", &[&self.data]).map(drop)
    }

    /// The data comes back to where it was; the node does not run.
    fn remove(mut self) -> Result<()> {
        self.thaw()?;
        // Mounted anew: it may have failed.
        self.unmount()?;
        self.mount("rw")?;
        fs::remove_dir_all(&self.aside)?;
        fs::create_dir(&self.aside)?;
        copy(&self.data, &self.aside)?;
        self.unmount()?;
        fs::remove_dir(&self.data)?;
        fs::rename(&self.aside, &self.data)?;
        Ok(fs::remove_file(&self.image)?)
    }

    /// No write and no flush ends from now on.
    fn freeze(&mut self) -> Result<()> {
        tool("fsfreeze", &[OsStr::new("-f"), self.data.as_os_str()])?;
        self.frozen = true;
        Ok(())
    }

    fn thaw(&mut self) -> Result<()> {
        if std::mem::take(&mut self.frozen) {
            tool("fsfreeze", &[OsStr::new("-u"), self.data.as_os_str()])?;
        }
        Ok(())
    }

    /// Every later write and flush fails. Without its journal it has lost what was not flushed, as when the power goes.
    fn fail(&self, with_journal: bool) -> Result<()> {
        let shutdown = if with_journal { "shutdown -f" } else { "shutdown" };
        tool("xfs_io", &[OsStr::new("-x"), "-c".as_ref(), shutdown.as_ref(), self.data.as_os_str()]).map(drop)
    }

    /// Leaves no block free.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.data.join("filler"))?;
        for chunk in [vec![0; 1 << 16], vec![0; 1 << 12]] {
            while file.write_all(&chunk).and_then(|()| file.sync_data()).is_ok() {}
        }
        Ok(())
    }

    /// The loop device, as blkio wants it.
    fn device(&self) -> Result<String> {
        Ok(tool("findmnt", &[OsStr::new("-n"), "-o".as_ref(), "MAJ:MIN".as_ref(), self.data.as_os_str()])?
            .trim()
            .to_owned())
    }

    fn store(&self) -> PathBuf {
        self.data.join(STORE)
    }
}

/// Puts the data of `nodes` on disks, makes the fault, and takes the disks away whatever came of it.
fn on_disks(
    bench: &mut Bench,
    nodes: &[usize],
    fault: impl FnOnce(&mut Bench, &mut [Disk]) -> Result<Seen>,
) -> Result<Seen> {
    let mut disks = Vec::new();
    for &node in nodes {
        bench.cluster.stop(node)?;
        disks.push(Disk::under(bench.cluster.data_dir(node))?);
        bench.cluster.start(node, &[])?;
        bench.cluster.wait_whole(node, TOOL)?;
    }
    bench.whole()?;
    let seen = fault(bench, &mut disks);
    for (&node, disk) in nodes.iter().zip(disks) {
        if bench.cluster.runs(node) && bench.cluster.stop(node).is_err() {
            bench.cluster.kill(node)?;
        }
        let name = bench.cluster.name(node).to_owned();
        disk.remove().with_context(|| format!("taking its disk from {name}"))?;
        bench.cluster.start(node, &[])?;
        bench.cluster.wait_whole(node, TOOL)?;
    }
    seen
}

/// Entries for every voter's log that move nothing.
fn write_entries(bench: &Bench, by: usize, how_many: usize) -> Result<()> {
    let holder = bench.cluster.name(bench.holder()?).to_owned();
    for _ in 0..how_many {
        bench.cluster.command(by, &["vip", "move", GROUP, "--to", &holder])?;
        bench.cluster.command(by, &["vip", "unpin", GROUP])?;
    }
    Ok(())
}

/// The holder, the leader, or both.
fn victims(bench: &Bench, number: u32) -> Result<Vec<usize>> {
    let (holder, leader) = (bench.holder()?, bench.leader()?);
    let mut nodes = match number % 3 {
        0 => vec![holder, leader],
        1 => vec![leader],
        _ => vec![holder],
    };
    nodes.dedup();
    Ok(nodes)
}

fn names(bench: &Bench, nodes: &[usize]) -> String {
    nodes.iter().map(|node| bench.cluster.name(*node)).collect::<Vec<_>>().join(" and ")
}

/// Every flush takes about 200 ms.
pub fn slow(bench: &mut Bench, number: u32) -> Result<Seen> {
    let nodes = victims(bench, number)?;
    on_disks(bench, &nodes, |bench, disks| {
        let lasting = bench.lasting(30);
        let from = Instant::now();
        let mut slow = Vec::new();
        for (&node, disk) in nodes.iter().zip(disks.iter()) {
            let group = Cgroup::new("blkio", bench.cluster.name(node))?;
            group.set("blkio.throttle.write_iops_device", &format!("{} {SLOW}", disk.device()?))?;
            group.take(bench.cluster.process(node)?.id())?;
            slow.push(group);
        }
        let mut flushes = Vec::new();
        while from.elapsed() < lasting {
            // Its leader may have lost its office meanwhile.
            drop(write_entries(bench, nodes[0], 1));
            let begun = Instant::now();
            slow[0].run(
                "dd",
                &["if=/dev/zero", &format!("of={}/probe", disks[0].data.display()), "bs=4k", "count=1", "conv=fsync"],
            )?;
            flushes.push(begun.elapsed());
        }
        flushes.sort_unstable();
        let median = flushes.get(flushes.len() / 2).copied().unwrap_or_default();
        ensure!(median > Duration::from_millis(100), "a flush took {median:?}, the disk was not slow");
        let bite = format!("{}: a flush takes {} ms", names(bench, &nodes), median.as_millis());
        Ok(healed(from, Instant::now(), Measure::Gap, NOTHING, bite))
    })
}

/// No write ends for a while.
pub fn stall(bench: &mut Bench, number: u32) -> Result<Seen> {
    let nodes = victims(bench, number)?;
    on_disks(bench, &nodes, |bench, disks| {
        let lasting = bench.lasting(60);
        let from = Instant::now();
        for disk in disks.iter_mut() {
            disk.freeze()?;
        }
        // What the stalled logs are asked to take meanwhile need not succeed.
        let other = (0..3).find(|node| !nodes.contains(node)).context("no other node")?;
        drop(write_entries(bench, other, 1));
        sleep(lasting.saturating_sub(from.elapsed()));
        for disk in disks.iter_mut() {
            disk.thaw()?;
        }
        sleep(Duration::from_secs(2));
        let bite = format!("{}: no write for {lasting:?}", names(bench, &nodes));
        Ok(healed(from, Instant::now(), Measure::Gap, NOTHING, bite))
    })
}

/// Whether another node says that `victim` has no disk any more.
fn is_marked(bench: &Bench, victim: usize) -> Result<bool> {
    let name = bench.cluster.name(victim);
    let status = bench.cluster.status((victim + 1) % 3)?;
    Ok(status.warnings.iter().any(|warning| warning.contains(name) && warning.contains("Raft has stopped")))
}

/// The flush of the holder's log fails: its vote counts no more, and its VIP stays where it is.
pub fn fails(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    on_disks(bench, &[holder], |bench, disks| {
        let from = Instant::now();
        disks[0].fail(true)?;
        lose_raft(bench, holder, from)
    })
}

/// The same on a leader that holds nothing: it does not run on, and another leads.
pub fn leader_fails(bench: &mut Bench, _: u32) -> Result<Seen> {
    let (holder, leader) = (bench.holder()?, bench.leader()?);
    ensure!(leader != holder, "the holder leads");
    on_disks(bench, &[leader], |bench, disks| {
        // Its restart on that disk has made another the leader.
        leader_again(bench, leader)?;
        unmoved(bench, |bench| {
            let from = Instant::now();
            disks[0].fail(true)?;
            // Whoever asked may not hear of it: the leader is gone with it.
            drop(write_entries(bench, (holder + 1) % 3, 1));
            let name = bench.cluster.name(leader).to_owned();
            let other = |status: &Status| status.cluster.leader.as_ref().is_some_and(|leader| *leader != name);
            let next = bench.cluster.wait(holder, "another leader", TOOL, other)?;
            sleep(bench.lasting(8));
            let bite = format!("{name} has no disk, {} leads", next.cluster.leader.unwrap_or_default());
            Ok(seen(from, Measure::Gap, NOTHING, bite))
        })
    })
}

/// Waits until a node leads that has just been started.
fn leader_again(bench: &mut Bench, node: usize) -> Result<()> {
    let name = bench.cluster.name(node).to_owned();
    let leads = |status: &Status| status.cluster.leader.as_ref() == Some(&name);
    bench.cluster.wait(node, "the leadership back", TOOL, leads).map(drop)
}

/// No block is free on the holder's disk.
pub fn full(bench: &mut Bench, _: u32) -> Result<Seen> {
    let holder = bench.holder()?;
    on_disks(bench, &[holder], |bench, disks| {
        let from = Instant::now();
        disks[0].fill()?;
        // What it has room for in its own file it may still write.
        let lasting = bench.lasting(20);
        let seen = loop {
            write_entries(bench, (holder + 1) % 3, 5)?;
            if is_marked(bench, holder)? {
                break lose_raft(bench, holder, from);
            }
            if from.elapsed() > lasting {
                let bite = format!("{}: no block free, it writes into its own file", bench.cluster.name(holder));
                break Ok(seen(from, Measure::Gap, NOTHING, bite));
            }
        };
        fs::remove_file(disks[0].data.join("filler"))?;
        seen
    })
}

fn lose_raft(bench: &mut Bench, victim: usize, from: Instant) -> Result<Seen> {
    let lease = lease_of(bench, victim)?;
    // An entry shows the disk to be gone; the other voters take it.
    drop(write_entries(bench, (victim + 1) % 3, 1));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_marked(bench, victim)? {
        ensure!(Instant::now() < deadline, "10 s later nobody knows of its trouble");
        sleep(Duration::from_millis(100));
    }
    sleep(Duration::from_secs(4));
    let after = lease_of(bench, (victim + 1) % 3)?;
    ensure!(after == lease, "session and token were {lease:?} and are {after:?}");
    let bite = format!("{} has no disk, and holds on", bench.cluster.name(victim));
    Ok(seen(from, Measure::Gap, NOTHING, bite))
}

/// The power goes everywhere at once, at a random moment of writing.
pub fn power_loss(bench: &mut Bench, _: u32) -> Result<Seen> {
    let nodes: Vec<usize> = (0..bench.cluster.size()).collect();
    on_disks(bench, &nodes, |bench, disks| {
        let holder = bench.holder()?;
        let other = bench.cluster.name((holder + 1) % 3).to_owned();
        // It has just started, and becomes a candidate in a moment.
        let deadline = Instant::now() + TOOL;
        while let Err(error) = bench.cluster.command(holder, &["vip", "move", GROUP, "--to", &other]) {
            ensure!(Instant::now() < deadline, "{error:#}");
            sleep(Duration::from_millis(100));
        }
        let owner = bench.scene.settled(Duration::from_millis(200), Duration::from_secs(5))?;
        ensure!(owner == other, "moved to {other}, and {owner} answers");
        sleep(Duration::from_micros(bench.random.u64(0..300_000)));
        let before = lease_of(bench, holder)?;
        let from = Instant::now();
        for disk in disks.iter() {
            disk.fail(false)?;
        }
        for &node in &nodes {
            bench.cluster.kill(node)?;
        }
        sleep(Duration::from_secs(2));
        // All of them first: a node that starts would keep a disk alive that it sees.
        for disk in disks.iter() {
            disk.unmount()?;
            disk.mount("rw")?;
        }
        for &node in &nodes {
            bench.cluster.start(node, &[])?;
        }
        for &node in &nodes {
            bench.cluster.wait_whole(node, TOOL)?;
        }
        let owner = bench.scene.settled(Duration::from_millis(200), Duration::from_secs(10))?;
        let to = Instant::now();
        // The same session may go on, or another holds by a later grant; none is forgotten.
        let after = lease_of(bench, holder)?;
        ensure!(after.1 > before.1 || after == before, "token {} of before the loss, {} after it", before.1, after.1);
        let bite = format!("token {} before, {} after, {owner} holds", before.1, after.1);
        Ok(Seen { from, to, measure: Measure::Again, bound: POWER_CYCLE, healed: None, bite, blind: None })
    })
}

/// A node whose start must fail: its words say why.
fn refuses(bench: &mut Bench, node: usize, words: &str) -> Result<()> {
    let log = bench.cluster.log(node);
    let before = fs::read_to_string(&log)?.len();
    bench.cluster.start(node, &[])?;
    let status = bench.cluster.process(node)?.wait(Duration::from_secs(20))?;
    let said = fs::read_to_string(&log)?.split_off(before);
    let status = status.with_context(|| format!("it runs on: {said}"))?;
    ensure!(!status.success() && said.contains(words), "{status}, without a word of `{words}`: {said}");
    Ok(())
}

/// A backup whose disk is read-only, torn, damaged, or an old copy says so, and does not run.
pub fn spoilt(bench: &mut Bench, _: u32) -> Result<Seen> {
    let node = 2;
    on_disks(bench, &[node], |bench, disks| {
        let disk = &disks[0];
        let from = Instant::now();
        let old = disk.image.with_extension("old");
        bench.cluster.stop(node)?;
        fs::copy(disk.store(), &old)?;
        // A start that the old copy knows nothing of.
        bench.cluster.start(node, &[])?;
        bench.cluster.wait_whole(node, TOOL)?;
        bench.cluster.stop(node)?;
        let good = disk.image.with_extension("good");
        fs::copy(disk.store(), &good)?;

        disk.unmount()?;
        disk.mount("ro")?;
        refuses(bench, node, STORE)?;
        disk.unmount()?;
        disk.mount("rw")?;

        let file = File::options().write(true).open(disk.store())?;
        let length = file.metadata()?.len();
        file.set_len(length - length / 4)?;
        refuses(bench, node, "damaged")?;

        let mut bytes = fs::read(&good)?;
        let group = GROUP.as_bytes();
        let places: Vec<usize> = (0..bytes.len() - group.len()).filter(|at| bytes[*at..].starts_with(group)).collect();
        ensure!(!places.is_empty(), "the log has no {GROUP}");
        places.iter().for_each(|at| bytes[*at] ^= 1);
        fs::write(disk.store(), &bytes)?;
        refuses(bench, node, "damaged")?;

        fs::copy(&old, disk.store())?;
        refuses(bench, node, "does not take this node")?;
        // Whoever starts it again and again gets no further: its next start would be one that nobody has seen.
        refuses(bench, node, "an old copy of its disk")?;
        fs::remove_file(disk.data.join("outlived"))?;

        fs::copy(&good, disk.store())?;
        File::open(disk.store())?.sync_all()?;
        bench.cluster.start(node, &[])?;
        bench.cluster.wait_whole(node, TOOL)?;
        fs::remove_file(old)?;
        fs::remove_file(good)?;
        let bite = format!("{} refused to start: read-only, torn, a bit, an old copy", bench.cluster.name(node));
        Ok(seen(from, Measure::Gap, NOTHING, bite))
    })
}
