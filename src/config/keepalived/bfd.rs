//! `bfd_instance`, with keepalived's defaults.

use super::super::bfd::{self, IDLE, Neighbour, Settings, TTL};
use super::lvs::number;
use super::syntax::Statement;
use super::{argument, block, check_leaf, duration, flag, track, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, nearest};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(10);
const MULTIPLIER: u8 = 5;
/// Over IPv6: less than RFC 5881 section 5 asks for, and so are its packets refused by others.
const HOP_LIMIT: u8 = 64;

/// A session, with what tracks of it inherit and who may go by it.
pub(super) struct Known {
    pub settings: Settings,
    pub weight: (i16, bool),
    /// `track_bfd` may.
    pub vrrp: bool,
    /// `BFD_CHECK` may.
    pub checker: bool,
}

/// Reads `bfd_instance NAME { ... }`.
pub(super) fn read(statement: &Statement, log: &Log) -> Option<(Located<String>, Known)> {
    const KNOWN: [&str; 15] = [
        "neighbor_ip",
        "neighbour_ip",
        "source_ip",
        "min_rx",
        "min_tx",
        "idle_tx",
        "multiplier",
        "passive",
        "ttl",
        "hoplimit",
        "max_hops",
        "multihop",
        "weight",
        "vrrp",
        "checker",
    ];
    let name = argument(statement, log)?;
    let (mut neighbour, mut ttl) = (None, None);
    let mut settings = Settings {
        neighbour: IpAddr::from([0; 4]),
        interface: None,
        source: None,
        min_tx: INTERVAL,
        min_rx: INTERVAL,
        idle_tx: IDLE,
        multiplier: MULTIPLIER,
        passive: false,
        ttl: TTL,
        max_hops: 0,
        multihop: false,
    };
    let (mut weight, mut vrrp, mut checker) = ((0, false), false, false);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "neighbor_ip" | "neighbour_ip" => neighbour = number::<Neighbour>(line, "an IP address", log),
            "source_ip" => settings.source = number(line, "an IP address", log),
            "min_rx" => settings.min_rx = millis(line, log).unwrap_or(settings.min_rx),
            "min_tx" => settings.min_tx = millis(line, log).unwrap_or(settings.min_tx),
            "idle_tx" => settings.idle_tx = millis(line, log).unwrap_or(settings.idle_tx),
            "multiplier" => settings.multiplier = super::number(line, log).map_or(MULTIPLIER, |times| times.value),
            "passive" => settings.passive = true,
            "ttl" | "hoplimit" => ttl = super::number(line, log).map(|ttl| ttl.value),
            "max_hops" => settings.max_hops = hops(line, log).unwrap_or(settings.max_hops),
            "multihop" => settings.multihop = flag(line, log),
            "weight" => weight = track::own_weight(line, log).unwrap_or(weight),
            "vrrp" => vrrp = true,
            "checker" => checker = true,
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let Some(neighbour) = neighbour else {
        log.add(Diagnostic::error(&name.place, format!("`bfd_instance {}` needs `neighbor_ip`", name.value)));
        return None;
    };
    let Neighbour { address: neighbour, interface } = neighbour;
    (settings.neighbour, settings.interface) = (neighbour, interface);
    settings.ttl = ttl.unwrap_or(if neighbour.is_ipv4() { TTL } else { HOP_LIMIT });
    // Without either it is for both.
    let both = vrrp == checker;
    Some((name, Known { settings, weight, vrrp: vrrp || both, checker: checker || both }))
}

/// Reads `BFD_CHECK { ... }`: the session that a server goes by.
pub(super) fn check(statement: &Statement, sessions: &BTreeMap<String, Known>, log: &Log) -> Option<String> {
    const KNOWN: [&str; 2] = ["name", "alpha"];
    let mut name = None;
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "name" => name = argument(line, log),
            // It is the server's.
            "alpha" => {}
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let Some(Located { value: name, place }) = name else {
        log.add(Diagnostic::error(&statement.keyword.place, "`BFD_CHECK` needs `name`"));
        return None;
    };
    match sessions.get(&name) {
        Some(known) if known.checker => return Some(name),
        Some(_) => {
            let error = Diagnostic::error(&place, format!("`bfd_instance {name}` is for VRRP only"));
            log.add(error.help("add `checker` to it, or take `vrrp` out"));
        }
        None => {
            let error = Diagnostic::error(&place, format!("there is no `bfd_instance {name}`"));
            log.add(error.did_you_mean(nearest(&name, sessions.keys().map(String::as_str))));
        }
    }
    None
}

/// Milliseconds, to the microsecond.
fn millis(line: &Statement, log: &Log) -> Option<Duration> {
    let Located { value, place } = argument(line, log)?;
    let keyword = &line.keyword.text;
    match duration::seconds(&value) {
        Ok(thousandfold) => bfd::interval(Located { value: thousandfold / 1000, place }, keyword, log),
        Err(reason) => {
            log.add(Diagnostic::error(&place, format!("`{keyword}` is not a number of milliseconds: {reason}")));
            None
        }
    }
}

/// keepalived has -1 for 255: whatever comes is heard.
fn hops(line: &Statement, log: &Log) -> Option<u8> {
    let word = argument(line, log)?;
    let hops = if word.value == "-1" { Some(u8::MAX) } else { word.value.parse().ok() };
    if hops.is_none() {
        log.add(Diagnostic::error(&word.place, "`max_hops` must be between -1 and 255"));
    }
    hops
}
