//! `virtual_routes` and `virtual_rules` of an instance, and their static kin.

use super::super::fixed::{self, Fixed};
use super::super::route;
use super::syntax::Statement;
use super::track_group::{self, Member};
use super::{Globals, block, located};
use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::kernel::routing::{Routing, Rule};
use std::cell::Cell;

/// Priorities of rules that have none: each gets one less than the one before. keepalived's.
pub(super) struct Priorities(Cell<u32>);

impl Default for Priorities {
    fn default() -> Self {
        Self(Cell::new(16_384))
    }
}

impl Priorities {
    /// Reads a rule.
    fn rule(&self, words: &[Located<String>], log: &Log) -> Option<Rule> {
        let says = |word: &Located<String>| ["priority", "preference", "order"].contains(&word.value.as_str());
        if words.iter().any(says) {
            return route::numbered_rule(words, log);
        }
        let next = self.0.replace(self.0.get() - 1);
        let message = format!("a rule without a `priority` gets {next}, as by keepalived");
        log.add(Diagnostic::warning(&words.first()?.place, message).help("say which, so that it stays where it is"));
        route::rule(words, Some(next), log)
    }
}

/// Reads `static_ipaddress`, `static_routes` or `static_rules`. Returns what of it a `track_group` is told of.
pub(super) fn fixed(statement: &Statement, globals: &Globals, fixed: &mut Fixed, log: &Log) -> Vec<Member> {
    let mut members = Vec::new();
    for line in block(statement, log) {
        let mut words = located(line);
        let group = track_group::take(&mut words, log);
        let on = match statement.keyword.text.as_str() {
            "static_ipaddress" => {
                let Some((interface, vip)) = fixed::address(&words, Some(&globals.default_interface), log) else {
                    continue;
                };
                fixed.addresses.entry(interface.clone()).or_default().push(vip);
                Some(interface)
            }
            "static_routes" => {
                let Some(route) = route::route(&words, log) else { continue };
                let device = route.device.clone();
                fixed.routing.routes.push(route);
                device
            }
            _ => {
                let Some(rule) = globals.priorities.rule(&words, log) else { continue };
                let iif = rule.iif.clone();
                fixed.routing.rules.push(rule);
                iif
            }
        };
        members.extend(group.map(|group| Member::on(group, on)));
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, "what is static has no block"));
        }
    }
    members
}

/// Reads `virtual_routes` or `virtual_rules`.
pub(super) fn read(statement: &Statement, priorities: &Priorities, routing: &mut Routing, log: &Log) {
    for line in block(statement, log) {
        let words = located(line);
        if statement.keyword.text.ends_with("_routes") {
            routing.routes.extend(route::route(&words, log));
        } else {
            routing.rules.extend(priorities.rule(&words, log));
        }
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, "a route or a rule has no block"));
        }
    }
}
