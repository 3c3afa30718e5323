//! `track_group`: instances that are in FAULT while the interface of something static is down. What is static itself is put back.

use super::super::group;
use super::super::track::{Track, Tracked};
use super::syntax::Statement;
use super::{argument, block, sync, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, nearest};

/// A group, and its instances.
pub(super) struct Group {
    name: Located<String>,
    instances: Vec<Located<String>>,
}

/// Something static that names a group, and the interface that it is on.
pub(super) struct Member {
    group: Located<String>,
    interface: Option<String>,
}

/// Reads `track_group NAME { group { INSTANCE ... } }`.
pub(super) fn read(statement: &Statement, log: &Log) -> Option<Group> {
    let name = argument(statement, log)?;
    let mut instances = Vec::new();
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "group" => instances.extend(sync::names(line, log)),
            _ => unknown(&line.keyword, &["group"], log),
        }
    }
    if instances.is_empty() {
        log.add(Diagnostic::error(&name.place, format!("`track_group {}` has no instances", name.value)));
    }
    Some(Group { name, instances })
}

/// Takes `track_group NAME` out of the words of something static.
pub(super) fn take(words: &mut Vec<Located<String>>, log: &Log) -> Option<Located<String>> {
    let at = words.iter().position(|word| word.value == "track_group")?;
    let mut own: Vec<_> = words.drain(at..words.len().min(at + 2)).collect();
    if own.len() < 2 {
        log.add(Diagnostic::error(&own[0].place, "`track_group` needs a value"));
    }
    own.drain(1..).next()
}

impl Member {
    /// What is on this interface, if it has one.
    pub(super) fn on(group: Located<String>, interface: Option<String>) -> Self {
        Self { group, interface }
    }
}

/// Has the instances track what is theirs. One that tracks an interface with a weight goes by its state alone then, as in
/// keepalived.
pub(super) fn apply(groups: &[Group], members: Vec<Member>, drafts: &mut [group::Draft], log: &Log) {
    for instance in groups.iter().flat_map(|group| &group.instances) {
        let names: Vec<_> = drafts.iter().map(|draft| draft.name.value.as_str()).collect();
        if !names.contains(&instance.value.as_str()) {
            let error = Diagnostic::error(&instance.place, format!("there is no `vrrp_instance {}`", instance.value));
            log.add(error.did_you_mean(nearest(&instance.value, names)));
        }
    }
    for Member { group, interface } in members {
        let Some(known) = groups.iter().find(|known| known.name.value == group.value) else {
            let error = Diagnostic::error(&group.place, format!("there is no `track_group {}`", group.value));
            log.add(error.did_you_mean(nearest(&group.value, groups.iter().map(|known| known.name.value.as_str()))));
            continue;
        };
        let Some(interface) = interface else {
            let warning = Diagnostic::warning(&group.place, "this has no interface to track");
            log.add(warning.help("it is put back where somebody removes it, and no instance depends on it"));
            continue;
        };
        let is_its = |draft: &&mut group::Draft| known.instances.iter().any(|name| name.value == draft.name.value);
        for draft in drafts.iter_mut().filter(is_its) {
            depend(draft, &interface);
        }
    }
}

fn depend(draft: &mut group::Draft, interface: &str) {
    // Its own it needs anyway.
    if draft.interface.as_ref().is_some_and(|own| own.value == interface) {
        return;
    }
    let what = Tracked::Interface(interface.to_owned());
    match draft.track.iter_mut().find(|track| track.what == what) {
        Some(track) => (track.weight, track.reverse) = (0, false),
        None => draft.track.push(Track { what, weight: 0, reverse: false }),
    }
}
