//! The replicated state: a stand-in with the contract of the real one.

use crate::command::{Command, Leadership, NodeId, Outcome, Sid};
use serde::{Deserialize, Serialize};

/// What all nodes agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    applied: Vec<(u64, Leadership)>,
}

impl State {
    /// Applies one committed entry.
    pub fn apply(&mut self, index: u64, by: Leadership, command: &Command) -> Outcome {
        self.applied.push((index, by));
        if let Command::Open { .. } = command {
            return Outcome::Opened(Sid(index));
        }
        if let Command::Join { .. } = command {
            return Outcome::Joined(NodeId(index));
        }
        Outcome::Done
    }
}
