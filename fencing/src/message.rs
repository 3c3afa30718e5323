//! What holders, voters and the leader say to each other on the lease plane.

use hamesh_raft::command::Sid;
use hamesh_raft::membership::Membership;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One datagram. Every one may be lost, doubled, late or out of order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Holder to voter: promise me. Each transmission has a number of its own, with its own `t0` (H6).
    Renew(Renew),
    /// Voter to holder: promised.
    Ack(Ack),
    /// Leader to voter: what do you know of this session?
    Ask(Ask),
    /// Voter to leader: this.
    Tell(Tell),
}

/// A request for promises.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Renew {
    /// For which session.
    pub sid: Sid,
    /// Of this transmission.
    pub seq: u64,
    /// Random, of the process: an ack for another process's Renew counts for nothing (H1).
    pub process: u64,
    /// The log index up to which the holder has acted on its grants (V3).
    pub acted: u64,
}

/// A promise: this voter lets no successor be granted before Lg has passed on its clocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ack {
    /// Echoed.
    pub sid: Sid,
    /// Echoed.
    pub seq: u64,
    /// Echoed.
    pub process: u64,
    /// The voters in force by this voter's log (V5); its learners are left out.
    pub membership: Membership,
}

/// A question about a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Which.
    pub sid: Sid,
    /// Of the asking leadership; echoed.
    pub round: u64,
}

/// What a voter knows of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tell {
    /// Which.
    pub sid: Sid,
    /// Echoed.
    pub round: u64,
    /// What it knows.
    pub known: Known,
}

/// A voter's knowledge of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Known {
    /// Since the last promise, or since the voter could first have given one, whichever is later.
    pub silent: Duration,
    /// Since the last promise, if there was one.
    pub renewed: Option<Duration>,
    /// The greatest `acted` of its Renews.
    pub acted: u64,
    /// The Fence is applied and flushed here: `silent` can only grow from now on (H6).
    pub bound: bool,
}
