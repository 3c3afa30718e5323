//! The stream plane: questions with answers, and messages without.

use super::authority::KeyHash;
use super::frame::{self, FrameError, Kind};
use super::hello::{HelloRefusal, Peer, describe};
use super::identity::Identity;
use super::join::{JOIN_ANSWER_LIMIT, JOIN_KIND, JOIN_REQUEST_LIMIT};
pub use super::plane::BindError as MeshError;
use super::plane::{Plane, Setup, Traffic, Way};
use super::reach::{Reach, Timing};
use super::tls::{self, Pin};
use futures_util::future::BoxFuture;
use hamesh_raft::command::NodeId;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// What a node does with the messages of others. `from` is proven by certificate and admitted by the members.
pub trait Service: Send + Sync + 'static {
    /// Answers a call. An error reaches the caller as [`CallError::Remote`].
    fn serve(&self, from: NodeId, kind: Kind, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    /// Takes a message that nobody answers. Must not block.
    fn told(&self, from: NodeId, kind: Kind, body: Vec<u8>);
    /// Answers a join request: the one thing that somebody without a certificate is heard with.
    fn join(&self, from: SocketAddr, body: Vec<u8>) -> BoxFuture<'static, Vec<u8>>;
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection, and why.
    #[error("{node} is not connected{}", trouble.as_deref().map(|why| format!(" ({why})")).unwrap_or_default())]
    NotConnected {
        /// To whom.
        node: NodeId,
        /// The last failure to connect.
        trouble: Option<String>,
    },
    /// No answer in time. The other side may have acted nevertheless.
    #[error("{node} did not answer within {deadline:?}")]
    Deadline {
        /// Who.
        node: NodeId,
        /// The time it had.
        deadline: Duration,
    },
    /// The body is longer than its kind allows; nothing was sent.
    #[error("a body of {len} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes.
        len: usize,
        /// Bytes.
        limit: usize,
    },
    /// The connection was lost before the answer. The other side may have acted nevertheless.
    #[error("{node} was lost: {why}")]
    Lost {
        /// Who.
        node: NodeId,
        /// In words.
        why: String,
    },
    /// The other side could not serve it, in its words.
    #[error("{0}")]
    Remote(String),
}

/// A node's place in the mesh. Clones are the same place. It lives until [`Mesh::close`].
#[derive(Clone)]
pub struct Mesh {
    plane: Arc<Plane>,
    tells: Arc<Semaphore>,
}

/// Tells in flight; what comes beyond is dropped.
const TELLS: usize = 256;
/// Connections without a certificate at once, and how long each has to say what it wants.
const STRANGERS: usize = 32;
const STRANGER_PATIENCE: Duration = Duration::from_secs(2);
/// Joins served at once.
const JOINS: usize = 4;
/// How long a told message may be under way.
const TELL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a join may take: the way back, a commit, a signature.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);

/// The code that a stranger's connection is closed with, unless it was answered.
const TURNED_AWAY: VarInt = VarInt::from_u32(4);
/// So many bytes fit into every packet of QUIC (RFC 9000 section 14), with what comes before them.
const ONE_PACKET: usize = 1100;
/// The code that the stream of a question is reset with when its answer comes too late.
const GIVEN_UP: VarInt = VarInt::from_u32(3);

const DONE: u8 = 0;
const FAILED: u8 = 1;

impl Mesh {
    /// Opens the mesh's endpoint. Nobody is heard until [`Mesh::set_members`].
    ///
    /// # Errors
    /// The address is taken, or the identity does not work.
    pub fn bind(
        listen: SocketAddr,
        identity: Arc<Identity>,
        incarnation: u64,
        timing: Timing,
        service: Arc<dyn Service>,
    ) -> Result<Self, MeshError> {
        let setup = Setup {
            label: "mesh",
            alpn: &[tls::MEMBER, tls::JOIN],
            timing,
            transport: tls::transport,
            address: |listen| listen,
        };
        let (strangers, joins) = (Arc::new(Semaphore::new(STRANGERS)), Arc::new(Semaphore::new(JOINS)));
        let traffic = Arc::new(Streams { service, strangers, joins });
        let plane = Plane::bind(listen, identity, incarnation, setup, traffic)?;
        Ok(Self { plane, tells: Arc::new(Semaphore::new(TELLS)) })
    }

    /// Who is in the mesh from now on, from the replicated state (a joiner begins with what its join answer listed).
    /// Whoever is not among them is refused, and so is a key that differs from the registered one.
    pub fn set_members(&self, members: BTreeMap<NodeId, Peer>) {
        self.plane.set_members(members);
    }

