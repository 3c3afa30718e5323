//! What a node does with the messages of others: Raft's to Raft, gossip to gossip, requests to the leader or the lane.

use super::core::{Core, lock};
use super::director::Silence;
use super::lane::LaneInput;
use super::requests::{Reply, Request};
use crate::net::admit::{self, ClusterFacts, Invitation, Leader, Registrar, Use};
use crate::net::authority::{Authority, KeyHash};
use crate::net::frame::Kind;
use crate::net::hello::{Peer, wall_now};
use crate::net::mesh::Service;
use futures_util::future::BoxFuture;
use hamesh_raft::codec;
use hamesh_raft::command::{Applicant, Command, InvitationId, NodeId, Outcome, WallTime};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a join may wait for a quorum.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// The mesh's ear. It exists before the node does, and answers nothing until then.
pub(crate) struct Ear {
    core: OnceLock<Arc<Core>>,
    silence: Silence,
}

/// Why one that serves without a lease answers nobody.
pub(crate) const SILENT: &str = "this node serves without a lease until it hears the others";

impl Ear {
    pub(crate) fn new(silence: Silence) -> Self {
        Self { core: OnceLock::new(), silence }
    }

    /// From now on the node answers.
    pub(crate) fn open(&self, core: Arc<Core>) {
        // Set once, by the one task that starts the node.
        self.core.set(core).ok();
    }
}

impl Service for Ear {
    fn serve(&self, from: NodeId, kind: Kind, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let Some(core) = self.core.get().cloned() else {
            return Box::pin(async { Err("this node is starting".to_owned()) });
        };
        let silence = self.silence.clone();
        if silence.is_kept() {
            return Box::pin(async { Err(SILENT.to_owned()) });
        }
        match kind {
            Kind::Raft | Kind::Snapshot => {
                Box::pin(async move {
                    let answer = core.raft.serve(from, body).await.map_err(|error| error.to_string());
                    // A vote that was long on its way to the disk is not given any more.
                    if silence.is_kept() { Err(SILENT.to_owned()) } else { answer }
                })
            }
            Kind::Request => Box::pin(async move {
                let request = codec::decode::<Request>(&body, Request::LIMIT).map_err(|error| error.to_string())?;
                Ok(codec::encode(&core.serve(from, request).await))
            }),
            Kind::Ask | Kind::Gossip => Box::pin(async move { Err(format!("nobody answers {kind:?}")) }),
        }
    }

    fn told(&self, from: NodeId, kind: Kind, body: Vec<u8>) {
        match kind {
            Kind::Gossip => {
                if let Some(core) = self.core.get() {
                    core.gossip.hear(from, body);
                }
            }
            Kind::Raft | Kind::Snapshot | Kind::Request | Kind::Ask => {}
        }
    }

    fn join(&self, _from: SocketAddr, body: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let core = self.core.get().cloned();
        Box::pin(async move {
            match core {
                Some(core) => admit::answer(&body, core.as_ref()).await,
                None => admit::not_ready("this node is starting"),
            }
        })
    }
}

impl Core {
    async fn serve(&self, from: NodeId, request: Request) -> Reply {
        match request {
            Request::Propose(command) => self.lead(from, command).await,
            Request::Move(group, token, to) => {
                // A hint: what does not reach the lane is asked again.
                self.lane.try_send(LaneInput::Move(group, token, to)).ok();
                Reply::Noted
            }
            Request::AuthorityKey => self.give_authority(from),
            Request::Members => {
                let view = self.raft.view().borrow().clone();
                Reply::Members(view.applied, peers(&view.state))
            }
            Request::Certificate(csr) => self.certify(from, &csr),
        }
    }

    /// The CA's key goes to voters only, and only inside the mesh.
    fn give_authority(&self, to: NodeId) -> Reply {
        if !self.raft.view().borrow().membership.is_voter(to) {
            return Reply::Failed(format!("{to} does not vote"));
        }
        match lock(&self.authority).as_ref() {
            Some(authority) => Reply::AuthorityKey(authority.key_pem()),
            None => Reply::Failed("this node does not have the CA's key".to_owned()),
        }
    }
}

impl Registrar for Core {
    fn leader(&self) -> Leader {
        let standing = self.raft.standing().borrow().clone();
        match standing.leader {
            _ if standing.leading.is_some() => Leader::Here,
            Some(leader) if leader != self.me => match self.state().members.get(&leader) {
                Some(member) => Leader::At(member.address),
                None => Leader::Nobody,
            },
            Some(_) | None => Leader::Nobody,
        }
    }

    fn invitation(&self, id: InvitationId) -> Option<Invitation> {
        let state = self.state();
        let invitation = state.invitations.get(&id)?;
        let used = invitation.used_by.and_then(|node| state.members.get(&node));
        Some(Invitation {
            secret_hash: invitation.secret_hash,
            role: invitation.role,
            expires_at: invitation.expires_at,
            used: used.map(|member| Use { name: member.name.clone(), key: member.key }),
        })
    }

    fn node_named(&self, name: &str) -> Option<NodeId> {
        self.state().member_named(name)
    }

    fn name_at(&self, address: SocketAddr) -> Option<String> {
        self.state().members.values().find(|member| member.address == address).map(|member| member.name.clone())
    }

    fn now(&self) -> WallTime {
        wall_now()
    }

    fn reach_back(&self, address: SocketAddr, key: KeyHash) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.mesh.reach_back(address, key))
    }

    fn propose(
        &self,
        invitation: InvitationId,
        applicant: Applicant,
        at: WallTime,
    ) -> BoxFuture<'_, Result<NodeId, String>> {
        Box::pin(async move {
            match self.propose(Command::Join { invitation, applicant, at }, JOIN_PATIENCE).await? {
                Outcome::Joined(node) => Ok(node),
                Outcome::Refused(why) => Err(why),
                Outcome::Done | Outcome::Opened(_) => Err("the state answered something else".to_owned()),
            }
        })
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        lock(&self.authority).clone()
    }

    fn cluster(&self) -> ClusterFacts {
        let state = self.state();
        let record = &self.identity.record;
        ClusterFacts {
            id: record.cluster,
            name: record.cluster_name.clone(),
            lineage: record.lineage,
            members: peers(&state),
            cluster_toml: self.config().cluster.as_ref().and_then(|file| file.text.clone()).unwrap_or_default(),
        }
    }
}

/// Every member as the mesh knows it.
pub(crate) fn peers(state: &hamesh_raft::state::State) -> BTreeMap<NodeId, Peer> {
    let peer = |member: &hamesh_raft::state::Member| Peer {
        address: member.address,
        key: member.key,
        incarnation: member.incarnation,
    };
    state.members.iter().map(|(node, member)| (*node, peer(member))).collect()
}
