//! Who the members are, as far as this node can know.
//!
//! A node that has just joined, or was away, has an old state, and gets the later ones from the leader. Where that old state does
//! not know the leader, the node would refuse it for ever. So the list from the join answer stands until the state has come to
//! this node's own admission; and when somebody unknown knocks, the members that are known are asked for a later list.

use super::core::Core;
use super::requests::{Reply, Request};
use super::service::peers;
use crate::net::hello::{HelloRefusal, Peer};
use hamesh_raft::View;
use hamesh_raft::command::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks at who was refused, and the time for one answer.
const LOOK: Duration = Duration::from_millis(500);

/// The members of one state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Roster {
    /// The index that this state had applied; 0 for the join answer's.
    applied: u64,
    members: BTreeMap<NodeId, Peer>,
}

impl Roster {
    fn of(view: &View) -> Self {
        Self { applied: view.applied, members: peers(&view.state) }
    }

    /// Of what this node `me` has applied itself and what it was told, the one to go by.
    fn choose<'a>(me: NodeId, own: &'a Self, told: &'a Self) -> &'a Self {
        if own.applied >= told.applied && own.members.contains_key(&me) { own } else { told }
    }
}

/// Tells the mesh and gossip who the members are, whenever that changes. `first` is what the join answer listed.
pub(crate) async fn introduce(core: Arc<Core>, first: BTreeMap<NodeId, Peer>) {
    let mut view = core.raft.view();
    let mut told = Roster { applied: 0, members: first };
    let mut introduced = BTreeMap::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let own = Roster::of(&view.borrow_and_update());
        let members = &Roster::choose(core.me, &own, &told).members;
        if *members != introduced && !members.is_empty() {
            core.mesh.set_members(members.clone());
            core.gossip.set_members(members.keys().copied().collect());
            introduced.clone_from(members);
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            _ = looks.tick() => {
                let unknown = |refusal: &HelloRefusal| matches!(refusal, HelloRefusal::Unknown(node) if !introduced.contains_key(node));
                if core.mesh.refused().values().any(unknown)
                    && let Some(later) = ask(&core, own.applied.max(told.applied)).await
                {
                    tracing::info!(members = later.members.len(), "told of members that came while this node was away");
                    told = later;
                }
            }
        }
    }
}

/// The first list that is later than `applied`.
async fn ask(core: &Core, applied: u64) -> Option<Roster> {
    let reached: Vec<NodeId> = core
        .mesh
        .reachable()
        .borrow()
        .iter()
        .filter(|(_, reach)| reach.outgoing.is_some())
        .map(|(node, _)| *node)
        .collect();
    for node in reached {
        if let Ok(Reply::Members(at, members)) = core.ask(node, &Request::Members, LOOK).await
            && at > applied
        {
            return Some(Roster { applied: at, members });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn roster(applied: u64, nodes: &[u64]) -> Roster {
        let peer = Peer { address: SocketAddr::from(([10, 0, 0, 1], 7112)), key: [0; 32], incarnation: 1 };
        Roster { applied, members: nodes.iter().map(|node| (NodeId(*node), peer)).collect() }
    }

    #[test]
    fn a_joiner_goes_by_the_join_answer_until_its_state_has_admitted_it() {
        let first = roster(0, &[1, 2, 3, 4]);
        for (own, wanted) in [
            (roster(0, &[]), &first),
            // Only the founder: whoever leads now would be refused.
            (roster(2, &[1]), &first),
            (roster(20, &[1, 2, 3]), &first),
        ] {
            assert_eq!(Roster::choose(NodeId(4), &own, &first), wanted);
        }
        let own = roster(21, &[1, 2, 4]);
        assert_eq!(Roster::choose(NodeId(4), &own, &first), &own);
    }

    #[test]
    fn a_later_list_counts_until_the_state_has_come_as_far() {
        let told = roster(50, &[1, 2, 3, 4, 5]);
        assert_eq!(Roster::choose(NodeId(2), &roster(30, &[1, 2]), &told), &told);
        let own = roster(50, &[2, 3, 4, 5]);
        assert_eq!(Roster::choose(NodeId(2), &own, &told), &own);
    }
}
