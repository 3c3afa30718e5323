//! What every task of a running node shares, and the way of a command into the log.

use super::balance::Balance;
use super::bfd::Board;
use super::director::Silence;
use super::lane::{LaneInput, LaneStatus};
use super::notify::Notices;
use super::requests::{Reply, Request};
use super::service::SILENT;
use crate::config::Config;
use crate::health::Health;
use crate::net::authority::Authority;
use crate::net::frame::Kind;
use crate::net::identity::Identity;
use crate::net::mesh::Mesh;
use crate::track::Tracks;
use hamesh_fencing::grantor::Grantor;
use hamesh_gossip::Gossip;
use hamesh_raft::codec;
use hamesh_raft::command::{Command, NodeId, Outcome, Sid};
use hamesh_raft::state::State;
use hamesh_raft::{ProposeError, Raft};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// How long one attempt may take; a leader that has lost its quorum answers nothing.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts while nobody leads.
const PAUSE: Duration = Duration::from_millis(20);

/// A running node.
pub(crate) struct Core {
    pub(crate) me: NodeId,
    pub(crate) incarnation: u64,
    /// Whether it says nothing in the mesh.
    pub(crate) silence: Silence,
    /// Where the configuration is read from.
    pub(crate) file: PathBuf,
    /// The configuration in force.
    pub(crate) current: watch::Sender<Arc<Config>>,
    /// One reload at a time.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) raft: Raft,
    pub(crate) mesh: Mesh,
    pub(crate) gossip: Gossip,
    pub(crate) grantor: Arc<Mutex<Grantor>>,
    pub(crate) lane: mpsc::Sender<LaneInput>,
    pub(crate) lane_status: Arc<Mutex<LaneStatus>>,
    pub(crate) health: Mutex<Health>,
    pub(crate) tracks: Mutex<Tracks>,
    pub(crate) bfd: Board,
    pub(crate) notices: Notices,
    pub(crate) balance: Balance,
    /// The CA, once this node has its key.
    pub(crate) authority: Mutex<Option<Arc<Authority>>>,
}

