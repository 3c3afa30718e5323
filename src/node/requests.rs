//! What nodes ask of each other over the mesh, beside Raft's own messages.

use crate::net::hello::Peer;
use hamesh_raft::command::{Command, GroupName, NodeId, Outcome, Sid, Token};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A question from one member to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// To the leader: complete this entry with what only you know, and propose it.
    Propose(Command),
    /// To the holder's node: hand the group to this session.
    Move(GroupName, Token, Sid),
    /// To a voter: the CA's key, for another voter.
    AuthorityKey,
    /// Who the members are.
    Members,
    /// To a voter: a certificate for the asker's own key, by this request (PKCS #10, DER).
    Certificate(Vec<u8>),
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The entry is applied at this index, and came to this.
    Applied(u64, Outcome),
    /// Ask this one.
    NotLeader(Option<NodeId>),
    /// It will be looked at.
    Noted,
    /// The CA's key in PEM.
    AuthorityKey(String),
    /// It is not proposed, and why: asking again is of no use.
    Refused(String),
    /// It did not work, and why.
    Failed(String),
    /// The members, as of this applied index.
    Members(u64, BTreeMap<NodeId, Peer>),
    /// A certificate, DER.
    Certificate(Vec<u8>),
}

impl Request {
    /// The longest request or reply, in bytes.
    pub(crate) const LIMIT: usize = 1 << 20;
}
