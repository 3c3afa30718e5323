//! What was proposed and is not answered yet.
//!
//! The minds ask again until they see the effect. While a disk is slow the entry is on its way all that time, and a copy of it
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
    /// `None`: the same is under way, in the same leadership of this node, or with whoever leads.
    pub(crate) fn begin(&self, under: Option<Leadership>, command: &Command) -> Option<Flight> {
        let what = codec::encode(&(under, command));
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
        let (flights, term) = (Flights::default(), |term| Some(Leadership { term, node: NodeId(1) }));
        let fence = |sid| Command::Fence { sid: Sid(sid) };
        let first = flights.begin(term(1), &fence(4));
        assert!(first.is_some() && flights.begin(term(1), &fence(4)).is_none());
        assert!(flights.begin(term(1), &fence(5)).is_some() && flights.begin(term(2), &fence(4)).is_some());
        assert!(flights.begin(None, &fence(4)).is_some());
        drop(first);
        assert!(flights.begin(term(1), &fence(4)).is_some());
    }
}
