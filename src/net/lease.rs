//! The lease plane: small datagrams on an endpoint of its own, one port above the mesh's.
//!
//! Nothing here waits behind anything: no streams, no congestion control worth the name, and of what could not be sent yet
//! only the newest is kept, because an older renewal or ack is worth nothing beside it. A datagram may be lost, doubled or
//! late. A lost connection is a hint to look earlier, never a proof that somebody has died.

use super::hello::{HelloRefusal, Peer};
use super::identity::Identity;
use super::plane::{BindError, Plane, Setup, Traffic, Way};
use super::reach::{Reach, Timing};
use super::tls::{self, TlsError};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hamesh_raft::command::NodeId;
use quinn::congestion::{Controller, ControllerFactory};
use quinn::{Connection, TransportConfig};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// The longest datagram, in bytes.
pub const DATAGRAM_LIMIT: usize = 512;
/// Received and not yet taken. More than this means that nobody takes them; the newest are dropped.
const QUEUE: usize = 1024;
/// More than renewals and acks ever have under way, so they are never held back.
const WINDOW: u64 = 1 << 20;

/// A datagram from a member of the same cluster and lineage.
#[derive(Debug)]
pub struct Datagram {
    /// Who, by certificate.
    pub from: NodeId,
    /// The connection it came on, to reply on.
    pub via: Via,
    /// What.
    pub bytes: Bytes,
}

/// The connection that a datagram came on.
#[derive(Clone)]
pub struct Via(Connection);

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Via({})", self.0.stable_id())
    }
}

/// Why a datagram was not even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection to the node now.
    #[error("not connected")]
    NotConnected,
    /// Longer than [`DATAGRAM_LIMIT`].
    #[error("longer than {DATAGRAM_LIMIT} bytes")]
    TooLong,
}

fn transport(timing: &Timing) -> Result<TransportConfig, TlsError> {
    let mut transport = tls::transport(timing)?;
    transport
        .datagram_receive_buffer_size(Some(1 << 16))
        // The queue's own cost per datagram counts too: one of full length fits, or a few short ones.
        .datagram_send_buffer_size(DATAGRAM_LIMIT + 64)
        .congestion_controller_factory(Arc::new(ConstantWindow));
    Ok(transport)
}

/// A node's place in the lease plane. It lives until [`LeasePlane::close`].
#[derive(Clone)]
pub struct LeasePlane {
    plane: Arc<Plane>,
}

impl LeasePlane {
    /// Opens the endpoint, one port above `listen`, on the runtime that this is called in: a `current_thread` one on the
    /// lease thread. Nobody is heard until [`LeasePlane::set_peers`].
    ///
    /// # Errors
    /// The address is taken, or the identity does not work.
    pub fn bind(
        listen: SocketAddr,
        identity: Arc<Identity>,
        incarnation: u64,
        timing: Timing,
    ) -> Result<(Self, mpsc::Receiver<Datagram>), BindError> {
        let (deliver, datagrams) = mpsc::channel(QUEUE);
        let setup = Setup { label: "lease", alpn: &[tls::LEASE], timing, transport, address: lease_address };
        let plane = Plane::bind(listen, identity, incarnation, setup, Arc::new(Datagrams { deliver }))?;
        Ok((Self { plane }, datagrams))
    }

    /// Whom to keep a connection to, by their mesh addresses, and whom to hear.
    pub fn set_peers(&self, members: BTreeMap<NodeId, Peer>) {
        self.plane.set_members(members);
    }

    /// Sends on our own connection to a member.
    ///
    /// # Errors
    /// Not connected, or too long.
    pub fn send(&self, to: NodeId, bytes: Bytes) -> Result<(), SendError> {
        self.reply(&Via(self.plane.outgoing(to).ok_or(SendError::NotConnected)?), bytes)
    }

    /// Sends back on the connection that a datagram came on.
    ///
    /// # Errors
    /// The connection is gone, or too long.
    pub fn reply(&self, via: &Via, bytes: Bytes) -> Result<(), SendError> {
        if bytes.len() > DATAGRAM_LIMIT {
            return Err(SendError::TooLong);
        }
        via.0.send_datagram(bytes).map_err(|error| match error {
            quinn::SendDatagramError::TooLarge => SendError::TooLong,
            quinn::SendDatagramError::UnsupportedByPeer
            | quinn::SendDatagramError::Disabled
            | quinn::SendDatagramError::ConnectionLost(_) => SendError::NotConnected,
        })
    }

    /// Which connections there are: hints.
    pub fn reachable(&self) -> watch::Receiver<BTreeMap<NodeId, Reach>> {
        self.plane.reach()
    }

    /// Whom this node refused last, and why.
    pub fn refused(&self) -> BTreeMap<NodeId, HelloRefusal> {
        self.plane.refused()
    }

    /// Says goodbye and ends.
    pub async fn close(&self) {
        self.plane.close().await;
    }
}

/// The lease plane's address of a member that listens at `listen`. A `listen` port of 65535 has none above it and wraps to
/// 0, which no member can be reached at.
pub fn lease_address(listen: SocketAddr) -> SocketAddr {
    SocketAddr::new(listen.ip(), listen.port().wrapping_add(1))
}

struct Datagrams {
    deliver: mpsc::Sender<Datagram>,
}

impl Traffic for Datagrams {
    fn carry(&self, member: NodeId, _way: Way, connection: Connection) -> BoxFuture<'static, ()> {
        let deliver = self.deliver.clone();
        Box::pin(async move {
            while let Ok(bytes) = connection.read_datagram().await {
                let datagram = Datagram { from: member, via: Via(connection.clone()), bytes };
                match deliver.try_send(datagram) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        tracing::debug!(%member, "lease datagram dropped: nobody takes them");
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                }
            }
        })
    }

    fn stranger(&self, connection: Connection) -> BoxFuture<'static, ()> {
        connection.close(super::hello::REFUSED, b"not a protocol of the lease plane");
        Box::pin(std::future::ready(()))
    }
}

/// A congestion window that nothing changes. Loss must not hold back renewals: a few hundred bytes a second congest
/// nothing, and when they come late a VIP goes dark.
#[derive(Clone, Copy, Debug)]
struct ConstantWindow;

impl ControllerFactory for ConstantWindow {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for ConstantWindow {
    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _persistent: bool, _lost: u64) {}

    fn on_mtu_update(&mut self, _mtu: u16) {}

    fn window(&self) -> u64 {
        WINDOW
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
