//! Real endpoints on loopback addresses of this process alone.

mod exchange;
mod join;
mod lease;
mod mesh;

use super::authority::{Authority, Key};
use super::frame::Kind;
use super::hello::{Peer, wall_now};
use super::identity::{Identity, NodeRecord};
use super::mesh::Service;
use super::{Reach, Timing};
use futures_util::future::BoxFuture;
use hamesh_raft::command::{ClusterId, Lineage, NodeId, Role};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// An address that no other test uses, with the port after it.
pub(super) fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = u8::try_from(std::process::id() % 120).unwrap() + 100;
    let test = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::new(Ipv4Addr::new(127, process, test, 1).into(), 7112)
}

/// A cluster on paper: its CA, and members with keys and addresses.
pub(super) struct Paper {
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub authority: Authority,
    pub identities: BTreeMap<NodeId, Arc<Identity>>,
    pub members: BTreeMap<NodeId, Peer>,
}

impl Paper {
    pub fn new(cluster: u128, nodes: u64) -> Self {
        let cluster = ClusterId(cluster << 64 | 5);
        let authority = Authority::create(cluster, wall_now()).unwrap();
        let lineage = Lineage { counter: 1, id: 77 };
        let mut paper = Self { cluster, lineage, authority, identities: BTreeMap::new(), members: BTreeMap::new() };
        for id in 1..=nodes {
            paper.add(NodeId(id), address());
        }
        paper
    }

    pub fn add(&mut self, node: NodeId, address: SocketAddr) {
        let identity = self.identity(node);
        self.members.insert(node, Peer { address, key: identity.key.hash(), incarnation: 0 });
        self.identities.insert(node, identity);
    }

    /// A certificate for a node, with a new key.
    pub fn identity(&self, id: NodeId) -> Arc<Identity> {
        let key = Key::generate().unwrap();
        let certificate = self.authority.sign_own(&key, id, wall_now()).unwrap();
        let record = NodeRecord {
            id,
            name: format!("lb{}", id.0),
            role: Role::Director,
            cluster: self.cluster,
            cluster_name: "edge".into(),
            lineage: self.lineage,
        };
        let ca = self.authority.certificate().clone();
        Arc::new(Identity { record, key, certificate: certificate.into(), ca, authority: None })
    }

    pub fn address(&self, node: u64) -> SocketAddr {
        self.members[&NodeId(node)].address
    }
}

/// Echoes calls and notes everything that reaches it.
#[derive(Default)]
pub(super) struct Echo {
    /// From whom, what, how long.
    pub calls: Mutex<Vec<(NodeId, Kind, usize)>>,
    pub tells: Mutex<Vec<(NodeId, Kind, usize)>>,
    pub joins: Mutex<Vec<Vec<u8>>>,
}

impl Echo {
    pub fn untouched(&self) -> bool {
        self.calls.lock().unwrap().is_empty()
            && self.tells.lock().unwrap().is_empty()
            && self.joins.lock().unwrap().is_empty()
    }
}

impl Service for Echo {
    fn serve(&self, from: NodeId, kind: Kind, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        self.calls.lock().unwrap().push((from, kind, body.len()));
        Box::pin(async move {
            match body.as_slice() {
                b"fail" => Err("no such thing".into()),
                b"sleep" => {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    Ok(body)
                }
                _ => Ok(body),
            }
        })
    }

    fn told(&self, from: NodeId, kind: Kind, body: Vec<u8>) {
        self.tells.lock().unwrap().push((from, kind, body.len()));
    }

    fn join(&self, _from: SocketAddr, body: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        self.joins.lock().unwrap().push(body);
        Box::pin(std::future::ready(b"answer".to_vec()))
    }
}

/// Waits until the links are as wanted; says what they are when they do not come to be.
pub(super) async fn until(
    mut reach: watch::Receiver<BTreeMap<NodeId, Reach>>,
    what: &str,
    mut holds: impl FnMut(&BTreeMap<NodeId, Reach>) -> bool,
) -> BTreeMap<NodeId, Reach> {
    let met =
        timeout(Duration::from_secs(8), reach.wait_for(|reach| holds(reach))).await.map(|met| met.unwrap().clone());
    met.unwrap_or_else(|_| panic!("{what}: {:#?}", *reach.borrow()))
}

pub(super) fn all_linked(reach: &BTreeMap<NodeId, Reach>) -> bool {
    reach.values().all(|reach| reach.outgoing.is_some() && reach.incoming.is_some())
}

/// Patient with a loaded machine.
pub(super) const SLOW: Timing =
    Timing { attempt: Duration::from_secs(2), idle: Duration::from_secs(3), ..Timing::MESH };
