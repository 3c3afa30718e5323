//! Routes and rules in the words of `ip route` and `ip rule`, as both kinds of file have them.

use super::diagnostic::{Diagnostic, Located, Log};
use super::group::is_interface_name;
use super::reader::Value;
use crate::kernel::routing::{Fate, MAIN, Prefix, Route, Routing, Rule};
use hamesh_raft::command::Family;
use std::net::IpAddr;
use std::slice::Iter;

/// The kernel's own table.
const LOCAL: u32 = 255;

/// What a route may say.
const ROUTE: &str = "DESTINATION [via ROUTER] [dev INTERFACE] [src ADDRESS] [table N] [metric N] [scope S] [onlink], or \
                     blackhole, unreachable or prohibit before the destination";
/// What a rule may say.
const RULE: &str = "[not] [from NETWORK] [to NETWORK] [fwmark M[/MASK]] [iif INTERFACE] [oif INTERFACE] priority N, and lookup \
                    TABLE, blackhole, unreachable or prohibit";

type Words<'a> = Iter<'a, Located<String>>;

/// Reads `vip.NAME.routes` or `rules`: a list of strings.
pub(super) fn read_list<T>(
    value: Value<'_>,
    read: impl Fn(&[Located<String>], &Log) -> Option<T>,
    log: &Log,
) -> Vec<T> {
    let line = |item: Value<'_>| {
        let Located { value: text, place } = item.string()?;
        let word = |word: &str| Located { value: word.to_owned(), place: place.clone() };
        let mut words: Vec<_> = text.split_whitespace().map(word).collect();
        if words.is_empty() {
            words.push(word(""));
        }
        read(&words, log)
    };
    value.list().unwrap_or_default().into_iter().filter_map(line).collect()
}

/// The lines of `[vip.NAME]` that say this.
pub(super) fn show(Routing { routes, rules }: &Routing, quoted: fn(String) -> String) -> Vec<String> {
    let list = |name: &str, lines: Vec<String>| (!lines.is_empty()).then(|| format!("{name} = [{}]", lines.join(", ")));
    let routes = list("routes", routes.iter().map(|route| quoted(route.to_string())).collect());
    let rules = list("rules", rules.iter().map(|rule| quoted(rule.to_string())).collect());
    routes.into_iter().chain(rules).collect()
}

/// Reads a route.
pub(super) fn route(words: &[Located<String>], log: &Log) -> Option<Route> {
    let (mut fate, mut to, mut via, mut device, mut source) = (Fate::Forward, None, None, None, None);
    let (mut table, mut metric, mut scope, mut onlink) = (MAIN, None, None, false);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.value.as_str() {
            "unicast" => {}
            kind @ ("blackhole" | "unreachable" | "prohibit") => fate = fate_of(kind),
            "to" => to = Some(next(word, &mut rest, log)?),
            "via" => via = Some(address(word, next(word, &mut rest, log)?, log)?),
            "dev" => device = Some(interface(next(word, &mut rest, log)?, log)?),
            "src" => source = Some(address(word, next(word, &mut rest, log)?, log)?),
            "table" => table = table_of(next(word, &mut rest, log)?, log)?,
            "metric" | "priority" | "preference" => metric = Some(number(word, next(word, &mut rest, log)?, log)?),
            "scope" => scope = Some(scope_of(next(word, &mut rest, log)?, log)?),
            "onlink" => onlink = true,
            "no_track" => no_track(word, log),
            _ if to.is_none() => to = Some(word),
            _ => return unsupported(word, "route", ROUTE, log),
        }
    }
    let Some(to) = to else {
        log.add(Diagnostic::error(&words.first()?.place, "a route needs a destination").help(ROUTE));
        return None;
    };
    let of = via.or(source).map_or(Family::V4, Family::of);
    let place = &to.place;
    let to = prefix(to, of, log)?;
    let family = Family::of(to.address);
    if let Some(other) = [via, source].into_iter().flatten().find(|other| Family::of(*other) != family) {
        log.add(Diagnostic::error(place, format!("`{other}` is of another family than the route's destination")));
        return None;
    }
    if fate == Fate::Forward && via.is_none() && device.is_none() {
        log.add(Diagnostic::error(place, "a route needs `via` or `dev`").help(ROUTE));
        return None;
    }
    Some(Route { fate, to, via, device, source, table, metric, scope, onlink })
}

