//! Routes and rules in the words of `ip route` and `ip rule`, as both kinds of file have them.

use super::diagnostic::{Diagnostic, Located, Log};
use super::group::is_interface_name;
use super::reader::Value;
use crate::kernel::routing::{Fate, Hop, MAIN, METRICS, PREFERENCES, Prefix, Route, Routing, Rule};
use hamesh_raft::command::Family;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::slice::Iter;
use std::str::FromStr;

/// The kernel's own table.
const LOCAL: u32 = 255;

/// What a route may say.
const ROUTE: &str = "DESTINATION [via ROUTER] [dev INTERFACE] [src ADDRESS] [table N] [metric N] [scope S] [tos N] [pref low|medium|\
                     high] [onlink] [mtu|advmss|window|hoplimit|initcwnd|... N] [nexthop [via ROUTER] [dev INTERFACE] [weight N] \
                     [onlink]]..., or blackhole, unreachable, prohibit or throw before the destination";
/// What a rule may say.
const RULE: &str = "[not] [from NETWORK] [to NETWORK] [tos N] [fwmark M[/MASK]] [iif INTERFACE] [oif INTERFACE] [ipproto P] [sport \
                    N[-N]] [dport N[-N]] [uidrange N-N] [tunnel-id N] [suppress_prefixlength N] [suppress_ifgroup N] priority N, \
                    and lookup TABLE, l3mdev, goto N, nop, blackhole, unreachable or prohibit";
/// Where `ip` has the names of tables.
const TABLES: &str = "/etc/iproute2/rt_tables";
/// Protocols that a rule may name; others by number.
const PROTOCOLS: [(&str, u8); 6] =
    [("icmp", 1), ("tcp", 6), ("udp", 17), ("ipv6-icmp", 58), ("sctp", 132), ("udplite", 136)];

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
    let (mut table, mut metric, mut scope, mut onlink, mut tos) = (MAIN, None, None, false, 0);
    let (mut metrics, mut preference, mut hops) = (BTreeMap::new(), None, Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.value.as_str() {
            "unicast" => {}
            kind @ ("blackhole" | "unreachable" | "prohibit" | "throw") => fate = fate_of(kind),
            "to" => to = Some(next(word, &mut rest, log)?),
            "via" | "gw" => via = Some(address(word, next(word, &mut rest, log)?, log)?),
            "dev" => device = Some(interface(next(word, &mut rest, log)?, log)?),
            "src" => source = Some(address(word, next(word, &mut rest, log)?, log)?),
            "table" => table = table_of(next(word, &mut rest, log)?, log)?,
            "metric" | "priority" | "preference" => metric = Some(number(word, next(word, &mut rest, log)?, log)?),
            "scope" => scope = Some(scope_of(next(word, &mut rest, log)?, log)?),
            "tos" | "dsfield" => tos = tos_of(next(word, &mut rest, log)?, log)?,
            "pref" => {
                let word = next(word, &mut rest, log)?;
                let known = PREFERENCES.iter().find(|(name, _)| *name == word.value);
                preference = Some(known.or_else(|| wrong(word, "low, medium or high", log))?.1);
            }
            "onlink" => onlink = true,
            "nexthop" => hops = read_hops(&mut rest, log)?,
            "no_track" => no_track(word, log),
            name if METRICS.iter().any(|(known, _)| *known == name) => {
                let value = next(word, &mut rest, log)?;
                let at = METRICS.iter().position(|(known, _)| *known == name)?;
                metrics.insert(at, metric_of(word, value, log)?);
            }
            _ if to.is_none() => to = Some(word),
            _ => return unsupported(word, "route", ROUTE, log),
        }
    }
    let Some(to) = to else {
        log.add(Diagnostic::error(&words.first()?.place, "a route needs a destination").help(ROUTE));
        return None;
    };
    let routers = || [via, source].into_iter().chain(hops.iter().map(|hop: &Hop| hop.via)).flatten();
    let of = routers().next().map_or(Family::V4, Family::of);
    let place = &to.place;
    let to = prefix(to, of, log)?;
    let family = Family::of(to.address);
    if let Some(other) = routers().find(|other| Family::of(*other) != family) {
        log.add(Diagnostic::error(place, format!("`{other}` is of another family than the route's destination")));
        return None;
    }
    let one_way = via.is_some() || device.is_some();
    if fate == Fate::Forward && !one_way && hops.is_empty() {
        log.add(Diagnostic::error(place, "a route needs `via`, `dev` or `nexthop`").help(ROUTE));
        return None;
    }
    if !hops.is_empty() && (one_way || fate != Fate::Forward) {
        log.add(Diagnostic::error(place, "a route with `nexthop` has no other way").help(ROUTE));
        return None;
    }
    Some(Route { fate, to, tos, via, device, hops, source, table, metric, scope, onlink, metrics, preference })
}

