//! The cluster under test, and how one run is judged.

use crate::catalogue::Fault;
use anyhow::{Context, Result, bail, ensure};
use hamesh::lab::cluster::{Cluster, GROUP, cluster_toml};
use hamesh::lab::legacy::Dialect;
use hamesh::lab::observer::{Advert, NOISE};
use hamesh::lab::scene::{PRIORITIES, Scene};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One owner for this long is a steady VIP.
const STEADY: Duration = Duration::from_millis(700);

/// A planned move may take this long.
pub const BLINK: Duration = Duration::from_millis(50);

/// After a heal every client must be answered again within this.
const STALE: Duration = Duration::from_secs(1);

/// How long the cluster may take to be whole again between two runs.
const WHOLE: Duration = Duration::from_secs(40);

pub struct Bench {
    pub cluster: Cluster,
    pub scene: Scene,
    pub random: fastrand::Rng,
    pub short: bool,
    /// Whether the cluster.toml files list the second address now.
    pub edited: bool,
}

/// What must not be longer than it may.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The longest time without an answer.
    Gap,
    /// To the millisecond, from the last answer of one owner to the first of the next, where a client has seen both; else the
    /// longest time without an answer.
    Change,
    /// The time from the fault until the VIP is answered and stays so; blinks of a planned move apart.
    Again,
}

/// What a fault reports of itself. It has been healed when it does.
pub struct Seen {
    pub from: Instant,
    /// The figure is taken in `[from, to]`.
    pub to: Instant,
    pub measure: Measure,
    pub bound: Duration,
    /// When two sides could hear each other again.
    pub healed: Option<Instant>,
    /// How the fault was seen to bite.
    pub bite: String,
    /// A client that was cut from every possible owner.
    pub blind: Option<usize>,
}

pub struct Figures {
    /// What is held against the bound.
    pub figure: Duration,
    pub gap: Duration,
    pub two: Duration,
    pub bound: Duration,
    /// Advertisements of a host that did not answer.
    claims: Vec<String>,
    /// Longest outage of a client after the heal.
    stale: Duration,
    /// Longest outage of a client while all went back to its place. Shown, not judged.
    back: Duration,
    late: Duration,
    bite: String,
}

impl Figures {
    /// Whether this machine was away for so long that the figure may be its own: a pause of 25 ms says nothing about a
    /// crash, and everything about a bound of 20 ms.
    fn is_noisy(&self) -> bool {
        self.late > NOISE.min(self.bound / 2)
    }
}

pub enum Verdict {
    Passed(Figures),
    Failed(Figures),
    /// Too long a gap, and this machine was away meanwhile.
    Noisy(Figures),
    /// It did not count: the VIP was not answered before or after, or the fault did not bite.
    Void(String),
}

impl Verdict {
    pub fn figures(&self) -> Option<&Figures> {
        match self {
            Self::Passed(figures) | Self::Failed(figures) | Self::Noisy(figures) => Some(figures),
            Self::Void(_) => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, figures) = match self {
            Self::Passed(figures) => ("ok    ", figures),
            Self::Failed(figures) => ("FAILED", figures),
            Self::Noisy(figures) => ("noisy ", figures),
            Self::Void(why) => return write!(f, "FAILED {why}"),
        };
        let Figures { figure, gap, two, bound, claims, stale, back, late, bite } = figures;
        let (figure, gap, two, bound) = (figure.as_millis(), gap.as_millis(), two.as_millis(), bound.as_millis());
        write!(f, "{word} {figure} ms of {bound}, gap {gap} ms, two owners {two} ms; {bite}")?;
        if !claims.is_empty() {
            write!(f, "; adverts of hosts that did not answer: {}", claims.join(", "))?;
        }
        if !stale.is_zero() {
            write!(f, "; a client dark for {} ms after the heal", stale.as_millis())?;
        }
        if !back.is_zero() {
            write!(f, "; {} ms dark on the way back", back.as_millis())?;
        }
        if self.figures().is_some_and(Figures::is_noisy) {
            write!(f, "; this machine was away for {} ms", late.as_millis())?;
        }
        Ok(())
    }
}

fn claim(from: Instant, advert: &Advert) -> String {
    let after = advert.at.saturating_duration_since(from).as_millis();
    format!("{} with priority {} after {after} ms", advert.host, advert.header.priority)
}

impl Bench {
    pub fn build(dir: &Path, program: &Path, seed: u64, short: bool) -> Result<Self> {
        let scene = Scene::set(dir, seed)?;
        let toml = cluster_toml(Dialect::V3, &PRIORITIES);
        let cluster =
            Cluster::form(&scene, program, &toml, |line| println!("  {line}")).context("forming the cluster")?;
        Ok(Self { scene, cluster, random: fastrand::Rng::with_seed(seed), short, edited: false })
    }

    /// The time a fault lasts: `long`, or its short form.
    pub fn lasting(&self, long: u64) -> Duration {
        Duration::from_secs(if self.short { long.min(5) } else { long })
    }

    /// One run of a fault. Whatever happened, the next run finds the cluster whole or is void.
    pub fn run(&mut self, fault: &Fault, number: u32) -> Verdict {
        let judged = self.whole().context("not well before the fault").and_then(|()| self.judge(fault, number));
        judged.unwrap_or_else(|error| Verdict::Void(format!("{error:#}")))
    }

