//! What the health mesh costs, and how soon all directors know: many of them with many targets, each with the mind and the
//! gossip of the daemon, in one process. What the servers answer is played, and gossip's messages go from hand to hand:
//! checks have their own figure, and the mesh's datagrams too.

use super::checks::cpu;
use anyhow::{Context, Result, ensure};
use hamesh::config::service::HealthMesh;
use hamesh::health::{Action, Answer, Event, Health, Said, Share};
use hamesh_fencing::clock::Moment;
use hamesh_gossip::{Gossip, INTERVAL, Wire, of_the_living};
use hamesh_raft::command::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::sleep;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Directors
    #[arg(long, default_value_t = 24)]
    directors: u64,
    /// Servers, each with a check a second
    #[arg(long, default_value_t = 10_000)]
    targets: u32,
    /// How long it is watched while nothing happens
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Servers that fail, one after the other
    #[arg(long, default_value_t = 10)]
    failures: u32,
    /// Every answer gives the server a weight of its own, as a script's exit status may
    #[arg(long)]
    weights: bool,
}

/// From the word of the observer that makes it true to the last director's table.
const BOUND: Duration = Duration::from_secs(1);
/// Of a core, of each director: what the mesh may cost while nothing happens.
const SHARE: f64 = 1.0;
const PATIENCE: Duration = Duration::from_secs(30);
/// Directors that must agree, and checks that must fail.
const AGREE: usize = 2;
/// Until every director knows every other, and has asked everything.
const WARM: Duration = Duration::from_secs(6);

/// What all directors share: the network between them, the servers, and the clock of the judge.
struct Stage {
    ends: Mutex<BTreeMap<NodeId, Arc<Gossip>>>,
    /// The server that fails, by number; none is past the last.
    failing: AtomicU64,
    /// When who has said that something changed.
    said: Mutex<Vec<Instant>>,
    bytes: AtomicU64,
    weights: bool,
}

struct End {
    me: NodeId,
    stage: Arc<Stage>,
}

