//! `virtual_routes` and `virtual_rules` of an instance.

use super::super::route;
use super::block;
use super::syntax::Statement;
use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::kernel::routing::Routing;

pub(super) fn read(statement: &Statement, routing: &mut Routing, log: &Log) {
    for line in block(statement, log) {
        let words = std::iter::once(&line.keyword).chain(&line.arguments);
        let words: Vec<_> = words.map(|word| Located { value: word.text.clone(), place: word.place.clone() }).collect();
        if statement.keyword.text == "virtual_routes" {
            routing.routes.extend(route::route(&words, log));
        } else {
            routing.rules.extend(route::rule(&words, log));
        }
        if line.block.is_some() {
            log.add(Diagnostic::error(&line.keyword.place, "a route or a rule has no block"));
        }
    }
}
