//! `keepalived.conf`, unmodified: `global_defs`, `vrrp_instance` and `virtual_server` blocks, with keepalived's own defaults.
//!
//! `expand` is the preprocessor, with `include`; `syntax` makes statements of the lines that it leaves; here they get a
//! meaning.
//!
//! What this version cannot do is an error and never skipped: a director that ignored half of its configuration would
//! look healthy. [`keywords`] has the reason for each. Each `vrrp_instance NAME` is the VIP group NAME, each
//! `virtual_server IP PORT` the service IP:PORT/protocol.

mod authentication;
mod bfd;
mod checks;
mod entrances;
mod expand;
mod files;
mod garp_group;
mod globals;
mod guard;
mod include;
mod instance;
mod ipvs;
mod keywords;
mod lvs;
mod notify;
mod rounds;
mod routing;
mod strict;
mod sync;
mod syntax;
mod timing;
mod track;
mod track_group;
mod unicast;

use super::Ipvs;
use super::bfd::{Sessions, collect};
use super::diagnostic::{Diagnostic, Located, Log, Place, Source, nearest};
use super::duration;
use super::fixed::Fixed;
use super::group;
use super::notify::Notifications;
use super::service;
use super::track::{Delays, Script};
use crate::vrrp::Version;
use crate::vrrp::checksum::Form;
pub(super) use expand::Setting;
use globals::Globals;
use instance::Instance;
use std::collections::BTreeMap;
use std::sync::Arc;
use syntax::{Statement, Word};

/// Groups, services, the scripts that groups track, and [`More`].
pub(super) type Parts = (Vec<group::Draft>, Vec<service::Draft>, BTreeMap<String, Script>, More);
/// Who is told of states, what IPVS does beside, what moves together, the sessions with neighbours, what does not move, and interfaces that flap.
pub(super) type More = (Notifications, Ipvs, Vec<super::sync::Draft>, (Sessions, Fixed, BTreeMap<String, Delays>));

/// What is in the file, perhaps with holes where something was wrong.
pub(super) fn read(source: &Arc<Source>, setting: &Setting, log: &Log) -> Parts {
    const KNOWN: [&str; 17] = [
        "garp_group",
        "track_group",
        "vrrp_track_process",
        "interface_up_down_delays",
        "static_ipaddress",
        "static_routes",
        "static_rules",
        "bfd_instance",
        "virtual_server_group",
        "vrrp_sync_group",
        "global_defs",
        "vrrp_script",
        "vrrp_instance",
        "virtual_server",
        "SSL",
        "track_file",
        "vrrp_track_file",
    ];
    if source.text.trim().is_empty() {
        // Beside another file with groups nobody would miss its own.
        let error = Diagnostic::error(&Place::at(source, 0..0), "the file is empty");
        log.add(error.help("has it been cut short? A file that is to say nothing says so in a comment"));
    }
    let file = syntax::parse(source, setting, log);
    let file = if setting.guard { guard::part(file) } else { file };
    let mut globals = Globals::default();
    // First, wherever they stand: instances take their defaults from them.
    for statement in file.iter().filter(|statement| statement.keyword.text == "global_defs") {
        globals.read(statement, log);
    }
    let named = |word: &'static str| file.iter().filter(move |statement| statement.keyword.text == word);
    let user = globals.script_user.as_deref();
    let mut fixed = Fixed::default();
    let files = named("track_file").chain(named("vrrp_track_file"));
    let read: Vec<_> = named("bfd_instance").filter_map(|statement| bfd::read(statement, log)).collect();
    let sessions = collect(read.iter().map(|(name, known)| (name.clone(), known.settings.clone())), log);
    let things = track::Things {
        bfd: read.into_iter().map(|(name, known)| (name.value, known)).collect(),
        scripts: named("vrrp_script").filter_map(|statement| track::script(statement, user, log)).collect(),
        files: files.filter_map(|statement| files::track_file(statement, &mut fixed.files, log)).collect(),
        processes: named("vrrp_track_process").filter_map(|statement| track::process(statement, log)).collect(),
    };
    let mut groups = Vec::new();
    let mut syncs = Vec::new();
    for statement in &file {
        match statement.keyword.text.as_str() {
            "global_defs"
            | "bfd_instance"
            | "interface_up_down_delays"
            | "track_group"
            | "garp_group"
            | "static_ipaddress"
            | "static_routes"
            | "static_rules"
            | "vrrp_script"
            | "vrrp_track_process"
            | "virtual_server"
            | "virtual_server_group"
            | "SSL"
            | "track_file"
            | "vrrp_track_file" => {}
            "vrrp_instance" => groups.extend(Instance::read(statement, &globals, &things, log)),
            "vrrp_sync_group" => syncs.extend(sync::read(statement, &globals, &things, log)),
            _ => unknown(&statement.keyword, &KNOWN, log),
        }
    }
    let prefix = globals.vmac_prefix.as_deref();
    if setting.guard {
        guard::name_devices(&mut groups, prefix.unwrap_or("vrrp"));
    } else if let Some(prefix) = prefix {
        for group in &mut groups {
            let device = group.device_with(prefix);
            if let (Some(named), Some(device)) = (&mut group.virtual_mac, device) {
                named.value = device;
            }
        }
    }
    // Wherever they stand: they are behind the addresses of the instances.
    let services = named("virtual_server");
    let own = named("SSL").filter_map(|statement| checks::ssl(statement, log)).last();
    let ranges = entrances::server_groups(named("virtual_server_group"), log);
    let track::Things { scripts, files, bfd, processes: _ } = things;
    let elsewhere = checks::Elsewhere { user, mail: globals.notify.mails(), own, files, ranges, bfd };
    let services =
        services.filter_map(|statement| lvs::virtual_server(statement, (&groups, &syncs), &elsewhere, log)).collect();
    let delays = named("interface_up_down_delays").flat_map(|statement| track::delays(statement, log)).collect();
    let mut members = Vec::new();
    for statement in file.iter().filter(|statement| statement.keyword.text.starts_with("static_")) {
        members.extend(routing::fixed(statement, &globals, &mut fixed, log));
    }
    let tracking: Vec<_> = named("track_group").filter_map(|statement| track_group::read(statement, log)).collect();
    track_group::apply(&tracking, members, &mut groups, log);
    let paced: Vec<_> = named("garp_group").map(|statement| garp_group::read(statement, log)).collect();
    garp_group::apply(&paced, &mut groups, log);
    let scripts = scripts.into_iter().map(|(name, known)| (name, known.script)).collect();
    let ipvs = globals.ipvs.build(&groups);
    (groups, services, scripts, (globals.notify.build(log), ipvs, syncs, (sessions, fixed, delays)))
}

