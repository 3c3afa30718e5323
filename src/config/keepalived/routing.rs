//! `virtual_routes` and `virtual_rules` of an instance, and their static kin.

use super::super::fixed::{self, Fixed};
use super::super::route;
use super::{block, located};
use super::syntax::Statement;
use crate::config::diagnostic::{Diagnostic, Log};
use crate::kernel::routing::Routing;

/// Reads `static_ipaddress`, `static_routes` or `static_rules`.
pub(super) fn fixed(statement: &Statement, interface: &str, fixed: &mut Fixed, log: &Log) {
    if statement.keyword.text != "static_ipaddress" {
        return read(statement, &mut fixed.routing, log);
    }
    for line in block(statement, log) {
        let words = located(line);
        if let Some((interface, vip)) = fixed::address(&words, Some(interface), log) {
            fixed.addresses.entry(interface).or_default().push(vip);
        }
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, "an address has no block"));
        }
    }
}

pub(super) fn read(statement: &Statement, routing: &mut Routing, log: &Log) {
    for line in block(statement, log) {
        let words = located(line);
        if statement.keyword.text.ends_with("_routes") {
            routing.routes.extend(route::route(&words, log));
        } else {
            routing.rules.extend(route::rule(&words, log));
        }
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, "a route or a rule has no block"));
        }
    }
}
