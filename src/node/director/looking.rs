//! What is done again and again for every group, whatever happens: who hears whom, what others are told of our LANs, and what
//! people see.

use super::{Director, Happened};
use crate::node::elsewhere::Elsewhere;
use crate::node::lan::{FACT, Place};
use crate::node::lane::{GroupStatus, InterfaceStatus, LaneOutput, LaneStatus};
use crate::vrrp::hearing;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::holder;

impl Director {
    /// The turn of the ears, and of what the holder asks for again.
    pub(crate) fn look_around(&mut self) {
        let now = Moment::now();
        self.queue.push_back(Happened::Lease(holder::Event::Tick));
        self.hear_keepalived(now);
        self.look_for_conflicts(now);
        self.open_interfaces();
        for (name, served) in &self.groups {
            let held_by = self.state.holder_node(&served.lease);
            let event = if held_by == Some(self.me) {
                hearing::Event::Holding
            } else {
                let holder = held_by.and_then(|node| self.neighbours.address(name, node));
                let others = self.neighbours.addresses(name);
                let others = others.filter(|(node, _)| *node != self.me && Some(*node) != held_by);
                hearing::Event::Tick(holder, others.map(|(_, address)| address).collect())
            };
            self.queue.push_back(Happened::Ear(name.clone(), event));
            let place = Place {
                interface: served.config.interface.clone(),
                up: served.up,
                address: served.own_address(),
                mac: served.link.mac,
                hears: served.ear.hearing(now).into(),
                lease: (served.lease != *name).then(|| served.lease.clone()),
            };
            if self.places.get(name) != Some(&place)
                && let Ok(value) = serde_json::to_string(&place)
            {
                self.places.insert(name.clone(), place);
                self.outputs.push(LaneOutput::Fact(format!("{FACT}{name}"), value));
            }
        }
    }

    /// For people.
    pub(crate) fn status(&self) -> LaneStatus {
        let lease = self.holder.status(Moment::now());
        let live = lease.remaining.is_some_and(|left| !left.is_zero());
        let groups = self.groups.iter().map(|(name, served)| {
            let status = GroupStatus {
                vrrp: served.router.status(),
                open: (live || self.solitude.holds(name)) && self.hands.holds(&served.definition),
                unfenced: self.solitude.holds(name),
                interface: match &served.voice {
                    Some(_) if served.link_is_up() => InterfaceStatus::Up,
                    Some(_) => InterfaceStatus::Down,
                    None => InterfaceStatus::Absent,
                },
                missing: served.elsewhere.iter().filter(|other| !other.is_well()).map(Elsewhere::name).collect(),
                discarded: served.discarded.clone(),
                last_discard: served.last_discard,
                conflict: self.conflicts.of(name),
                leftovers: self.hands.leftovers(name),
            };
            (name.clone(), status)
        });
        LaneStatus {
            session: lease.sid,
            remaining: lease.remaining,
            groups: groups.collect(),
            gate: Some(self.hands.gate()),
            warnings: self.hands.warnings(),
        }
    }
}
