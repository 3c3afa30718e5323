//! One endpoint of a node: keeps one connection of its own to every other member, and takes theirs.
//!
//! Two connections per pair, one dialed by each: requests of a node go out on its own, so nobody has to agree on which of
//! two simultaneous ones lives. The mesh and the lease plane are both such endpoints and differ in their [`Traffic`].

use super::authority::{KeyHash, node_name};
use super::hello::{self, Admission, Hello, HelloError, HelloRefusal, PROTOCOLS, Peer, Presented, describe, wall_now};
use super::identity::Identity;
use super::reach::{LONGEST, Link, Reach, Timing};
use super::tls::{self, Clients, TlsError};
use futures_util::future::BoxFuture;
use hamesh_raft::command::NodeId;
use quinn::{Connection, Endpoint, TokioRuntime, TransportConfig, VarInt};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// Why an endpoint cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket.
    #[error("cannot listen on {address}/udp: {source}: check `listen`, and that no other hamesh runs here")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a plane does with its connections.
pub(super) trait Traffic: Send + Sync + 'static {
    /// A connection counts. The future runs until the connection is over.
    fn carry(&self, member: NodeId, way: Way, connection: Connection) -> BoxFuture<'static, ()>;
    /// Somebody with another protocol than the members', and perhaps without a certificate.
    fn stranger(&self, connection: Connection) -> BoxFuture<'static, ()>;
}

/// Who dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Outgoing,
    Incoming,
}

/// What distinguishes one plane from another.
pub(super) struct Setup {
    pub label: &'static str,
    /// The members' protocol, then those of strangers.
    pub alpn: &'static [&'static [u8]],
    pub timing: Timing,
    pub transport: fn(&Timing) -> Result<TransportConfig, TlsError>,
    /// From the member's `listen` to this plane's address.
    pub address: fn(SocketAddr) -> SocketAddr,
}

pub(super) struct Plane {
    pub endpoint: Endpoint,
    identity: Arc<Identity>,
    incarnation: u64,
    setup: Setup,
    client: quinn::ClientConfig,
    traffic: Arc<dyn Traffic>,
    /// The runtime that drives this plane: callers may be on another one, or on none.
    pub runtime: tokio::runtime::Handle,
    state: Mutex<State>,
    reach: watch::Sender<BTreeMap<NodeId, Reach>>,
    /// What a member said that knows a later start of this node.
    outlived: watch::Sender<Option<HelloRefusal>>,
}

struct State {
    admission: Admission,
    dials: BTreeMap<NodeId, Dial>,
    outgoing: BTreeMap<NodeId, Connection>,
    incoming: BTreeMap<NodeId, Connection>,
    /// Whom we refused last and why, members or not. Only bearers of a certificate get in here.
    refused: BTreeMap<NodeId, HelloRefusal>,
}

struct Dial {
    address: SocketAddr,
    key: KeyHash,
    task: AbortHandle,
}

impl Dial {
    fn is_to(&self, peer: &Peer) -> bool {
        self.address == peer.address && self.key == peer.key
    }
}

const GOODBYE: VarInt = VarInt::from_u32(0);
const SUPERSEDED: VarInt = VarInt::from_u32(3);
/// Handshakes and hellos in flight.
const HANDSHAKES: usize = 64;
/// How long an incoming handshake and hello may take.
const PATIENCE: Duration = Duration::from_secs(2);

