//! The Raft group, as the rest of hamesh uses it.

use crate::codec::{self, DecodeError};
use crate::command::{Command, Leadership, NodeId, Outcome};
use crate::entry::{Noted, Position};
use crate::group::{self, Group, Herald, LogStore, Machine, OpenRaft, Proposal};
use crate::membership::Membership;
use crate::network::{self, MAX_COMMAND, Network};
use crate::state::State;
use crate::store::Store;
use futures_util::future::BoxFuture;
use openraft::alias::{LogIdOf, SerdeInstantOf};
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ChangeMembershipError, ClientWriteError, Fatal, ForwardReason, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, EmptyNode, Precondition, RaftMetrics, ServerState, TokioInstant};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Raft's clock. `heartbeat` < `election_min` < `election_max`, in whole milliseconds; a round trip between voters must
/// be well below `heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A leader is heard so often.
    pub heartbeat: Duration,
    /// A follower that has heard no leader for `election_max` waits for a random time between the two more and asks
    /// for votes.
    pub election_min: Duration,
    /// See `election_min`. For so long after it heard a leader, a follower gives no vote to another.
    pub election_max: Duration,
}

/// How a node calls another. The mesh implements it.
pub trait Peers: Send + Sync + 'static {
    /// Brings `request` to [`Raft::serve`] of `to` and its answer back. After `deadline` nobody waits any more.
    fn call(
        &self,
        to: NodeId,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreachable>>;
}

/// A node that could not be called, and why. It is called again after a short while, or at once after
/// [`Raft::peer_back`].
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Hears what happens to the log and the state of this node. One call at a time, in the order of the events; the log,
/// the state machine and the disk wait meanwhile, so it must be quick, and it must not call the group back.
pub trait Observer: Send + Sync + 'static {
    /// `entries` are in the log from here on; they are not yet on disk and not yet replicated or applied. At the start:
    /// all that are in the log and not applied.
    fn appended(&self, entries: &[Noted]);
    /// The entries from `from` on were taken back. None of them was ever committed.
    fn truncated(&self, from: u64);
    /// The log up to `index` is on this node's disk, as entries or in a snapshot. Entries may be applied before.
    fn flushed(&self, index: u64);
    /// The state has changed; whoever proposed the entries hears of it afterwards. Once at the start, with the state
    /// as it was restored. A snapshot from the leader can bring the state past entries that were never `appended`, and
    /// past such that were and are in it or are void: what counts is [`View::applied`].
    fn applied(&self, view: &View);
}

/// What this node knows of the cluster.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The state after `applied`.
    pub state: Arc<State>,
    /// The index of the last applied entry; 0 before the first too.
    pub applied: u64,
    /// The last applied membership.
    pub membership: Membership,
    /// The last membership in the log, whether committed or not: the one that quorums are counted with.
    pub effective: Membership,
}

/// How the group does, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The leader, as far as this node knows. It may be over.
    pub leader: Option<NodeId>,
    /// The greatest term this node has seen.
    pub term: u64,
    /// This node's leadership, once it has applied an entry of its own in it: from then on its state holds all that
    /// was committed before. It may be over without this node knowing: propose under it.
    pub leading: Option<Leadership>,
    /// While leading: when the last call that a quorum has answered was sent. `CLOCK_MONOTONIC`; no lease rests on it.
    pub quorum_heard: Option<Instant>,
    /// While leading: all other members.
    pub followers: BTreeMap<NodeId, Progress>,
    /// The index of the last entry in the log; 0 for none too.
    pub last_log: u64,
    /// Why the group does not run any more on this node. Nothing heals it but a restart of the process.
    pub fatal: Option<String>,
}

/// How far a follower or learner is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The index up to which its log is known to be the leader's; 0 for none too.
    pub matched: u64,
    /// When the last call that it answered was sent.
    pub heard: Option<Instant>,
}

/// A proposal that was committed and applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its index.
    pub index: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Why the group could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// [`Timing`] does not hold together.
    #[error("these timings do not work: {0}")]
    Timing(String),
    /// The store holds something that cannot be.
    #[error("Raft does not start: {0}")]
    Raft(String),
}

/// The group has stopped on this node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Raft has stopped here: {0}")]
pub struct Stopped(pub String);

