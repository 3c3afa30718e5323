//! How a node joins: what goes over the wire, and the joiner's side.
//!
//! The joiner holds a join string, and makes its own key. It sends nothing before the other end has proven to belong to the
//! pinned CA. While it asks, it answers at its own `listen` address, so that the member can look whether the way back is
//! open. A refused or failed join leaves nothing behind but the key, with which the next attempt is the same node.

use super::authority::{AuthorityError, Key, certificate_to_pem, key_hash, node_of};
use super::frame::{self, FrameError};
use super::hello::{Peer, describe, wall_now};
use super::identity::{IdentityError, NodeRecord, install, pending_key, refuse_member, write_file};
use super::invitation::JoinString;
use super::reach::Timing;
use super::tls::{self, Pin, TlsError};
use hamesh_raft::codec;
use hamesh_raft::command::{ClusterId, InvitationId, Lineage, NodeId, Role, WallTime};
use quinn::{ConnectionError, Endpoint, EndpointConfig, TokioRuntime, TransportErrorCode};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

pub(super) const JOIN_KIND: u8 = 32;
pub(super) const JOIN_REQUEST_LIMIT: usize = 16 << 10;
/// The answer holds the members and cluster.toml.
pub(super) const JOIN_ANSWER_LIMIT: usize = 4 << 20;
/// How far the clocks may be apart: invitations expire by them.
pub const CLOCK_LIMIT: Duration = Duration::from_secs(30);
/// One try to reach one address.
const DIAL: Duration = Duration::from_secs(3);
/// The member looks for the way back and commits.
const ANSWER: Duration = Duration::from_secs(20);
/// How many addresses to ask, those included that members name as the leader.
const HOPS: usize = 8;
/// Before asking the same member again.
const REPEAT: Duration = Duration::from_millis(300);
/// TLS alert `unknown_ca` (RFC 8446 section 6.2).
const UNKNOWN_CA: u8 = 48;

/// What a joiner asks.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// From the join string.
    pub invitation: InvitationId,
    /// From the join string.
    pub secret: [u8; 16],
    /// PKCS #10, DER, for the key that the joiner made.
    pub csr: Vec<u8>,
    /// `[node] name`.
    pub name: String,
    /// `[node] role`.
    pub role: Role,
    /// `[node] rack`.
    pub rack: String,
    /// `[node] listen`.
    pub listen: SocketAddr,
    /// The joiner's clock.
    pub wall: WallTime,
}

/// What the cluster answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// Welcome.
    Admitted(Box<Admitted>),
    /// No, and nothing has changed.
    Refused(Refusal),
    /// Ask there; this member does not lead.
    NotLeader(SocketAddr),
}

/// What makes a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its id.
    pub node: NodeId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The CA's, DER.
    pub ca: Vec<u8>,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name for people.
    pub cluster_name: String,
    /// Its line of history.
    pub lineage: Lineage,
    /// Its members, the new one included.
    pub members: BTreeMap<NodeId, Peer>,
    /// cluster.toml as the answering member has it.
    pub cluster_toml: String,
}

/// Why the cluster does not admit a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No invitation of this name with this secret.
    #[error("the cluster knows no such invitation: make one with `hamesh token` on a member")]
    UnknownInvitation,
    /// Too late.
    #[error("the invitation expired {} ago: make a new one with `hamesh token` on a member", Span(*ago))]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// A second use.
    #[error("the invitation was already used by {by}: each admits one node, make another with `hamesh token`")]
    Used {
        /// The name of the node that used it.
        by: String,
    },
    /// Another role than invited.
    #[error(
        "the invitation is for a {invited}, this node's role is {asked}: change `role` in [node], or use `hamesh token --role {asked}`"
    )]
    WrongRole {
        /// What the invitation says.
        invited: Role,
        /// What the node says.
        asked: Role,
    },
    /// Names are unique.
    #[error("the name {name} belongs to {node} already: choose another `name` in [node], or remove that node first")]
    NameInUse {
        /// The name.
        name: String,
        /// Whose it is.
        node: NodeId,
    },
    /// Addresses are unique.
    #[error(
        "the address {address} belongs to {name} already: choose another `listen` in [node], or remove that node first"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// Whose it is.
        name: String,
    },
    /// The clocks differ too much.
    #[error("this node's clock is {} {} the cluster's (limit {}): set it, best by NTP", Span(*by), if *ahead { "ahead of" } else { "behind" }, Span(CLOCK_LIMIT))]
    ClockOff {
        /// How much.
        by: Duration,
        /// Whether the joiner's is later.
        ahead: bool,
    },
    /// The member cannot reach the joiner.
    #[error(
        "the cluster cannot reach this node at {address}: {why}; check `listen` in [node], and that UDP to it is open on this node's firewall and on the way (its port and the next)"
    )]
    NoWayBack {
        /// The joiner's `listen`.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// The cluster cannot take anybody now.
    #[error("the cluster cannot admit anybody now: {why}; try again later")]
    NotReady {
        /// Why not.
        why: String,
    },
    /// The request makes no sense.
    #[error("the cluster does not understand the request: {why}")]
    BadRequest {
        /// Why not.
        why: String,
    },
}