/// Reads a rule.
pub(super) fn rule(words: &[Located<String>], log: &Log) -> Option<Rule> {
    let (mut not, mut from, mut to, mut mark, mut iif, mut oif) = (false, None, None, None, None, None);
    let (mut fate, mut table, mut priority) = (Fate::Forward, None, None);
    let six = words.iter().any(|word| word.value.contains(':') || word.value == "inet6");
    let family = if six { Family::V6 } else { Family::V4 };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.value.as_str() {
            "inet" | "inet6" => {}
            "not" => not = true,
            "from" => from = Some(prefix(next(word, &mut rest, log)?, family, log)?).filter(|from| from.length > 0),
            "to" => to = Some(prefix(next(word, &mut rest, log)?, family, log)?).filter(|to| to.length > 0),
            "fwmark" => mark = Some(mark_of(word, next(word, &mut rest, log)?, log)?),
            "iif" | "dev" => iif = Some(interface(next(word, &mut rest, log)?, log)?),
            "oif" => oif = Some(interface(next(word, &mut rest, log)?, log)?),
            "table" | "lookup" => table = Some(table_of(next(word, &mut rest, log)?, log)?),
            "priority" | "preference" | "order" => priority = Some(number(word, next(word, &mut rest, log)?, log)?),
            kind @ ("blackhole" | "unreachable" | "prohibit") => fate = fate_of(kind),
            "no_track" => no_track(word, log),
            _ => return unsupported(word, "rule", RULE, log),
        }
    }
    let place = &words.first()?.place;
    if table.is_none() && fate == Fate::Forward {
        log.add(Diagnostic::error(place, "a rule needs a table to look into").help(RULE));
        return None;
    }
    let Some(priority) = priority.filter(|priority| (1..32766).contains(priority)) else {
        // The kernel would give one, and the rule be nowhere to be found again.
        log.add(Diagnostic::error(place, "a rule needs a `priority` from 1 to 32765").help(RULE));
        return None;
    };
    Some(Rule { family, not, from, to, mark, iif, oif, fate, table: table.unwrap_or(0), priority })
}

fn next<'a>(word: &Located<String>, rest: &mut Words<'a>, log: &Log) -> Option<&'a Located<String>> {
    let mut next = rest.next();
    // keepalived lets the family stand before an address.
    if next.is_some_and(|next| ["inet", "inet6"].contains(&next.value.as_str())) {
        next = rest.next();
    }
    if next.is_none() {
        log.add(Diagnostic::error(&word.place, format!("`{}` needs a value", word.value)));
    }
    next
}

fn unsupported<T>(word: &Located<String>, what: &str, known: &str, log: &Log) -> Option<T> {
    let message = format!("`{}` of a {what} is not supported by this version", word.value);
    log.add(Diagnostic::error(&word.place, message).help(format!("a {what} is {known}")));
    None
}

fn no_track(word: &Located<String>, log: &Log) {
    let warning = Diagnostic::warning(&word.place, "`no_track` changes nothing");
    log.add(warning.help("what others remove is put back, and moves nothing"));
}

fn fate_of(kind: &str) -> Fate {
    match kind {
        "blackhole" => Fate::Blackhole,
        "unreachable" => Fate::Unreachable,
        _ => Fate::Prohibit,
    }
}

fn wrong<T>(word: &Located<String>, what: &str, log: &Log) -> Option<T> {
    log.add(Diagnostic::error(&word.place, format!("`{}` is not {what}", word.value)));
    None
}

fn address(keyword: &Located<String>, word: &Located<String>, log: &Log) -> Option<IpAddr> {
    word.value.parse().ok().or_else(|| wrong(word, &format!("an address, which `{}` needs", keyword.value), log))
}

fn interface(word: &Located<String>, log: &Log) -> Option<String> {
    if is_interface_name(&word.value) {
        return Some(word.value.clone());
    }
    wrong(word, "the name of an interface", log)
}

fn number(keyword: &Located<String>, word: &Located<String>, log: &Log) -> Option<u32> {
    word.value.parse().ok().or_else(|| wrong(word, &format!("a number, which `{}` needs", keyword.value), log))
}

/// A number, or one of the names that every machine has.
fn table_of(word: &Located<String>, log: &Log) -> Option<u32> {
    match word.value.as_str() {
        "default" => Some(253),
        "main" => Some(MAIN),
        number => number
            .parse()
            .ok()
            .filter(|table| ![0, LOCAL].contains(table))
            .or_else(|| wrong(word, "the number of a table", log)),
    }
}

pub(super) fn scope_of(word: &Located<String>, log: &Log) -> Option<u8> {
    match word.value.as_str() {
        "global" | "universe" => Some(0),
        "site" => Some(200),
        "link" => Some(253),
        "host" => Some(254),
        number => number.parse().ok().or_else(|| wrong(word, "a scope: global, site, link, host or a number", log)),
    }
}

fn mark_of(keyword: &Located<String>, word: &Located<String>, log: &Log) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let (mark, mask) = word.value.split_once('/').unwrap_or((&word.value, "0xffffffff"));
    let both = number(mark).zip(number(mask));
    both.or_else(|| wrong(word, &format!("a mark, which `{}` needs", keyword.value), log))
}

/// `10.0.0.0/8`, an address, `default` or `all`. Bits beyond the length have no meaning, and the kernel refuses them.
fn prefix(word: &Located<String>, family: Family, log: &Log) -> Option<Prefix> {
    if ["default", "all", "any"].contains(&word.value.as_str()) {
        let address = if family == Family::V4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        return Some(Prefix { address, length: 0 });
    }
    let (ip, length) = word.value.split_once('/').map_or((word.value.as_str(), None), |(ip, len)| (ip, Some(len)));
    let parsed = ip.parse::<IpAddr>().ok().and_then(|address| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(longest), |length| length.parse().ok())?;
        (length <= longest).then(|| Prefix { address: masked(address, length), length })
    });
    parsed.or_else(|| wrong(word, "a network", log))
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}
