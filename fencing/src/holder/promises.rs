//! Collecting promises: which transmission a quorum has acked, and until when that lets the holder act.

use super::Terms;
use crate::clock::Moment;
use crate::message::Ack;
use hamesh_raft::command::NodeId;
use hamesh_raft::membership::Membership;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The promises of one session.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Promises {
    /// `t0 + L` of the best transmission that a quorum acked.
    deadline: Option<Moment>,
    /// When a session that no quorum ever acked is given up.
    newborn_until: Option<Moment>,
    next_send: Option<Moment>,
    seq: u64,
    in_flight: BTreeMap<u64, Transmission>,
    last_heard: Membership,
    given_up: bool,
}

#[derive(Clone, Debug, Hash)]
struct Transmission {
    t0: Moment,
    /// Acks count together only under one and the same membership (V5).
    acks: Vec<(Membership, BTreeSet<NodeId>)>,
}

impl Promises {
    pub(super) fn begin(now: Moment, newborn_until: Moment) -> Self {
        Self { newborn_until: Some(newborn_until), next_send: Some(now), ..Self::default() }
    }

    /// Until when the holder may act.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    pub(super) fn is_dead(&self, now: Moment) -> bool {
        self.deadline.or(self.newborn_until).is_none_or(|end| now.reached(end))
    }

    /// No more renewals, and acks on their way count no more: the session is left to its deadline.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    pub(super) fn next_deadline(&self, at_latest: Moment) -> Moment {
        let ends = [self.deadline.or(self.newborn_until), self.next_send.filter(|_| !self.given_up)];
        ends.into_iter().flatten().fold(at_latest, Moment::earlier)
    }

    /// The number of the transmission that is due now. `now` was read before it is sent.
    pub(super) fn renew(&mut self, now: Moment, every: Duration) -> Option<u64> {
        if self.given_up || !now.reached(self.next_send?) {
            return None;
        }
        self.seq += 1;
        self.in_flight.insert(self.seq, Transmission { t0: now, acks: Vec::new() });
        // Again soon, until a quorum answers (V13).
        self.next_send = Some(now + every / 4);
        Some(self.seq)
    }

    /// Whom to ask: the voters by our own log, and by the latest ack, which may know better.
    pub(super) fn voters(&self, ours: &Membership) -> BTreeSet<NodeId> {
        ours.voters().union(&self.last_heard.voters()).copied().collect()
    }

    /// The new deadline, if this ack completes a quorum that extends it.
    pub(super) fn heard(&mut self, now: Moment, from: NodeId, ack: &Ack, terms: Terms) -> Option<Moment> {
        self.in_flight.retain(|_, sent| !now.reached(sent.t0 + terms.ttl));
        if ack.membership.index >= self.last_heard.index {
            self.last_heard = ack.membership.clone();
        }
        if self.given_up {
            return None;
        }
        let sent = self.in_flight.get_mut(&ack.seq)?;
        let acked = match sent.acks.iter_mut().find(|(membership, _)| *membership == ack.membership) {
            Some((_, acked)) => acked,
            None => {
                sent.acks.push((ack.membership.clone(), BTreeSet::new()));
                &mut sent.acks.last_mut()?.1
            }
        };
        acked.insert(from);
        if !ack.membership.is_quorum(acked) {
            return None;
        }
        let t0 = sent.t0;
        self.in_flight.retain(|seq, _| *seq > ack.seq);
        // A later transmission may have been acked first; what is left in flight is newer than this one.
        let renewed = t0 + terms.ttl;
        if self.deadline.is_some_and(|deadline| deadline.reached(renewed)) {
            return None;
        }
        self.deadline = Some(renewed);
        self.next_send = Some(t0 + terms.renew);
        Some(renewed)
    }
}