/// A span as people say it, in its two greatest units.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, m) => write!(f, "{m} min {} s", seconds % 60),
            (0, h, m) => write!(f, "{h} h {m} min"),
            (d, h, _) => write!(f, "{d} d {h} h"),
        }
    }
}

/// A node that wants to join.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// Where the identity goes.
    pub data_dir: PathBuf,
    /// Where cluster.toml goes when there is none yet.
    pub cluster_file: Option<PathBuf>,
    /// `[node] name`.
    pub name: String,
    /// `[node] role`.
    pub role: Role,
    /// `[node] rack`.
    pub rack: String,
    /// `[node] listen`.
    pub listen: SocketAddr,
}

/// What a join has made.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The new identity, as it is in `node.toml` now.
    pub record: NodeRecord,
    /// The members, this node included.
    pub members: BTreeMap<NodeId, Peer>,
    /// Whether cluster.toml was copied here; an existing one is left alone.
    pub copied_cluster_file: bool,
}

/// Why a join has failed. Nothing has changed here then, but a key may have been made, for the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster's answer.
    #[error("{0}")]
    Refused(Refusal),
    /// Whoever answers does not belong to the cluster that made the join string.
    #[error(
        "{address} belongs to another cluster than the join string, or somebody stands in between: its CA does not match the pin. Nothing was sent to it"
    )]
    WrongCa {
        /// Who answers.
        address: SocketAddr,
    },
    /// Nobody answers.
    #[error("cannot reach {}: check that hamesh runs there and that UDP to it is open", list(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// The answer is for another cluster than the join string.
    #[error("{address} answered for another cluster: {what}")]
    WrongCluster {
        /// Who answered.
        address: SocketAddr,
        /// What does not fit.
        what: String,
    },
    /// The connection was lost after the request: it may have counted.
    #[error(
        "the connection to {address} was lost before its answer ({why}): run the same command again, it continues where this one ended"
    )]
    AnswerLost {
        /// Who was asked.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// Our own address.
    #[error("cannot listen on {address}/udp: {source}: check `listen` in [node], and stop a hamesh that runs here")]
    Listen {
        /// `[node] listen`.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Setup.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn list(tried: &[(SocketAddr, String)]) -> String {
    tried.iter().map(|(address, why)| format!("{address} ({why})")).collect::<Vec<_>>().join(", ")
}

/// Makes this node a member: `hamesh join`.
///
/// # Errors
/// Each wrong join has its own message; see [`JoinError`] and [`Refusal`].
pub async fn join(invited: &JoinString, joiner: &Joiner) -> Result<Joined, JoinError> {
    refuse_member(&joiner.data_dir)?;
    if invited.role != joiner.role {
        return Err(JoinError::Refused(Refusal::WrongRole { invited: invited.role, asked: joiner.role }));
    }
    let key = pending_key(&joiner.data_dir)?;
    let back = answer_at(joiner.listen, &key)?;
    let asked = ask(invited, joiner, &key).await;
    release(back, joiner.listen).await;
    let (address, admitted) = asked?;
    let (record, certificate, ca) = check(invited, joiner, &key, &admitted)
        .map_err(|error| JoinError::WrongCluster { address, what: error.to_string() })?;
    let missing = joiner.cluster_file.as_ref().filter(|file| !file.exists());
    let copied_cluster_file = match missing {
        Some(file) => write_file(file, admitted.cluster_toml.as_bytes(), 0o644).map(|()| true)?,
        None => false,
    };
    install(&joiner.data_dir, &record, &certificate, &ca, &admitted.members)?;
    Ok(Joined { record, members: admitted.members, copied_cluster_file })
}

/// Listens at the address that the node will have, with its key, for the member that looks for the way back.
fn answer_at(listen: SocketAddr, key: &Key) -> Result<Endpoint, JoinError> {
    let server = tls::joiner_server(key, tls::transport(&Timing::MESH)?)?;
    let failed = |source| JoinError::Listen { address: listen, source };
    let socket = tls::socket(listen).map_err(failed)?;
    let endpoint =
        Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime)).map_err(failed)?;
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            });
        }
    });
    Ok(endpoint)
}