/// All words of a line.
fn located(line: &Statement) -> Vec<Located<String>> {
    let words = std::iter::once(&line.keyword).chain(&line.arguments);
    words.map(|word| Located { value: word.text.clone(), place: word.place.clone() }).collect()
}

fn block<'a>(statement: &'a Statement, log: &Log) -> &'a [Statement] {
    if let Some(block) = &statement.block {
        return block;
    }
    let keyword = &statement.keyword;
    log.add(Diagnostic::error(&keyword.place, format!("`{}` needs a block in braces", keyword.text)));
    &[]
}

/// A block behind a known word that has none would be skipped.
fn check_leaf(statement: &Statement, known: &[&str], log: &Log) {
    let keyword = &statement.keyword;
    if statement.block.is_some() && known.contains(&keyword.text.as_str()) {
        log.add(Diagnostic::error(&keyword.place, format!("`{}` has no block", keyword.text)));
    }
}

/// The one argument of a statement.
fn argument(statement: &Statement, log: &Log) -> Option<Located<String>> {
    let Statement { keyword, arguments, .. } = statement;
    match arguments.as_slice() {
        [word] => Some(Located { value: word.text.clone(), place: word.place.clone() }),
        [] => {
            log.add(Diagnostic::error(&keyword.place, format!("`{}` needs a value", keyword.text)));
            None
        }
        [_, more, ..] => {
            log.add(Diagnostic::error(&more.place, format!("`{}` takes one value", keyword.text)));
            None
        }
    }
}

fn number(statement: &Statement, log: &Log) -> Option<Located<u8>> {
    let word = argument(statement, log)?;
    let number = word.value.parse().ok().filter(|number| *number >= 1);
    if number.is_none() {
        log.add(Diagnostic::error(&word.place, format!("`{}` must be between 1 and 255", statement.keyword.text)));
    }
    Some(Located { value: number?, place: word.place })
}

fn version(statement: &Statement, log: &Log) -> Option<Version> {
    let word = argument(statement, log)?;
    match word.value.as_str() {
        "2" => Some(Version::V2),
        "3" => Some(Version::V3),
        _ => {
            log.add(Diagnostic::error(&word.place, format!("`{}` is 2 or 3", statement.keyword.text)));
            None
        }
    }
}

fn checksum(statement: &Statement, log: &Log) -> Form {
    if flag(statement, log) { Form::Plain } else { Form::Pseudo }
}

/// A flag, or a flag with a truth value.
fn flag(statement: &Statement, log: &Log) -> bool {
    let word = statement.arguments.first();
    match word.map_or("true", |word| word.text.as_str()) {
        "true" | "on" | "yes" => true,
        "false" | "off" | "no" => false,
        _ => {
            let place = word.map_or(&statement.keyword.place, |word| &word.place);
            log.add(Diagnostic::error(place, format!("`{}` is true or false", statement.keyword.text)));
            false
        }
    }
}

/// A word that is not `known` where it stands.
fn unknown(word: &Word, known: &[&'static str], log: &Log) {
    keywords::report(word, known, log);
}

#[cfg(test)]
mod tests;