/// Why the cluster was not founded.
#[derive(Debug, Error)]
pub enum FoundError {
    /// This node's log or vote is not empty.
    #[error("this node is part of a cluster already")]
    Founded,
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why there is no outcome of a proposal.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// Not proposed: another leads, or nobody, or the leadership named is over.
    #[error("{}", NotLeading(*.0))]
    NotLeader(Option<NodeId>),
    /// Not proposed: this node leads and has not heard from a quorum of late.
    #[error("no quorum answers")]
    Unavailable,
    /// Proposed, and the leadership was lost over it: it may be applied yet, or never.
    #[error("the leadership changed meanwhile; whether the entry counts is unknown")]
    Undecided,
    /// Not proposed: longer than [`MAX_COMMAND`].
    #[error("a command of {0} bytes is too long")]
    TooLong(usize),
    /// See [`Stopped`]. Whether it was proposed is unknown.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why the membership was not changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// As any proposal.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The membership is not the expected one any more, or a change of it is not committed yet.
    #[error("the membership is changing or has changed: {0}")]
    Changed(String),
    /// A voter must be a learner first, and there must be one voter.
    #[error("no such membership: {0}")]
    Impossible(String),
}

/// Why a request of another node was not answered.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Not a request of this version.
    #[error("a request that cannot be read: {0}")]
    Malformed(DecodeError),
    /// A request that no honest node sends.
    #[error("a request of {from} is refused: {reason}")]
    Refused {
        /// Who sent it.
        from: NodeId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// This node's part of the Raft group. Clones are the same one.
#[derive(Clone)]
pub struct Raft {
    me: NodeId,
    inner: OpenRaft,
    herald: Arc<Herald>,
    standing: watch::Receiver<Standing>,
    store: Store,
    runtime: Handle,
}

impl Raft {
    /// Starts from what `store` holds. The observer has heard the whole of that when this returns. A node whose store
    /// is empty waits, until [`found`](Self::found) is called or a leader calls it.
    ///
    /// # Errors
    /// When `timing` or the contents of the store make no sense.
    pub async fn start(
        me: NodeId,
        store: Store,
        timing: Timing,
        peers: Arc<dyn Peers>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let config = group::config(&timing).map_err(|error| StartError::Timing(error.to_string()))?;
        let herald = Arc::new(Herald::new(observer));
        let machine = Machine::restore(store.clone(), herald.clone());
        let log = LogStore::new(store.clone(), herald.clone());
        let inner = OpenRaft::new(me.0, Arc::new(config), Network { me, peers }, log, machine)
            .await
            .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
        let standing = follow(&inner);
        Ok(Self { me, inner, herald, standing, store, runtime: Handle::current() })
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Founds a cluster with this node as its one voter. For one node, once.
    ///
    /// # Errors
    /// When this node has a log or a vote.
    pub async fn found(&self) -> Result<(), FoundError> {
        let members = BTreeMap::from([(self.me.0, EmptyNode::new())]);
        self.inner.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(_) => FoundError::Founded,
            RaftError::Fatal(fatal) => FoundError::Stopped(fatal.into()),
        })
    }

    /// Proposes `command`; waits until it is committed and applied here. Only the leader can. It waits for as long as
    /// the leadership lasts, which without a quorum is until another begins: give up after a time of your own, and
    /// then, too, the entry may be applied yet.
    ///
    /// # Errors
    /// See [`ProposeError`]; after `Undecided` and `Stopped` the entry may count.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.write(command, None).await
    }

    /// Proposes `command` if this node still leads under `leadership`, so that whoever applies it finds it written by
    /// that one and no later.
    ///
    /// # Errors
    /// As [`propose`](Self::propose); `NotLeader` if that leadership is over.
    pub async fn propose_under(&self, leadership: Leadership, command: Command) -> Result<Applied, ProposeError> {
        self.write(command, Some(leadership)).await
    }

    async fn write(&self, command: Command, under: Option<Leadership>) -> Result<Applied, ProposeError> {
        let length = codec::encode(&command).len();
        if length > MAX_COMMAND {
            return Err(ProposeError::TooLong(length));
        }
        let (responder, answer) = ProgressResponder::<Group, ClientWriteResult<Group>>::complete_only();
        let mut request = self.inner.write(Proposal(Arc::new(command))).responder(responder);
        if let Some(leadership) = under {
            request = request.with_leader(group::leader_id(leadership));
        }
        request.await.map_err(Stopped::from)?;
        let answer = answer.await.map_err(|_| Stopped("it ended before the answer".into()))?;
        let written = answer.map_err(write_error)?;
        Ok(Applied { index: written.log_id.index, outcome: written.data.0 })
    }

    /// Answers a [`Peers::call`] of `from`, of whose name the mesh has proof.
    ///
    /// # Errors
    /// When the request is not one that `from` may send, or Raft has stopped here. The caller hears nothing then.
    pub async fn serve(&self, from: NodeId, request: Vec<u8>) -> Result<Vec<u8>, ServeError> {
        network::serve(&self.inner, from, &request).await
    }

    /// Makes `node` a learner; returns when that is committed. How far it then is, [`Standing::followers`] says.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<Applied, ChangeError> {
        let written = self.inner.add_learner(node.0, EmptyNode::new(), false).await.map_err(change_error)?;
        Ok(Applied { index: written.log_id.index, outcome: written.data.0 })
    }

    /// Makes exactly `voters` vote, in one change by way of a joint membership; returns when that is committed. They
    /// must be members; who votes no more is a learner. Goes on when the caller stops waiting. A change that a lost
    /// leader left half-way, in a joint membership, is finished by the same call with its second half.
    ///
    /// # Errors
    /// `Changed` unless `expect` is the last membership in the log. A change that fails later, with the leadership,
    /// may stand half-way: in a joint membership that the next leader has to go on from.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>, expect: &Membership) -> Result<Applied, ChangeError> {
        let members = ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|node| node.0).collect());
        self.change(members, true, expect).await
    }

    /// Takes `node`, a learner, out of the group. Its id is never to be used again.
    ///
    /// # Errors
    /// As [`change_voters`](Self::change_voters).
    pub async fn remove_learner(&self, node: NodeId, expect: &Membership) -> Result<Applied, ChangeError> {
        if expect.is_voter(node) {
            return Err(ChangeError::Impossible(format!("{node} votes")));
        }
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node.0])), false, expect).await
    }

    async fn change(
        &self,
        members: ChangeMembers<u64, EmptyNode>,
        retain: bool,
        expect: &Membership,
    ) -> Result<Applied, ChangeError> {
        let expected = Position { by: expect.by, index: expect.index };
        let last: Option<LogIdOf<Group>> = (*expect != Membership::default()).then(|| group::log_id(expected));
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: last };
        let raft = self.inner.clone();
        // A task of its own: who gives up waiting must not leave the change half-way.
        let change = self.runtime.spawn(async move { raft.change_membership_if(members, retain, [unchanged]).await });
        let ended = |_| ChangeError::Propose(Stopped("the runtime ends".into()).into());
        let written = change.await.map_err(ended)?.map_err(change_error)?;
        Ok(Applied { index: written.log_id.index, outcome: written.data.0 })
    }

    /// Asks `to`, a voter, to lead in this leader's place; without effect if this node does not lead. Whether it came
    /// to that, [`standing`](Self::standing) shows. Until it does or the attempt times out, proposals are refused.
    ///
    /// # Errors
    /// When Raft has stopped here.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), Stopped> {
        Ok(self.inner.trigger().transfer_leader(to.0).await?)
    }

    #[cfg(test)]
    pub(crate) fn openraft(&self) -> &OpenRaft {
        &self.inner
    }

    /// What this node knows of the cluster, now and from now on.
    pub fn view(&self) -> watch::Receiver<View> {
        self.herald.views()
    }

    /// How the group does, now and from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// `node` can be reached again: what waits to call it again does so at once.
    pub fn peer_back(&self, node: NodeId) {
        let raft = self.inner.clone();
        // Only a stopped group refuses, and that one calls nobody.
        self.runtime.spawn(async move { raft.trigger().reset_backoff([node.0]).await.is_ok() });
    }

    /// Ends this node's part: leads, votes and answers no more, and closes the store. Does not hand anything over.
    pub async fn stop(&self) {
        if let Err(error) = self.inner.shutdown().await {
            tracing::error!("Raft ended badly: {error}");
        }
        self.store.close().await;
    }
}