impl Plane {
    /// Listens at `setup.address(listen)`. Must be called within the runtime that is to drive the plane.
    pub fn bind(
        listen: SocketAddr,
        identity: Arc<Identity>,
        incarnation: u64,
        setup: Setup,
        traffic: Arc<dyn Traffic>,
    ) -> Result<Arc<Self>, BindError> {
        let transport = || (setup.transport)(&setup.timing);
        let clients = if setup.alpn.len() > 1 { Clients::MembersAndJoiners } else { Clients::Members };
        let server = tls::server(&identity, setup.alpn, clients, transport()?)?;
        let client = tls::client(&identity, setup.alpn.first().copied().unwrap_or_default(), Arc::new(transport()?))?;
        let address = (setup.address)(listen);
        let failed = |source| BindError::Socket { address, source };
        let socket = tls::socket(address).map_err(failed)?;
        let config = tls::endpoint(&identity.key, setup.label)?;
        let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).map_err(failed)?;
        let record = &identity.record;
        let state = State {
            admission: Admission::new(record.id, record.cluster, record.lineage),
            dials: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        let plane = Arc::new(Self {
            endpoint,
            incarnation,
            setup,
            client,
            traffic,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::new(state),
            reach: watch::Sender::new(BTreeMap::new()),
            outlived: watch::Sender::new(None),
            identity,
        });
        tokio::spawn(plane.clone().accept());
        Ok(plane)
    }

    /// Dials whoever is new, drops whoever is gone. A changed address or key is both.
    pub fn set_members(self: &Arc<Self>, members: BTreeMap<NodeId, Peer>) {
        let me = self.identity.record.id;
        let mut state = self.state();
        let stays = |node: &NodeId, dial: &Dial| members.get(node).is_some_and(|peer| dial.is_to(peer));
        let gone: Vec<NodeId> =
            state.dials.iter().filter(|(node, dial)| !stays(node, dial)).map(|(node, _)| *node).collect();
        for node in &gone {
            if let Some(dial) = state.dials.remove(node) {
                dial.task.abort();
            }
            for connection in [state.outgoing.remove(node), state.incoming.remove(node)].into_iter().flatten() {
                connection.close(hello::REFUSED, b"no longer a member with this address and key");
            }
        }
        for (&node, peer) in members.iter().filter(|(node, _)| **node != me) {
            state.dials.entry(node).or_insert_with(|| Dial {
                address: peer.address,
                key: peer.key,
                task: self.runtime.spawn(self.clone().keep(node, *peer)).abort_handle(),
            });
        }
        self.reach.send_if_modified(|reach| {
            reach.retain(|node, _| !gone.contains(node));
            let kept = reach.len();
            for node in state.dials.keys() {
                reach.entry(*node).or_default();
            }
            !gone.is_empty() || reach.len() != kept
        });
        state.admission.set_members(members);
    }

    /// Our own connection to a member, when it counts.
    pub fn outgoing(&self, to: NodeId) -> Option<Connection> {
        self.state().outgoing.get(&to).cloned()
    }

    pub fn reach(&self) -> watch::Receiver<BTreeMap<NodeId, Reach>> {
        self.reach.subscribe()
    }

    /// What a member said that knows a later start of this node, once one does.
    pub fn outlived(&self) -> watch::Receiver<Option<HelloRefusal>> {
        self.outlived.subscribe()
    }

    pub fn refused(&self) -> BTreeMap<NodeId, HelloRefusal> {
        self.state().refused.clone()
    }

    /// Says goodbye to everybody and ends. Waits until it is on the wire, but not for the deaf. The address is free a
    /// moment after the last handle is dropped.
    pub async fn close(&self) {
        let dials = std::mem::take(&mut self.state().dials);
        for dial in dials.values() {
            dial.task.abort();
        }
        self.endpoint.close(GOODBYE, b"this node is stopping");
        if timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!(plane = self.setup.label, "closed without everybody's acknowledgement");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self) -> Hello {
        let record = &self.identity.record;
        Hello {
            protocol_min: PROTOCOLS.0,
            protocol_max: PROTOCOLS.1,
            cluster: record.cluster,
            lineage: record.lineage,
            node: record.id,
            incarnation: self.incarnation,
            wall: wall_now(),
        }
    }

