//! Facts that hamesh nodes spread by gossip over their own QUIC mesh.
//!
//! Every node writes only its own facts, strings under keys, and sees everybody's. They arrive within a few intervals, in
//! no order between nodes; a fact is a hint for health and status, never a proof for a lease.
//!
//! Inside is chitchat **0.11.2**, and no later one: since 0.12 an envelope can be turned into bytes only inside that crate
//! (its issue 207), so a transport that is not its own UDP one would have to relay every message through a loopback
//! socket. Its UDP transport trusts any datagram with the right cluster name, and is never opened here: messages go over
//! a [`Wire`], whose other ends are proven by certificate.
//!
//! chitchat knows peers by socket address. We give it the node id dressed as one (`transport::address_of`), so that a node whose
//! real address changes stays the same peer, and no table has to agree with the members.

pub mod assignment;
pub mod observation;

mod transport;

pub use transport::Wire;

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ListenerHandle, NodeState,
    spawn_chitchat,
};
use hamesh_raft::command::NodeId;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use transport::{Incoming, OverWire, address_of, node_at};

/// How often a node gossips, unless told otherwise.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// Received and not yet taken. Gossip repeats itself, so what comes beyond is dropped.
const QUEUE: usize = 256;
/// How much longer than its usual interval a node must be silent to be called dead.
const PHI: f64 = 8.0;
/// How long a deleted fact is remembered as deleted; a node away for longer gets everything anew.
const TOMBSTONE: Duration = Duration::from_secs(15 * 60);
/// How long a dead incarnation's facts are kept.
const GRAVE: Duration = Duration::from_secs(3600);

/// What is known of one node: of its latest incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether it has been heard, directly or through others, within several of its usual intervals.
    pub alive: bool,
    /// Which of its starts wrote the values.
    pub incarnation: u64,
    /// What it says. The same one as long as it says nothing new.
    pub values: Arc<BTreeMap<String, String>>,
    /// chitchat's number of its latest change.
    version: u64,
}

/// What those say that are alive.
pub fn of_the_living(facts: &BTreeMap<NodeId, Facts>) -> BTreeMap<NodeId, Arc<BTreeMap<String, String>>> {
    let alive = facts.iter().filter(|(_, facts)| facts.alive);
    alive.map(|(node, facts)| (*node, facts.values.clone())).collect()
}

/// A node's part in the gossip. Ends when it is dropped.
pub struct Gossip {
    shared: Arc<Shared>,
    facts: watch::Receiver<BTreeMap<NodeId, Facts>>,
    deliver: mpsc::Sender<Incoming>,
    keeper: JoinHandle<()>,
}

/// What callers leave for the keeper, so that none of them waits for chitchat's lock.
#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    wake: Notify,
}

#[derive(Default)]
struct Work {
    /// Facts to write; `None` deletes. The newest per key is enough.
    changes: BTreeMap<String, Option<String>>,
    members: BTreeSet<NodeId>,
}

