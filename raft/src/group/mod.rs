//! openraft, tied to our store, our state and our words.

mod herald;
mod log;
mod machine;

pub(crate) use herald::Herald;
pub(crate) use log::LogStore;
pub(crate) use machine::Machine;

use crate::command::{Command, Leadership, NodeId, Outcome};
use crate::entry::{Ballot, Noted, Position, What};
use crate::membership::Membership;
use crate::raft::Timing;
use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::{Config, ConfigError, EmptyNode, EntryPayload, SnapshotPolicy};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

openraft::declare_raft_types!(
    /// openraft, with our types in it. Its leader id is (term, node): two nodes may lead in one term.
    pub(crate) Group:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = EmptyNode,
);

/// The group that runs.
pub(crate) type OpenRaft = openraft::Raft<Group, Machine>;
/// openraft's name of one leadership.
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<Group>;

/// A command on its way into the log. Shared: replication, log and observer hold the same one.
#[derive(Clone, Debug)]
pub(crate) struct Proposal(pub(crate) Arc<Command>);

/// What became of an entry.
#[derive(Clone, Debug)]
pub(crate) struct Reply(pub(crate) Outcome);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A snapshot is taken after so many entries.
const SNAPSHOT_EVERY: u64 = 1000;
/// And so many entries before it stay, for followers that are a little behind.
const KEEP_BEHIND_SNAPSHOT: u64 = 500;
/// A follower so far behind gets the snapshot and not the entries.
const LAG_FOR_SNAPSHOT: u64 = 3 * SNAPSHOT_EVERY;
/// For a whole snapshot, over a slow line.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(10);

/// openraft's configuration.
pub(crate) fn config(timing: &Timing) -> Result<Config, ConfigError> {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let election_max = ms(timing.election_max);
    Config {
        cluster_name: "hamesh".into(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: election_max,
        install_snapshot_timeout: ms(SNAPSHOT_DEADLINE),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        replication_lag_threshold: LAG_FOR_SNAPSHOT,
        // A node that was cut off comes back without disturbing anybody.
        enable_pre_vote: Some(true),
        // Timers of a leadership die with the process: a restarted leader must be elected again, under a new name.
        enable_leader_restore: Some(false),
        // A leader that hears no quorum falls silent in turns, so that those who hear each other can elect another.
        quorum_loss_probe_interval: Some(2 * election_max),
        // A lost node costs a failed call, a late retry costs an election: short, and reset when a connection is back.
        backoff: "20ms 20ms 20ms 40ms ..100ms".into(),
        ..Config::default()
    }
    .validate()
}

pub(crate) fn leader_id(by: Leadership) -> LeaderId {
    LeaderId { term: by.term, node_id: by.node.0 }
}

pub(crate) fn leadership(id: &LeaderId) -> Leadership {
    Leadership { term: id.term, node: NodeId(id.node_id) }
}

pub(crate) fn log_id(position: Position) -> LogIdOf<Group> {
    LogIdOf::<Group>::new(leader_id(position.by), position.index)
}

pub(crate) fn position(id: &LogIdOf<Group>) -> Position {
    Position { by: leadership(id.committed_leader_id()), index: id.index }
}

pub(crate) fn vote(ballot: Ballot) -> VoteOf<Group> {
    VoteOf::<Group> { leader_id: leader_id(ballot.by), committed: ballot.won }
}

pub(crate) fn ballot(vote: &VoteOf<Group>) -> Ballot {
    Ballot { by: leadership(&vote.leader_id), won: vote.committed }
}

pub(crate) fn entry(noted: Noted) -> EntryOf<Group> {
    let payload = match noted.what {
        What::Blank => EntryPayload::Blank,
        What::Command(command) => EntryPayload::Normal(Proposal(command)),
        What::Membership(membership) => EntryPayload::Membership(to_openraft(&membership)),
    };
    EntryOf::<Group> { log_id: log_id(Position { by: noted.by, index: noted.index }), payload }
}

pub(crate) fn noted(entry: EntryOf<Group>) -> Noted {
    let at = position(&entry.log_id);
    let what = match entry.payload {
        EntryPayload::Blank => What::Blank,
        EntryPayload::Normal(proposal) => What::Command(proposal.0),
        EntryPayload::Membership(membership) => What::Membership(from_openraft(Some(at), &membership)),
    };
    Noted { index: at.index, by: at.by, what }
}

/// `None` is the membership before the first: nobody's, written by nobody.
pub(crate) fn membership(stored: &StoredMembershipOf<Group>) -> Membership {
    from_openraft(stored.log_id().as_ref().map(position), stored.membership())
}

pub(crate) fn stored(membership: &Membership) -> StoredMembershipOf<Group> {
    let at = Position { by: membership.by, index: membership.index };
    let log_id = (*membership != Membership::default()).then(|| log_id(at));
    StoredMembershipOf::<Group>::new(log_id, to_openraft(membership))
}

fn from_openraft(at: Option<Position>, members: &openraft::Membership<u64, EmptyNode>) -> Membership {
    let (by, index) = at.map_or((Leadership::default(), 0), |at| (at.by, at.index));
    Membership {
        by,
        index,
        halves: members.get_joint_config().iter().map(|half| half.iter().copied().map(NodeId).collect()).collect(),
        learners: members.learner_ids().map(NodeId).collect(),
    }
}

fn to_openraft(membership: &Membership) -> openraft::Membership<u64, EmptyNode> {
    let halves = membership.halves.iter().map(|half| half.iter().map(|node| node.0).collect()).collect();
    openraft::Membership::new_with_defaults(halves, membership.learners.iter().map(|node| node.0))
}
