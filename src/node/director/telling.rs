//! Who is told of the states of groups, and of what moves together.

use super::Director;
use crate::node::lane::LaneOutput;
use crate::node::served::Served;
use crate::notify::{Notice, Object, What};
use crate::vrrp::router::State;
use hamesh_raft::command::GroupName;

impl Director {
    /// Tells what a group is now. `rival`: a claim of a router outside the mesh was heard.
    pub(super) fn tell_state(&mut self, group: &GroupName, before: State, rival: bool) {
        let Some(served) = self.groups.get_mut(group) else { return };
        let status = served.router.status();
        let is_master = |state| matches!(state, State::Master(_));
        if rival && is_master(before) && is_master(status.state) && status.foreign.is_some_and(|foreign| foreign.obeyed)
        {
            say(served, What::MasterRxLowerPri, &mut self.outputs);
        }
        let lease = served.lease.clone();
        if let Some(what) = state_to_tell(status.state) {
            tell(served, what, &mut self.outputs);
            self.tell_sync(&lease);
        }
    }

    /// Tells that all groups of a lease are in FAULT, which their routers are already.
    pub(super) fn tell_fault(&mut self, lease: &GroupName) {
        for name in self.members(lease) {
            if let Some(served) = self.groups.get_mut(&name) {
                tell(served, What::Fault, &mut self.outputs);
            }
        }
        self.tell_sync(lease);
    }

    /// A sync group is what all of its groups are; while they differ it is on its way.
    fn tell_sync(&mut self, lease: &GroupName) {
        if !self.config.syncs.contains_key(lease) {
            return;
        }
        let names = self.members(lease);
        let mut told = super::leases::of(&self.groups, &names).into_iter().map(|served| (served.told, served.token));
        let Some((Some(what), token)) = told.next() else { return };
        if told.all(|(other, _)| other == Some(what)) && self.told.get(lease) != Some(&what) {
            self.told.insert(lease.clone(), what);
            let (object, token) = (Object::Group(lease.clone()), token.map(crate::node::number));
            self.outputs.push(LaneOutput::Notice(Notice { object, what, priority: 0, token }));
        }
    }
}

/// Whether a state is another than was told last.
pub(super) fn is_news(served: &Served, state: State) -> bool {
    state_to_tell(state).is_some_and(|what| served.told != Some(what))
}

/// What keepalived calls it. One that claims has no lease yet: it is BACKUP.
fn state_to_tell(state: State) -> Option<What> {
    match state {
        State::Init => None,
        State::Backup { .. } | State::Claiming => Some(What::Backup),
        State::Master(_) => Some(What::Master),
        State::Fault { .. } => Some(What::Fault),
    }
}

/// Tells a state, once.
pub(super) fn tell(served: &mut Served, what: What, outputs: &mut Vec<LaneOutput>) {
    if served.told != Some(what) {
        served.told = Some(what);
        say(served, what, outputs);
    }
}

pub(super) fn tell_priority(served: &Served, before: u8, outputs: &mut Vec<LaneOutput>) {
    match served.router.status().state {
        _ if served.priority() == before => {}
        State::Master(_) => say(served, What::MasterPriority, outputs),
        State::Backup { .. } | State::Claiming => say(served, What::BackupPriority, outputs),
        State::Init | State::Fault { .. } => {}
    }
}

fn say(served: &Served, what: What, outputs: &mut Vec<LaneOutput>) {
    let (object, token) = (Object::Instance(served.name.clone()), served.token.map(crate::node::number));
    outputs.push(LaneOutput::Notice(Notice { object, what, priority: served.priority(), token }));
}
