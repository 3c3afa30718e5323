//! chitchat's transport over a wire that others have authenticated.

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use hamesh_raft::command::NodeId;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// How gossip reaches other members. Up to 64 KiB per message, in no order, and lost ones are not missed.
pub trait Wire: Send + Sync + 'static {
    /// Sends and forgets; must not block. What arrives goes to [`crate::Gossip::hear`] there.
    fn send(&self, to: NodeId, bytes: Vec<u8>);
}

pub(crate) type Incoming = (NodeId, Vec<u8>);

/// Hands chitchat its one socket.
pub(crate) struct OverWire {
    socket: Mutex<Option<WireSocket>>,
}

struct WireSocket {
    wire: Arc<dyn Wire>,
    incoming: mpsc::Receiver<Incoming>,
}

impl OverWire {
    pub(crate) fn new(wire: Arc<dyn Wire>, incoming: mpsc::Receiver<Incoming>) -> Self {
        Self { socket: Mutex::new(Some(WireSocket { wire, incoming })) }
    }
}

#[async_trait]
impl Transport for OverWire {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(socket.ok_or_else(|| anyhow::anyhow!("opened twice"))?))
    }
}

#[async_trait]
impl Socket for WireSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        // Another address can only have come in a digest from a member that does not dress ids this way.
        if let Some(node) = node_at(to) {
            self.wire.send(node, message.serialize_to_vec());
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            // An error here ends chitchat for good, so only the end of the wire is one.
            let (from, bytes) = self.incoming.recv().await.ok_or_else(|| anyhow::anyhow!("the wire is gone"))?;
            let mut rest = bytes.as_slice();
            match ChitchatMessage::deserialize(&mut rest) {
                Ok(message) if rest.is_empty() => return Ok((address_of(from), message)),
                Ok(_) => tracing::debug!(%from, left = rest.len(), "gossip message with a tail dropped"),
                Err(error) => tracing::debug!(%from, %error, "malformed gossip message dropped"),
            }
        }
    }
}

/// `fd` and the letters of `hamesh`: a private prefix that nothing is ever sent to.
const PREFIX: u64 = 0xfd68_616d_6573_6800;

/// A node id dressed as a socket address, for chitchat.
pub(crate) fn address_of(node: NodeId) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from((u128::from(PREFIX) << 64) | u128::from(node.0)).into(), 1)
}

/// The node id under the dress.
pub(crate) fn node_at(address: SocketAddr) -> Option<NodeId> {
    let SocketAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, g, h, id @ ..] = v6.ip().octets();
    let prefix = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    (prefix == PREFIX && v6.port() == 1).then(|| NodeId(u64::from_be_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_survives_its_dress() {
        for id in [0, 1, 7, u64::MAX] {
            assert_eq!(node_at(address_of(NodeId(id))), Some(NodeId(id)));
        }
        assert_eq!(node_at("127.0.0.1:1".parse().unwrap()), None);
        assert_eq!(node_at("[2001:db8::1]:1".parse().unwrap()), None);
    }
}
