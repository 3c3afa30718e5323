//! `garp_group`: interfaces whose announcements have one pace, one after the other, for the sake of the switch behind them.

use super::super::group;
use super::syntax::Statement;
use super::timing::time;
use super::{argument, block, located, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log};
use hamesh_raft::command::Family;
use std::time::Duration;

/// One of them.
pub(super) struct Group {
    garp: Option<Duration>,
    gna: Option<Duration>,
    interfaces: Vec<Located<String>>,
}

/// Reads `garp_group { ... }`.
pub(super) fn read(statement: &Statement, log: &Log) -> Group {
    const KNOWN: [&str; 4] = ["garp_interval", "gna_interval", "interface", "interfaces"];
    let mut group = Group { garp: None, gna: None, interfaces: Vec::new() };
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "garp_interval" => group.garp = time(line, log),
            "gna_interval" => group.gna = time(line, log),
            "interface" => group.interfaces.extend(argument(line, log)),
            "interfaces" => group.interfaces.extend(block(line, log).iter().flat_map(located)),
            _ => unknown(&line.keyword, &KNOWN, log),
        }
    }
    let place = &statement.keyword.place;
    if group.garp.is_none() && group.gna.is_none() {
        log.add(Diagnostic::error(place, "`garp_group` needs `garp_interval` or `gna_interval`"));
    }
    if group.interfaces.is_empty() {
        log.add(Diagnostic::error(place, "`garp_group` has no interfaces"));
    }
    group
}

/// Gives what is on these interfaces their pace, in place of that of `global_defs`.
pub(super) fn apply(groups: &[Group], drafts: &mut [group::Draft], log: &Log) {
    let all: Vec<&Located<String>> = groups.iter().flat_map(|group| &group.interfaces).collect();
    for (number, interface) in all.iter().enumerate() {
        if let Some(first) = all[..number].iter().find(|first| first.value == interface.value) {
            let error = Diagnostic::error(&interface.place, format!("`{}` is in two of them", interface.value));
            log.add(error.see(&first.place, "here already"));
        }
    }
    for draft in drafts {
        let is_its = |group: &&Group| {
            let own = draft.interface.as_ref();
            own.is_some_and(|own| group.interfaces.iter().any(|interface| interface.value == own.value))
        };
        let Some(group) = groups.iter().find(is_its) else { continue };
        let interval = if draft.family() == Some(Family::V6) { group.gna } else { group.garp };
        draft.timing.garp.interval = interval.unwrap_or_default();
        let names: Vec<_> = group.interfaces.iter().map(|interface| interface.value.as_str()).collect();
        draft.pace = interval.filter(|interval| !interval.is_zero() && names.len() > 1).map(|_| names.join("+"));
    }
}
