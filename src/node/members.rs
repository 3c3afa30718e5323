//! Members come and go: registration, learners, voters, the CA's key, and where leadership should be.

use super::core::{Core, lock};
use super::requests::{Reply, Request};
use crate::net::identity;
use hamesh_raft::command::{Command, NodeId, Outcome, Role};
use hamesh_raft::voters;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The leader looks at the members this often.
const LOOK: Duration = Duration::from_millis(500);
/// A node this many entries behind is caught up: the rest is on its way.
const CAUGHT_UP: u64 = 100;
/// A voter unreachable for this long is replaced when another node is ready.
const GONE: Duration = Duration::from_secs(30);
/// Leadership is moved at most this often.
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);
/// How long a node may be behind its own registration, whose answer was lost.
const CATCH_UP: Duration = Duration::from_secs(5);
/// A change of members may take this long.
const CHANGE: Duration = Duration::from_secs(5);

/// Registers this start, and waits until that is applied.
///
/// # Errors
/// The cluster refused: the disk is an old copy, or the node was never admitted.
pub(crate) async fn register(core: &Core) -> Result<(), String> {
    let config = core.config();
    let node = &config.node;
    let mut unsure = false;
    loop {
        let command = Command::Register {
            node: core.me,
            incarnation: core.incarnation,
            rack: node.rack.clone(),
            address: node.listen,
        };
        if core.state().members.get(&core.me).is_some_and(|member| member.incarnation == core.incarnation) {
            return Ok(());
        }
        match core.propose(command, Duration::from_secs(1)).await {
            Ok(Outcome::Refused(why)) => {
                // An earlier attempt of this same start may have been applied, and not be known here yet.
                let is_this = |m: &hamesh_raft::state::Member| m.incarnation == core.incarnation;
                let mut view = core.raft.view();
                let known = view.wait_for(|view| view.state.members.get(&core.me).is_some_and(is_this));
                let patience = if unsure { CATCH_UP } else { Duration::ZERO };
                return if matches!(timeout(patience, known).await, Ok(Ok(_))) { Ok(()) } else { Err(why) };
            }
            Ok(Outcome::Done | Outcome::Joined(_) | Outcome::Opened(_)) => return Ok(()),
            Err(trouble) => {
                unsure = true;
                tracing::debug!(%trouble, "not registered yet");
            }
        }
    }
}

/// Wakes Raft when a node is back, so that nobody waits out a backoff.
pub(crate) async fn welcome_back(core: Arc<Core>) {
    let mut reach = core.mesh.reachable();
    let mut up = BTreeSet::new();
    while reach.changed().await.is_ok() {
        let now: BTreeSet<NodeId> =
            reach.borrow_and_update().iter().filter(|(_, reach)| reach.is_up()).map(|(node, _)| *node).collect();
        for node in now.difference(&up) {
            core.raft.peer_back(*node);
        }
        up = now;
    }
}

