//! What a node of the laboratory says of itself and of the others.

use super::cluster::GROUP;
use serde::Deserialize;

/// What the laboratory reads of `hamesh status --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The mesh as a whole.
    pub cluster: ClusterStatus,
    /// Its members.
    pub nodes: Vec<NodeStatus>,
    /// The VIP groups.
    pub vips: Vec<VipStatus>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// `cluster` of the status.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterStatus {
    /// Whether the node sees a quorum.
    pub quorum: bool,
    /// The Raft leader's name.
    pub leader: Option<String>,
    /// The last entry that the node itself has applied.
    pub applied: u64,
}

/// One of `nodes` of the status.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether the answering node hears it.
    pub reachable: bool,
    /// What keeps it away, or from voting.
    #[serde(default)]
    pub why: Option<String>,
    /// Whether it counts for quorum.
    pub voter: bool,
    /// How often it was started.
    pub incarnation: u64,
}

/// One of `vips` of the status.
#[derive(Clone, Debug, Deserialize)]
pub struct VipStatus {
    /// The group's name.
    pub name: String,
    /// The VRRP state of the answering node.
    pub state: String,
    /// The holder's name.
    pub holder: Option<String>,
    /// The holder's token.
    pub token: Option<u64>,
    /// The session that the token was given to.
    pub session: Option<u64>,
    /// Whether the answering node's gate is `open`.
    pub gate: String,
    /// Whether it serves the group without a lease.
    #[serde(default)]
    pub unfenced: bool,
    /// As granted, or as the answering node has them.
    pub addresses: Vec<String>,
}

impl Status {
    /// The laboratory's VIP group, if the node knows it.
    #[must_use]
    pub fn vip(&self) -> Option<&VipStatus> {
        self.vips.iter().find(|vip| vip.name == GROUP)
    }
}