impl fmt::Debug for Raft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Keeps a [`Standing`] up to date for as long as the group runs.
fn follow(raft: &OpenRaft) -> watch::Receiver<Standing> {
    let clock = Clock { theirs: <TokioInstant as openraft::Instant>::now(), ours: Instant::now() };
    let mut metrics = raft.metrics();
    // Cloned at once: openraft waits while its metrics are borrowed.
    let first = metrics.borrow_watched().clone();
    let (sender, receiver) = watch::channel(standing(&first, &clock));
    tokio::spawn(async move {
        let mut runs = true;
        while runs {
            runs = metrics.changed().await.is_ok();
            let current = metrics.borrow_watched().clone();
            let mut standing = standing(&current, &clock);
            if !runs && standing.fatal.is_none() {
                standing.fatal = Some("it has ended".into());
            }
            if standing.fatal.is_some() {
                (standing.leader, standing.leading) = (None, None);
            }
            sender.send_if_modified(|before| {
                let news = *before != standing;
                *before = standing;
                news
            });
        }
        // Whoever waits for news waits on: that Raft has stopped is the last of it.
        sender.closed().await;
    });
    receiver
}

/// One moment on openraft's clock and on std's, which are the same clock in different types.
struct Clock {
    theirs: TokioInstant,
    ours: Instant,
}

