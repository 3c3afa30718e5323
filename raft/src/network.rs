//! Raft's calls between nodes: how they look on the wire, how they are made and how they are answered.

use crate::codec::{self, DecodeError};
use crate::command::NodeId;
use crate::entry::{Ballot, Noted, Position, Snapshot, What};
use crate::group::{self, Group, OpenRaft};
use crate::membership::Membership;
use crate::raft::{Peers, ServeError};
use crate::state::State;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;

/// The longest command that may be proposed, in bytes as encoded. The longest real ones list the grants of a session.
pub const MAX_COMMAND: usize = 64 << 10;

/// The longest request or answer between two nodes, in bytes: a snapshot, or 300 of the longest commands.
pub const MAX_MESSAGE: usize = 64 << 20;

/// What a node asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Request {
    Append { leader: Ballot, after: Option<Position>, entries: Vec<Noted>, committed: Option<Position> },
    Vote { candidate: Ballot, last: Option<Position>, transfer: bool },
    PreVote { candidate: Ballot, last: Option<Position>, transfer: bool },
    Snapshot { leader: Ballot, snapshot: Snapshot },
    Transfer { leader: Ballot, to: NodeId, last: Option<Position> },
}

/// And hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Append(Appended),
    Vote { ballot: Ballot, granted: bool, last: Option<Position> },
    Snapshot { ballot: Ballot },
    Transfer(Transferred),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Appended {
    All,
    UpTo(Option<Position>),
    Conflict,
    Later(Ballot),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Transferred {
    Done,
    VoteChanged { expected: Ballot, actual: Ballot },
    NotFlushed { expected: Option<Position>, actual: Option<Position> },
}

impl Request {
    /// In whose name it is asked.
    fn by(&self) -> Ballot {
        match self {
            Self::Append { leader: by, .. }
            | Self::Vote { candidate: by, .. }
            | Self::PreVote { candidate: by, .. }
            | Self::Snapshot { leader: by, .. }
            | Self::Transfer { leader: by, .. } => *by,
        }
    }

    /// What openraft takes for granted of a request and would panic or go wrong on.
    fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Append { leader, after, entries, .. } => {
                let mut next = after.map_or(0, |after| after.index.saturating_add(1));
                let mut at = after.map(|after| after.by);
                for entry in entries {
                    if entry.index != next {
                        return Some("entries that do not follow each other");
                    }
                    if at.is_some_and(|at| entry.by < at) || entry.by > leader.by {
                        return Some("an entry of a leadership that was not yet or no more");
                    }
                    if let What::Membership(membership) = &entry.what
                        && !(sound(membership) && (membership.by, membership.index) == (entry.by, entry.index))
                    {
                        return Some("a membership that cannot be, or of another entry");
                    }
                    next = next.saturating_add(1);
                    at = Some(entry.by);
                }
                (!leader.won).then_some("an append by who has not won")
            }
            Self::Snapshot { leader, snapshot } => {
                let beyond = snapshot.last.is_none_or(|last| last.by > leader.by);
                let fault = !leader.won || beyond || !sound(&snapshot.membership);
                fault.then_some("a snapshot by who has not won, beyond its leadership, or for nobody")
            }
            Self::Transfer { leader, .. } => (!leader.won).then_some("a transfer by who has not won"),
            Self::Vote { candidate, .. } | Self::PreVote { candidate, .. } => {
                candidate.won.then_some("a request for a vote that is won already")
            }
        }
    }
}

/// Whether somebody votes, in every half.
fn sound(membership: &Membership) -> bool {
    (1..=2).contains(&membership.halves.len()) && membership.halves.iter().all(|half| !half.is_empty())
}