    /// Asks a member and waits for its answer.
    ///
    /// # Errors
    /// See [`CallError`]. It fails at once when there is no connection.
    pub async fn call(&self, to: NodeId, kind: Kind, body: Vec<u8>, deadline: Duration) -> Result<Vec<u8>, CallError> {
        if body.len() > kind.limit() {
            return Err(CallError::TooLong { len: body.len(), limit: kind.limit() });
        }
        let Some(connection) = self.plane.outgoing(to) else {
            let trouble = self.plane.reach().borrow().get(&to).and_then(|reach| reach.trouble.clone());
            return Err(CallError::NotConnected { node: to, trouble });
        };
        match timeout(deadline, exchange(&connection, kind, &body)).await {
            Ok(Ok((DONE, answer))) => Ok(answer),
            Ok(Ok((_, reason))) => Err(CallError::Remote(String::from_utf8_lossy(&reason).into_owned())),
            Ok(Err(error)) => {
                let why = connection.close_reason().map_or_else(|| error.to_string(), |reason| describe(&reason));
                Err(CallError::Lost { node: to, why })
            }
            Err(_) => Err(CallError::Deadline { node: to, deadline }),
        }
    }

    /// Sends a message and forgets it. Dropped when there is no connection, it is too long, or too many are under way.
    pub fn tell(&self, to: NodeId, kind: Kind, body: Vec<u8>) {
        let (Some(connection), Ok(permit)) = (self.plane.outgoing(to), self.tells.clone().try_acquire_owned()) else {
            return;
        };
        if body.len() > kind.limit() {
            tracing::warn!(?kind, len = body.len(), limit = kind.limit(), "message too long, dropped");
            return;
        }
        self.plane.runtime.spawn(async move {
            let sent = timeout(TELL_PATIENCE, post(&connection, kind, &body)).await;
            drop(permit);
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!(%to, ?kind, ?sent, "message lost");
            }
        });
    }

    /// The other members: which connections there are to each, and what is wrong with the missing ones.
    pub fn reachable(&self) -> watch::Receiver<BTreeMap<NodeId, Reach>> {
        self.plane.reach()
    }

    /// The round trip to a member, as last measured.
    pub fn rtt(&self, to: NodeId) -> Option<Duration> {
        self.plane.outgoing(to).map(|connection| connection.rtt())
    }

    /// What a member said that knows a later start of this node, once one does: the disk is an old copy.
    pub fn outlived(&self) -> watch::Receiver<Option<HelloRefusal>> {
        self.plane.outlived()
    }

    /// Whom this node refused last, and why, until it is admitted.
    pub fn refused(&self) -> BTreeMap<NodeId, HelloRefusal> {
        self.plane.refused()
    }

    /// Looks whether somebody with the key `key` answers at `address`: a joiner that cannot be reached is not admitted.
    /// The dial starts from the mesh's own socket, so it takes the way that the mesh will take.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn reach_back(&self, address: SocketAddr, key: KeyHash) -> Result<(), String> {
        let transport = tls::transport(&Timing::MESH).map_err(|error| error.to_string())?;
        let client =
            tls::pinned_client(Pin::Key(key), tls::BACK, Arc::new(transport)).map_err(|error| error.to_string())?;
        let dial = self.plane.endpoint.connect_with(client, address, "joiner.hamesh.internal");
        let connection = match timeout(Duration::from_secs(2), dial.map_err(|error| error.to_string())?).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(describe(&error)),
            Err(_) => return Err("no answer".into()),
        };
        connection.close(0u32.into(), b"reached");
        Ok(())
    }

    /// The address that the endpoint really has.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.plane.endpoint.local_addr()
    }

    /// Says goodbye and ends.
    pub async fn close(&self) {
        self.plane.close().await;
    }
}

/// Gossip goes as tells; what is told with [`Kind::Gossip`] belongs into `Gossip::hear`.
impl hamesh_gossip::Wire for Mesh {
    fn send(&self, to: NodeId, bytes: Vec<u8>) {
        self.tell(to, Kind::Gossip, bytes);
    }
}

/// A question. What was not sent of one that nobody waits for any more is not sent: a thin line would carry it, again and again,
/// before what is asked next.
struct Question {
    send: SendStream,
    /// What fits into one packet is on its way, and worth hearing late too.
    long: bool,
}

impl Drop for Question {
    fn drop(&mut self) {
        if self.long {
            // Without effect once the other end has all of it.
            self.send.reset(GIVEN_UP).ok();
        }
    }
}

pub(super) async fn exchange(connection: &Connection, kind: Kind, body: &[u8]) -> Result<(u8, Vec<u8>), FrameError> {
    let (send, mut recv) = connection.open_bi().await.map_err(quinn::WriteError::from)?;
    let mut question = Question { send, long: body.len() > ONE_PACKET };
    let send = &mut question.send;
    send.set_priority(kind.priority()).ok();
    // A callee that refuses the message stops our stream and says why on its own.
    let sent = frame::write(send, kind.byte(), body).await;
    frame::finish(send);
    let answer = frame::read(&mut recv, |status| match status {
        DONE | FAILED => Ok(kind.limit()),
        other => Err(FrameError::Kind(other)),
    })
    .await?;
    if answer.0 == DONE {
        sent?;
    }
    Ok(answer)
}

