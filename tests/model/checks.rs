//! What must never be seen: S1 to S5, in every state.
//!
//! S2 is looked at where an entry is applied for the first time, and again by each that applies it later ([`crate::voters`]).

use crate::cluster::{Cluster, GROUP, id, membership};
use crate::{LEASE, moment};
use hamesh_fencing::holder::{self, Holder};
use hamesh_fencing::message::{Ack, Message, Renew};
use hamesh_fencing::voter;
use hamesh_raft::command::NodeId;

impl Cluster {
    /// S1, S3 and S4. S2 is looked at where entries are applied.
    pub fn look(&mut self) {
        let open = [0, 1].map(|director| self.is_open(director));
        let mut violation = None;
        if open == [true, true] {
            violation = Some("S1: both directors are open".to_owned());
        }
        for (at, director) in self.directors.iter().enumerate().filter(|(at, _)| open[*at]) {
            let holder = self.truth().holder(GROUP).map(|holder| holder.token);
            if holder != director.open || self.truth().holder_node(GROUP) != Some(NodeId(at as u64 + 1)) {
                violation.get_or_insert(format!(
                    "S3: lb{} is open under {:?}, and the lease is {holder:?}",
                    at + 1,
                    director.open
                ));
            }
            if director.armed.is_some_and(|until| !(moment(self.tick) + LEASE).reached(until)) {
                violation.get_or_insert(format!("S4: the gate of lb{} outlives L", at + 1));
            }
        }
        self.violation = self.violation.take().or(violation);
    }

    /// S5: a Renew in another's name, an Ack that nobody gave and one of another process move nothing.
    pub fn strangers_move_nothing(&mut self) {
        let now = moment(self.tick);
        let mut moved = false;
        let director = &self.directors[0];
        let Some(sid) = director.holder.status(now).sid else { return };
        for member in &self.members {
            let mut voter = member.voter.clone();
            let renew = Message::Renew(Renew { sid, seq: 1, process: 9, acted: u64::MAX });
            moved |= !voter.handle(now, voter::Event::Heard(NodeId(2), &renew)).is_empty();
            moved |= voter.known(now, sid) != member.voter.known(now, sid);
        }
        let told = |event: holder::Event| {
            let mut holder: Holder = director.holder.clone();
            let actions = holder.handle(now, event);
            (actions, holder.status(now))
        };
        for (process, seq) in [(director.process + 9, director.sent), (director.process, director.sent + 9)] {
            // Of all voters at once, in a way: one that stands for a quorum alone.
            let mut membership = membership();
            membership.halves = vec![[id(0)].into()];
            let ack = Ack { sid, seq, process, membership };
            moved |= told(holder::Event::Heard(id(0), ack)) != told(holder::Event::Tick);
        }
        if moved {
            self.violation.get_or_insert("S5: a stranger's message moved something".to_owned());
        }
    }
}
