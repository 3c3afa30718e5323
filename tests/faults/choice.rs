//! Who holds the VIP: a better candidate that waits, and one that loses it again and again.

use crate::bench::{BLINK, Bench, Measure, Seen};
use crate::catalogue::{cluster_text, node_by_node, seen, write_cluster};
use crate::network::{CARRIER_LOST, flap};
use anyhow::{Result, ensure};
use hamesh::lab::cluster::WITNESS;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whoever has the better priority waits so long before it takes the VIP from a living holder.
const PREEMPT_DELAY: Duration = Duration::from_secs(4);

/// The preferred director comes back from a stop, and lets the other serve for a while.
pub fn preempt_delay(bench: &mut Bench, _: u32) -> Result<Seen> {
    let good = cluster_text(bench.edited);
    let delayed = good.replace("\nvrid", &format!("\npreempt_delay = \"{}s\"\nvrid", PREEMPT_DELAY.as_secs()));
    ensure!(delayed != good, "the edit is none");
    let reload = |bench: &mut Bench, text: &str| -> Result<()> {
        for node in 0..WITNESS {
            write_cluster(bench, node, text)?;
            bench.cluster.command(node, &["reload"])?;
        }
        Ok(())
    };
    reload(bench, &delayed)?;
    let seen = comes_back(bench);
    reload(bench, &good)?;
    seen
}

fn comes_back(bench: &mut Bench) -> Result<Seen> {
    let holder = bench.holder()?;
    let name = bench.cluster.name(holder).to_owned();
    let from = Instant::now();
    bench.cluster.stop(holder)?;
    bench.wait_takeover(from, holder, Duration::from_secs(10))?;
    bench.cluster.start(holder, &[])?;
    let started = Instant::now();
    let back = loop {
        if let Some(at) = bench.scene.observer.first_answer(started, |host| host == name) {
            break at - started;
        }
        ensure!(started.elapsed() < PREEMPT_DELAY * 4, "{name} does not take its VIP back");
        sleep(Duration::from_millis(20));
    };
    ensure!(back >= PREEMPT_DELAY, "{name} took it back after {back:?}");
    sleep(Duration::from_millis(500));
    Ok(seen(from, Measure::Gap, BLINK, format!("{name} took it back {} ms after its start", back.as_millis())))
}

/// How long the cable of a damped director is out and in, again and again.
const FLAPPING: Duration = Duration::from_secs(25);
/// A node that is started again is whole within this.
const WHOLE: Duration = Duration::from_secs(20);

/// A cable that is out and in: the VIP comes back to it a few times, and then it has to prove itself first.
pub fn damped(bench: &mut Bench, _: u32) -> Result<Seen> {
    let good = cluster_text(bench.edited);
    let damped = good.replace("damping = \"0s\"", "damping = \"30s\"");
    ensure!(damped != good, "the edit is none");
    restarted(bench, &damped)?;
    let seen = flaps(bench);
    restarted(bench, &good)?;
    seen
}

fn restarted(bench: &mut Bench, text: &str) -> Result<()> {
    let holder = bench.holder()?;
    node_by_node(bench, holder, text, |bench, node| {
        bench.cluster.stop(node)?;
        bench.cluster.start(node, &[])?;
        bench.cluster.wait_whole(node, WHOLE)
    })?;
    bench.whole()
}

fn flaps(bench: &mut Bench) -> Result<Seen> {
    let holder = bench.holder()?;
    let from = Instant::now();
    let flaps = flap(bench, holder, FLAPPING)?;
    let end = Instant::now();
    let observer = &bench.scene.observer;
    let (spans, name) = (observer.spans(from, end), bench.cluster.name(holder));
    let held = spans.iter().filter(|span| observer.hosts()[span.host] == name).count();
    // It had it at first, and came back from three losses at once. From the next it comes after 2 s, and then 4.
    ensure!(held > 3 && held <= 6, "{name} held the VIP {held} times with {flaps} flaps");
    let bite = format!("out {flaps} times in {FLAPPING:?}, and it held the VIP {held} times");
    Ok(Seen { to: end, ..seen(from, Measure::Gap, CARRIER_LOST, bite) })
}
