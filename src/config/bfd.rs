//! `[bfd.NAME]`: sessions with neighbours, for `track` and `check`; `bfd_instance` of keepalived.conf.

use super::diagnostic::{Diagnostic, Located, Log, nearest};
use super::duration;
use super::reader::{Section, Value};
use crate::bfd::ANY_HOPS;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// When none is given; what routers have.
const INTERVAL: Duration = Duration::from_millis(300);
const MULTIPLIER: u8 = 3;
/// keepalived's.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// What RFC 5881 section 5 asks for.
pub(super) const TTL: u8 = 255;
/// A packet has microseconds, in 32 bits.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(4294);

/// A session with a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The other end.
    pub neighbour: IpAddr,
    /// This end; `None`: as the kernel routes.
    pub source: Option<IpAddr>,
    /// Packets are sent as often, if the neighbour lets us: 1 ms to 4294 s, in microseconds.
    pub min_tx: Duration,
    /// They are taken as often; as `min_tx`.
    pub min_rx: Duration,
    /// As `min_tx`, while the session is not up: 1 s or more (RFC 5880 section 6.8.3).
    pub idle_tx: Duration,
    /// So many of our packets the neighbour may miss; not 0.
    pub multiplier: u8,
    /// Waits for the neighbour's first packet.
    pub passive: bool,
    /// The TTL or hop limit of what is sent; not 0.
    pub ttl: u8,
    /// What has come with less than `ttl` less this is not heard; 255: everything is.
    pub max_hops: u8,
    /// The neighbour is not on the same link: RFC 5883 and its port.
    pub multihop: bool,
}

/// Sessions by their names.
pub(super) type Sessions = BTreeMap<String, Settings>;

/// Reads `[bfd.NAME]`, for the node `director`.
pub(super) fn read(
    name: Located<String>,
    section: Section<'_>,
    director: Option<super::cluster::Director<'_>>,
    log: &Log,
) -> Option<(Located<String>, Settings)> {
    let time =
        |key, default| section.get(key).and_then(|value| interval(value.duration()?, key, log)).unwrap_or(default);
    let (min_tx, min_rx, idle_tx) = (time("min_tx", INTERVAL), time("min_rx", INTERVAL), time("idle_tx", IDLE));
    let number = |key, least: u8, default| {
        section.get(key).and_then(|value| value.integer(least..=255)).map_or(default, |value| value.value)
    };
    let truth = |key| section.get(key).and_then(Value::boolean).is_some_and(|value| value.value);
    let multihop = truth("multihop");
    let settings = Settings {
        neighbour: section.required("neighbour").and_then(|value| value.parsed("an address", "10.0.0.254"))?.value,
        source: section
            .get("source")
            .and_then(|value| super::cluster::read_source(value, director))
            .map(|source| source.value),
        min_tx,
        min_rx,
        idle_tx,
        multiplier: number("multiplier", 1, MULTIPLIER),
        passive: truth("passive"),
        ttl: number("ttl", 1, TTL),
        max_hops: number("max_hops", 0, if multihop { ANY_HOPS } else { 0 }),
        multihop,
    };
    section.close();
    Some((name, settings))
}

/// An interval that is one: `idle_tx` has a bound of its own.
pub(super) fn interval(time: Located<Duration>, key: &str, log: &Log) -> Option<Duration> {
    let Located { value, place } = time;
    let least = if key == "idle_tx" { IDLE } else { *INTERVALS.start() };
    if value < least || !INTERVALS.contains(&value) {
        let (least, most) = (duration::show(least), duration::show(*INTERVALS.end()));
        log.add(Diagnostic::error(&place, format!("`{key}` must be between {least} and {most}")));
        return None;
    }
    Some(value)
}

/// The sessions of a file, checked against each other.
pub(super) fn collect(read: impl IntoIterator<Item = (Located<String>, Settings)>, log: &Log) -> Sessions {
    let mut sessions = Sessions::new();
    for (Located { value: name, place }, settings) in read {
        let fault = |message: String| log.add(Diagnostic::error(&place, message));
        let Settings { neighbour, source, multihop, .. } = &settings;
        if source.is_some_and(|source| source.is_ipv4() != neighbour.is_ipv4()) {
            fault(format!("`{name}` has a source of another family than its neighbour"));
        }
        if matches!(neighbour, IpAddr::V6(six) if six.is_unicast_link_local()) {
            fault(format!(
                "the neighbour of `{name}` has a link-local address, which is on no known interface: name another"
            ));
        }
        if settings.ttl < settings.max_hops && settings.max_hops != ANY_HOPS {
            fault(format!("`{name}` lets packets come over more hops than its ttl has"));
        }
        let ends = (neighbour, source, multihop);
        if let Some((twin, _)) = sessions.iter().find(|(_, s)| (&s.neighbour, &s.source, &s.multihop) == ends) {
            fault(format!("`{name}` and `{twin}` are the same session: use one of them for both"));
        }
        sessions.insert(name, settings);
    }
    sessions
}

/// Whether there is such a session; what is wrong is noted where the name stands.
pub(super) fn is_known(name: &Located<String>, sessions: &Sessions, log: &Log) -> bool {
    let known = sessions.contains_key(&name.value);
    if !known {
        let error = Diagnostic::error(&name.place, format!("there is no section [bfd.{}]", name.value));
        log.add(error.did_you_mean(nearest(&name.value, sessions.keys().map(String::as_str))));
    }
    known
}
