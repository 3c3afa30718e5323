//! The mind of the health mesh: what to ask when, what to tell the others, and what IPVS is to have.

mod peers;
mod status;

use super::policy::{Conclusion, Look, Policy};
use super::verdict::{Opinions, Verdict, verdict};
use super::watch::{Target, Watch};
use super::{Answer, Said, Share};
use crate::config::check::Probe;
use crate::config::service::Server;
use crate::config::{HealthMesh, Service};
use crate::ipvs::{MAX_WEIGHT, Table};
use crate::notify::Change;
use hamesh_fencing::clock::Moment;
use hamesh_gossip::assignment::observers;
use hamesh_gossip::observation::{self, Observation, Seen, TargetId, Weight};
use hamesh_raft::command::{GroupName, NodeId, ServerOrder};
use peers::Peer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The fact that shows that a director's observations are kept up: a number that changes.
const BEAT: &str = "health";
/// Between two beats.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// What answers and observations change follows no sooner than this after the last time: many change at once.
const PACE: Duration = Duration::from_millis(100);
/// First questions are spread over the interval in so many steps, so that a thousand checks do not begin at once.
const SPREAD: u32 = 64;

/// The table of every VIP group that has services.
pub type Wanted = BTreeMap<GroupName, Table>;

/// The groups that this director holds.
pub type Holdings = BTreeSet<GroupName>;

/// What people have ordered of the servers of services.
pub type Orders = BTreeMap<(String, SocketAddr), ServerOrder>;

/// What happens to the mesh's member on this director.
#[derive(Clone, Debug)]
pub enum Event {
    /// The facts of every living node.
    Facts(BTreeMap<NodeId, Arc<BTreeMap<String, String>>>),
    /// The services and how they are watched, from now on. What was there before keeps what is known of it.
    Services(HealthMesh, BTreeMap<String, Service>),
    /// What this director holds now.
    Holds(Holdings),
    /// What people have ordered of servers.
    Orders(Orders),
    /// A BFD session is up, or not and why.
    Session(String, Result<(), String>),
    /// hamesh stops: what is told of it is all that comes of it.
    Stop,
    /// What came of [`Action::Ask`].
    Answered(TargetId, Answer),
    /// [`Health::next_deadline`] has come.
    Tick,
}

/// What it orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a target, and say what came of it: [`Event::Answered`].
    Ask(TargetId, Arc<Target>),
    /// Say this to the other nodes; `None` takes it back.
    Say(String, Option<String>),
    /// IPVS is to have this, where the group is held.
    Want(Arc<Wanted>),
    /// Tell somebody that a server or a quorum has come or gone, in the order in which it is said.
    Tell(Change),
    /// Whether this director sees much less of the servers behind a group than the others do.
    Short(GroupName, bool),
}

/// A director's part in the health mesh.
#[derive(Debug)]
pub struct Health {
    started: Moment,
    me: NodeId,
    mesh: HealthMesh,
    services: BTreeMap<String, Served>,
    targets: BTreeMap<TargetId, Watched>,
    /// When which target is to be asked, since the start. An entry whose target thinks otherwise is outdated.
    agenda: BTreeSet<(Duration, TargetId)>,
    peers: BTreeMap<NodeId, Peer>,
    /// What BFD sessions say.
    sessions: BTreeMap<String, Said>,
    holds: Holdings,
    orders: Orders,
    /// When time alone changes what IPVS is to have.
    next_turn: Option<Duration>,
    /// Something has changed since the last conclusion, and when that was.
    unsettled: bool,
    concluded: Duration,
    /// Among whom, and with what held here, the targets were shared out last.
    shared: Option<(BTreeSet<NodeId>, Holdings)>,
    beat: u64,
    next_beat: Duration,
    said: BTreeMap<String, String>,
    wanted: Option<Arc<Wanted>>,
    short: BTreeSet<GroupName>,
}

#[derive(Debug)]
struct Served {
    service: Service,
    policy: Policy,
    /// What is asked of each of its servers, in their order.
    targets: Vec<Vec<TargetId>>,
}

#[derive(Debug)]
struct Watched {
    target: Arc<Target>,
    groups: BTreeSet<GroupName>,
    /// Nobody asks but who holds one of them.
    suspends: bool,
    /// While it is this director's to watch.
    watch: Option<Watch>,
    /// What the other directors find.
    others: Opinions,
}

