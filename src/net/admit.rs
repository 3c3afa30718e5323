//! How a member answers a join request.
//!
//! Everything is checked before anything is proposed, and the replicated state decides again: two requests with one
//! invitation can pass the checks side by side, one of them is applied. A repeated request, with the same invitation and
//! the same key, is the same join again; its first answer was lost.

use super::authority::{Authority, KeyHash, request_key_hash, sha256};
use super::hello::Peer;
use super::join::{Admitted, CLOCK_LIMIT, JOIN_REQUEST_LIMIT, JoinAnswer, JoinRequest, Refusal};
use futures_util::future::BoxFuture;
use hamesh_raft::codec;
use hamesh_raft::command::{Applicant, ClusterId, InvitationId, Lineage, NodeId, Role, WallTime};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// An invitation as the replicated state keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// What it admits.
    pub role: Role,
    /// When it ends.
    pub expires_at: WallTime,
    /// Who has used it.
    pub used: Option<Use>,
}

/// The one use of an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The node's name.
    pub name: String,
    /// SHA-256 of its key.
    pub key: KeyHash,
}

/// Where to ask for what only the leader can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Here.
    Here,
    /// The leader listens there.
    At(SocketAddr),
    /// Nobody leads.
    Nobody,
}

/// The cluster as a new member gets it.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    /// Its random id.
    pub id: ClusterId,
    /// Its name for people.
    pub name: String,
    /// Its line of history.
    pub lineage: Lineage,
    /// Its members now.
    pub members: BTreeMap<NodeId, Peer>,
    /// cluster.toml.
    pub cluster_toml: String,
}

/// What admitting needs of the node: the replicated state, the leader, the CA, the mesh.
pub trait Registrar: Send + Sync {
    /// Who leads.
    fn leader(&self) -> Leader;
    /// An invitation.
    fn invitation(&self, id: InvitationId) -> Option<Invitation>;
    /// Whose name this is.
    fn node_named(&self, name: &str) -> Option<NodeId>;
    /// The name of the node that listens there.
    fn name_at(&self, address: SocketAddr) -> Option<String>;
    /// The wall clock.
    fn now(&self) -> WallTime;
    /// Looks whether the joiner answers at its address with its key; [`super::mesh::Mesh::reach_back`].
    fn reach_back(&self, address: SocketAddr, key: KeyHash) -> BoxFuture<'_, Result<(), String>>;
    /// Proposes the join. The same invitation and key give the same id again.
    ///
    /// # Errors
    /// Not committed, or refused by the state, in words.
    fn propose(
        &self,
        invitation: InvitationId,
        applicant: Applicant,
        at: WallTime,
    ) -> BoxFuture<'_, Result<NodeId, String>>;
    /// The CA, on a voter.
    fn authority(&self) -> Option<Arc<Authority>>;
    /// The cluster, after the join was applied.
    fn cluster(&self) -> ClusterFacts;
}

/// Answers a join request as it came from the wire; the body of [`super::mesh::Service::join`].
pub async fn answer(body: &[u8], registrar: &dyn Registrar) -> Vec<u8> {
    let answer = match codec::decode::<JoinRequest>(body, JOIN_REQUEST_LIMIT) {
        Ok(request) => admit(&request, registrar).await,
        Err(error) => JoinAnswer::Refused(Refusal::BadRequest { why: error.to_string() }),
    };
    codec::encode(&answer)
}

/// The answer of a node that cannot look at a request yet.
pub fn not_ready(why: &str) -> Vec<u8> {
    codec::encode(&JoinAnswer::Refused(Refusal::NotReady { why: why.to_owned() }))
}

/// Decides on a join request, and carries it out.
pub async fn admit(request: &JoinRequest, registrar: &dyn Registrar) -> JoinAnswer {
    match registrar.leader() {
        Leader::Here => {}
        Leader::At(address) => return JoinAnswer::NotLeader(address),
        Leader::Nobody => return JoinAnswer::Refused(Refusal::NotReady { why: "it has no leader (no quorum)".into() }),
    }
    match carry_out(request, registrar).await {
        Ok(admitted) => {
            tracing::info!(node = %admitted.node, name = request.name, role = %request.role, listen = %request.listen, "joined");
            JoinAnswer::Admitted(Box::new(admitted))
        }
        Err(refusal) => {
            tracing::warn!(name = request.name, listen = %request.listen, %refusal, "join refused");
            JoinAnswer::Refused(refusal)
        }
    }
}

async fn carry_out(request: &JoinRequest, registrar: &dyn Registrar) -> Result<Admitted, Refusal> {
    let bad = |why: String| Refusal::BadRequest { why };
    // The invitation first: whoever was not invited learns nothing about the cluster.
    let invitation = registrar
        .invitation(request.invitation)
        // Comparing hashes: how long that takes says nothing about the secret.
        .filter(|invitation| invitation.secret_hash == sha256(&request.secret))
        .ok_or(Refusal::UnknownInvitation)?;
    let key = request_key_hash(&request.csr).map_err(|error| bad(error.to_string()))?;
    let now = registrar.now();
    match &invitation.used {
        Some(used) if used.key != key => return Err(Refusal::Used { by: used.name.clone() }),
        Some(_) => {}
        None => {
            if now >= invitation.expires_at {
                return Err(Refusal::Expired { ago: now - invitation.expires_at });
            }
            check_place(request, registrar)?;
        }
    }
    if request.role != invitation.role {
        return Err(Refusal::WrongRole { invited: invitation.role, asked: request.role });
    }
    let by = request.wall.abs_diff(now);
    if by > CLOCK_LIMIT {
        return Err(Refusal::ClockOff { by: Duration::from_secs(by.as_secs()), ahead: request.wall > now });
    }
    let unready = |why: &str| Refusal::NotReady { why: why.into() };
    let authority = registrar.authority().ok_or_else(|| unready("its leader does not have the CA key yet"))?;
    if let Err(why) = registrar.reach_back(request.listen, key).await {
        return Err(Refusal::NoWayBack { address: request.listen, why });
    }
    let applicant = Applicant {
        name: request.name.clone(),
        role: request.role,
        rack: request.rack.clone(),
        address: request.listen,
        key,
    };
    let node = registrar.propose(request.invitation, applicant, now).await.map_err(|why| unready(&why))?;
    let certificate = authority.sign(&request.csr, node, now).map_err(|error| bad(error.to_string()))?;
    let cluster = registrar.cluster();
    Ok(Admitted {
        node,
        certificate: certificate.to_vec(),
        ca: authority.certificate().to_vec(),
        cluster: cluster.id,
        cluster_name: cluster.name,
        lineage: cluster.lineage,
        members: cluster.members,
        cluster_toml: cluster.cluster_toml,
    })
}

/// Name and address: sensible, and nobody else's.
fn check_place(request: &JoinRequest, registrar: &dyn Registrar) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if request.name.is_empty() || request.name.len() > 63 || !request.name.chars().all(fits) {
        return Err(Refusal::BadRequest { why: "a node name has 1 to 63 letters, digits, `-`, `_` or `.`".into() });
    }
    if request.listen.ip().is_unspecified() || request.listen.port() == 0 || request.listen.port() == u16::MAX {
        let why = format!("`listen` is {}: others need an address and port to dial, and the port after it", request.listen);
        return Err(Refusal::BadRequest { why });
    }
    if let Some(node) = registrar.node_named(&request.name) {
        return Err(Refusal::NameInUse { name: request.name.clone(), node });
    }
    if let Some(name) = registrar.name_at(request.listen) {
        return Err(Refusal::AddressInUse { address: request.listen, name });
    }
    Ok(())
}
