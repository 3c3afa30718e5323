//! What the health mesh costs its minds, and how long it is in doubt: many directors, many targets, a gossip that brings
//! everything to everybody after a while, and time that is played.

use anyhow::Result;
use hamesh::config::service::HealthMesh;
use hamesh::health::{Action, Answer, Event, Health, Said, Share, Wanted};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::NodeId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Directors
    #[arg(long, default_value_t = 24)]
    directors: u64,
    /// Servers, each with a check a second
    #[arg(long, default_value_t = 10_000)]
    targets: u32,
    /// What gossip takes to bring something to everybody, in milliseconds
    #[arg(long, default_value_t = 300)]
    gossip: u64,
}

const STEP: Duration = Duration::from_millis(50);
/// One server in so many fails.
const FAILS: u32 = 100;
/// From the last observer's word to the last table.
const BOUND: Duration = Duration::from_secs(1);

type Facts = BTreeMap<NodeId, BTreeMap<String, String>>;

struct Mesh {
    now: Moment,
    step: u64,
    delay: u64,
    minds: BTreeMap<NodeId, Health>,
    said: Facts,
    /// What was said, by the step in which everybody hears of it.
    under_way: BTreeMap<u64, Facts>,
    heard: Facts,
    wanted: BTreeMap<NodeId, Arc<Wanted>>,
    spent: BTreeMap<NodeId, Duration>,
    last_said: u64,
}

impl Mesh {
    fn play(&mut self, steps: u64, fails: impl Fn(SocketAddr) -> bool) {
        for _ in 0..steps {
            self.step += 1;
            self.now = self.now + STEP;
            let news = self.under_way.remove(&self.step);
            if let Some(news) = &news {
                self.heard.clone_from(news);
            }
            let before = self.said.clone();
            for node in self.minds.keys().copied().collect::<Vec<_>>() {
                let mut events = vec![Event::Tick];
                events.extend(news.is_some().then(|| Event::Facts(self.heard.clone())));
                if self.step == 1 && node == NodeId(1) {
                    events.push(Event::Holds(["web".to_owned()].into()));
                }
                while let Some(event) = events.pop() {
                    let Some(mind) = self.minds.get_mut(&node) else { continue };
                    let began = Instant::now();
                    let actions = mind.handle(self.now, event);
                    *self.spent.entry(node).or_default() += began.elapsed();
                    for action in actions {
                        match action {
                            Action::Ask(id, target) => {
                                let down = fails(target.address);
                                let said = if down { Said::Down("no".to_owned()) } else { Said::Up(Share::Configured) };
                                events.push(Event::Answered(id, Answer { said, took: STEP }));
                            }
                            Action::Say(key, Some(value)) => {
                                if key != "health" {
                                    self.last_said = self.step;
                                }
                                self.said.entry(node).or_default().insert(key, value);
                            }
                            Action::Say(key, None) => drop(self.said.entry(node).or_default().remove(&key)),
                            Action::Want(wanted) => drop(self.wanted.insert(node, wanted)),
                            Action::Tell(_) | Action::Short(..) => {}
                        }
                    }
                }
            }
            if self.said != before {
                self.under_way.insert(self.step + self.delay, self.said.clone());
            }
        }
    }

    fn all_serve(&self, servers: u32) -> bool {
        let serves = |wanted: &Arc<Wanted>| wanted["web"].values().map(|service| service.servers.len()).sum::<usize>();
        self.wanted.values().all(|wanted| u32::try_from(serves(wanted)) == Ok(servers))
    }

    /// The share of a core of the holder, and the largest of the others.
    fn share(&self, over: Duration) -> (f64, f64) {
        let share = |spent: &Duration| spent.as_secs_f64() / over.as_secs_f64() * 100.0;
        let holder = self.spent.get(&NodeId(1)).map_or(0.0, share);
        (holder, self.spent.iter().filter(|(node, _)| **node != NodeId(1)).map(|(_, s)| share(s)).fold(0.0, f64::max))
    }
}

pub fn run(options: &Options) -> Result<bool> {
    let services = super::checks::services(options.targets);
    let now = Moment::default();
    let mind = |node| (NodeId(node), Health::new(now, NodeId(node), HealthMesh::default(), &services));
    let mut mesh = Mesh {
        now,
        step: 0,
        delay: options.gossip.div_ceil(50).max(1),
        minds: (1..=options.directors).map(mind).collect(),
        said: Facts::new(),
        under_way: BTreeMap::new(),
        heard: Facts::new(),
        wanted: BTreeMap::new(),
        spent: BTreeMap::new(),
        last_said: 0,
    };
    mesh.play(200, |_| false);
    mesh.spent.clear();
    mesh.play(200, |_| false);
    let (holder, other) = mesh.share(STEP * 200);
    println!("steady: the holder's mind takes {holder:.2} % of a core, the busiest other {other:.2} %");
    mesh.spent.clear();
    let fails = |at: SocketAddr| match at {
        SocketAddr::V4(at) => at.ip().to_bits().is_multiple_of(FAILS),
        SocketAddr::V6(_) => false,
    };
    let first = std::net::Ipv4Addr::new(127, 1, 0, 0).to_bits();
    let left = (0..options.targets).filter(|n| !(first + n).is_multiple_of(FAILS));
    let left = u32::try_from(left.count())?;
    let mut steps = 0;
    while !mesh.all_serve(left) && steps < 400 {
        mesh.play(1, fails);
        steps += 1;
    }
    let settled = mesh.all_serve(left);
    let since = STEP * u32::try_from(mesh.step.saturating_sub(mesh.last_said))?;
    let (holder, other) = mesh.share(STEP * steps);
    let failed = options.targets - left;
    println!("{failed} servers fail at once: the holder's mind takes {holder:.2} %, the busiest other {other:.2} %");
    let whole = settled && since <= BOUND;
    let directors = options.directors;
    println!(
        "mesh: {directors} directors agree on {} targets {} ms after the last has said what it sees, {} passed, {} failed",
        options.targets,
        since.as_millis(),
        u8::from(whole),
        u8::from(!whole)
    );
    Ok(whole)
}
