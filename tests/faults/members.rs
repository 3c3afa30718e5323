//! Nodes that were away for long, and members that change while the mesh is cut.

use crate::bench::{Bench, Measure, Seen};
use crate::catalogue::{NOTHING, healed, lease_of, seen, unmoved};
use crate::network::mesh_sides;
use anyhow::{Context, Result, anyhow, bail, ensure};
use hamesh::lab::cluster::WITNESS;
use hamesh::lab::frame::Kind;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// More than the leader keeps behind a snapshot (500), after two of them: a thousand entries apart, and 1,600 have been too few.
const ENTRIES: u32 = 2_400;
/// As long as a cut is to be noticed, a member to be taken out and another to be heard of.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a node's log says of a snapshot that came from the leader.
const TAKEN_UP: &str = "the leader's snapshot is taken up";

/// A director is away while the log grows, and what it lacks is cut off behind a snapshot.
pub fn far_behind(bench: &mut Bench, _: u32) -> Result<Seen> {
    unmoved(bench, |bench| {
        let (holder, leader) = (bench.holder()?, bench.leader()?);
        let away = (0..WITNESS).find(|node| *node != holder && *node != leader).context("nobody to be away")?;
        let said = bench.cluster.log(away);
        let before = fs::read_to_string(&said).context("its log")?.len();
        let from = Instant::now();
        bench.cluster.kill(away)?;
        grow(&bench.cluster.socket(leader), ENTRIES)?;
        bench.cluster.start(away, &[])?;
        bench.cluster.wait_whole(away, PATIENCE)?;
        let back = Instant::now();
        // It is heard before it has caught up.
        while !fs::read_to_string(&said)?.get(before..).is_some_and(|after| after.contains(TAKEN_UP)) {
            ensure!(back.elapsed() < PATIENCE, "{} is back without a snapshot", bench.cluster.name(away));
            sleep(Duration::from_millis(50));
        }
        let bite = format!("{ENTRIES} entries without {}, back by a snapshot", bench.cluster.name(away));
        Ok(seen(from, Measure::Gap, NOTHING, bite))
    })
}

/// Connections that make them: entries that come together are on disk together.
const AT_ONCE: u32 = 16;

/// More entries of the log: invitations that are over in a moment.
pub fn grow(socket: &Path, entries: u32) -> Result<()> {
    let threads: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let socket = socket.to_owned();
            thread::spawn(move || invite(&socket, entries.div_ceil(AT_ONCE)))
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

/// One after the other, on one connection.
fn invite(socket: &Path, entries: u32) -> Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let body = "{\"role\":\"witness\",\"ttl\":{\"secs\":1,\"nanos\":0}}";
    let request = format!(
        "POST /v1/invitations HTTP/1.1\r\nHost: hamesh\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (deadline, mut made) = (Instant::now() + PATIENCE * 5, 0);
    while made < entries {
        ensure!(Instant::now() < deadline, "only {made} entries of {entries} in {:?}", PATIENCE * 5);
        stream.write_all(request.as_bytes())?;
        let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            answers.read_line(&mut line)?;
            if status.is_empty() {
                status = line.trim().to_owned();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        answers.read_exact(&mut answer)?;
        match status.split(' ').nth(1) {
            Some("200") => made += 1,
            // On a loaded machine a leader may stand without a quorum for a moment.
            Some("503") => sleep(Duration::from_millis(100)),
            _ => bail!("{status}: {}", String::from_utf8_lossy(&answer)),
        }
    }
    Ok(())
}

/// One director is cut off and removed meanwhile, and is refused when the cut is over. It joins anew while another is cut off.
pub fn split(bench: &mut Bench, _: u32) -> Result<Seen> {
    unmoved(bench, |bench| {
        let holder = bench.holder()?;
        let (removed, other) = ((holder + 1) % 3, (holder + 2) % 3);
        let name = bench.cluster.name(removed).to_owned();
        let from = Instant::now();
        let (own, others) = mesh_sides(bench, removed);
        let cut = bench.scene.mesh.cut(&own, &others, Kind::Any);
        remove(bench, &name)?;
        bench.cluster.wait(holder, "three members", PATIENCE, |status| {
            status.nodes.len() == 3 && status.nodes.iter().all(|node| node.name != name && node.voter)
        })?;
        ensure!(cut.harmed() > 0, "the cut took no frame");
        drop(cut);
        let refused = "is not a member";
        let words = |why: &Option<String>| why.as_ref().is_some_and(|why| why.contains(refused));
        bench.cluster.wait(removed, refused, PATIENCE, |status| status.nodes.iter().any(|node| words(&node.why)))?;
        let alone = bench.cluster.status(removed)?;
        ensure!(
            !alone.cluster.quorum && alone.vip().is_none_or(|vip| vip.gate != "open"),
            "{name} was removed, and says {alone:?}"
        );
        bench.cluster.kill(removed)?;
        fs::remove_dir_all(bench.cluster.data_dir(removed)).context("its identity")?;

        let (own, others) = mesh_sides(bench, other);
        let cut = bench.scene.mesh.cut(&own, &others, Kind::Any);
        sleep(Duration::from_secs(1));
        bench.cluster.admit(removed, &mut |_| {})?;
        ensure!(cut.harmed() > 0, "the cut took no frame");
        drop(cut);
        let end = Instant::now();
        bench.whole()?;
        lease_of(bench, holder)?;
        let bite = format!("{name} removed behind a cut, refused, and joined anew behind another");
        Ok(healed(from, end, Measure::Gap, NOTHING, bite))
    })
}

/// A node is removed once nobody hears it.
fn remove(bench: &Bench, name: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bench.cluster.command(WITNESS, &["node", "remove", name]) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => bail!("{name} was not removed: {error:#}"),
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}