/// Ends the listening, and waits until the address is free for whoever comes next; quinn lets it go a little later.
async fn release(back: Endpoint, listen: SocketAddr) {
    back.close(0u32.into(), b"done");
    timeout(Duration::from_millis(200), back.wait_idle()).await.ok();
    drop(back);
    for _ in 0..50 {
        if std::net::UdpSocket::bind(listen).is_ok() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Asks one member after the other, and the leader that they name.
async fn ask(invited: &JoinString, joiner: &Joiner, key: &Key) -> Result<(SocketAddr, Admitted), JoinError> {
    let client = tls::pinned_client(Pin::Authority(invited.pin), tls::JOIN, Arc::new(tls::transport(&Timing::MESH)?))?;
    let mut ahead: VecDeque<SocketAddr> = invited.addresses.iter().copied().collect();
    let mut unreachable = Vec::new();
    let (mut other, mut asked) = (None, BTreeSet::new());
    for _ in 0..HOPS {
        let Some(address) = ahead.pop_front() else { break };
        if !asked.insert(address) {
            // They are electing a leader.
            sleep(REPEAT).await;
        }
        let request = JoinRequest {
            invitation: invited.invitation,
            secret: invited.secret,
            csr: key.request()?,
            name: joiner.name.clone(),
            role: joiner.role,
            rack: joiner.rack.clone(),
            listen: joiner.listen,
            wall: wall_now(),
        };
        match ask_one(&client, address, &request).await {
            Ok(JoinAnswer::Admitted(admitted)) => return Ok((address, *admitted)),
            Ok(JoinAnswer::NotLeader(leader)) => ahead.push_front(leader),
            // Another member may be ready; of the other refusals one is as good as another.
            Ok(JoinAnswer::Refused(refusal @ Refusal::NotReady { .. })) => other = Some(JoinError::Refused(refusal)),
            Ok(JoinAnswer::Refused(refusal)) => return Err(JoinError::Refused(refusal)),
            Err(JoinError::Unreachable(tried)) => unreachable.extend(tried),
            Err(error) => return Err(error),
        }
    }
    let lost = || Refusal::NotReady { why: "its members name each other as the leader".into() };
    Err(other.unwrap_or_else(|| {
        if unreachable.is_empty() { JoinError::Refused(lost()) } else { JoinError::Unreachable(unreachable) }
    }))
}

async fn ask_one(
    client: &quinn::ClientConfig,
    address: SocketAddr,
    request: &JoinRequest,
) -> Result<JoinAnswer, JoinError> {
    // From another port than `listen`: a firewall that knows this flow would let the member's look back through.
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let unreachable = |why: String| JoinError::Unreachable(vec![(address, why)]);
    let endpoint = Endpoint::client((any, 0).into()).map_err(|error| unreachable(error.to_string()))?;
    let connecting = endpoint
        .connect_with(client.clone(), address, "member.hamesh.internal")
        .map_err(|error| unreachable(error.to_string()))?;
    let connection = match timeout(DIAL, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(ConnectionError::TransportError(error))) if error.code == TransportErrorCode::crypto(UNKNOWN_CA) => {
            return Err(JoinError::WrongCa { address });
        }
        Ok(Err(error)) => return Err(unreachable(describe(&error))),
        Err(_) => return Err(unreachable("no answer".into())),
    };
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(quinn::WriteError::from)?;
        frame::write(&mut send, JOIN_KIND, &codec::encode(request)).await?;
        frame::finish(&mut send);
        let limit = |kind| if kind == JOIN_KIND { Ok(JOIN_ANSWER_LIMIT) } else { Err(FrameError::Kind(kind)) };
        frame::read(&mut recv, limit).await
    };
    let answered = timeout(ANSWER, exchange).await;
    let closed = connection.close_reason().map(|reason| describe(&reason));
    connection.close(0u32.into(), b"thank you");
    timeout(Duration::from_millis(200), endpoint.wait_idle()).await.ok();
    let lost = |why: String| JoinError::AnswerLost { address, why };
    match answered {
        Ok(Ok((_, body))) => codec::decode(&body, JOIN_ANSWER_LIMIT).map_err(|error| lost(error.to_string())),
        Ok(Err(error)) => Err(lost(closed.unwrap_or_else(|| error.to_string()))),
        Err(_) => Err(lost("no answer".into())),
    }
}

/// Whether the answer is about the cluster of the join string, and about our key.
fn check(
    invited: &JoinString,
    joiner: &Joiner,
    key: &Key,
    admitted: &Admitted,
) -> Result<(NodeRecord, CertificateDer<'static>, CertificateDer<'static>), AuthorityError> {
    let ca = CertificateDer::from(admitted.ca.clone());
    let certificate = CertificateDer::from(admitted.certificate.clone());
    let wrong = |what: &str| Err(AuthorityError::Certificate(what.into()));
    if key_hash(&ca)? != invited.pin {
        return wrong("its CA certificate does not match the pin");
    }
    if key_hash(&certificate)? != key.hash() {
        return wrong("the certificate is for another key");
    }
    if node_of(&certificate, admitted.cluster)? != admitted.node {
        return wrong("the certificate is for another node");
    }
    tracing::debug!(certificate = certificate_to_pem(&certificate), "admitted");
    let record = NodeRecord {
        id: admitted.node,
        name: joiner.name.clone(),
        role: joiner.role,
        cluster: admitted.cluster,
        cluster_name: admitted.cluster_name.clone(),
        lineage: admitted.lineage,
    };
    Ok((record, certificate, ca))
}
