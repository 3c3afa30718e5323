//! What a Raft log holds, and what of it survives a crash.

use hamesh_raft::command::{Command, Leadership, NodeId};
use hamesh_raft::membership::Membership;
use hamesh_raft::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An entry of the log.
#[derive(Debug)]
pub struct Entry {
    pub by: Leadership,
    pub what: What,
}

/// What an entry says.
#[derive(Clone, Debug)]
pub enum What {
    Blank,
    Command(Command),
    /// The halves and the learners.
    Membership(Vec<BTreeSet<NodeId>>, BTreeSet<NodeId>),
}

/// The state up to an entry.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub index: u64,
    pub by: Leadership,
    pub state: Arc<State>,
    pub membership: Membership,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub vote: Leadership,
    pub snapshot: Snapshot,
    /// The flushed entries after the snapshot.
    pub log: Vec<Arc<Entry>>,
}

/// The membership that an entry brings into force.
pub fn membership_of(index: u64, entry: &Entry) -> Option<Membership> {
    match &entry.what {
        What::Membership(halves, learners) => {
            Some(Membership { by: entry.by, index, halves: halves.clone(), learners: learners.clone() })
        }
        What::Blank | What::Command(_) => None,
    }
}
