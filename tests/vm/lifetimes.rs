//! A kernel without nf_tables: two directors and a witness in the laboratory, whose addresses' lifetimes are the gate.

use crate::stage::PATIENCE;
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{Cluster, WITNESS, cluster_toml};
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::{PRIORITIES, Scene, fresh_dir, last_words};
use hamesh::lab::status::Status;
use hamesh_fencing::gate::{Gate, Lifetimes};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for an emulated machine.
const LEASE: Duration = Duration::from_secs(4);
/// In each family: frozen, and in the last one killed.
const TRIALS: u32 = 4;
/// The directors that take part.
const DIRECTORS: usize = 2;

/// What one trial has shown.
struct Seen {
    /// From the fault to the holder's last answer.
    last: Duration,
    /// From the fault to the first answer of the next.
    next: Duration,
}

/// A frozen holder is killed, its addresses end, and the next one answers after that; judged from the wire.
pub fn end_what_is_frozen(_: &mut ()) -> Result<String> {
    ensure!(
        !Gate::is_possible()?,
        "this kernel has nf_tables: the machine is to be started with module_blacklist=nf_tables"
    );
    let dir = fresh_dir("lifetimes")?;
    let seen = judged(&dir).inspect_err(|_| last_words(&dir))?;
    let most = |of: fn(&Seen) -> Duration| seen.iter().map(of).max().unwrap_or_default().as_millis();
    Ok(format!(
        "{} faults, 0 ms with two owners; the last answer {} ms after the fault at most (bound {}), the next holder's first {} ms",
        seen.len(),
        most(|seen| seen.last),
        bound().as_millis(),
        most(|seen| seen.next)
    ))
}

/// Others are let in after this.
fn bound() -> Duration {
    LEASE + Lifetimes::lateness_for(LEASE)
}

fn judged(dir: &Path) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for dialect in [Dialect::V3, Dialect { ipv6: true, ..Dialect::V3 }] {
        let dir = dir.join(if dialect.ipv6 { "six" } else { "four" });
        fs::create_dir(&dir)?;
        let scene = Scene::set_for(&dir, 1, dialect.vip().0)?;
        let toml = cluster_toml(dialect, &PRIORITIES[..DIRECTORS]);
        let toml = toml.replace("profile = \"default\"", &format!("ttl = \"{}s\"", LEASE.as_secs()));
        let program = Path::new(env!("CARGO_BIN_EXE_hamesh"));
        let mut cluster = Cluster::found(&scene, program, &toml, &mut |_| {})?;
        cluster.admit(1, &mut |_| {})?;
        cluster.admit(WITNESS, &mut |_| {})?;
        cluster.wait(0, "three voters", PATIENCE, |status| status.nodes.iter().filter(|n| n.voter).count() == 3)?;
        for trial in 0..TRIALS {
            // A fault at any moment of a renewal.
            sleep(LEASE / 5 / TRIALS * trial);
            let holder = holder(&cluster)?;
            let one = fault(&scene, &mut cluster, holder, trial + 1 < TRIALS);
            seen.push(one.with_context(|| format!("trial {trial} of {}, on lb{}", dialect.vip().0, holder + 1))?);
            cluster.start(holder, &[])?;
            let status = cluster.wait(holder, "the mesh again", PATIENCE, |status| status.cluster.quorum)?;
            ensure!(status.warnings.iter().any(|said| said.starts_with("NO GATE")), "warnings: {:?}", status.warnings);
        }
        ensure!(cluster.command(0, &["status"])?.contains("NO GATE"), "a person is not told");
    }
    Ok(seen)
}

/// Who holds the VIP and answers for it.
fn holder(cluster: &Cluster) -> Result<usize> {
    let open = |status: &Status| status.vip().is_some_and(|vip| vip.gate == "open");
    let begun = Instant::now();
    loop {
        let found = (0..DIRECTORS).find(|node| cluster.status(*node).is_ok_and(|status| open(&status)));
        if let Some(node) = found {
            return Ok(node);
        }
        ensure!(begun.elapsed() < PATIENCE, "nobody holds it");
        sleep(Duration::from_millis(50));
    }
}

fn fault(scene: &Scene, cluster: &mut Cluster, holder: usize, freeze: bool) -> Result<Seen> {
    let name = cluster.name(holder).to_owned();
    let observer = &scene.observer;
    // Whoever is named has answered lately, or what follows would prove nothing.
    let before = Instant::now();
    sleep(Duration::from_millis(500));
    let answered = observer.spans(before, Instant::now());
    ensure!(
        answered.iter().all(|span| observer.hosts()[span.host] == name) && !answered.is_empty(),
        "{name} does not answer alone"
    );
    if freeze {
        cluster.freeze(holder)?;
    } else {
        cluster.kill(holder)?;
    }
    let begun = Instant::now();
    let next = loop {
        if let Some(at) = observer.first_answer(begun, |host| host != name) {
            break at - begun;
        }
        ensure!(begun.elapsed() < PATIENCE, "nobody else answers after {PATIENCE:?}");
        sleep(Duration::from_millis(10));
    };
    ensure!(!cluster.runs(holder), "what was frozen was not killed");
    sleep(Duration::from_secs(2));
    let now = Instant::now();
    let spans = observer.spans(before, now);
    let its = spans.iter().filter(|span| observer.hosts()[span.host] == name);
    let last = its.map(|span| span.to).max().context("it has answered before")?.saturating_duration_since(begun);
    let two = observer.two_owners(before, now, |_| true);
    println!(
        "  {name} {}: last answer {last:?}, next {next:?}, two owners {two:?}",
        if freeze { "frozen" } else { "killed" }
    );
    ensure!(two.is_zero(), "two owners for {two:?}");
    ensure!(last < bound(), "it answered until {last:?}");
    Ok(Seen { last, next })
}