impl Health {
    /// Of the director `me`, whose configuration has these services.
    pub fn new(now: Moment, me: NodeId, mesh: HealthMesh, services: &BTreeMap<String, Service>) -> Self {
        let mut health = Self {
            started: now,
            me,
            mesh,
            services: BTreeMap::new(),
            targets: BTreeMap::new(),
            agenda: BTreeSet::new(),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            holds: Holdings::new(),
            orders: Orders::new(),
            next_turn: None,
            unsettled: true,
            concluded: Duration::ZERO,
            shared: None,
            beat: 0,
            next_beat: Duration::ZERO,
            said: BTreeMap::new(),
            wanted: None,
            short: BTreeSet::new(),
        };
        health.serve(mesh, services);
        health
    }

    /// Serves these from now on. A target that is still asked goes on where it was, and so does what a service knows of its
    /// servers: who asks a server something else believes what was seen before until there is an answer.
    fn serve(&mut self, mesh: HealthMesh, services: &BTreeMap<String, Service>) {
        let mut before = std::mem::take(&mut self.targets);
        let mut served = std::mem::take(&mut self.services);
        let mut sources = BTreeMap::<TargetId, Vec<(Option<IpAddr>, u16)>>::new();
        for (name, service) in services {
            let mut watch = |target: Target| {
                let (alike, source) = (sources.entry(target.id(0)).or_default(), target.source());
                let place = alike.iter().position(|other| *other == source).unwrap_or(alike.len());
                if place == alike.len() {
                    alike.push(source);
                }
                let id = target.id(place);
                let watched = self.targets.entry(id).or_insert_with(|| {
                    let (watch, others) = match before.remove(&id) {
                        Some(Watched { watch, others, .. }) => (watch, others),
                        None => (None, peers::opinions(&self.peers, id)),
                    };
                    Watched { target: Arc::new(target), groups: BTreeSet::new(), suspends: true, watch, others }
                });
                watched.groups.insert(service.vip.clone());
                watched.suspends &= service.ha_suspend;
                id
            };
            let targets = service.servers.iter().map(|server| Target::of(server).map(&mut watch).collect()).collect();
            let mut policy = served.remove(name).map_or_else(Policy::new, |served| served.policy);
            policy.keep(service);
            self.services.insert(name.clone(), Served { service: service.clone(), policy, targets });
        }
        (self.mesh, self.shared) = (mesh, None);
    }

