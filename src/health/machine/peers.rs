//! What the other directors find, as gossip brings it.

use super::{BEAT, Health};
use crate::health::verdict::Opinions;
use hamesh_gossip::observation::{self, Observation, TargetId};
use hamesh_raft::command::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Observations of a director whose beat has not changed for this long count no more.
const EXPIRY: Duration = Duration::from_secs(16);

/// Another director.
#[derive(Debug)]
pub(super) struct Peer {
    /// As they were heard last.
    facts: Arc<BTreeMap<String, String>>,
    beaten: Duration,
    found: BTreeMap<TargetId, Observation>,
}

impl Peer {
    /// Whether nothing that it says counts.
    pub(super) fn is_silent(&self) -> bool {
        self.found.is_empty()
    }
}

impl Health {
    /// The facts of every living node. Whether that changes what is thought of a target.
    pub(super) fn hear(&mut self, now: Duration, facts: &BTreeMap<NodeId, Arc<BTreeMap<String, String>>>) -> bool {
        let gone = |node: &NodeId| !facts.get(node).is_some_and(|facts| facts.contains_key(BEAT));
        let left: Vec<NodeId> = self.peers.keys().copied().filter(gone).collect();
        let mut changed = !left.is_empty();
        for node in left {
            if let Some(peer) = self.peers.remove(&node) {
                self.tally(node, &peer.found, false);
            }
        }
        let me = self.me;
        for (node, facts) in facts.iter().filter(|(node, _)| **node != me) {
            let Some(beat) = facts.get(BEAT) else { continue };
            if self.peers.get(node).is_some_and(|peer| peer.facts == *facts) {
                continue;
            }
            let before = self.peers.remove(node);
            let (same, beaten, old) = match before {
                Some(peer) => (peer.facts.get(BEAT) == Some(beat), peer.beaten, Some(peer.found)),
                None => (false, now, None),
            };
            // One that had expired counts again only with a new beat.
            let expired = same && now >= beaten + EXPIRY;
            let found = if expired { BTreeMap::new() } else { observation::decode(facts) };
            if old.as_ref() != Some(&found) {
                self.tally(*node, &old.unwrap_or_default(), false);
                self.tally(*node, &found, true);
                changed = true;
            }
            let beaten = if same { beaten } else { now };
            self.peers.insert(*node, Peer { facts: facts.clone(), beaten, found });
        }
        changed
    }

    /// Counts what another director finds, or takes it out of the count.
    fn tally(&mut self, node: NodeId, found: &BTreeMap<TargetId, Observation>, more: bool) {
        for (id, observation) in found {
            if let Some(watched) = self.targets.get_mut(id) {
                watched.others.count(node, *observation, more);
            }
        }
    }

    /// Takes out the observations that have expired.
    pub(super) fn forget(&mut self, now: Duration) -> bool {
        let expired = self.peers.iter_mut().filter(|(_, peer)| now >= peer.beaten + EXPIRY && !peer.is_silent());
        let expired: Vec<_> = expired.map(|(node, peer)| (*node, std::mem::take(&mut peer.found))).collect();
        expired.iter().for_each(|(node, found)| self.tally(*node, found, false));
        !expired.is_empty()
    }

    /// What other directors find of a target. Nobody says what is true for itself alone.
    pub(super) fn others(&self, id: TargetId) -> impl Iterator<Item = (NodeId, Observation)> {
        self.peers.iter().filter_map(move |(node, peer)| Some((*node, *peer.found.get(&id)?)))
    }

    /// Why each of the others says that targets are down.
    pub(super) fn reasons(&self) -> BTreeMap<NodeId, BTreeMap<TargetId, &str>> {
        let fresh = self.peers.iter().filter(|(_, peer)| !peer.is_silent());
        fresh.map(|(node, peer)| (*node, observation::decode_reasons(&peer.facts))).collect()
    }
}

/// What other directors find of a target, counted.
pub(super) fn opinions(peers: &BTreeMap<NodeId, Peer>, id: TargetId) -> Opinions {
    let mut opinions = Opinions::default();
    for (node, peer) in peers {
        peer.found.get(&id).into_iter().for_each(|found| opinions.count(*node, *found, true));
    }
    opinions
}