/// What stands behind the first `nexthop`.
fn read_hops(rest: &mut Words<'_>, log: &Log) -> Option<Vec<Hop>> {
    let empty = || Hop { via: None, device: None, weight: 1, onlink: false };
    let (mut hops, mut hop) = (Vec::new(), empty());
    while let Some(word) = rest.next() {
        match word.value.as_str() {
            "nexthop" => hops.push(std::mem::replace(&mut hop, empty())),
            "via" => hop.via = Some(address(word, next(word, rest, log)?, log)?),
            "dev" => hop.device = Some(interface(next(word, rest, log)?, log)?),
            "weight" => {
                let word = next(word, rest, log)?;
                let weight = word.value.parse().ok().filter(|weight| (1..=256).contains(weight));
                hop.weight = weight.or_else(|| wrong(word, "a weight from 1 to 256", log))?;
            }
            "onlink" => hop.onlink = true,
            _ => return unsupported(word, "nexthop", ROUTE, log),
        }
    }
    hops.push(hop);
    Some(hops)
}

/// Reads a rule that has a priority of its own.
pub(super) fn numbered_rule(words: &[Located<String>], log: &Log) -> Option<Rule> {
    rule(words, None, log)
}

/// Reads a rule. `usual` is the priority of one that has none.
pub(super) fn rule(words: &[Located<String>], usual: Option<u32>, log: &Log) -> Option<Rule> {
    let six = words.iter().any(|word| word.value.contains(':') || word.value == "inet6");
    let family = if six { Family::V6 } else { Family::V4 };
    let mut rule = Rule::about_all(family);
    let (mut table, mut priority) = (None, usual);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.value.as_str() {
            "inet" | "inet6" => {}
            "not" => rule.not = true,
            "from" => {
                rule.from = Some(prefix(next(word, &mut rest, log)?, family, log)?).filter(|from| from.length > 0);
            }
            "to" => rule.to = Some(prefix(next(word, &mut rest, log)?, family, log)?).filter(|to| to.length > 0),
            "tos" | "dsfield" => rule.tos = tos_of(next(word, &mut rest, log)?, log)?,
            "fwmark" => rule.mark = Some(mark_of(word, next(word, &mut rest, log)?, log)?),
            "iif" | "dev" => rule.iif = Some(interface(next(word, &mut rest, log)?, log)?),
            "oif" => rule.oif = Some(interface(next(word, &mut rest, log)?, log)?),
            "ipproto" => rule.protocol = Some(protocol_of(next(word, &mut rest, log)?, log)?),
            "sport" => rule.sports = Some(range(word, next(word, &mut rest, log)?, log)?),
            "dport" => rule.dports = Some(range(word, next(word, &mut rest, log)?, log)?),
            "uidrange" => rule.users = Some(range(word, next(word, &mut rest, log)?, log)?),
            "tunnel-id" => rule.tunnel = Some(number(word, next(word, &mut rest, log)?, log)?),
            "suppress_prefixlength" | "sup_pl" => {
                rule.suppress_length = Some(number(word, next(word, &mut rest, log)?, log)?);
            }
            "suppress_ifgroup" | "sup_group" => {
                rule.suppress_group = Some(number(word, next(word, &mut rest, log)?, log)?);
            }
            "l3mdev" => rule.l3mdev = true,
            "goto" => rule.fate = Fate::Goto(number(word, next(word, &mut rest, log)?, log)?),
            "nop" => rule.fate = Fate::Nop,
            "table" | "lookup" => table = Some(table_of(next(word, &mut rest, log)?, log)?),
            "priority" | "preference" | "order" => priority = Some(number(word, next(word, &mut rest, log)?, log)?),
            kind @ ("blackhole" | "unreachable" | "prohibit") => rule.fate = fate_of(kind),
            "no_track" => no_track(word, log),
            _ => return unsupported(word, "rule", RULE, log),
        }
    }
    let place = &words.first()?.place;
    if table.is_none() && rule.fate == Fate::Forward && !rule.l3mdev {
        log.add(Diagnostic::error(place, "a rule needs a table to look into").help(RULE));
        return None;
    }
    let Some(priority) = priority.filter(|priority| (1..32766).contains(priority)) else {
        // The kernel would give one, and the rule be nowhere to be found again.
        log.add(Diagnostic::error(place, "a rule needs a `priority` from 1 to 32765").help(RULE));
        return None;
    };
    if let Fate::Goto(target) = rule.fate
        && target <= priority
    {
        log.add(Diagnostic::error(
            place,
            format!("`goto` leads on: to more than {priority}, which is its own priority"),
        ));
        return None;
    }
    Some(Rule { table: table.unwrap_or(0), priority, ..rule })
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
        "throw" => Fate::Throw,
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

