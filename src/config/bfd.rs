//! `[bfd.NAME]`: sessions with neighbours, for `track` and `check`; `bfd_instance` of keepalived.conf.

use super::diagnostic::{Diagnostic, Located, Log, nearest};
use super::duration;
use super::group::is_interface_name;
use super::reader::{Section, Value};
use crate::bfd::ANY_HOPS;
use std::collections::BTreeMap;
use std::net::{AddrParseError, IpAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
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
    /// Where a neighbour with a link-local address is.
    pub interface: Option<String>,
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

/// An address; of one that is link-local also its interface, `fe80::1%eth0`.
pub(super) struct Neighbour {
    pub address: IpAddr,
    pub interface: Option<String>,
}

impl FromStr for Neighbour {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, interface) = text.split_once('%').map_or((text, None), |(address, name)| (address, Some(name)));
        Ok(Self { address: address.parse()?, interface: interface.map(str::to_owned) })
    }
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
    let Neighbour { address: neighbour, interface } =
        section.required("neighbour").and_then(|value| value.parsed("an address", "10.0.0.254"))?.value;
    let settings = Settings {
        neighbour,
        interface,
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
        let Settings { neighbour, interface, source, multihop, .. } = &settings;
        if source.is_some_and(|source| source.is_ipv4() != neighbour.is_ipv4()) {
            fault(format!("`{name}` has a source of another family than its neighbour"));
        }
        let is_local = |address: &IpAddr| matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        match interface {
            None if is_local(neighbour) => fault(format!(
                "the neighbour of `{name}` has a link-local address: say on which interface, as in `{neighbour}%eth0`"
            )),
            Some(interface) if !is_local(neighbour) => {
                fault(format!("the neighbour of `{name}` has no link-local address: leave out `%{interface}`"));
            }
            Some(interface) if !is_interface_name(interface) => {
                fault(format!("`{interface}` is no name of an interface, where the neighbour of `{name}` is to be"));
            }
            Some(_) if *multihop => {
                fault(format!("`{name}` has a link-local neighbour, which is not several hops away"));
            }
            Some(_) | None => {}
        }
        if interface.is_none() && source.as_ref().is_some_and(is_local) {
            fault(format!("`{name}` has a link-local source, and no link-local neighbour"));
        }
        if settings.ttl < settings.max_hops && settings.max_hops != ANY_HOPS {
            fault(format!("`{name}` lets packets come over more hops than its ttl has"));
        }
        let ends = |of: &Settings| (of.neighbour, of.interface.clone(), of.source, of.multihop);
        if let Some((twin, _)) = sessions.iter().find(|(_, other)| ends(other) == ends(&settings)) {
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