/// Answers a request of `from`, whose name the mesh has proved.
pub(crate) async fn serve(raft: &OpenRaft, from: NodeId, request: &[u8]) -> Result<Vec<u8>, ServeError> {
    let request: Request = codec::decode(request, MAX_MESSAGE).map_err(ServeError::Malformed)?;
    if request.by().by.node != from {
        return Err(ServeError::Refused { from, reason: "it speaks in the name of another node" });
    }
    if let Some(reason) = request.fault() {
        return Err(ServeError::Refused { from, reason });
    }
    let answer = match request {
        Request::Append { leader, after, entries, committed } => {
            let rpc = AppendEntriesRequest {
                vote: group::vote(leader),
                prev_log_id: after.map(group::log_id),
                entries: entries.into_iter().map(group::entry).collect(),
                leader_commit: committed.map(group::log_id),
            };
            Answer::Append(match raft.append_entries(rpc).await? {
                AppendEntriesResponse::Success => Appended::All,
                AppendEntriesResponse::PartialSuccess(upto) => Appended::UpTo(upto.as_ref().map(group::position)),
                AppendEntriesResponse::Conflict => Appended::Conflict,
                AppendEntriesResponse::HigherVote(vote) => Appended::Later(group::ballot(&vote)),
            })
        }
        Request::Vote { candidate, last, transfer } => {
            voted(&raft.vote(vote_request(candidate, last, transfer)).await?)
        }
        Request::PreVote { candidate, last, transfer } => {
            voted(&raft.pre_vote(vote_request(candidate, last, transfer)).await?)
        }
        Request::Snapshot { leader, snapshot } => {
            let meta = SnapshotMetaOf::<Group> {
                last_log_id: snapshot.last.map(group::log_id),
                last_membership: group::stored(&snapshot.membership),
            };
            let snapshot = SnapshotOf::<Group, _> { meta, snapshot: snapshot.state };
            let response = raft.install_full_snapshot(group::vote(leader), snapshot).await?;
            Answer::Snapshot { ballot: group::ballot(&response.vote) }
        }
        Request::Transfer { leader, to, last } => {
            let request = TransferLeaderRequest::new(group::vote(leader), to.0, last.map(group::log_id));
            Answer::Transfer(match raft.handle_transfer_leader(request).await? {
                Ok(()) => Transferred::Done,
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    Transferred::VoteChanged { expected: group::ballot(&expected), actual: group::ballot(&actual) }
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Transferred::NotFlushed {
                    expected: expected.as_ref().map(group::position),
                    actual: actual.as_ref().map(group::position),
                },
            })
        }
    };
    Ok(codec::encode(&answer))
}

fn vote_request(candidate: Ballot, last: Option<Position>, transfer: bool) -> VoteRequest<Group> {
    let mut request = VoteRequest::new(group::vote(candidate), last.map(group::log_id));
    request.leadership_transfer = transfer;
    request
}

