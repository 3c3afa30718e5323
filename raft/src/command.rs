//! What the cluster can be told: the entries of the replicated log, and the names in them.
//!
//! A command is applied by [`crate::state::State::apply`], which reads the entry and the replicated state and
//! nothing else, so every node comes to the same result.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A node of the cluster. Given by the cluster, never reused: a disk that was lost comes back as a new node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A session: one run of hamesh on a node, the holder of leases. Its id is the log index of its `Open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sid(pub u64);

/// The name of a VIP group, as in `[vip.NAME]`.
pub type GroupName = String;

/// The fencing token of a grant. Per VIP group it only grows: over restarts, snapshots and forced recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The lineage's counter, raised by every forced recovery.
    pub lineage: u32,
    /// The log index of the entry that granted.
    pub index: u64,
}

/// Which line of history a cluster is on. Equal counters with different ids refuse each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// Raised by every forced recovery; 1 at the beginning.
    pub counter: u32,
    /// Random, drawn together with the counter.
    pub id: u64,
}

/// The random 128-bit name of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// The random 128-bit name of a gate. It is kept in the gate itself, so it lives exactly as long as the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GateId(pub u128);

/// One leadership of the Raft group. The term alone does not name one: two nodes can lead in one term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Leadership {
    /// Raft's term.
    pub term: u64,
    /// The leader.
    pub node: NodeId,
}

/// What a node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Can hold VIPs.
    Director,
    /// Votes only, needs no privilege.
    Witness,
}

/// An address family of VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What a VIP group is on the LAN. Two nodes that differ here never hold the group beside each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Definition {
    /// Of the VRRP virtual router.
    pub family: Family,
    /// The virtual router's id, 1 to 255 (RFC 9568 section 5.2.3).
    pub vrid: u8,
    /// The VIPs, sorted: their order means nothing here.
    pub addresses: Vec<IpAddr>,
}

/// A wall-clock time: the span since the Unix epoch. Used for certificates and invitations, never for leases.
pub type WallTime = Duration;

/// One invitation's public name; the secret beside it in the join string is known to its bearer only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvitationId(pub u64);

/// What a node says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Applicant {
    /// Unique in the cluster.
    pub name: String,
    /// Must be the role that the invitation names.
    pub role: Role,
    /// Where it stands; voters are spread over racks.
    pub rack: String,
    /// Where its mesh endpoint listens.
    pub address: SocketAddr,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub key: [u8; 32],
}

/// An entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Command {
    /// The first entry: the cluster exists, with one node.
    Found {
        /// The cluster's random name.
        cluster: ClusterId,
        /// The cluster's name for people.
        name: String,
        /// The first lineage.
        lineage: Lineage,
        /// The founding node; it gets id 1.
        founder: Applicant,
    },
    /// An invitation may be used once, until it expires.
    Invite {
        /// Its public name.
        id: InvitationId,
        /// SHA-256 of the secret.
        secret_hash: [u8; 32],
        /// What it admits.
        role: Role,
        /// When it ends.
        expires_at: WallTime,
    },
    /// Uses an invitation and allots a node id.
    Join {
        /// The invitation, checked against its secret by the proposer.
        invitation: InvitationId,
        /// Who joins.
        applicant: Applicant,
        /// The proposer's wall clock.
        at: WallTime,
    },
    /// A node has started: its incarnation must be greater than the last one.
    Register {
        /// Who.
        node: NodeId,
        /// Counted on its own disk, one more for every start.
        incarnation: u64,
        /// Its rack, now.
        rack: String,
        /// Where its mesh endpoint listens, now.
        address: SocketAddr,
    },
    /// A session begins.
    Open {
        /// Whose.
        node: NodeId,
        /// The incarnation that opens it; must be the registered one.
        incarnation: u64,
        /// Counted by the process, one more for every `Open` it sends: one that was delayed never supersedes the
        /// session that a later one opened.
        attempt: u64,
        /// L: how long a promise lets the holder act. Constant for the session (H2).
        ttl: Duration,
        /// Lg: how long the voters wait before they call it over. Constant for the session (H2).
        promise: Duration,
        /// The gate that ends it.
        gate: GateId,
        /// The gate of the same node's older session, which this process has found and shut in the kernel: that
        /// session is superseded at once. Otherwise both coexist until Fence and ages end the older (H7).
        shut: Option<GateId>,
    },
    /// A session ends by its own will, after it has unclaimed everything.
    Close {
        /// Which.
        sid: Sid,
        /// Who gets what it held.
        grants: Vec<(GroupName, Sid)>,
    },
    /// A session is willing to hold a group.
    Candidate {
        /// Which session.
        sid: Sid,
        /// The group.
        group: GroupName,
        /// The group as this node's configuration describes it (H11).
        definition: Definition,
        /// Effective VRRP priority; 0: as a holder it asks to be relieved.
        priority: u8,
        /// False: it takes the group when it is free and never asks a living holder for it.
        preempt: bool,
    },
    /// A session is no longer willing to be granted a group. What it holds it keeps until it releases.
    Withdraw {
        /// Which session.
        sid: Sid,
        /// The group.
        group: GroupName,
    },
    /// The holder gives a group up, after its gate is shut for it. Withdraws its candidacy too (V4).
    Release {
        /// The group.
        group: GroupName,
        /// The grant that ends.
        token: Token,
        /// The next holder, named by the leader.
        to: Option<Sid>,
    },
    /// No voter that has applied this acks the session again.
    Fence {
        /// Which.
        sid: Sid,
    },
    /// A fenced session is over. Counts only in the leadership that measured it.
    Expire {
        /// Which.
        sid: Sid,
        /// The leadership that measured the ages.
        by: Leadership,
        /// Who gets what it held.
        grants: Vec<(GroupName, Sid)>,
    },
    /// A free group gets a holder.
    Grant {
        /// The group.
        group: GroupName,
        /// The holder.
        to: Sid,
    },
    /// Somebody moves a group: this node comes before every other, whatever their priorities, until it loses the group.
    /// `None` ends that.
    Pin {
        /// The group.
        group: GroupName,
        /// Where it is to be.
        node: Option<NodeId>,
    },
    /// Somebody takes a node out of service, or back: a drained one is granted nothing, and what it holds leaves it.
    Drain {
        /// Which.
        node: NodeId,
        /// Out, or back.
        drained: bool,
    },
    /// Somebody takes a node out of the cluster for good. Its name and address are free; its id is not used again.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// Somebody orders of a server what no file says. `None` ends that.
    Serve {
        /// The service, by its name in the configuration.
        service: String,
        /// Where the server listens.
        server: SocketAddr,
        /// What it is to do.
        order: Option<ServerOrder>,
    },
}

/// What people order of a server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerOrder {
    /// This share instead of its own.
    Weight(u32),
    /// No new connections, and the time to end for those it has.
    Drain,
    /// Out, at once.
    Disable,
}

/// What applying a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done,
    /// `Join`: the id of the new node.
    Joined(NodeId),
    /// `Open`: the id of the new session.
    Opened(Sid),
    /// Nothing changed, and why, in words for people.
    Refused(String),
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lineage, self.index)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for GateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Director => "director",
            Self::Witness => "witness",
        })
    }
}