/// The leader's housekeeping, and every voter's care for the CA's key.
pub(crate) async fn keep(core: Arc<Core>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut transferred = Instant::now();
    loop {
        ticks.tick().await;
        fetch_authority(&core).await;
        let standing = core.raft.standing().borrow().clone();
        if standing.leading.is_none() {
            away.clear();
            transferred = Instant::now();
            continue;
        }
        let view = core.raft.view().borrow().clone();
        let heard = |node: &NodeId| {
            let progress = standing.followers.get(node);
            progress.and_then(|p| p.heard).is_some_and(|at| at.elapsed() < LOOK * 2)
        };
        for node in view.state.members.keys().filter(|node| **node != core.me) {
            if heard(node) {
                away.remove(node);
            } else {
                away.entry(*node).or_insert_with(Instant::now);
            }
        }
        let ready: BTreeSet<NodeId> = standing
            .followers
            .iter()
            .filter(|(node, p)| heard(node) && p.matched + CAUGHT_UP >= standing.last_log)
            .map(|(node, _)| *node)
            .chain([core.me])
            .filter(|node| view.state.members.contains_key(node))
            .collect();
        let gone = away.iter().filter(|(_, since)| since.elapsed() >= GONE).map(|(node, _)| *node).collect();
        let members = view.effective.members();
        if let Some(newcomer) = view.state.members.keys().find(|node| !members.contains(node)) {
            tracing::info!(node = %newcomer, "adding as learner");
            report("add a learner", timeout(CHANGE, core.raft.add_learner(*newcomer)).await);
        } else if let [_, wanted] = view.effective.halves.as_slice() {
            // A leader that was lost half-way left this.
            tracing::info!(to = ?wanted, "finishing a change of voters");
            report("change voters", timeout(CHANGE, core.raft.change_voters(wanted.clone(), &view.effective)).await);
        } else if let [half] = view.effective.halves.as_slice()
            && let Some(next) = voters::next(&view.state, half, &ready, &gone, core.me)
            && lock(&core.grantor).may_change_voters()
        {
            tracing::info!(from = ?half, to = ?next, "changing voters");
            report("change voters", timeout(CHANGE, core.raft.change_voters(next, &view.effective)).await);
        } else if let [_] = view.effective.halves.as_slice()
            && let Some(removed) = view.effective.learners.iter().find(|node| !view.state.members.contains_key(node))
        {
            tracing::info!(node = %removed, "taking a removed node out of the group");
            report("take a node out", timeout(CHANGE, core.raft.remove_learner(*removed, &view.effective)).await);
        } else if transferred.elapsed() >= TRANSFER_PAUSE
            && let Some(better) = better_leader(&core, &ready)
        {
            transferred = Instant::now();
            tracing::info!(to = %better, "handing leadership over");
            report("hand leadership over", timeout(CHANGE, core.raft.transfer_leadership(better)).await);
        }
    }
}

/// A ready voter that had better lead: one that is not drained, a witness, else one with fewer leases, so that no
/// machine's loss costs both.
fn better_leader(core: &Core, ready: &BTreeSet<NodeId>) -> Option<NodeId> {
    let view = core.raft.view().borrow().clone();
    let burden = |node: &NodeId| {
        let member = view.state.members.get(node);
        let witness = member.is_some_and(|member| member.role == Role::Witness);
        let drained = member.is_some_and(|member| member.drained);
        let leases = view.state.groups.keys().filter(|group| view.state.holder_node(group) == Some(*node));
        (drained, !witness, leases.count())
    };
    let voters = view.membership.voters();
    let best = voters.intersection(ready).min_by_key(|node| (burden(node), **node)).copied()?;
    (burden(&best) < burden(&core.me)).then_some(best)
}

/// A voter without the CA's key asks the others for it: losing the founder must not close the door.
async fn fetch_authority(core: &Core) {
    let view = core.raft.view().borrow().clone();
    if lock(&core.authority).is_some() || !view.membership.is_voter(core.me) {
        return;
    }
    for node in view.membership.voters().into_iter().filter(|node| *node != core.me) {
        let Ok(Reply::AuthorityKey(pem)) = core.ask(node, &Request::AuthorityKey, LOOK).await else { continue };
        match identity::install_authority(&core.config().node.data_dir, &core.identity, &pem) {
            Ok(authority) => {
                tracing::info!(from = %node, "this voter has the CA's key now");
                *lock(&core.authority) = Some(Arc::new(authority));
                return;
            }
            Err(error) => tracing::error!(%error, "the CA's key was not kept"),
        }
    }
}

fn report<T, E: std::fmt::Display>(what: &str, result: Result<Result<T, E>, tokio::time::error::Elapsed>) {
    match result {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "could not {what}; trying again"),
        Err(_) => tracing::warn!("could not {what} in time; trying again"),
    }
}

/// A leader that stops hands leadership over first, so that nobody waits for an election.
pub(crate) async fn leave_leadership(core: &Core) {
    let standing = core.raft.standing().borrow().clone();
    if standing.leading.is_none() {
        return;
    }
    let voters = core.raft.view().borrow().membership.voters();
    let heard =
        |node: &NodeId| standing.followers.get(node).and_then(|p| p.heard).is_some_and(|at| at.elapsed() < LOOK);
    if let Some(next) = voters.iter().find(|node| **node != core.me && heard(node)) {
        report("hand leadership over", timeout(LOOK, core.raft.transfer_leadership(*next)).await);
        let mut standing = core.raft.standing();
        let over = standing.wait_for(|standing| standing.leading.is_none());
        report("see the next leader", timeout(LOOK, async { over.await.map(|_| ()) }).await);
    }
}