fn voted(response: &VoteResponse<Group>) -> Answer {
    Answer::Vote {
        ballot: group::ballot(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(group::position),
    }
}

/// Makes the callers that openraft wants, one for each node and purpose.
pub(crate) struct Network {
    pub(crate) me: NodeId,
    pub(crate) peers: Arc<dyn Peers>,
}

/// Calls one node.
pub(crate) struct Caller {
    me: NodeId,
    to: NodeId,
    peers: Arc<dyn Peers>,
    /// So many entries go at once: half as many after a call that failed, twice as many after one that did not. A line too
    /// thin for all of them within a heartbeat would carry them again and again, and never to the end.
    most: usize,
}

impl RaftNetworkFactory<Group> for Network {
    type Network = Caller;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Caller {
        Caller { me: self.me, to: NodeId(target), peers: self.peers.clone(), most: usize::MAX }
    }
}

impl Caller {
    async fn call(&self, kind: RPCTypes, request: Request, option: &RPCOption) -> Result<Answer, RPCError<Group>> {
        let deadline = option.hard_ttl();
        let bytes = codec::encode(&request);
        // The mesh keeps the deadline; what it cannot keep it to is kept here.
        let called = tokio::time::timeout(deadline, self.peers.call(self.to, bytes, deadline)).await;
        let late = Timeout { action: kind, id: self.me.0, target: self.to.0, timeout: deadline };
        let bytes = called.map_err(|_| late)?.map_err(|error| Unreachable::new(&error))?;
        codec::decode(&bytes, MAX_MESSAGE).map_err(|error| self.nonsense(&error))
    }

    fn nonsense(&self, error: &DecodeError) -> RPCError<Group> {
        RPCError::Network(NetworkError::from_string(format!("the answer of {}: {error}", self.to)))
    }

    fn mismatch(&self) -> RPCError<Group> {
        RPCError::Network(NetworkError::from_string(format!("{} answered something else", self.to)))
    }

    fn vote_answer(&self, answer: Answer) -> Result<VoteResponse<Group>, RPCError<Group>> {
        let Answer::Vote { ballot, granted, last } = answer else {
            return Err(self.mismatch());
        };
        Ok(VoteResponse::new(group::vote(ballot), last.map(group::log_id), granted))
    }
}

impl RaftNetworkV2<Group> for Caller {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<Group>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        let from_start = rpc.prev_log_id.is_none();
        let whole = rpc.entries.len() <= self.most;
        rpc.entries.truncate(self.most);
        let (sent, last) = (rpc.entries.len(), rpc.entries.last().map(|entry| entry.log_id));
        let request = Request::Append {
            leader: group::ballot(&rpc.vote),
            after: rpc.prev_log_id.as_ref().map(group::position),
            entries: rpc.entries.into_iter().map(group::noted).collect(),
            committed: rpc.leader_commit.as_ref().map(group::position),
        };
        let answer = self.call(RPCTypes::AppendEntries, request, &option).await;
        if sent > 0 {
            self.most = if answer.is_ok() { self.most.saturating_mul(2) } else { (sent / 2).max(1) };
        }
        let Answer::Append(appended) = answer? else {
            return Err(self.mismatch());
        };
        match appended {
            Appended::All if !whole => Ok(AppendEntriesResponse::PartialSuccess(last)),
            Appended::All => Ok(AppendEntriesResponse::Success),
            Appended::UpTo(upto) => Ok(AppendEntriesResponse::PartialSuccess(upto.map(group::log_id))),
            // Nothing conflicts with the beginning of the log; openraft would panic over it.
            Appended::Conflict if from_start => Err(self.mismatch()),
            Appended::Conflict => Ok(AppendEntriesResponse::Conflict),
            Appended::Later(ballot) => Ok(AppendEntriesResponse::HigherVote(group::vote(ballot))),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        let (candidate, last) = (group::ballot(&rpc.vote), rpc.last_log_id.as_ref().map(group::position));
        let request = Request::Vote { candidate, last, transfer: rpc.leadership_transfer };
        self.vote_answer(self.call(RPCTypes::Vote, request, &option).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        let (candidate, last) = (group::ballot(&rpc.vote), rpc.last_log_id.as_ref().map(group::position));
        let request = Request::PreVote { candidate, last, transfer: rpc.leadership_transfer };
        self.vote_answer(self.call(RPCTypes::Vote, request, &option).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Group>,
        snapshot: SnapshotOf<Group, Arc<State>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let snapshot = Snapshot {
            last: snapshot.meta.last_log_id.as_ref().map(group::position),
            membership: group::membership(&snapshot.meta.last_membership),
            state: snapshot.snapshot,
        };
        let request = Request::Snapshot { leader: group::ballot(&vote), snapshot };
        let answer = tokio::select! {
            answer = self.call(RPCTypes::InstallSnapshot, request, &option) => answer?,
            closed = cancel => return Err(closed.into()),
        };
        let Answer::Snapshot { ballot } = answer else {
            return Err(self.mismatch().into());
        };
        Ok(SnapshotResponse::new(group::vote(ballot)))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Group>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, RPCError<Group>> {
        let request = Request::Transfer {
            leader: group::ballot(rpc.from_leader()),
            to: NodeId(*rpc.to_node_id()),
            last: rpc.last_log_id().map(group::position),
        };
        let Answer::Transfer(transferred) = self.call(RPCTypes::TransferLeader, request, &option).await? else {
            return Err(self.mismatch());
        };
        Ok(match transferred {
            Transferred::Done => Ok(()),
            Transferred::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged { expected: group::vote(expected), actual: group::vote(actual) })
            }
            Transferred::NotFlushed { expected, actual } => Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(group::log_id),
                actual: actual.map(group::log_id),
            }),
        })
    }
}
