//! The groups that move with one lease: that of a sync group, or each its own.
//!
//! A lease is wanted while the routers of all its groups are candidates, and one that is in FAULT puts all into FAULT. So all
//! are MASTER on one node, or none is there.

use super::{Director, Happened};
use crate::config::Config;
use crate::node::served::{Served, candidate};
use crate::vrrp::router;
use hamesh_fencing::holder;
use hamesh_raft::command::GroupName;
use std::collections::BTreeMap;

impl Director {
    /// The groups that move with a lease, as far as they are served here.
    pub(super) fn members(&self, lease: &str) -> Vec<GroupName> {
        let alone = || vec![lease.to_owned()];
        let mut names = self.config.syncs.get(lease).map_or_else(alone, |sync| sync.vips.clone());
        names.retain(|name| self.groups.get(name).is_some_and(|served| served.lease == lease));
        names
    }

    /// Wants the lease, if every one of its groups does; with their priority of now.
    pub(super) fn want(&mut self, lease: &GroupName) {
        let names = self.members(lease);
        let groups = of(&self.groups, &names);
        // What turns begins anew when it is given up.
        let wanted = |served: &&Served| served.router.status().candidate && !self.turning.contains(&served.name);
        if groups.iter().all(wanted)
            && let Some(candidate) = candidate(&groups)
        {
            self.queue.push_back(Happened::Lease(holder::Event::Want(lease.clone(), candidate)));
        }
    }

    /// Tells the routers of a lease whether it may be claimed here, where that has changed. Returns whether it has.
    pub(super) fn level(&mut self, lease: &GroupName) -> bool {
        let names = self.members(lease);
        let up = of(&self.groups, &names).into_iter().all(Served::is_well);
        let mut changed = false;
        for name in names {
            let Some(served) = self.groups.get_mut(&name).filter(|served| served.up != up) else { continue };
            (served.up, changed) = (up, true);
            tracing::info!(group = %name, interface = served.config.interface, up, "may be claimed here, or not");
            let event = if up { router::Event::LinkUp } else { router::Event::LinkDown };
            self.queue.push_back(Happened::Router(name, event));
        }
        changed
    }

    pub(super) fn is_up(&self, lease: &str) -> bool {
        of(&self.groups, &self.members(lease)).into_iter().all(|served| served.up)
    }

    /// Whether something that one of them tracks was not looked at yet.
    pub(super) fn is_unseen(&self, lease: &str) -> bool {
        of(&self.groups, &self.members(lease)).into_iter().any(|served| served.unseen)
    }
}

/// The groups of these names.
pub(super) fn of<'a>(groups: &'a BTreeMap<GroupName, Served>, names: &[GroupName]) -> Vec<&'a Served> {
    names.iter().filter_map(|name| groups.get(name)).collect()
}

/// Before there is anybody to tell.
pub(super) fn level_all(groups: &mut BTreeMap<GroupName, Served>, config: &Config) {
    for sync in config.syncs.values() {
        let up = of(groups, &sync.vips).into_iter().all(Served::is_well);
        groups.values_mut().filter(|served| sync.vips.contains(&served.name)).for_each(|served| served.up = up);
    }
}
