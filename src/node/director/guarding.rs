//! What the keepalived on this host says of itself, brought to the guards.

use super::{Director, Happened};
use crate::node::served::Served;
use crate::vrrp::router;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::gate::Said;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two looks. keepalived's adverts are a second apart, and its priority 0 is not to wait long.
const EVERY: Duration = Duration::from_millis(50);

impl Director {
    /// Asks the gate which keepalived is MASTER here, and with which priority.
    pub(super) fn hear_keepalived(&mut self, now: Moment) {
        if !self.config.node.guard || self.asked.is_some_and(|at| now.since(at) < EVERY) {
            return;
        }
        self.asked = Some(now);
        let Some(said) = self.hands.said() else { return };
        for served in self.groups.values_mut() {
            let elected = elected(served, &said);
            served.weighed = elected.or(served.config.priority).unwrap_or(served.weighed);
            served.router.set_priority(served.priority());
            self.queue.push_back(Happened::Router(served.name.clone(), router::Event::Elected(elected.is_some())));
        }
        // Perhaps with another priority than before; what is wished already is wished once.
        let leases: BTreeSet<_> = self.groups.values().map(|served| served.lease.clone()).collect();
        leases.iter().for_each(|lease| self.want(lease));
    }
}

/// The priority with which keepalived is MASTER here: its latest word is younger than the silence after which other
/// routers take a MASTER for dead. They are to be MASTER first: until then this host's kernel answers.
fn elected(served: &Served, said: &[Said]) -> Option<u8> {
    let config = &served.config;
    let device = config.virtual_mac().map(|(device, _)| device);
    let of_it = |said: &&Said| {
        (said.family, said.vrid) == (config.family, config.vrid)
            && (said.device == config.interface || Some(said.device.as_str()) == device)
    };
    let latest = said.iter().filter(of_it).min_by_key(|said| said.age)?;
    let silence = config.interval * (u32::from(config.timing.down_timer_adverts) + 1);
    (latest.age < silence && latest.priority > 0).then_some(latest.priority)
}
