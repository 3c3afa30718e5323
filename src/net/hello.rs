//! What two nodes tell each other before a connection counts.
//!
//! TLS has shown each the other's certificate by then. The dialer sends [`Hello`] on its first stream; the acceptor
//! answers with its own, or with the reason why not; the dialer confirms. In TLS 1.3 a dialer's handshake ends before the
//! acceptor has judged its certificate, so nothing before the answer means anything.

use super::authority::{KeyHash, key_hash, node_of};
use super::frame::{self, FrameError};
use hamesh_raft::codec;
use hamesh_raft::command::{ClusterId, Lineage, NodeId, WallTime};
use hamesh_raft::store::are_of_copies;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The mesh protocols that this program speaks, lowest and highest.
pub const PROTOCOLS: (u16, u16) = (1, 1);

/// A hello or its answer, encoded.
const LIMIT: usize = 1024;
const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const CONFIRM: u8 = 3;

/// A member as the replicated state knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where its mesh endpoint listens. Its lease plane listens one port above.
    pub address: SocketAddr,
    /// SHA-256 of its public key: a certificate of the right name with another key is not this member.
    pub key: KeyHash,
    /// Of its latest registered start.
    pub incarnation: u64,
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The lowest protocol it speaks.
    pub protocol_min: u16,
    /// The highest.
    pub protocol_max: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The line of history that its disk is on.
    pub lineage: Lineage,
    /// Itself; must be the node that its certificate names.
    pub node: NodeId,
    /// One more for every start.
    pub incarnation: u64,
    /// Its wall clock, now.
    pub wall: WallTime,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome(Hello),
    Refused(HelloRefusal),
}

/// Why one node does not talk to another. Both can show it: "refuser" is the one that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HelloRefusal {
    /// No protocol that both speak.
    #[error("no common protocol: the refusing node speaks {}-{}, the other {}-{}", refuser.0, refuser.1, refused.0, refused.1)]
    Protocol {
        /// Lowest and highest.
        refuser: (u16, u16),
        /// Lowest and highest.
        refused: (u16, u16),
    },
    /// Of another cluster.
    #[error("another cluster: the refusing node is of {refuser}, the other of {refused}")]
    Cluster {
        /// Its cluster.
        refuser: ClusterId,
        /// The other's.
        refused: ClusterId,
    },
    /// On another line of history: forced recovery has left one of them behind.
    #[error("another lineage: the refusing node is on {}:{:016x}, the other on {}:{:016x}; after a forced recovery the nodes left behind must join anew", refuser.counter, refuser.id, refused.counter, refused.id)]
    Lineage {
        /// Its lineage.
        refuser: Lineage,
        /// The other's.
        refused: Lineage,
    },
    /// The certificate is another node's.
    #[error("the certificate names {certificate}, the hello {hello}")]
    Name {
        /// Whom the certificate names.
        certificate: NodeId,
        /// Whom the hello names.
        hello: NodeId,
    },
    /// Not a member, or not yet, or no longer.
    #[error("{0} is not a member")]
    Unknown(NodeId),
    /// The right name with a key that the cluster did not register.
    #[error("{0} has another key than the one the cluster registered")]
    Key(NodeId),
    /// A later start of the same node is known: an old disk, or a copy.
    #[error(
        "{node} came with incarnation {came}, incarnation {known} is known: an old copy of its disk, or the node runs twice"
    )]
    Stale {
        /// Which node.
        node: NodeId,
        /// Its incarnation.
        came: u64,
        /// The highest known.
        known: u64,
    },
    /// No certificate of this cluster.
    #[error("{0}")]
    Certificate(String),
}

/// What a peer's certificate shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Whom it names.
    pub node: NodeId,
    /// SHA-256 of its public key.
    pub key: KeyHash,
}

impl Presented {
    /// Reads the certificate of the other end, which TLS has verified.
    ///
    /// # Errors
    /// It sent none, or it names no node of this cluster.
    pub fn of(connection: &Connection, cluster: ClusterId) -> Result<Self, HelloRefusal> {
        let certificates = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        let first =
            certificates.first().ok_or_else(|| HelloRefusal::Certificate("the node showed no certificate".into()))?;
        let wrong = |error: super::authority::AuthorityError| HelloRefusal::Certificate(error.to_string());
        Ok(Self { node: node_of(first, cluster).map_err(wrong)?, key: key_hash(first).map_err(wrong)? })
    }
}

/// Decides who is heard. Both ends ask their own.
#[derive(Debug)]
pub struct Admission {
    me: NodeId,
    cluster: ClusterId,
    lineage: Lineage,
    members: BTreeMap<NodeId, Peer>,
    /// The highest incarnation that each member has come with.
    seen: BTreeMap<NodeId, u64>,
}

