//! The control: without its gate a frozen holder must be seen to answer beside its successor. A judge that cannot
//! see two owners proves nothing.

use crate::bench::Bench;
use anyhow::{Context, Result};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long two owners were seen.
pub fn two_owners_without_gate(bench: &mut Bench) -> Result<Duration> {
    bench.whole().context("before the control")?;
    let holder = bench.holder()?;
    bench.cluster.stop(holder)?;
    bench.cluster.start(holder, &[("HAMESH_UNSAFE_NO_GATE", "1".to_owned())])?;
    bench.whole().context("with the gate off")?;
    let from = Instant::now();
    bench.cluster.freeze(holder)?;
    sleep(Duration::from_secs(5));
    bench.cluster.thaw(holder)?;
    bench.cluster.kill(holder)?;
    let two = bench.two_owners(from, Instant::now());
    println!("           control: {} ms with two owners", two.as_millis());
    // Nobody's gate ends what the control has left behind.
    let director = &bench.scene.directors[holder].host;
    director.remove_address(hamesh::lab::LAN_NIC, hamesh::lab::VIP)?;
    Ok(two)
}