/// A lock whose holder panicked guards plain data that is whole after every step; the process ends anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.current.borrow().clone()
    }

    /// The applied state of this node.
    pub(crate) fn state(&self) -> Arc<State> {
        self.raft.view().borrow().state.clone()
    }

    /// Brings a command to whoever leads and waits until it is applied there.
    ///
    /// # Errors
    /// No leader took it within `patience`; it may be applied yet.
    pub(crate) async fn propose(&self, command: Command, patience: Duration) -> Result<Outcome, String> {
        let end = Instant::now() + patience;
        let mut trouble = "there is no leader".to_owned();
        let mut hint = None;
        let mut turn = 0;
        loop {
            let leader = hint.take().or_else(|| self.raft.standing().borrow().leader);
            match leader.or_else(|| self.other_voter(&mut turn)) {
                Some(leader) => match self.ask_leader(leader, command.clone()).await {
                    Ok(Reply::Applied(_, outcome)) => return Ok(outcome),
                    Ok(Reply::Refused(why)) => return Ok(Outcome::Refused(why)),
                    Ok(Reply::NotLeader(next)) => hint = next.filter(|next| *next != leader),
                    Ok(Reply::Failed(why)) | Err(why) => trouble = why,
                    Ok(Reply::Noted | Reply::AuthorityKey(_) | Reply::Members(..) | Reply::Certificate(_)) => {
                        trouble = "the leader answered something else".to_owned();
                    }
                },
                None => "there is no leader".clone_into(&mut trouble),
            }
            if Instant::now() >= end {
                return Err(trouble);
            }
            sleep(PAUSE).await;
        }
    }

    /// Each in its turn: whoever does not know the leader asks one who may.
    fn other_voter(&self, turn: &mut usize) -> Option<NodeId> {
        let membership = self.raft.view().borrow().effective.clone();
        let others: Vec<NodeId> = membership.voters().into_iter().filter(|node| *node != self.me).collect();
        *turn += 1;
        others.get(*turn % others.len().max(1)).copied()
    }

    async fn ask_leader(&self, leader: NodeId, command: Command) -> Result<Reply, String> {
        if leader == self.me {
            return Ok(self.lead(self.me, command).await);
        }
        self.ask(leader, &Request::Propose(command), ATTEMPT).await
    }

    /// Asks another member.
    ///
    /// # Errors
    /// It was not reached, or did not answer in time; or this node is silent, and hears no answer either (H13).
    pub(crate) async fn ask(&self, node: NodeId, request: &Request, deadline: Duration) -> Result<Reply, String> {
        let speaks = || if self.silence.is_kept() { Err(SILENT.to_owned()) } else { Ok(()) };
        speaks()?;
        let body = codec::encode(request);
        let answer = self.mesh.call(node, Kind::Request, body, deadline).await.map_err(|e| e.to_string())?;
        speaks()?;
        codec::decode(&answer, Request::LIMIT).map_err(|e| e.to_string())
    }

    /// The leader's part: completes the command with the names of the next holders and proposes it in its leadership.
    pub(crate) async fn lead(&self, from: NodeId, command: Command) -> Reply {
        tracing::trace!(%from, ?command, "to be led");
        let standing = self.raft.standing().borrow().clone();
        let Some(leadership) = standing.leading else {
            return Reply::NotLeader(standing.leader.filter(|leader| *leader != self.me));
        };
        if let Err(why) = self.may_propose(from, &command) {
            return Reply::Failed(why);
        }
        if let Command::Remove { node } = command
            && let Some(why) = self.lives(node)
        {
            return Reply::Refused(why);
        }
        let command = lock(&self.grantor).complete(command);
        match timeout(ATTEMPT, self.raft.propose_under(leadership, command)).await {
            Ok(Ok(applied)) => Reply::Applied(applied.index, applied.outcome),
            Ok(Err(ProposeError::NotLeader(leader))) => Reply::NotLeader(leader),
            Ok(Err(error)) => Reply::Failed(error.to_string()),
            Err(_) => Reply::Failed("no quorum of voters has answered".to_owned()),
        }
    }

    /// A member speaks for itself only; what is the leader's alone never comes by this way.
    fn may_propose(&self, from: NodeId, command: &Command) -> Result<(), String> {
        let state = self.state();
        let owns = |sid: &Sid| state.sessions.get(sid).is_none_or(|session| session.node == from);
        let own = match command {
            Command::Register { node, .. } | Command::Open { node, .. } => *node == from,
            Command::Close { sid, .. } | Command::Candidate { sid, .. } | Command::Withdraw { sid, .. } => owns(sid),
            Command::Release { group, token, .. } => {
                state.holder(group).is_none_or(|holder| holder.token != *token || owns(&holder.sid))
            }
            // What people order, at whichever node.
            Command::Invite { .. }
            | Command::Join { .. }
            | Command::Pin { .. }
            | Command::Drain { .. }
            | Command::Remove { .. }
            | Command::Serve { .. } => true,
            Command::Found { .. } => from == self.me,
            Command::Fence { .. } | Command::Expire { .. } | Command::Grant { .. } => false,
        };
        own.then_some(()).ok_or_else(|| format!("{from} may not propose this"))
    }

    /// Why `node` cannot be removed: it runs. One that is only cut off finds out when it is back.
    pub(crate) fn lives(&self, node: NodeId) -> Option<String> {
        let name = self.state().members.get(&node).map_or_else(|| node.to_string(), |member| member.name.clone());
        let up = node == self.me || self.mesh.reachable().borrow().get(&node).is_some_and(crate::net::Reach::is_up);
        up.then(|| format!("{name} is running: drain it, and stop hamesh there first"))
    }
}
