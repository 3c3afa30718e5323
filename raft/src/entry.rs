//! What stands in the log, in our own words: on disk, on the wire and towards an observer.

use crate::command::{Command, Leadership};
use crate::membership::Membership;
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;

/// A place in the log: the entry that `by` put at `index`. Two logs that share a position share all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The leadership that wrote the entry.
    pub by: Leadership,
    /// Counted from 0.
    pub index: u64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its place in the log, counted from 0.
    pub index: u64,
    /// The leadership that wrote it.
    pub by: Leadership,
    /// What it says.
    pub what: What,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Nothing: a new leader finds out with it what is committed.
    Blank,
    /// Something for [`State::apply`].
    Command(Arc<Command>),
    /// Who votes from here on.
    Membership(Membership),
}

/// The vote of this node: for whom, and whether that one is known to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) by: Leadership,
    pub(crate) won: bool,
}

/// The state after `last`, in place of the entries up to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) last: Option<Position>,
    pub(crate) membership: Membership,
    pub(crate) state: Arc<State>,
}

impl Noted {
    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { by: self.by, index: self.index }
    }
}

impl PartialOrd for Ballot {
    /// A later leadership is greater; of the same one, the won ballot.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some((self.by, self.won).cmp(&(other.by, other.won)))
    }
}
