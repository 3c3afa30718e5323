//! Lists of addresses that are edited on one router after the other, beside a keepalived that throws away every advert whose
//! list is not its own.

use super::{ADVERT, BELOW, Stage, end};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::cluster_toml;
use hamesh::lab::host::Process;
use hamesh::lab::legacy::{self, Dialect};
use hamesh::lab::scene::PRIORITIES;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than a BACKUP waits for an advert that counts.
const WATCH: Duration = Duration::from_secs(6);
/// What a keepalived that was edited first may answer beside the holder: until it has been told in its own words.
const TOLD: Duration = Duration::from_millis(100);
/// Who claims beside the holder is shown within this.
const SHOWN: Duration = Duration::from_secs(1);
const VIPS: [&str; 3] = ["10.77.0.100/24", "10.77.0.101/24", "10.77.0.102/24"];

/// `dialect` with more and more addresses: hamesh is edited first, and then keepalived is.
pub fn edited(dir: &Path, dialect: Dialect) -> Result<String> {
    let stage = Stage::set(dialect, &cluster_toml(dialect, &PRIORITIES), dir)?;
    let program = legacy::keepalived().context("keepalived is not installed")?;
    legacy::write(&stage.scene.legacy, dialect, BELOW, "1", ("", ""))?;
    let keepalived = legacy::run(&stage.scene.legacy, &program)?;
    stage.no_flapping("lb1", PRIORITIES[0], ADVERT * 3)?;

    let quiet = |what: &str, from: Instant| -> Result<()> {
        sleep(WATCH);
        stage.owned_by("lb1").with_context(|| what.to_owned())?;
        let claims = claims(&stage, from);
        ensure!(claims == 0, "{what}: keepalived has claimed {claims} times, nobody told it in its own words");
        ensure!(stage.overlap(from, Duration::ZERO)?.is_zero(), "{what}: two owners");
        Ok(())
    };
    let from = Instant::now();
    edit_hamesh(&stage, 2)?;
    quiet("hamesh edited, and keepalived not", from)?;
    let from = Instant::now();
    edit_keepalived(&stage, &keepalived, 2)?;
    quiet("both edited", from)?;

    // The wrong way round: nobody can know that before it claims.
    let from = Instant::now();
    edit_keepalived(&stage, &keepalived, 3)?;
    while claims(&stage, from) == 0 {
        ensure!(from.elapsed() < WATCH * 2, "keepalived does not claim, and this shows nothing");
        sleep(Duration::from_millis(10));
    }
    let claimed = Instant::now();
    let shown =
        |stage: &Stage| anyhow::Ok(stage.cluster.status(0)?.warnings.iter().any(|said| said.contains("FOREIGN")));
    while !shown(&stage)? {
        ensure!(claimed.elapsed() < SHOWN, "the status does not show it within {SHOWN:?}");
    }
    let shown = claimed.elapsed();
    sleep(WATCH * 2);
    stage.owned_by("lb1").context("keepalived edited first")?;
    let first = claims(&stage, from);
    ensure!((1..=2).contains(&first), "keepalived has claimed {first} times, where it was edited first");
    let overlap = stage.overlap(from, TOLD)?;
    let from = Instant::now();
    edit_hamesh(&stage, 3)?;
    quiet("hamesh edited last", from)?;
    end(keepalived)?;
    Ok(format!(
        "no claim where hamesh is edited first; else one, with {} ms of two owners, shown as FOREIGN after {} ms",
        overlap.as_millis(),
        shown.as_millis()
    ))
}

/// The adverts of keepalived since `from`.
fn claims(stage: &Stage, from: Instant) -> usize {
    let adverts = stage.scene.observer.adverts(from, Instant::now());
    adverts.iter().filter(|advert| advert.host == "legacy" && advert.header.priority > 0).count()
}

/// The holder comes last.
fn edit_hamesh(stage: &Stage, addresses: usize) -> Result<()> {
    let listed: Vec<String> = VIPS[..addresses].iter().map(|vip| format!("\"{vip}\"")).collect();
    let text = cluster_toml(stage.dialect, &PRIORITIES).replace(&format!("\"{}\"", VIPS[0]), &listed.join(", "));
    for node in (0..PRIORITIES.len()).rev() {
        fs::write(stage.cluster.cluster_file(node), &text)?;
        stage.cluster.command(node, &["reload"])?;
        sleep(ADVERT / 2);
    }
    Ok(())
}

fn edit_keepalived(stage: &Stage, keepalived: &Process, addresses: usize) -> Result<()> {
    let host = &stage.scene.legacy;
    legacy::write(host, stage.dialect, BELOW, "1", ("", ""))?;
    let file = legacy::configuration_of(host);
    let text = fs::read_to_string(&file)?.replace(VIPS[0], &VIPS[..addresses].join("\n        "));
    fs::write(&file, text)?;
    keepalived.signal(Signal::SIGHUP)
}