/// Why gossip did not start.
#[derive(Debug, thiserror::Error)]
#[error("gossip does not start: {0}")]
pub struct StartError(#[from] anyhow::Error);

impl Gossip {
    /// Starts gossiping as `me`, in its start `incarnation`, with `members`, every `interval`, over `wire`.
    ///
    /// # Errors
    /// chitchat does not start.
    pub async fn start(
        me: NodeId,
        incarnation: u64,
        cluster: &str,
        members: BTreeSet<NodeId>,
        wire: Arc<dyn Wire>,
        interval: Duration,
    ) -> Result<Self, StartError> {
        let (deliver, incoming) = mpsc::channel(QUEUE);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(me.to_string(), incarnation, address_of(me)),
            cluster_id: cluster.to_owned(),
            gossip_interval: interval,
            listen_addr: address_of(me),
            // Seeds cannot change in chitchat; the keeper greets silent members instead.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                initial_interval: interval,
                max_interval: interval * 10,
                dead_node_grace_period: GRAVE,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: TOMBSTONE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let chitchat = spawn_chitchat(config, Vec::new(), &OverWire::new(wire, incoming)).await?;
        let shared = Arc::new(Shared { work: Mutex::new(Work { members, ..Work::default() }), wake: Notify::new() });
        let (publish, facts) = watch::channel(BTreeMap::new());
        let wake = shared.clone();
        // Called with chitchat's lock held: it only wakes.
        let listener = chitchat.chitchat().lock().await.subscribe_event("", move |_| wake.wake.notify_one());
        let keeper = Keeper { me, interval, shared: shared.clone(), publish, chitchat, _listener: listener };
        let keeper = tokio::spawn(keeper.run());
        Ok(Self { shared, facts, deliver, keeper })
    }

    /// Says something of this node to all others. The newest value of a key counts. Keys are ASCII.
    pub fn set_fact(&self, key: impl Into<String>, value: impl Into<String>) {
        self.change(key.into(), Some(value.into()));
    }

    /// Takes a fact back.
    pub fn remove_fact(&self, key: impl Into<String>) {
        self.change(key.into(), None);
    }

    /// Whom to gossip with and whose facts to show from now on.
    pub fn set_members(&self, members: BTreeSet<NodeId>) {
        self.shared.work().members = members;
        self.shared.wake.notify_one();
    }

    /// A gossip message came from a member over the wire. Dropped when too many wait.
    pub fn hear(&self, from: NodeId, bytes: Vec<u8>) {
        if self.deliver.try_send((from, bytes)).is_err() {
            tracing::debug!(%from, "gossip message dropped");
        }
    }

    /// What every member says, this node included, and whether it lives. Changes wake the receiver.
    pub fn facts(&self) -> watch::Receiver<BTreeMap<NodeId, Facts>> {
        self.facts.clone()
    }

    fn change(&self, key: String, value: Option<String>) {
        self.shared.work().changes.insert(key, value);
        self.shared.wake.notify_one();
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        // It owns chitchat's handle, and chitchat ends with that.
        self.keeper.abort();
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what callers left, greets members that are not heard, and publishes what has changed.
struct Keeper {
    me: NodeId,
    interval: Duration,
    shared: Arc<Shared>,
    publish: watch::Sender<BTreeMap<NodeId, Facts>>,
    chitchat: ChitchatHandle,
    _listener: ListenerHandle,
}

impl Keeper {
    async fn run(self) {
        let mut live = self.chitchat.chitchat().lock().await.live_nodes_watcher();
        let mut greet = interval(self.interval);
        greet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let greeting = tokio::select! {
                () = self.shared.wake.notified() => false,
                changed = live.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                _ = greet.tick() => true,
            };
            let silent = self.refresh().await;
            if greeting {
                for node in silent {
                    if self.chitchat.gossip(address_of(node)).is_err() {
                        tracing::error!("gossip has ended");
                        return;
                    }
                }
            }
            // Many changes that come together are published together.
            sleep(self.interval / 10).await;
        }
    }

    /// Writes what callers left and publishes what is new. Returns the members that are not heard.
    async fn refresh(&self) -> Vec<NodeId> {
        let (changes, members) = {
            let mut work = self.shared.work();
            (std::mem::take(&mut work.changes), work.members.clone())
        };
        let state = self.chitchat.chitchat();
        let mut state = state.lock().await;
        for (key, value) in changes {
            // chitchat slices keys by byte and would panic, here and on every peer.
            if !key.is_ascii() {
                tracing::error!(key, "a fact's key must be ASCII; not said");
                continue;
            }
            match value {
                Some(value) => state.self_node_state().set(key, value),
                None => state.self_node_state().delete(&key),
            }
        }
        let facts = self.snapshot(&state, &members);
        drop(state);
        let heard = |node: &NodeId| facts.get(node).is_some_and(|facts| facts.alive);
        let silent = members.iter().filter(|node| **node != self.me && !heard(node)).copied().collect();
        self.publish.send_if_modified(|published| {
            let changed = *published != facts;
            if changed {
                *published = facts;
            }
            changed
        });
        silent
    }

    /// Of every member the facts of its latest incarnation.
    fn snapshot(&self, state: &Chitchat, members: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Facts> {
        let live: HashSet<&ChitchatId> = state.live_nodes().collect();
        let mut latest: BTreeMap<NodeId, (&ChitchatId, &NodeState)> = BTreeMap::new();
        for (id, values) in state.node_states() {
            let Some(node) = node_at(id.gossip_advertise_addr) else { continue };
            if node != self.me && !members.contains(&node) {
                continue;
            }
            let newer = latest.get(&node).is_none_or(|(known, _)| known.generation_id < id.generation_id);
            if newer {
                latest.insert(node, (id, values));
            }
        }
        let published = self.publish.borrow();
        let facts = |(node, (id, state)): (NodeId, (&ChitchatId, &NodeState))| {
            let (alive, incarnation, version) = (live.contains(id), id.generation_id, state.max_version());
            let same = |known: &&Facts| known.incarnation == incarnation && known.version == version;
            let values = published.get(&node).filter(same).map_or_else(
                || Arc::new(state.key_values().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
                |known| known.values.clone(),
            );
            (node, Facts { alive, incarnation, values, version })
        };
        latest.into_iter().map(facts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tokio::time::{Instant, timeout};

    const QUICK: Duration = Duration::from_millis(20);

    /// Carries messages by task; whoever is not plugged in hears nothing.
    #[derive(Default)]
    struct Bus(Mutex<HashMap<NodeId, mpsc::Sender<Incoming>>>);

    struct End {
        me: NodeId,
        bus: Arc<Bus>,
    }

    impl Wire for End {
        fn send(&self, to: NodeId, bytes: Vec<u8>) {
            let bus = self.bus.0.lock().unwrap();
            if bus.contains_key(&self.me)
                && let Some(there) = bus.get(&to)
            {
                there.try_send((self.me, bytes)).ok();
            }
        }
    }

    async fn node(bus: &Arc<Bus>, id: u64, incarnation: u64) -> Arc<Gossip> {
        let me = NodeId(id);
        let members = [1, 2, 3].map(NodeId).into();
        let wire = Arc::new(End { me, bus: bus.clone() });
        let gossip = Arc::new(Gossip::start(me, incarnation, "c", members, wire, QUICK).await.unwrap());
        let (plug, mut arrived) = mpsc::channel::<Incoming>(64);
        bus.0.lock().unwrap().insert(me, plug);
        let ear = Arc::downgrade(&gossip);
        tokio::spawn(async move {
            while let Some((from, bytes)) = arrived.recv().await {
                let Some(gossip) = ear.upgrade() else { return };
                gossip.hear(from, bytes);
            }
        });
        gossip
    }

    async fn until(gossip: &Gossip, what: &str, mut holds: impl FnMut(&BTreeMap<NodeId, Facts>) -> bool) -> Duration {
        let start = Instant::now();
        let mut facts = gossip.facts();
        let wait = facts.wait_for(|facts| holds(facts));
        let met = timeout(Duration::from_secs(5), wait).await.map(drop);
        assert!(met.is_ok(), "{what}: {:?}", *gossip.facts().borrow());
        start.elapsed()
    }

    fn says(facts: &BTreeMap<NodeId, Facts>, node: u64, key: &str) -> Option<String> {
        facts.get(&NodeId(node)).filter(|facts| facts.alive)?.values.get(key).cloned()
    }

    #[tokio::test]
    async fn three_nodes_hear_each_other_and_a_fact_taken_back_is_gone() {
        let bus = Arc::default();
        let nodes = [node(&bus, 1, 1).await, node(&bus, 2, 1).await, node(&bus, 3, 1).await];
        for (at, gossip) in nodes.iter().enumerate() {
            gossip.set_fact("rs/10.1.1.1:80", format!("up{}", at + 1));
        }
        for gossip in &nodes {
            let all = |facts: &BTreeMap<NodeId, Facts>| {
                (1..=3).all(|id| says(facts, id, "rs/10.1.1.1:80") == Some(format!("up{id}")))
            };
            println!("everybody's fact after {:?}", until(gossip, "three facts", all).await);
        }
        nodes[0].set_fact("rs/10.1.1.1:80", "down");
        until(&nodes[2], "the new value", |facts| says(facts, 1, "rs/10.1.1.1:80").as_deref() == Some("down")).await;
        nodes[0].remove_fact("rs/10.1.1.1:80");
        until(&nodes[1], "no value", |facts| says(facts, 1, "rs/10.1.1.1:80").is_none()).await;
    }

    #[tokio::test]
    async fn a_silent_node_is_seen_dead_and_its_next_incarnation_replaces_it() {
        let bus = Arc::default();
        let (one, two) = (node(&bus, 1, 1).await, node(&bus, 2, 1).await);
        two.set_fact("k", "old");
        until(&one, "the first life", |facts| says(facts, 2, "k").as_deref() == Some("old")).await;
        bus.0.lock().unwrap().remove(&NodeId(2));
        drop(two);
        let dead = until(&one, "the death", |facts| facts.get(&NodeId(2)).is_some_and(|facts| !facts.alive)).await;
        println!("seen dead after {dead:?} at an interval of {QUICK:?}");
        let two = node(&bus, 2, 2).await;
        two.set_fact("k", "new");
        until(&one, "the second life", |facts| {
            facts.get(&NodeId(2)).is_some_and(|facts| facts.incarnation == 2)
                && says(facts, 2, "k").as_deref() == Some("new")
        })
        .await;
    }

    #[tokio::test]
    async fn a_restart_before_the_death_was_noticed_replaces_too() {
        let bus = Arc::default();
        let (one, two) = (node(&bus, 1, 1).await, node(&bus, 2, 1).await);
        two.set_fact("k", "old");
        until(&one, "the first life", |facts| says(facts, 2, "k").is_some()).await;
        drop(two);
        let two = node(&bus, 2, 2).await;
        two.set_fact("k", "new");
        until(&one, "the second life", |facts| says(facts, 2, "k").as_deref() == Some("new")).await;
    }

    #[tokio::test]
    async fn whoever_is_no_member_is_not_shown_and_a_key_that_is_not_ascii_harms_nobody() {
        let bus = Arc::default();
        let (one, two) = (node(&bus, 1, 1).await, node(&bus, 2, 1).await);
        two.set_fact("über", "x");
        two.set_fact("k", "v");
        until(&one, "the good key", |facts| says(facts, 2, "k").is_some()).await;
        assert_eq!(says(&one.facts().borrow(), 2, "über"), None);
        one.set_members([NodeId(1), NodeId(3)].into());
        until(&one, "no longer shown", |facts| !facts.contains_key(&NodeId(2))).await;
    }

    #[tokio::test]
    async fn garbage_from_a_member_ends_nothing() {
        let bus = Arc::default();
        let (one, two) = (node(&bus, 1, 1).await, node(&bus, 2, 1).await);
        for garbage in [vec![], vec![0xff; 70_000], vec![0, 0, 1]] {
            one.hear(NodeId(2), garbage);
        }
        two.set_fact("k", "v");
        until(&one, "the fact", |facts| says(facts, 2, "k").is_some()).await;
    }
}
