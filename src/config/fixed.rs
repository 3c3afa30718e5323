//! `[static.NODE]`, and `static_ipaddress`, `static_routes` and `static_rules` of keepalived.conf: what is there while hamesh runs, and
//! moves with nothing.

use super::address::{self, Placing};
use super::diagnostic::{Diagnostic, Located, Log};
use super::group;
use super::reader::{Section, Value};
use super::route;
use crate::kernel::address::Vip;
use crate::kernel::routing::Routing;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a node adds at its start and removes at its stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Addresses, by their interfaces.
    pub addresses: BTreeMap<String, Vec<Vip>>,
    /// Routes and rules.
    pub routing: Routing,
    /// What is written into files that groups track, before anything is.
    pub files: BTreeMap<PathBuf, Initial>,
}

/// A number for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial {
    /// The number.
    pub number: i32,
    /// Also where there is a file already.
    pub overwrite: bool,
}

impl Fixed {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routing.is_empty() && self.files.is_empty()
    }

    /// This, and the other.
    pub(super) fn extend(&mut self, other: Self) {
        for (interface, more) in other.addresses {
            self.addresses.entry(interface).or_default().extend(more);
        }
        self.routing.routes.extend(other.routing.routes);
        self.routing.rules.extend(other.routing.rules);
        self.files.extend(other.files);
    }
}

/// Reads `[static.NODE]`.
pub(super) fn read(section: Section<'_>, log: &Log) -> Fixed {
    let one = |words: &[Located<String>], log: &Log| address(words, None, log);
    let mut addresses: BTreeMap<String, Vec<Vip>> = BTreeMap::new();
    for (interface, vip) in section.get("addresses").map(|value| route::read_list(value, one, log)).unwrap_or_default()
    {
        addresses.entry(interface).or_default().push(vip);
    }
    let routing = Routing {
        routes: section.get("routes").map(|value| route::read_list(value, route::route, log)).unwrap_or_default(),
        rules: section.get("rules").map(|value| route::read_list(value, route::numbered_rule, log)).unwrap_or_default(),
    };
    let files = section.get("files").and_then(Value::list).unwrap_or_default();
    let files = files.into_iter().filter_map(file).collect();
    section.close();
    Fixed { addresses, routing, files }
}

/// `{ path = "/run/load", number = 5, overwrite = true }`.
fn file(value: Value<'_>) -> Option<(PathBuf, Initial)> {
    let section = value.table()?;
    let path = section.required("path").and_then(Value::string);
    let number = section.get("number").and_then(|value| value.integer(i32::MIN..=i32::MAX));
    let overwrite = section.get("overwrite").and_then(Value::boolean).is_some_and(|overwrite| overwrite.value);
    section.close();
    let path = path?;
    Some((path.place.source.resolve(&path.value), Initial { number: number.map_or(0, |n| n.value), overwrite }))
}

/// An address with its interface; `usual` is that without `dev`.
pub(super) fn address(words: &[Located<String>], usual: Option<&str>, log: &Log) -> Option<(String, Vip)> {
    let fault = |word: &Located<String>, message: String| {
        log.add(Diagnostic::error(&word.place, message).help("for example `10.0.5.1/24 dev eth1`"));
        false
    };
    let unknown = |word: &Located<String>| {
        fault(word, format!("`{}` of an address is not supported by this version", word.value))
    };
    let (Located { value: (address, prefix), place }, Placing { device, look, untracked }) =
        address::read(words, unknown, log)?;
    if untracked {
        let warning = Diagnostic::warning(&place, "`no_track` of a static address changes nothing");
        log.add(warning.help("what others remove is put back, and moves nothing"));
    }
    let Some(interface) = device.or(usual.map(str::to_owned)) else {
        fault(&words[0], format!("`{}` needs an interface", words[0].value));
        return None;
    };
    Some((interface, Vip { address, prefix, look }))
}

/// A VIP is nobody's own address.
pub(super) fn check(fixed: &Fixed, groups: &[group::Draft], log: &Log) {
    for vip in fixed.addresses.values().flatten() {
        let twin = groups.iter().flat_map(|group| group.addresses.iter().chain(&group.excluded));
        if let Some(twin) = twin.into_iter().find(|other| other.value.0 == vip.address) {
            let message = format!("`{}` is a static address, and cannot be a VIP as well", vip.address);
            log.add(Diagnostic::error(&twin.place, message));
        }
    }
}

/// The lines of `[static.NODE]` that say this.
pub(super) fn show(Fixed { addresses, routing, files }: &Fixed, quoted: fn(String) -> String) -> Vec<String> {
    let of = |(interface, vips): (&String, &Vec<Vip>)| {
        vips.iter().map(|vip| quoted(format!("{vip} dev {interface}{}", vip.look))).collect::<Vec<_>>()
    };
    let all: Vec<String> = addresses.iter().flat_map(of).collect();
    let first = (!all.is_empty()).then(|| format!("addresses = [{}]", all.join(", ")));
    let file = |(path, Initial { number, overwrite }): (&PathBuf, &Initial)| {
        format!("{{ path = {}, number = {number}, overwrite = {overwrite} }}", quoted(path.display().to_string()))
    };
    let files: Vec<String> = files.iter().map(file).collect();
    let last = (!files.is_empty()).then(|| format!("files = [{}]", files.join(", ")));
    first.into_iter().chain(route::show(routing, quoted)).chain(last).collect()
}
