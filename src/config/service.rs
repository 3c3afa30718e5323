//! `[service.NAME]`: what is to be balanced behind a VIP, and among whom; `[health]`: how many watch them.

use super::check::{self, Check};
use super::diagnostic::{Diagnostic, Located, Log};
use super::group;
use super::reader::{Section, Value};
use crate::ipvs::{Forwarding, Protocol, SCHEDULERS, Tunnel};
use std::net::SocketAddr;
use std::time::Duration;

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share; 0 gets no new connections. At most 65535.
    pub weight: u32,
    /// How packets get there.
    pub forwarding: Forwarding,
    /// How it is watched, if it is. It is up while all say so.
    pub checks: Vec<Check>,
    /// While it is down it stays with weight 0, and keeps its connections.
    pub inhibit_on_failure: bool,
    /// From so many connections on it gets no new ones; 0 is without limit.
    pub upper: u32,
    /// Below so many it gets new ones again; 0 is three quarters of `upper`. Not above `upper`.
    pub lower: u32,
}

/// How the directors share their looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthMesh {
    /// Directors that watch a target, beside the holder of its VIP. 1 to 16.
    pub observers: usize,
    /// So many of them must see it down for one that does not watch it itself to call it down. 1 to `observers`.
    pub agree: usize,
}

impl Default for HealthMesh {
    fn default() -> Self {
        Self { observers: 3, agree: 2 }
    }
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
    /// Who serves.
    pub servers: Vec<Server>,
    /// A client stays with its server until it was away for so long. Whole seconds, at least one.
    pub persistence: Option<Duration>,
    /// Serves alone while the quorum is lost.
    pub sorry_server: Option<(SocketAddr, Forwarding)>,
    /// The weight that must be up.
    pub quorum: u32,
    /// The quorum is lost below `quorum - hysteresis`, and back from `quorum + hysteresis` on.
    pub hysteresis: u32,
    /// If fewer servers than this are up, all are served: then it is the look that is wrong.
    pub min_up: usize,
}

/// A service as read, perhaps with holes where something was wrong.
pub(super) struct Draft {
    pub name: Located<String>,
    pub vip: Option<Located<String>>,
    pub listen: Option<Located<SocketAddr>>,
    pub protocol: Protocol,
    pub scheduler: &'static str,
    pub servers: Vec<Server>,
    pub persistence: Option<Duration>,
    pub sorry_server: Option<(SocketAddr, Forwarding)>,
    pub quorum: u32,
    pub hysteresis: u32,
    pub min_up: usize,
}

/// What the servers of a service have in common.
struct Common {
    forwarding: Option<Forwarding>,
    checks: Vec<Check>,
    inhibit_on_failure: bool,
}

const PROTOCOLS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
const FORWARDINGS: [(&str, Forwarding); 3] =
    [("nat", Forwarding::Nat), ("direct", Forwarding::Direct), ("tunnel", Forwarding::Tunnel(Tunnel::Ipip))];

/// Reads `[health]`.
pub(super) fn read_mesh(section: Section<'_>, log: &Log) -> HealthMesh {
    let default = HealthMesh::default();
    let observers = section.get("observers").and_then(|value| value.integer(1..=16u8));
    let agree = section.get("agree").and_then(|value| value.integer(1..=16u8));
    let place = section.place().clone();
    section.close();
    let count = |value: Option<Located<u8>>, default| value.map_or(default, |value| usize::from(value.value));
    let observers = count(observers, default.observers);
    let agree = count(agree, default.agree.min(observers));
    if agree > observers {
        log.add(Diagnostic::error(&place, format!("{agree} of {observers} observers cannot agree")));
    }
    HealthMesh { observers, agree }
}

pub(super) fn read(name: Located<String>, section: Section<'_>, log: &Log) -> Draft {
    let schedulers = SCHEDULERS.map(|name| (name, name));
    let common = Common {
        forwarding: section.required("forwarding").and_then(|v| v.choice(&FORWARDINGS)).map(|v| v.value),
        checks: check::read(&section, log).unwrap_or_default(),
        inhibit_on_failure: section.get("inhibit_on_failure").and_then(Value::boolean).is_some_and(|v| v.value),
    };
    let sorry_server: Option<Located<SocketAddr>> =
        section.get("sorry_server").and_then(|value| value.parsed("an address and port", "10.0.5.99:80"));
    let draft = Draft {
        vip: section.required("vip").and_then(Value::string),
        listen: section.required("listen").and_then(|value| value.parsed("an address and port", "203.0.113.10:80")),
        protocol: section.get("protocol").and_then(|v| v.choice(&PROTOCOLS)).map_or(Protocol::Tcp, |v| v.value),
        scheduler: section.get("scheduler").and_then(|v| v.choice(&schedulers)).map_or("wlc", |v| v.value),
        servers: section.required("server").and_then(|value| read_servers(value, &common, log)).unwrap_or_default(),
        persistence: section.get("persistence").and_then(|value| read_persistence(value, log)),
        sorry_server: sorry_server.and_then(|server| Some((server.value, common.forwarding?))),
        quorum: section.get("quorum").and_then(|v| v.integer(1..=1_000_000_000)).map_or(1, |v| v.value),
        hysteresis: section.get("hysteresis").and_then(|v| v.integer(0..=1_000_000_000)).map_or(0, |v| v.value),
        min_up: section.get("min_up").and_then(|v| v.integer(0..=65_535u16)).map_or(0, |v| usize::from(v.value)),
        name,
    };
    section.close();
    draft
}

