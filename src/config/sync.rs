//! Sync groups: VIP groups that move together, under one lease: `[sync.NAME]`, or `vrrp_sync_group` of keepalived.conf.

use super::diagnostic::{Diagnostic, Located, Log, nearest};
use super::group;
use super::notify::{self, Notify};
use super::reader::{Section, Value};
use super::track::{self, Things, Track};
use hamesh_raft::command::GroupName;
use std::collections::BTreeMap;

/// A valid sync group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    /// Its VIP groups, by their names; the first one's virtual router stands for all in the lease.
    pub vips: Vec<GroupName>,
    /// Who is told of the states of the whole.
    pub notify: Notify,
}

/// A sync group as read.
pub(super) struct Draft {
    pub name: Located<String>,
    pub vips: Vec<Located<String>>,
    /// What every one of its VIP groups tracks beside its own.
    pub track: Vec<Track>,
    /// Whether weights that only some of them have count, as keepalived's `sync_group_tracking_weight` says.
    pub weights: bool,
    pub notify: Notify,
}

/// Reads `[sync.NAME]`.
pub(super) fn read(name: Located<String>, section: Section<'_>, things: &Things, log: &Log) -> Draft {
    let vips = section.required("vips").and_then(Value::list).unwrap_or_default();
    let draft = Draft {
        vips: vips.into_iter().filter_map(Value::string).collect(),
        track: section.get("track").map(|value| track::read_list(value, things, log)).unwrap_or_default(),
        weights: true,
        notify: section.get("notify").map(|value| notify::read_group(value, log)).unwrap_or_default(),
        name,
    };
    section.close();
    draft
}

/// Puts `groups` into their sync groups, and checks both. What a sync group tracks is tracked by each of its VIP groups.
pub(super) fn apply(drafts: Vec<Draft>, groups: &mut [group::Draft], log: &Log) -> BTreeMap<GroupName, SyncGroup> {
    let mut syncs = BTreeMap::new();
    for draft in drafts {
        check_name(&draft, groups, &syncs, log);
        let mut vips = Vec::new();
        for vip in &draft.vips {
            let names = groups.iter().map(|group| group.name.value.clone()).collect::<Vec<_>>();
            let Some(group) = groups.iter_mut().find(|group| group.name.value == vip.value) else {
                let error = Diagnostic::error(&vip.place, format!("there is no VIP group `{}`", vip.value));
                log.add(error.did_you_mean(nearest(&vip.value, names.iter().map(String::as_str))));
                continue;
            };
            if let Some(other) = group.sync.replace(draft.name.value.clone()) {
                let error = Diagnostic::error(&vip.place, format!("`{}` is in `{other}` already", vip.value));
                log.add(error.help("a VIP group is in one sync group, and once"));
                continue;
            }
            join(group, &draft, log);
            vips.push(vip.value.clone());
        }
        if vips.len() == 1 {
            let message = format!("the sync group `{}` has one VIP group", draft.name.value);
            log.add(Diagnostic::warning(&draft.name.place, message).help("it is for several that move together"));
        }
        all_or_none(&draft, groups, log);
        // In one order on every node, whatever that of the file is.
        vips.sort_unstable();
        syncs.insert(draft.name.value, SyncGroup { vips, notify: draft.notify });
    }
    syncs
}

fn check_name(draft: &Draft, groups: &[group::Draft], syncs: &BTreeMap<GroupName, SyncGroup>, log: &Log) {
    let Located { value: name, place } = &draft.name;
    if !group::is_group_name(name) {
        let error = Diagnostic::error(place, format!("`{name}` cannot be the name of a sync group"));
        log.add(error.help(group::NAME_HELP));
    }
    if syncs.contains_key(name) {
        log.add(Diagnostic::error(place, format!("there are two sync groups `{name}`")));
    }
    // Both would be the name of a lease.
    let is_other = |group: &&group::Draft| {
        group.name.value == *name && !draft.vips.iter().any(|vip| vip.value == group.name.value)
    };
    if let Some(other) = groups.iter().find(is_other) {
        let error = Diagnostic::error(place, format!("`{name}` is the name of a VIP group that is not in it"));
        log.add(error.see(&other.name.place, "this one").help("give the sync group another name"));
    }
    if draft.vips.is_empty() {
        log.add(Diagnostic::error(place, format!("the sync group `{name}` has no VIP groups")));
    }
}

fn join(group: &mut group::Draft, draft: &Draft, log: &Log) {
    let before = group.track.clone();
    if !draft.weights {
        group.track = group.track.drain(..).filter_map(|track| track.unweighted(false)).collect();
    }
    if group.track != before {
        let name = &group.name;
        let message = format!("the weights of what `{}` tracks do not count, as with keepalived", name.value);
        let help = "without one an interface or a file means FAULT, and the rest is not tracked: track it in the `vrrp_sync_group`, or say `sync_group_tracking_weight` there";
        log.add(Diagnostic::warning(&name.place, message).see(&draft.name.place, "it is in here").help(help));
    }
    // What both take for FAULT is looked at once.
    let more = draft.track.iter().filter(|track| track.weight != 0 || !group.track.contains(track));
    let more: Vec<Track> = more.cloned().collect();
    group.track.extend(more);
    group.notify.priority_changes |= draft.notify.priority_changes;
}

/// A node that may not hold all of a sync group holds none of it.
fn all_or_none(draft: &Draft, groups: &mut [group::Draft], log: &Log) {
    let mine = |group: &&mut group::Draft| group.sync.as_ref() == Some(&draft.name.value);
    let without = groups.iter_mut().filter(mine).find(|group| group.priority.is_none()).map(|group| group.name.clone());
    let Some(without) = without else { return };
    for group in groups.iter_mut().filter(mine).filter(|group| group.priority.is_some()) {
        group.priority = None;
        let message =
            format!("this node never holds `{}`: it has no priority for `{}`", group.name.value, without.value);
        log.add(Diagnostic::warning(&group.name.place, message).see(&draft.name.place, "both are in here"));
    }
}
