//! `vrrp_sync_group`: instances that move together.

use super::super::sync::Draft;
use super::syntax::Statement;
use super::{Globals, argument, block, check_leaf, flag, located, notify, track, unknown};
use crate::config::diagnostic::{Located, Log};

const KNOWN: [&str; 3] = ["group", "sync_group_tracking_weight", "global_tracking"];
/// Those of instances, but for what only an instance hears.
const TOLD: [&str; 8] = [
    "notify",
    "notify_master",
    "notify_backup",
    "notify_fault",
    "notify_stop",
    "notify_deleted",
    "notify_priority_changes",
    "smtp_alert",
];

/// Reads `vrrp_sync_group NAME { ... }`.
pub(super) fn read(statement: &Statement, globals: &Globals, things: &track::Things, log: &Log) -> Option<Draft> {
    let name = argument(statement, log)?;
    let mut draft = Draft {
        name,
        vips: Vec::new(),
        track: Vec::new(),
        weights: false,
        notify: notify::Globals::instance(&globals.notify),
    };
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "group" => draft.vips.extend(names(line, log)),
            keyword if track::LISTS.contains(&keyword) => track::list(line, things, &mut draft.track, log),
            // The older of the two says the same.
            "sync_group_tracking_weight" | "global_tracking" => draft.weights = flag(line, log),
            keyword if TOLD.contains(&keyword) => {
                notify::read(line, &mut draft.notify, globals.script_user.as_deref(), log);
            }
            _ => unknown(&line.keyword, &[&KNOWN[..], &track::LISTS, &TOLD].concat(), log),
        }
        check_leaf(line, &TOLD, log);
        check_leaf(line, &KNOWN[1..], log);
    }
    Some(draft)
}

/// The instances of `group { ... }`.
pub(super) fn names(statement: &Statement, log: &Log) -> Vec<Located<String>> {
    let mut names = Vec::new();
    for line in block(statement, log) {
        names.extend(located(line));
        check_leaf(line, &[&line.keyword.text], log);
    }
    names
}