impl Admission {
    /// Admits nobody yet.
    pub fn new(me: NodeId, cluster: ClusterId, lineage: Lineage) -> Self {
        Self { me, cluster, lineage, members: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// Who may be heard from now on.
    pub fn set_members(&mut self, members: BTreeMap<NodeId, Peer>) {
        self.seen.retain(|node, _| members.contains_key(node));
        self.members = members;
    }

    /// The members, with this node.
    pub fn members(&self) -> &BTreeMap<NodeId, Peer> {
        &self.members
    }

    /// Whether a node with this certificate and this hello is heard. Remembers the incarnation of one that is.
    ///
    /// # Errors
    /// The reason why not.
    pub fn judge(&mut self, presented: Presented, hello: &Hello) -> Result<(), HelloRefusal> {
        if hello.protocol_max < PROTOCOLS.0 || hello.protocol_min > PROTOCOLS.1 {
            let refused = (hello.protocol_min, hello.protocol_max);
            return Err(HelloRefusal::Protocol { refuser: PROTOCOLS, refused });
        }
        if hello.cluster != self.cluster {
            return Err(HelloRefusal::Cluster { refuser: self.cluster, refused: hello.cluster });
        }
        if hello.lineage != self.lineage {
            return Err(HelloRefusal::Lineage { refuser: self.lineage, refused: hello.lineage });
        }
        if hello.node != presented.node {
            return Err(HelloRefusal::Name { certificate: presented.node, hello: hello.node });
        }
        let node = hello.node;
        let member = self.members.get(&node).filter(|_| node != self.me).ok_or(HelloRefusal::Unknown(node))?;
        if member.key != presented.key {
            return Err(HelloRefusal::Key(node));
        }
        let known = member.incarnation.max(self.seen.get(&node).copied().unwrap_or(0));
        if hello.incarnation < known || are_of_copies(hello.incarnation, known) {
            return Err(HelloRefusal::Stale { node, came: hello.incarnation, known });
        }
        self.seen.insert(node, hello.incarnation);
        Ok(())
    }
}

/// Why a connection did not come to count.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The other end refuses us.
    #[error("it refuses us: {0}")]
    RefusesUs(HelloRefusal),
    /// We refuse the other end.
    #[error("we refuse it: {0}")]
    Refused(HelloRefusal),
    /// The connection failed in the middle.
    #[error("{}", describe(.0))]
    Connection(#[from] quinn::ConnectionError),
    /// The stream failed in the middle.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Something else than a hello.
    #[error("not a hello: {0}")]
    Malformed(String),
}

/// The code that a connection is closed with after a refusal.
pub const REFUSED: VarInt = VarInt::from_u32(1);

/// The dialer's side. `judge` is asked about the acceptor.
///
/// # Errors
/// Either end refuses the other, or the connection fails.
pub async fn introduce(
    connection: &Connection,
    me: &Hello,
    judge: impl Fn(&Hello) -> Result<(), HelloRefusal>,
) -> Result<Hello, HelloError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    frame::write(&mut send, HELLO, &codec::encode(me)).await?;
    match read(&mut recv, ANSWER).await? {
        Answer::Refused(reason) => Err(HelloError::RefusesUs(reason)),
        Answer::Welcome(hello) => match judge(&hello) {
            Ok(()) => {
                frame::write(&mut send, CONFIRM, &[]).await?;
                frame::finish(&mut send);
                Ok(hello)
            }
            Err(reason) => {
                connection.close(REFUSED, reason.to_string().as_bytes());
                Err(HelloError::Refused(reason))
            }
        },
    }
}

/// The acceptor's side. `judge` is asked about the dialer; a refusal is sent before the connection is closed.
///
/// # Errors
/// Either end refuses the other, or the connection fails.
pub async fn receive(
    connection: &Connection,
    me: &Hello,
    judge: impl Fn(&Hello) -> Result<(), HelloRefusal>,
) -> Result<Hello, HelloError> {
    let (mut send, mut recv): (SendStream, RecvStream) = connection.accept_bi().await?;
    let read = read(&mut recv, HELLO).await;
    if let Err(error @ HelloError::Malformed(_)) = &read {
        // It may be of another version, and is to say so to its own people.
        connection.close(REFUSED, error.to_string().as_bytes());
    }
    let hello: Hello = read?;
    if let Err(reason) = judge(&hello) {
        frame::write(&mut send, ANSWER, &codec::encode(&Answer::Refused(reason.clone()))).await?;
        frame::finish(&mut send);
        // Closing drops what is unsent; the dialer closes as soon as it has read the reason.
        if tokio::time::timeout(Duration::from_secs(1), connection.closed()).await.is_err() {
            connection.close(REFUSED, reason.to_string().as_bytes());
        }
        return Err(HelloError::Refused(reason));
    }
    frame::write(&mut send, ANSWER, &codec::encode(&Answer::Welcome(*me))).await?;
    frame::finish(&mut send);
    frame::read(&mut recv, |kind| if kind == CONFIRM { Ok(0) } else { Err(FrameError::Kind(kind)) }).await?;
    Ok(hello)
}

async fn read<T: serde::de::DeserializeOwned>(recv: &mut RecvStream, wanted: u8) -> Result<T, HelloError> {
    let limit = |kind| if kind == wanted { Ok(LIMIT) } else { Err(FrameError::Kind(kind)) };
    let (_, body) = frame::read(recv, limit).await?;
    codec::decode(&body, LIMIT).map_err(|error| HelloError::Malformed(error.to_string()))
}

/// A lost connection in words.
pub fn describe(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::TimedOut => "no answer".into(),
        quinn::ConnectionError::Reset => "it restarted".into(),
        quinn::ConnectionError::LocallyClosed => "closed by this node".into(),
        quinn::ConnectionError::ApplicationClosed(close) => {
            format!("closed by the other side: {}", String::from_utf8_lossy(&close.reason))
        }
        quinn::ConnectionError::TransportError(error) => error.to_string(),
        quinn::ConnectionError::ConnectionClosed(close) => close.to_string(),
        quinn::ConnectionError::VersionMismatch => "it speaks another version of QUIC".into(),
        quinn::ConnectionError::CidsExhausted => "no connection ids left".into(),
    }
}