    fn judge(&mut self, fault: &Fault, number: u32) -> Result<Verdict> {
        let from = Instant::now();
        let seen = (fault.run)(self, number);
        // The way back is judged too: a higher priority takes the VIP again.
        let back = self.whole();
        let end = Instant::now();
        let two = self.two_owners(from, end);
        let (seen, ()) = match (seen, back) {
            (Ok(seen), Ok(back)) => (seen, back),
            (Err(error), _) | (Ok(_), Err(error)) if two.is_zero() => return Err(error),
            (Err(error), _) | (Ok(_), Err(error)) => bail!("two owners for {} ms; {error:#}", two.as_millis()),
        };
        let outages = |from, to, blind: Option<usize>| -> Vec<(Instant, Instant)> {
            let clients = self.scene.clients.iter().enumerate().filter(|(index, _)| Some(*index) != blind);
            clients.flat_map(|(_, (client, _))| client.outages(from, to)).collect()
        };
        let longest =
            |outages: &[(Instant, Instant)]| outages.iter().map(|(start, end)| *end - *start).max().unwrap_or_default();
        let mut dark = outages(seen.from, seen.to, seen.blind);
        dark.extend(self.scene.observer.gaps(seen.from, seen.to));
        let gap = longest(&dark);
        let ends = dark.iter().filter(|(start, end)| *end - *start > BLINK).map(|(_, end)| *end - seen.from);
        let figures = Figures {
            figure: match seen.measure {
                Measure::Gap => gap,
                Measure::Change => {
                    let changes = self.scene.clients.iter().map(|(client, _)| client.change(seen.from, seen.to));
                    changes.max().flatten().unwrap_or(gap)
                }
                Measure::Again => ends.max().unwrap_or_default(),
            },
            gap,
            claims: self.scene.observer.false_claims(from, end).iter().map(|advert| claim(from, advert)).collect(),
            two,
            bound: seen.bound,
            stale: seen.healed.map_or(Duration::ZERO, |healed| longest(&outages(healed, end, None))),
            back: longest(&outages(seen.to, end, seen.blind)),
            late: self.scene.lateness(seen.from, seen.to),
            bite: seen.bite,
        };
        let in_time = figures.figure <= figures.bound && figures.stale <= STALE;
        Ok(match (figures.two.is_zero() && figures.claims.is_empty(), in_time) {
            (true, true) => Verdict::Passed(figures),
            (true, false) if figures.is_noisy() => Verdict::Noisy(figures),
            (true | false, _) => Verdict::Failed(figures),
        })
    }

    pub fn two_owners(&self, from: Instant, to: Instant) -> Duration {
        // The legacy host plays a stranger here, whom no lease binds.
        self.scene.observer.two_owners(from, to, |host| host != self.scene.legacy.name())
    }

    /// Starts and wakes whoever a fault has left behind.
    pub fn mend(&mut self) -> Result<()> {
        for director in &self.scene.directors {
            self.scene.lan.plug(director.second, false);
        }
        for node in 0..self.cluster.size() {
            if self.cluster.runs(node) {
                self.cluster.thaw(node)?;
            } else {
                self.cluster.start(node, &[])?;
            }
        }
        Ok(())
    }

    /// Waits until every node is there, hears every other, and the best director is the one owner.
    pub fn whole(&mut self) -> Result<()> {
        self.mend()?;
        for node in 0..self.cluster.size() {
            self.cluster.wait_whole(node, WHOLE)?;
        }
        let deadline = Instant::now() + WHOLE;
        loop {
            let owner = self.scene.settled(STEADY, deadline.saturating_duration_since(Instant::now()))?;
            if owner == self.cluster.name(0) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{owner} owns the VIP, and {} does not take it", self.cluster.name(0));
            sleep(Duration::from_millis(50));
        }
    }

    /// The director that owns the VIP.
    pub fn holder(&self) -> Result<usize> {
        let owner = self.scene.settled(Duration::from_millis(200), Duration::from_secs(5))?;
        self.scene.director(&owner).with_context(|| format!("{owner} is no director"))
    }

    pub fn leader(&self) -> Result<usize> {
        self.cluster.leader().context("no node names a Raft leader")
    }

    /// Waits for another host than `holder` to answer.
    pub fn wait_takeover(&self, since: Instant, holder: usize, patience: Duration) -> Result<()> {
        let holder = self.cluster.name(holder);
        while since.elapsed() < patience {
            if self.scene.observer.first_answer(since, |name| name != holder).is_some() {
                return Ok(());
            }
            sleep(Duration::from_millis(2));
        }
        bail!("nobody but {holder} answered within {patience:?}")
    }

    /// Reads the grants out of every node's log, of the cluster at rest. `None`: this hamesh has no command for it.
    pub fn tokens_on_disk(&mut self) -> Result<Option<String>> {
        if self.cluster.command(0, &["log", "--help"]).is_err() {
            return Ok(None);
        }
        let mut session_of: BTreeMap<String, String> = BTreeMap::new();
        for node in 0..self.cluster.size() {
            if self.cluster.runs(node) {
                self.cluster.stop(node)?;
            }
            let dump = self.cluster.command(node, &["log", "--json"])?;
            let mut last = 0;
            for line in dump.lines().filter(|line| !line.trim().is_empty()) {
                let entry: serde_json::Value = serde_json::from_str(line).context("a line of hamesh log --json")?;
                let (Some(token), Some(session)) = (entry["token"].as_u64(), entry["session"].as_u64()) else {
                    continue;
                };
                if entry["group"] != GROUP {
                    continue;
                }
                ensure!(token > last, "{}: token {token} after {last}", self.cluster.name(node));
                last = token;
                let first = session_of.entry(token.to_string()).or_insert_with(|| session.to_string());
                ensure!(*first == session.to_string(), "token {token} is of session {first} and of {session}");
            }
        }
        ensure!(!session_of.is_empty(), "no grant in any log");
        Ok(Some(format!("{} grants, each for one session, all growing", session_of.len())))
    }
}