async fn post(connection: &Connection, kind: Kind, body: &[u8]) -> Result<(), FrameError> {
    let mut send = connection.open_uni().await.map_err(quinn::WriteError::from)?;
    send.set_priority(kind.priority()).ok();
    frame::write(&mut send, kind.byte(), body).await?;
    frame::finish(&mut send);
    Ok(())
}

/// The mesh's traffic: members' calls and tells, strangers' join requests.
struct Streams {
    service: Arc<dyn Service>,
    strangers: Arc<Semaphore>,
    joins: Arc<Semaphore>,
}

impl Traffic for Streams {
    fn carry(&self, member: NodeId, way: Way, connection: Connection) -> BoxFuture<'static, ()> {
        let service = self.service.clone();
        Box::pin(async move {
            // On our own connection nobody else may open anything; its streams are read by the calls that opened them.
            if way == Way::Incoming {
                serve_member(member, &connection, &service).await;
            }
        })
    }

    fn stranger(&self, connection: Connection) -> BoxFuture<'static, ()> {
        let (service, strangers, joins) = (self.service.clone(), self.strangers.clone(), self.joins.clone());
        Box::pin(async move {
            let Ok(_stranger) = strangers.try_acquire() else {
                return connection.close(TURNED_AWAY, b"too many strangers at once, try again");
            };
            let (mut send, body) = match timeout(STRANGER_PATIENCE, hear_join(&connection)).await {
                Ok(Ok(heard)) => heard,
                Ok(Err(error)) => return connection.close(TURNED_AWAY, error.to_string().as_bytes()),
                Err(_) => return connection.close(TURNED_AWAY, b"no join request in time"),
            };
            let Ok(_join) = joins.try_acquire() else {
                return connection.close(TURNED_AWAY, b"too many joins at once, try again");
            };
            let answering = async {
                let answer = service.join(connection.remote_address(), body).await;
                answer_join(&mut send, &answer).await
            };
            match timeout(JOIN_PATIENCE, answering).await {
                Ok(Ok(())) => connection.close(0u32.into(), b"answered"),
                Ok(Err(error)) => connection.close(TURNED_AWAY, error.to_string().as_bytes()),
                Err(_) => connection.close(TURNED_AWAY, b"the join took too long"),
            }
        })
    }
}

async fn serve_member(member: NodeId, connection: &Connection, service: &Arc<dyn Service>) {
    loop {
        let service = service.clone();
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, recv)) = stream else { return };
                tokio::spawn(serve_call(member, service, send, recv));
            }
            stream = connection.accept_uni() => {
                let Ok(mut recv) = stream else { return };
                tokio::spawn(async move {
                    let limit = |kind| Kind::of(kind).map(Kind::limit);
                    match timeout(TELL_PATIENCE, frame::read(&mut recv, limit)).await {
                        Ok(Ok((kind, body))) => {
                            if let Ok(kind) = Kind::of(kind) {
                                service.told(member, kind, body);
                            }
                        }
                        Ok(Err(error)) => tracing::debug!(%member, %error, "message refused"),
                        Err(_) => tracing::debug!(%member, "message not finished in time"),
                    }
                });
            }
        }
    }
}

async fn serve_call(member: NodeId, service: Arc<dyn Service>, mut send: SendStream, mut recv: RecvStream) {
    let read = frame::read(&mut recv, |kind| Kind::of(kind).map(Kind::limit)).await;
    let (status, answer) = match read.and_then(|(kind, body)| Ok((Kind::of(kind)?, body))) {
        Ok((kind, body)) => {
            send.set_priority(kind.priority()).ok();
            match service.serve(member, kind, body).await {
                Ok(answer) if answer.len() <= kind.limit() => (DONE, answer),
                Ok(answer) => (FAILED, format!("an answer of {} bytes is too long", answer.len()).into_bytes()),
                Err(reason) => (FAILED, reason.into_bytes()),
            }
        }
        Err(error) => (FAILED, error.to_string().into_bytes()),
    };
    match frame::write(&mut send, status, &answer).await {
        Ok(()) => frame::finish(&mut send),
        Err(error) => tracing::debug!(%member, %error, "answer lost"),
    }
}

async fn hear_join(connection: &Connection) -> Result<(SendStream, Vec<u8>), FrameError> {
    let (send, mut recv) = connection.accept_bi().await.map_err(quinn::WriteError::from)?;
    let limit = |kind| if kind == JOIN_KIND { Ok(JOIN_REQUEST_LIMIT) } else { Err(FrameError::Kind(kind)) };
    let (_, body) = frame::read(&mut recv, limit).await?;
    Ok((send, body))
}

async fn answer_join(send: &mut SendStream, answer: &[u8]) -> Result<(), FrameError> {
    if answer.len() > JOIN_ANSWER_LIMIT {
        return Err(FrameError::TooLong { len: answer.len(), limit: JOIN_ANSWER_LIMIT });
    }
    frame::write(send, JOIN_KIND, answer).await?;
    frame::finish(send);
    // Closing would drop what is unsent.
    send.stopped().await.ok();
    Ok(())
}