    /// What happens now.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let now = now.since(self.started);
        if matches!(event, Event::Stop) {
            let farewell =
                self.services.iter().flat_map(|(name, served)| served.policy.farewell(name, &served.service));
            return farewell.map(Action::Tell).collect();
        }
        let at_once = matches!(event, Event::Services(..) | Event::Holds(_) | Event::Orders(_));
        let changed = match event {
            Event::Facts(facts) => self.hear(now, &facts),
            Event::Services(mesh, services) => {
                self.serve(mesh, &services);
                true
            }
            Event::Holds(holds) => std::mem::replace(&mut self.holds, holds.clone()) != holds,
            Event::Answered(target, answer) => {
                let watch = self.targets.get_mut(&target).and_then(|watched| watched.watch.as_mut());
                let changed = watch.map(|watch| (watch.answered(now, answer), watch.next()));
                self.agenda.extend(changed.and_then(|(_, next)| Some((next?, target))));
                changed.is_some_and(|(changed, _)| changed)
            }
            Event::Session(name, result) => self.told(now, &name, result),
            Event::Orders(orders) => std::mem::replace(&mut self.orders, orders.clone()) != orders,
            Event::Stop => false,
            Event::Tick => self.forget(now) | self.next_turn.is_some_and(|turn| now >= turn),
        };
        let mut actions = Vec::new();
        self.unsettled |= changed;
        // Most answers change nothing, and there may be thousands a second.
        let concludes = self.wanted.is_none() || self.unsettled && (at_once || now >= self.concluded + PACE);
        if concludes {
            (self.unsettled, self.concluded) = (false, now);
            self.share_out(now);
            self.conclude(now, &mut actions);
        }
        self.say(now, concludes, &mut actions);
        self.ask(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Moment {
        let ask = self.agenda.first().map_or(self.next_beat, |(due, _)| *due);
        let settles = self.unsettled.then_some(self.concluded + PACE);
        // Time changes nothing sooner than answers do.
        let turn = self.next_turn.map(|turn| turn.max(self.concluded + PACE));
        let due = [Some(ask), Some(self.next_beat), turn, settles];
        self.started + due.into_iter().flatten().min().unwrap_or(ask)
    }

    /// Begins to watch what has become this director's to watch, and ends what is no more. What servers answer changes
    /// neither.
    fn share_out(&mut self, now: Duration) {
        let directors: BTreeSet<NodeId> = self.peers.keys().copied().chain([self.me]).collect();
        if self.shared.as_ref().is_some_and(|(among, held)| (among, held) == (&directors, &self.holds)) {
            return;
        }
        for (step, (id, watched)) in (0..SPREAD).cycle().zip(&mut self.targets) {
            let held = watched.groups.iter().any(|group| self.holds.contains(group));
            let own = held || watched.target.is_everybodys() && !watched.suspends;
            let observes = || observers(*id, &directors, self.mesh.observers).contains(&self.me);
            if !own && (watched.suspends || !observes()) {
                watched.watch = None;
            } else if watched.watch.is_none() {
                let check = &watched.target.check;
                // What is held is looked at without delay.
                let delay = if held { Duration::ZERO } else { check.warmup * step / SPREAD };
                watched.watch = Some(Watch::new(check, now + delay));
                self.agenda.insert((now + delay, *id));
            }
        }
        self.shared = Some((directors, self.holds.clone()));
    }

    fn conclude(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut wanted = Wanted::new();
        let mut services = std::mem::take(&mut self.services);
        self.next_turn = None;
        for (name, Served { service, policy, targets }) in &mut services {
            let looks: Vec<Look> =
                service.servers.iter().zip(targets).map(|(server, ids)| self.look(name, server, ids)).collect();
            let Conclusion { table, told, next } = policy.conclude(now, name, service, &looks);
            actions.extend(told.into_iter().map(Action::Tell));
            self.next_turn = self.next_turn.into_iter().chain(next).min();
            let group = wanted.entry(service.vip.clone()).or_default();
            group.extend(service.listen.iter().map(|key| (*key, table.clone())));
        }
        self.services = services;
        if self.wanted.as_deref() != Some(&wanted) {
            let wanted = Arc::new(wanted);
            self.wanted = Some(wanted.clone());
            actions.push(Action::Want(wanted));
        }
        for (group, is_short) in self.sees_much_less() {
            let was_short = if is_short { !self.short.insert(group.clone()) } else { self.short.remove(&group) };
            if is_short != was_short {
                actions.push(Action::Short(group, is_short));
            }
        }
    }

    /// For each group whether a quarter or more of its targets are down for this director alone.
    fn sees_much_less(&self) -> BTreeMap<GroupName, bool> {
        // One that has no targets any more misses none.
        let mut counts: BTreeMap<&GroupName, (usize, usize)> = self.short.iter().map(|group| (group, (0, 0))).collect();
        for (id, watched) in &self.targets {
            let only_here = usize::from(self.judge(*id).only_here);
            for group in &watched.groups {
                let (all, missed) = counts.entry(group).or_default();
                (*all, *missed) = (*all + 1, *missed + only_here);
            }
        }
        let much_less = |(all, missed): (usize, usize)| missed > 0 && missed * 4 >= all;
        counts.into_iter().map(|(group, counts)| (group.clone(), much_less(counts))).collect()
    }

    fn say(&mut self, now: Duration, changed: bool, actions: &mut Vec<Action>) {
        let beats = now >= self.next_beat;
        if !changed && !beats {
            return;
        }
        if beats {
            self.beat += 1;
            self.next_beat = now + BEAT_EVERY;
        }
        let shared = self.targets.iter().filter(|(_, watched)| !watched.target.is_local());
        let watches: Vec<(TargetId, &Watch)> =
            shared.filter_map(|(id, watched)| Some((*id, watched.watch.as_ref()?))).collect();
        let found = watches
            .iter()
            .filter_map(|(id, watch)| Some((*id, Observation { seen: watch.seen()?, weight: watch.weight() })));
        let mut facts = observation::encode(&found.collect());
        let reasons = watches.iter().filter_map(|(id, watch)| Some((*id, watch.reason()?)));
        facts.append(&mut observation::encode_reasons(reasons));
        facts.insert(BEAT.to_owned(), self.beat.to_string());
        for key in self.said.keys().filter(|key| !facts.contains_key(*key)) {
            actions.push(Action::Say(key.clone(), None));
        }
        for (key, value) in facts.iter().filter(|(key, value)| self.said.get(*key) != Some(*value)) {
            actions.push(Action::Say(key.clone(), Some(value.clone())));
        }
        self.said = facts;
    }

    /// A session says what it sees, without being asked.
    fn told(&mut self, now: Duration, name: &str, result: Result<(), String>) -> bool {
        let said = result.map_or_else(Said::Down, |()| Said::Up(Share::Configured));
        let answer = Answer { said: said.clone(), took: Duration::ZERO };
        if self.sessions.insert(name.to_owned(), said.clone()) == Some(said) {
            return false;
        }
        let mut changed = false;
        for (id, watched) in &mut self.targets {
            if let (Probe::Bfd(of), Some(watch)) = (&watched.target.check.probe, &mut watched.watch)
                && of == name
            {
                watch.ask(now);
                changed |= watch.answered(now, answer.clone());
                self.agenda.extend(watch.next().map(|next| (next, *id)));
            }
        }
        changed
    }

    fn ask(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some((due, id)) = self.agenda.pop_first() {
            if due > now {
                self.agenda.insert((due, id));
                return;
            }
            let Some(watched) = self.targets.get_mut(&id) else { continue };
            if let Some(watch) = watched.watch.as_mut().filter(|watch| watch.next() == Some(due)) {
                watch.ask(now);
                let Probe::Bfd(name) = &watched.target.check.probe else {
                    actions.push(Action::Ask(id, watched.target.clone()));
                    continue;
                };
                let unknown = || Said::Unasked("its BFD session has only begun".to_owned());
                let said = self.sessions.get(name).cloned().unwrap_or_else(unknown);
                self.unsettled |= watch.answered(now, Answer { said, took: Duration::ZERO });
                self.agenda.extend(watch.next().map(|next| (next, id)));
            }
        }
    }

    /// What follows from all that is asked of a server.
    fn look(&self, service: &str, server: &Server, ids: &[TargetId]) -> Look {
        let weights: Vec<Weight> = ids.iter().map(|id| self.weigh(*id, server.weight)).collect();
        let order = self.orders.get(&(service.to_owned(), server.address)).copied();
        let weight = weighed(server.weight, &weights);
        Look { seen: together(ids.iter().map(|id| self.judge(*id).seen)), weight, order }
    }

    fn judge(&self, id: TargetId) -> Verdict {
        let Some(watched) = self.targets.get(&id) else { return verdict(None, &Opinions::default(), self.mesh.agree) };
        verdict(watched.watch.as_ref().and_then(Watch::seen), &watched.others, self.mesh.agree)
    }

    /// What a server of this weight weighs by one of its targets: as this director finds it, or else as the others agree.
    fn weigh(&self, id: TargetId, configured: u32) -> Weight {
        let Some(watched) = self.targets.get(&id) else { return Weight::default() };
        let own = watched.watch.as_ref().filter(|watch| watch.seen().is_some()).map(Watch::weight);
        let makes = |weight: &Weight| weighed(configured, &[*weight]);
        own.unwrap_or_else(|| watched.others.weight(self.mesh.agree, makes))
    }
}

/// What is left of a configured weight by all that is asked of a server.
fn weighed(configured: u32, weights: &[Weight]) -> u32 {
    let mut exactly = weights.iter().filter_map(|weight| match weight.share {
        Share::Exactly(weight) => Some(weight),
        Share::Configured | Share::More(_) => None,
    });
    let more = weights.iter().map(|weight| match weight.share {
        Share::More(more) => more,
        Share::Configured | Share::Exactly(_) => 0,
    });
    // Others may say what they like.
    let weight = more.fold(i64::from(exactly.next_back().unwrap_or(configured)), i64::saturating_add);
    let weight = u32::try_from(weight.max(0)).unwrap_or(u32::MAX).min(MAX_WEIGHT);
    slowed(weight, weights.iter().map(|weight| weight.percent).min().unwrap_or(100))
}

/// What slow answers leave of a weight; at least 1, unless it was 0.
fn slowed(weight: u32, percent: u8) -> u32 {
    let part = u64::from(weight) * u64::from(percent) / 100;
    u32::try_from(part).unwrap_or(weight).max(1).min(weight)
}

/// Down when one is, and up when all are.
fn together(seen: impl IntoIterator<Item = Option<Seen>>) -> Option<Seen> {
    let mut all = Some(None);
    for seen in seen {
        match seen {
            Some(Seen::Down) => return Some(Seen::Down),
            Some(Seen::Up) => all = all.map(|_| Some(Seen::Up)),
            None => all = None,
        }
    }
    all.flatten()
}

#[cfg(test)]
mod tests;
