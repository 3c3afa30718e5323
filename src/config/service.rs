//! `[service.NAME]`: what is to be balanced behind a VIP. Read and checked; nothing programs IPVS from it yet.

use super::diagnostic::{Diagnostic, Located, Log};
use super::group;
use super::reader::{Section, Value};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// IPVS's protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a packet gets to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Its addresses are translated.
    Nat,
    /// Its MAC address is: the server has the VIP too.
    Direct,
    /// It is wrapped into another.
    Tunnel,
}

/// The kernel's schedulers.
pub const SCHEDULERS: [&str; 12] = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "mh"];

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share; 0 gets no new connections. At most 65535.
    pub weight: u32,
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A connection.
    Tcp,
    /// A GET.
    Http {
        /// Begins with a slash.
        path: String,
        /// The answers that count as alive.
        status: RangeInclusive<u16>,
    },
}

/// How a server is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// Between two questions.
    pub interval: Duration,
    /// No answer after this is a failure; not above `interval`.
    pub timeout: Duration,
    /// Failures in a row that make it down, 1 to 100.
    pub fall: u8,
    /// Successes in a row that make it up, 1 to 100.
    pub rise: u8,
}

/// A valid service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The VIP group it moves with.
    pub vip: String,
    /// One of the group's addresses, and a port.
    pub listen: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// One of [`SCHEDULERS`].
    pub scheduler: &'static str,
    /// How packets get to the servers.
    pub forwarding: Forwarding,
    /// Who serves.
    pub servers: Vec<Server>,
    /// How they are watched, if they are.
    pub check: Option<Check>,
}

/// A service as read, perhaps with holes where something was wrong.
pub(super) struct Draft {
    name: Located<String>,
    vip: Option<Located<String>>,
    listen: Option<Located<SocketAddr>>,
    protocol: Protocol,
    scheduler: &'static str,
    forwarding: Option<Forwarding>,
    servers: Vec<Server>,
    check: Option<Check>,
}

const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const FORWARDINGS: [(&str, Forwarding); 3] =
    [("nat", Forwarding::Nat), ("direct", Forwarding::Direct), ("tunnel", Forwarding::Tunnel)];

pub(super) fn read(name: Located<String>, section: Section<'_>, log: &Log) -> Draft {
    let message = format!("service `{}` is not served: this version does not program IPVS yet", name.value);
    log.add(Diagnostic::warning(&name.place, message));
    let schedulers = SCHEDULERS.map(|name| (name, name));
    let draft = Draft {
        vip: section.required("vip").and_then(Value::string),
        listen: section.required("listen").and_then(|value| value.parsed("an address and port", "203.0.113.10:80")),
        protocol: section.get("protocol").and_then(|v| v.choice(&PROTOCOLS)).map_or(Protocol::Tcp, |v| v.value),
        scheduler: section.get("scheduler").and_then(|v| v.choice(&schedulers)).map_or("wlc", |v| v.value),
        forwarding: section.required("forwarding").and_then(|v| v.choice(&FORWARDINGS)).map(|v| v.value),
        servers: section.required("server").and_then(|value| read_servers(value, log)).unwrap_or_default(),
        check: section.get("check").and_then(Value::table).and_then(|section| read_check(section, log)),
        name,
    };
    section.close();
    draft
}

fn read_servers(value: Value<'_>, log: &Log) -> Option<Vec<Server>> {
    let server = |item: Value<'_>| {
        let section = item.table()?;
        let address: Option<Located<SocketAddr>> =
            section.required("address").and_then(|value| value.parsed("an address and port", "10.0.5.11:80"));
        let weight = section.get("weight").map_or(Some(1), |value| Some(value.integer(0..=65_535u32)?.value));
        section.close();
        Some((address?, weight?))
    };
    let mut servers: Vec<Server> = Vec::new();
    for (address, weight) in value.list()?.into_iter().filter_map(server) {
        if servers.iter().any(|other| other.address == address.value) {
            log.add(Diagnostic::error(&address.place, format!("server `{}` is listed twice", address.value)));
        }
        servers.push(Server { address: address.value, weight });
    }
    Some(servers)
}

fn read_check(section: Section<'_>, log: &Log) -> Option<Check> {
    let http = section.get("http").and_then(Value::table).map(|http| read_http(http, log));
    let tcp = section.get("tcp").and_then(Value::table).map(|tcp| {
        tcp.close();
        Probe::Tcp
    });
    let seconds = |key, default| {
        section.get(key).and_then(Value::duration).map_or(Duration::from_secs(default), |value| value.value)
    };
    let (interval, timeout) = (seconds("interval", 2), seconds("timeout", 1));
    let times = |key, default| section.get(key).and_then(|v| v.integer(1..=100)).map_or(default, |v| v.value);
    let (fall, rise) = (times("fall", 3), times("rise", 2));
    if timeout.is_zero() || timeout > interval {
        let error = Diagnostic::error(section.place(), "a check's timeout must be above 0 and not above its interval");
        log.add(error);
    }
    let probe = match (http, tcp) {
        (Some(probe), None) => probe,
        (None, Some(tcp)) => Some(tcp),
        (Some(_), Some(_)) | (None, None) => {
            log.add(Diagnostic::error(section.place(), "a check needs one of `http` and `tcp`"));
            None
        }
    };
    section.close();
    Some(Check { probe: probe?, interval, timeout, fall, rise })
}

fn read_http(section: Section<'_>, log: &Log) -> Option<Probe> {
    let path = section.required("path").and_then(Value::string);
    let status = section.get("status").and_then(Value::string);
    section.close();
    let status = match &status {
        None => Some(200..=299),
        Some(text) => {
            let range = status_range(&text.value);
            if range.is_none() {
                let error =
                    Diagnostic::error(&text.place, format!("`{}` is no range of HTTP status codes", text.value));
                log.add(error.help("for example \"200-299\" or \"204\""));
            }
            range
        }
    };
    let path = path?;
    if !path.value.starts_with('/') {
        log.add(Diagnostic::error(&path.place, "the path of an HTTP check begins with `/`"));
    }
    Some(Probe::Http { path: path.value, status: status? })
}

fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let range = code(first)?..=code(last)?;
    (!range.is_empty()).then_some(range)
}

/// The rules between a service and the VIP groups; `None` when a part is missing.
pub(super) fn build(draft: Draft, groups: &[group::Draft], log: &Log) -> Option<(String, Service)> {
    let (vip, listen) = (draft.vip?, draft.listen?);
    match groups.iter().find(|group| group.name.value == vip.value) {
        None => {
            let meant = super::diagnostic::nearest(&vip.value, groups.iter().map(|group| group.name.value.as_str()));
            let error = Diagnostic::error(&vip.place, format!("there is no VIP group `{}`", vip.value));
            log.add(error.did_you_mean(meant));
        }
        Some(group) => {
            let ip = listen.value.ip();
            if !group.addresses.iter().any(|address| address.value.0 == ip) {
                let message = format!("`{ip}` is not an address of VIP group `{}`", vip.value);
                log.add(Diagnostic::error(&listen.place, message).see(&group.name.place, "this group"));
            }
        }
    }
    let service = Service {
        vip: vip.value,
        listen: listen.value,
        protocol: draft.protocol,
        scheduler: draft.scheduler,
        forwarding: draft.forwarding?,
        servers: draft.servers,
        check: draft.check,
    };
    Some((draft.name.value, service))
}