    /// Keeps a connection to one member, until the members change.
    async fn keep(self: Arc<Self>, node: NodeId, peer: Peer) {
        let address = (self.setup.address)(peer.address);
        let timing = self.setup.timing;
        let (mut pause, mut patience) = (timing.pause_min, timing.attempt);
        loop {
            let trouble = match timeout(patience, self.dial(node, address)).await {
                Ok(Ok((connection, hello))) => {
                    {
                        let mut state = self.state();
                        // Another thread may have changed the members while the hello ended here.
                        if !state.dials.get(&node).is_some_and(|dial| dial.is_to(&peer)) {
                            return;
                        }
                        state.outgoing.insert(node, connection.clone());
                    }
                    self.linked(node, Way::Outgoing, Some(link(&connection, &hello)));
                    self.traffic.carry(node, Way::Outgoing, connection.clone()).await;
                    let reason = connection.closed().await;
                    self.state().outgoing.remove(&node);
                    self.linked(node, Way::Outgoing, None);
                    (pause, patience) = (timing.pause_min, timing.attempt);
                    format!("{address}: {}", describe(&reason))
                }
                Ok(Err(DialError::Connect(quinn::ConnectError::EndpointStopping))) => return,
                Ok(Err(error)) => format!("{address}: {error}"),
                Err(_) => {
                    patience = (patience * 2).min(timing.attempt * LONGEST);
                    format!("{address}: no answer")
                }
            };
            self.trouble(node, trouble);
            // Half of it random, so that two nodes that lost each other do not stay in step.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(timing.pause_max);
        }
    }

    async fn dial(&self, node: NodeId, address: SocketAddr) -> Result<(Connection, Hello), DialError> {
        let cluster = self.identity.record.cluster;
        let connection = self.endpoint.connect_with(self.client.clone(), address, &node_name(node, cluster))?.await?;
        let shown = Presented::of(&connection, cluster).map_err(HelloError::Refused)?;
        let greeted = hello::introduce(&connection, &self.hello(), |hello| self.judge(shown, hello)).await;
        match greeted {
            Ok(hello) => Ok((connection, hello)),
            Err(HelloError::RefusesUs(reason @ HelloRefusal::Stale { .. })) => {
                self.outlived.send_replace(Some(reason.clone()));
                Err(HelloError::RefusesUs(reason).into())
            }
            Err(error @ (HelloError::RefusesUs(_) | HelloError::Refused(_) | HelloError::Malformed(_))) => {
                Err(error.into())
            }
            // The stream knows only that it ended; the connection knows why.
            Err(error @ (HelloError::Connection(_) | HelloError::Frame(_))) => {
                Err(connection.close_reason().map_or_else(|| error.into(), DialError::Connection))
            }
        }
    }