fn read_servers(value: Value<'_>, common: &Common, log: &Log) -> Option<Vec<Server>> {
    let server = |item: Value<'_>| {
        let section = item.table()?;
        let address: Option<Located<SocketAddr>> =
            section.required("address").and_then(|value| value.parsed("an address and port", "10.0.5.11:80"));
        let weight = section.get("weight").map_or(Some(1), |value| Some(value.integer(0..=65_535u32)?.value));
        let forwarding = section.get("forwarding").and_then(|v| v.choice(&FORWARDINGS)).map(|v| v.value);
        let inhibit = section.get("inhibit_on_failure").and_then(Value::boolean).map(|v| v.value);
        let limit = |key| section.get(key).and_then(|v| v.integer(0..=1_000_000_000)).map(|v| v.value);
        let (upper, lower) = (limit("upper").unwrap_or(0), limit("lower").unwrap_or(0));
        let checks = check::read(&section, log).unwrap_or_else(|| common.checks.clone());
        if lower > upper {
            log.add(Diagnostic::error(section.place(), format!("`lower`, {lower}, is above `upper`, {upper}")));
        }
        section.close();
        let address = address?;
        let server = Server {
            address: address.value,
            weight: weight?,
            // Without one the service's own line is an error already.
            forwarding: forwarding.or(common.forwarding).unwrap_or(Forwarding::Nat),
            checks,
            inhibit_on_failure: inhibit.unwrap_or(common.inhibit_on_failure),
            upper,
            lower,
        };
        Some(Located { value: server, place: address.place })
    };
    Some(distinct(value.list()?.into_iter().filter_map(server), log))
}

/// The same server twice would be one to IPVS.
pub(super) fn distinct(servers: impl Iterator<Item = Located<Server>>, log: &Log) -> Vec<Server> {
    let mut all: Vec<Server> = Vec::new();
    for Located { value, place } in servers {
        if all.iter().any(|other| other.address == value.address) {
            log.add(Diagnostic::error(&place, format!("server `{}` is listed twice", value.address)));
        }
        all.push(value);
    }
    all
}

fn read_persistence(value: Value<'_>, log: &Log) -> Option<Duration> {
    let timeout = value.duration()?;
    if timeout.value.subsec_nanos() != 0 || timeout.value.is_zero() {
        log.add(Diagnostic::error(&timeout.place, "IPVS keeps clients for whole seconds, at least 1s"));
    }
    Some(timeout.value)
}

/// The rules between a service and the VIP groups; `None` when a part is missing.
pub(super) fn build(draft: Draft, groups: &[group::Draft], log: &Log) -> Option<(String, Service)> {
    if draft.hysteresis >= draft.quorum && draft.hysteresis > 0 {
        let message = format!("a hysteresis of {} does not let a quorum of {} be lost", draft.hysteresis, draft.quorum);
        log.add(Diagnostic::error(&draft.name.place, message).help("it must be smaller than the quorum"));
    }
    let (vip, listen) = (draft.vip?, draft.listen?);
    match groups.iter().find(|group| group.name.value == vip.value) {
        None => {
            let meant = super::diagnostic::nearest(&vip.value, groups.iter().map(|group| group.name.value.as_str()));
            let error = Diagnostic::error(&vip.place, format!("there is no VIP group `{}`", vip.value));
            log.add(error.did_you_mean(meant));
        }
        Some(group) => {
            let ip = listen.value.ip();
            if !group.all().any(|address| address.value.0 == ip) {
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
        servers: draft.servers,
        persistence: draft.persistence,
        sorry_server: draft.sorry_server,
        quorum: draft.quorum,
        hysteresis: draft.hysteresis,
        min_up: draft.min_up,
    };
    Some((draft.name.value, service))
}