fn number<T: FromStr>(keyword: &Located<String>, word: &Located<String>, log: &Log) -> Option<T> {
    word.value.parse().ok().or_else(|| wrong(word, &format!("a number, which `{}` needs", keyword.value), log))
}

/// `7`, or `7-9`.
fn range<T: FromStr + Copy + PartialOrd>(
    keyword: &Located<String>,
    word: &Located<String>,
    log: &Log,
) -> Option<(T, T)> {
    let (first, last) = word.value.split_once('-').unwrap_or((&word.value, &word.value));
    let both = first.parse().ok().zip(last.parse().ok()).filter(|(first, last)| first <= last);
    both.or_else(|| wrong(word, &format!("a number or two with `-` between, which `{}` needs", keyword.value), log))
}

/// A number, perhaps with `ms` or `s` behind it: the kernel counts milliseconds; or `on` and `off`.
fn metric_of(keyword: &Located<String>, word: &Located<String>, log: &Log) -> Option<u32> {
    let text = word.value.as_str();
    let number = match text {
        "on" | "true" | "yes" => Some(1),
        "off" | "false" | "no" => Some(0),
        _ => match text.strip_suffix("ms") {
            Some(milliseconds) => milliseconds.parse().ok(),
            None => {
                text.strip_suffix('s').map_or_else(|| text.parse().ok(), |s| s.parse::<u32>().ok()?.checked_mul(1000))
            }
        },
    };
    number.or_else(|| wrong(word, &format!("a number, which `{}` needs", keyword.value), log))
}

fn tos_of(word: &Located<String>, log: &Log) -> Option<u8> {
    let text = word.value.as_str();
    let number = text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u8::from_str_radix(hex, 16).ok());
    number.or_else(|| wrong(word, "a type of service, 0 to 255", log))
}

fn protocol_of(word: &Located<String>, log: &Log) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == word.value).map(|(_, number)| *number);
    known.or_else(|| word.value.parse().ok()).or_else(|| wrong(word, "a protocol: tcp, udp, ... or a number", log))
}

/// A number, or a name: one of those that every machine has, or of `ip`'s own file.
fn table_of(word: &Located<String>, log: &Log) -> Option<u32> {
    match word.value.as_str() {
        "default" => Some(253),
        "main" => Some(MAIN),
        text => {
            let number = text.parse().ok().or_else(|| named_table(&std::fs::read_to_string(TABLES).ok()?, text));
            let free = number.filter(|table| ![0, LOCAL].contains(table));
            free.or_else(|| wrong(word, &format!("the number of a table, nor a name in {TABLES}"), log))
        }
    }
}

/// The number of a name in a file with `NUMBER NAME` in a line.
pub(super) fn named_table(names: &str, name: &str) -> Option<u32> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let number = words.next()?;
        (words.next()? == name).then(|| number.parse().ok())?
    };
    names.lines().find_map(line)
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