/// The wall clock. Zero when it stands before 1970.
pub fn wall_now() -> WallTime {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);
    const LINEAGE: Lineage = Lineage { counter: 2, id: 9 };

    fn peer(incarnation: u64) -> Peer {
        Peer { address: "127.0.0.1:1".parse().unwrap(), key: [2; 32], incarnation }
    }

    fn admission() -> Admission {
        let mut admission = Admission::new(NodeId(1), CLUSTER, LINEAGE);
        admission.set_members([(NodeId(1), peer(1)), (NodeId(2), peer(5))].into());
        admission
    }

    fn hello() -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 3,
            cluster: CLUSTER,
            lineage: LINEAGE,
            node: NodeId(2),
            incarnation: 5,
            wall: Duration::ZERO,
        }
    }

    const SHOWN: Presented = Presented { node: NodeId(2), key: [2; 32] };

    #[test]
    fn a_member_is_heard_and_its_restarts_too() {
        let mut admission = admission();
        assert_eq!(admission.judge(SHOWN, &hello()), Ok(()));
        assert_eq!(admission.judge(SHOWN, &Hello { incarnation: 8, ..hello() }), Ok(()));
        assert_eq!(
            admission.judge(SHOWN, &Hello { incarnation: 7, ..hello() }),
            Err(HelloRefusal::Stale { node: NodeId(2), came: 7, known: 8 })
        );
        // The same count of starts, and another life.
        let copies = Admission { seen: [(NodeId(2), 0x9_0007)].into(), ..self::admission() }
            .judge(SHOWN, &Hello { incarnation: 0x9_0008, ..hello() });
        assert_eq!(copies, Err(HelloRefusal::Stale { node: NodeId(2), came: 0x9_0008, known: 0x9_0007 }));
        admission.set_members([(NodeId(2), peer(9))].into());
        let stale = Err(HelloRefusal::Stale { node: NodeId(2), came: 8, known: 9 });
        assert_eq!(admission.judge(SHOWN, &Hello { incarnation: 8, ..hello() }), stale);
    }

    #[test]
    fn every_stranger_hears_why() {
        let refusal = |shown, hello| admission().judge(shown, &hello).unwrap_err();
        let other = Lineage { counter: 2, id: 8 };
        assert_eq!(
            refusal(SHOWN, Hello { protocol_min: 2, ..hello() }),
            HelloRefusal::Protocol { refuser: (1, 1), refused: (2, 3) }
        );
        assert_eq!(
            refusal(SHOWN, Hello { cluster: ClusterId(8), ..hello() }),
            HelloRefusal::Cluster { refuser: CLUSTER, refused: ClusterId(8) }
        );
        assert_eq!(
            refusal(SHOWN, Hello { lineage: other, ..hello() }),
            HelloRefusal::Lineage { refuser: LINEAGE, refused: other }
        );
        assert_eq!(
            refusal(SHOWN, Hello { node: NodeId(3), ..hello() }),
            HelloRefusal::Name { certificate: NodeId(2), hello: NodeId(3) }
        );
        let third = Presented { node: NodeId(3), key: [2; 32] };
        assert_eq!(refusal(third, Hello { node: NodeId(3), ..hello() }), HelloRefusal::Unknown(NodeId(3)));
        let first = Presented { node: NodeId(1), key: [2; 32] };
        let mirror = Hello { node: NodeId(1), ..hello() };
        assert_eq!(refusal(first, mirror), HelloRefusal::Unknown(NodeId(1)), "nobody else is this node");
        let key = Presented { node: NodeId(2), key: [3; 32] };
        assert_eq!(refusal(key, hello()), HelloRefusal::Key(NodeId(2)));
    }
}
