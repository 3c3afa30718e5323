//! What the leader has proposed and Raft has not answered yet.
//!
//! The grantor asks again until it sees the effect. While a disk is slow the entry is on its way all that time, and a copy of it
//! every tenth of a second, for each of hundreds of groups, would make it slower still.

use super::core::lock;
use hamesh_raft::codec;
use hamesh_raft::command::{Command, Leadership};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// All that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(Arc<Mutex<BTreeSet<Vec<u8>>>>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Flights,
    what: Vec<u8>,
}

impl Flights {
    /// `None`: the same, in the same leadership, is under way.
    pub(crate) fn begin(&self, leadership: Leadership, command: &Command) -> Option<Flight> {
        let what = codec::encode(&(leadership, command));
        lock(&self.0).insert(what.clone()).then(|| Flight { flights: self.clone(), what })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.flights.0).remove(&self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamesh_raft::command::{NodeId, Sid};

    #[test]
    fn one_proposal_is_under_way_once_until_it_is_answered() {
        let (flights, term) = (Flights::default(), |term| Leadership { term, node: NodeId(1) });
        let fence = |sid| Command::Fence { sid: Sid(sid) };
        let first = flights.begin(term(1), &fence(4));
        assert!(first.is_some() && flights.begin(term(1), &fence(4)).is_none());
        assert!(flights.begin(term(1), &fence(5)).is_some() && flights.begin(term(2), &fence(4)).is_some());
        drop(first);
        assert!(flights.begin(term(1), &fence(4)).is_some());
    }
}