    async fn accept(self: Arc<Self>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            let Ok(permit) = handshakes.clone().try_acquire_owned() else {
                incoming.ignore();
                continue;
            };
            // Half of the handshakes are for whoever comes; the other half for members' addresses, which a Retry proves.
            if handshakes.available_permits() < HANDSHAKES / 2 {
                if !incoming.remote_address_validated() {
                    // Fails only for an attempt that came with a token already, and drops it then.
                    drop(incoming.retry());
                    continue;
                }
                if !self.is_members_address(incoming.remote_address()) {
                    incoming.ignore();
                    continue;
                }
            }
            let plane = self.clone();
            tokio::spawn(async move {
                let address = incoming.remote_address();
                let received = timeout(PATIENCE, plane.receive(incoming)).await;
                drop(permit);
                match received {
                    Ok(Ok(Received::Member(shown, connection, hello))) => plane.take(shown, connection, &hello).await,
                    Ok(Ok(Received::Stranger(connection))) => plane.traffic.stranger(connection).await,
                    Ok(Err(error)) => tracing::debug!(%address, %error, plane = plane.setup.label, "not connected"),
                    Err(_) => tracing::debug!(%address, plane = plane.setup.label, "no hello in time"),
                }
            });
        }
    }

    fn is_members_address(&self, address: SocketAddr) -> bool {
        self.state().dials.values().any(|dial| dial.address.ip() == address.ip())
    }

    async fn receive(&self, incoming: quinn::Incoming) -> Result<Received, DialError> {
        let connection = incoming.accept()?.await?;
        let protocol = connection
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
            .and_then(|data| data.protocol);
        if protocol.as_deref() != self.setup.alpn.first().copied() {
            return Ok(Received::Stranger(connection));
        }
        let shown = match Presented::of(&connection, self.identity.record.cluster) {
            Ok(shown) => shown,
            Err(reason) => {
                connection.close(hello::REFUSED, reason.to_string().as_bytes());
                return Err(HelloError::Refused(reason).into());
            }
        };
        let judged = hello::receive(&connection, &self.hello(), |hello| self.judge(shown, hello)).await;
        if let Err(error) = &judged {
            self.trouble(shown.node, format!("{}: {error}", connection.remote_address()));
        }
        Ok(Received::Member(shown, connection, judged?))
    }

    /// Carries a member's connection until it is over.
    async fn take(&self, shown: Presented, connection: Connection, hello: &Hello) {
        let node = shown.node;
        {
            let mut state = self.state();
            // The members may have changed since the hello.
            if state.dials.get(&node).is_none_or(|dial| dial.key != shown.key) {
                connection.close(hello::REFUSED, b"no longer a member");
                return;
            }
            if let Some(old) = state.incoming.insert(node, connection.clone()) {
                old.close(SUPERSEDED, b"superseded by a newer connection");
            }
            // It has restarted: our own connection still leads to the process before.
            let before = self.reach.borrow().get(&node).and_then(|reach| reach.outgoing).map(|link| link.incarnation);
            if before.is_some_and(|before| before < hello.incarnation)
                && let Some(old) = state.outgoing.get(&node)
            {
                old.close(SUPERSEDED, b"the other end has restarted");
            }
        }
        self.linked(node, Way::Incoming, Some(link(&connection, hello)));
        self.traffic.carry(node, Way::Incoming, connection.clone()).await;
        connection.closed().await;
        let mut state = self.state();
        if state.incoming.get(&node).is_some_and(|current| current.stable_id() == connection.stable_id()) {
            state.incoming.remove(&node);
            drop(state);
            self.linked(node, Way::Incoming, None);
        }
    }

    fn judge(&self, shown: Presented, hello: &Hello) -> Result<(), HelloRefusal> {
        let mut state = self.state();
        let judged = state.admission.judge(shown, hello);
        match &judged {
            Ok(()) => {
                state.refused.remove(&shown.node);
            }
            Err(reason) => {
                if state.refused.insert(shown.node, reason.clone()).as_ref() != Some(reason) {
                    tracing::warn!(node = %shown.node, %reason, plane = self.setup.label, "refused");
                }
            }
        }
        judged
    }

    fn linked(&self, node: NodeId, way: Way, link: Option<Link>) {
        self.reach.send_if_modified(|reach| {
            let Some(entry) = reach.get_mut(&node) else { return false };
            match way {
                Way::Outgoing => entry.outgoing = link,
                Way::Incoming => entry.incoming = link,
            }
            if entry.outgoing.is_some() && entry.incoming.is_some() {
                entry.trouble = None;
            }
            true
        });
    }

    fn trouble(&self, node: NodeId, trouble: String) {
        self.reach.send_if_modified(|reach| match reach.get_mut(&node) {
            Some(entry) if entry.trouble.as_ref() != Some(&trouble) => {
                tracing::debug!(%node, %trouble, plane = self.setup.label, "not connected");
                entry.trouble = Some(trouble);
                true
            }
            Some(_) | None => false,
        });
    }
}

enum Received {
    Member(Presented, Connection, Hello),
    Stranger(Connection),
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{}", describe(.0))]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Hello(#[from] HelloError),
}

fn link(connection: &Connection, hello: &Hello) -> Link {
    Link {
        since: Instant::now(),
        rtt: connection.rtt(),
        clock_off: wall_now().abs_diff(hello.wall),
        incarnation: hello.incarnation,
    }
}