fn standing(metrics: &RaftMetrics<Group>, clock: &Clock) -> Standing {
    let leads = metrics.state == ServerState::Leader && metrics.vote.committed;
    let own = group::leadership(&metrics.vote.leader_id);
    let applied_by = metrics.last_applied.as_ref().map(|last| group::position(last).by);
    let instant = |at: SerdeInstantOf<Group>| clock.ours + (at.into_inner() - clock.theirs);
    let followers = metrics.replication.iter().flatten().map(|(node, matched)| {
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(node).copied().flatten());
        let matched = matched.as_ref().map_or(0, |matched| matched.index);
        (NodeId(*node), Progress { matched, heard: heard.map(instant) })
    });
    Standing {
        leader: metrics.current_leader.map(NodeId),
        term: metrics.current_term,
        leading: (leads && applied_by == Some(own)).then_some(own),
        quorum_heard: metrics.last_quorum_acked.map(instant),
        followers: followers.filter(|(node, _)| node.0 != metrics.id).collect(),
        last_log: metrics.last_log_index.unwrap_or(0),
        fatal: metrics.running_state.as_ref().err().map(ToString::to_string),
    }
}

fn write_error(error: ClientWriteError<Group>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { reason: ForwardReason::LeaseExpired, .. }) => {
            ProposeError::Unavailable
        }
        ClientWriteError::ForwardToLeader(to) => ProposeError::NotLeader(to.leader_id.map(NodeId)),
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Undecided,
        // Of a change of members only.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => ProposeError::Undecided,
    }
}

fn change_error(error: RaftError<Group, ClientWriteError<Group>>) -> ChangeError {
    match error {
        RaftError::Fatal(fatal) => ChangeError::Propose(Stopped::from(fatal).into()),
        RaftError::APIError(ClientWriteError::PreconditionFailed(failed)) => ChangeError::Changed(failed.to_string()),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(refused)) => match refused {
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                ChangeError::Changed(refused.to_string())
            }
            ChangeMembershipError::EmptyMembership(_)
            | ChangeMembershipError::LearnerNotFound(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_) => ChangeError::Impossible(refused.to_string()),
        },
        RaftError::APIError(
            other @ (ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_)),
        ) => ChangeError::Propose(write_error(other)),
    }
}

impl From<Fatal<Group>> for Stopped {
    fn from(fatal: Fatal<Group>) -> Self {
        Self(fatal.to_string())
    }
}

impl From<Fatal<Group>> for ServeError {
    fn from(fatal: Fatal<Group>) -> Self {
        Self::Stopped(fatal.into())
    }
}

impl From<RaftError<Group>> for ServeError {
    fn from(error: RaftError<Group>) -> Self {
        Self::Stopped(Stopped(error.to_string()))
    }
}

struct NotLeading(Option<NodeId>);

impl fmt::Display for NotLeading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(leader) => write!(f, "not under this node's leadership; {leader} leads"),
            None => f.write_str("not under this node's leadership; nobody is known to lead"),
        }
    }
}