impl Wire for End {
    fn send(&self, to: NodeId, bytes: Vec<u8>) {
        self.stage.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let there = lock(&self.stage.ends).get(&to).cloned();
        if let Some(there) = there {
            there.hear(self.me, bytes);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A director, as the daemon's thread of checks is: told what gossip says, it says itself what it sees.
async fn direct(me: NodeId, mut mind: Health, gossip: Arc<Gossip>, stage: Arc<Stage>, table: watch::Sender<usize>) {
    let mut facts = gossip.facts();
    let mut events = vec![Event::Tick];
    if me == NodeId(1) {
        events.push(Event::Holds(["web".to_owned()].into()));
    }
    loop {
        while let Some(event) = events.pop() {
            for action in mind.handle(Moment::now(), event) {
                match action {
                    Action::Ask(id, target) => {
                        let fails = number(target.address) == stage.failing.load(Ordering::Relaxed);
                        let own = u32::try_from(number(target.address) % 253).map_or(Share::Configured, Share::Exactly);
                        let share = if stage.weights { own } else { Share::Configured };
                        let said = if fails { Said::Down("no".to_owned()) } else { Said::Up(share) };
                        events.push(Event::Answered(id, Answer { said, took: Duration::ZERO }));
                    }
                    Action::Say(key, value) => {
                        if key.starts_with("seen") {
                            lock(&stage.said).push(Instant::now());
                        }
                        match value {
                            Some(value) => gossip.set_fact(key, value),
                            None => gossip.remove_fact(key),
                        }
                    }
                    Action::Want(wanted) => {
                        let serves = wanted["web"].values().map(|service| service.servers.len()).sum();
                        table.send_replace(serves);
                    }
                    Action::Tell(_) | Action::Short(..) => {}
                }
            }
        }
        let pause = Moment::now().wait(mind.next_deadline());
        events.push(tokio::select! {
            changed = facts.changed() => {
                if changed.is_err() {
                    return;
                }
                Event::Facts(of_the_living(&facts.borrow_and_update()))
            }
            () = sleep(pause) => Event::Tick,
        });
    }
}

/// Of a server among those of [`super::checks::services`].
fn number(address: SocketAddr) -> u64 {
    match address {
        SocketAddr::V4(address) => u64::from(address.ip().to_bits() & 0x00FF_FFFF) - 0x01_0000,
        SocketAddr::V6(_) => u64::MAX,
    }
}

pub fn run(options: &Options) -> Result<bool> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<bool> {
    let (directors, targets) = (options.directors, usize::try_from(options.targets)?);
    let stage = Arc::new(Stage {
        ends: Mutex::default(),
        failing: AtomicU64::new(u64::MAX),
        said: Mutex::default(),
        bytes: AtomicU64::new(0),
        weights: options.weights,
    });
    let services = super::checks::services(options.targets);
    let nodes: BTreeSet<NodeId> = (1..=directors).map(NodeId).collect();
    let mut tables = Vec::new();
    for me in nodes.iter().copied() {
        let wire = Arc::new(End { me, stage: stage.clone() });
        let gossip = Arc::new(Gossip::start(me, 1, "bench", nodes.clone(), wire, INTERVAL).await?);
        lock(&stage.ends).insert(me, gossip.clone());
        let mind = Health::new(Moment::now(), me, HealthMesh::default(), &services);
        let (tell, table) = watch::channel(0);
        tokio::spawn(direct(me, mind, gossip, stage.clone(), tell));
        tables.push(table);
    }
    sleep(WARM).await;
    all_have(&mut tables, targets).await?;

    let (before, began) = (cpu(), Instant::now());
    stage.bytes.store(0, Ordering::Relaxed);
    sleep(Duration::from_secs(options.seconds)).await;
    let of_all = (cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let share = of_all / directors as f64;
    let bytes = stage.bytes.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64() / directors as f64;
    println!("steady: {share:.2} % of a core and {:.0} kB/s of gossip sent, each director's share", bytes / 1e3);

    let mut spread = Vec::new();
    for failure in 0..options.failures {
        lock(&stage.said).clear();
        stage.failing.store(u64::from(options.targets / options.failures.max(1) * failure), Ordering::Relaxed);
        all_have(&mut tables, targets - 1).await?;
        let done = Instant::now();
        let agreed = *lock(&stage.said).get(AGREE - 1).context("fewer have said it than must agree")?;
        spread.push(done.saturating_duration_since(agreed));
        stage.failing.store(u64::MAX, Ordering::Relaxed);
        all_have(&mut tables, targets).await?;
        // All that see it have said so before the next one fails.
        sleep(Duration::from_secs(2)).await;
    }
    spread.sort();
    let (median, slowest) = (spread.get(spread.len() / 2), spread.last());
    let (median, slowest) = (median.context("no failure")?, slowest.context("no failure")?);
    println!("a server that fails has left all tables {median:.0?} after enough have said so, {slowest:.0?} at most");
    let checks = [share <= SHARE, *slowest <= BOUND];
    let passed = checks.iter().filter(|good| **good).count();
    println!(
        "mesh: {directors} directors and {targets} servers, {share:.2} % of a core each, agreed within {} ms: {passed} passed, {} failed",
        slowest.as_millis(),
        checks.len() - passed
    );
    Ok(passed == checks.len())
}

/// Waits until every director serves so many servers.
async fn all_have(tables: &mut [watch::Receiver<usize>], servers: usize) -> Result<()> {
    let wait = async {
        for table in tables.iter_mut() {
            table.wait_for(|serves| *serves == servers).await?;
        }
        anyhow::Ok(())
    };
    let met = tokio::time::timeout(PATIENCE, wait).await;
    let serve: Vec<usize> = tables.iter().map(|table| *table.borrow()).collect();
    ensure!(met.is_ok_and(|met| met.is_ok()), "{servers} servers wanted after {PATIENCE:?}, the tables have {serve:?}");
    Ok(())
}
