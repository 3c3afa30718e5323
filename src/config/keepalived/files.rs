//! `track_file`: a file with a number, which instances and checks go by, and what it is to begin with.

use super::checks::file_weight;
use super::syntax::Statement;
use super::{argument, block, unknown};
use crate::config::diagnostic::{Diagnostic, Log};
use crate::config::fixed::Initial;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Reads `track_file NAME { ... }`, as far as it is a check's.
pub(super) fn track_file(
    statement: &Statement,
    files: &mut BTreeMap<PathBuf, Initial>,
    log: &Log,
) -> Option<(String, (PathBuf, i32))> {
    let name = argument(statement, log)?;
    let (mut path, mut weight, mut initial) = (None, 1, None);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "file" => path = argument(line, log).map(|file| PathBuf::from(file.value)),
            "weight" => weight = file_weight(&line.keyword, &line.arguments, log).unwrap_or(weight),
            "init_file" => initial = Some(init_file(line, log)),
            _ => unknown(&line.keyword, &["file", "weight", "init_file"], log),
        }
    }
    if path.is_none() {
        log.add(Diagnostic::error(&name.place, format!("`track_file {}` needs `file`", name.value)));
    }
    let path = path?;
    files.extend(initial.map(|initial| (path.clone(), initial)));
    Some((name.value, (path, weight)))
}

/// `init_file [NUMBER] [overwrite]`.
fn init_file(line: &Statement, log: &Log) -> Initial {
    let mut initial = Initial { number: 0, overwrite: false };
    for word in &line.arguments {
        match word.text.parse() {
            Ok(number) => initial.number = number,
            Err(_) if word.text == "overwrite" => initial.overwrite = true,
            Err(_) => log.add(Diagnostic::error(&word.place, "`init_file` takes a number, and `overwrite`")),
        }
    }
    initial
}
