//! `[service.NAME]`: what is to be balanced behind a VIP, and among whom; `[health]`: how many watch them.

mod rules;

use super::bfd::Sessions;
use super::check::{self, Check};
use super::diagnostic::{Diagnostic, Located, Log, Place};
use super::forwarding;
use super::notify::{Command, read_command};
use super::reader::{Section, Value};
use crate::ipvs::{Forwarding, Granularity, Protocol, SCHEDULERS, SchedulerFlags, ServiceKey};
use hamesh_raft::command::Family;
pub(super) use rules::build;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
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
    /// It is down until a check has passed.
    pub alpha: bool,
    /// Run when this director sees it come up.
    pub notify_up: Option<Command>,
    /// Run when this director sees it go down.
    pub notify_down: Option<Command>,
    /// Whether either is mailed.
    pub mail: bool,
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
    /// What it takes: some of the group's addresses with a port each, or what the firewall has marked. At least one.
    pub listen: Vec<ServiceKey>,
    /// Its protocol.
    pub protocol: Protocol,
    /// One of [`SCHEDULERS`].
    pub scheduler: &'static str,
    /// What the scheduler is told.
    pub flags: SchedulerFlags,
    /// Every datagram is balanced by itself: UDP only.
    pub one_packet: bool,
    /// Who serves.
    pub servers: Vec<Server>,
    /// A client stays with its server until it was away for so long. Whole seconds, at least one.
    pub persistence: Option<Duration>,
    /// Which clients count as one to persistence; `None`: each for itself.
    pub granularity: Option<Granularity>,
    /// What tells clients apart instead of their address: `sip`.
    pub engine: Option<&'static str>,
    /// How long a server that is drained keeps its connections; `None`: until they end.
    pub drain: Option<Duration>,
    /// A server that has come back has its whole weight after this.
    pub slow_start: Duration,
    /// Run when this director sees the quorum reached.
    pub quorum_up: Option<Command>,
    /// Run when this director sees the quorum lost.
    pub quorum_down: Option<Command>,
    /// Whether either is mailed.
    pub mail: bool,
    /// Serves alone while the quorum is lost.
    pub sorry_server: Option<(SocketAddr, Forwarding)>,
    /// When the quorum is back the sorry server keeps its connections, with weight 0.
    pub sorry_server_inhibit: bool,
    /// A stop tells `notify_down` and `quorum_down` of what was up.
    pub omega: bool,
    /// Nobody but the VIP's holder asks its servers.
    pub ha_suspend: bool,
    /// The weight that must be up.
    pub quorum: u32,
    /// The quorum is lost below `quorum - hysteresis`, and back from `quorum + hysteresis` on.
    pub hysteresis: u32,
    /// If fewer servers than this are up, all are served: then it is the look that is wrong.
    pub min_up: usize,
}

impl Service {
    /// What keepalived calls the service of this name: its address or its mark, or with several of them its name.
    pub fn title(&self, name: &str) -> String {
        match self.listen.as_slice() {
            [ServiceKey::Address(protocol, at)] => title(*protocol, at.ip, at.port),
            [ServiceKey::Mark(mark, _)] => format!("FWM {mark}"),
            _ => format!("[{}]:0", name.split('/').next().unwrap_or(name)),
        }
    }
}

/// `[203.0.113.10]:tcp:80`.
pub fn title(protocol: Protocol, ip: IpAddr, port: u16) -> String {
    format!("[{ip}]:{}:{port}", protocol.to_string().to_lowercase())
}

/// A firewall mark, and the family that it is about, if not that of the servers.
pub(super) type Mark = (NonZeroU32, Option<Family>);

/// By the names that Linux has for them.
pub(super) const FAMILIES: [(&str, Family); 2] = [("inet", Family::V4), ("inet6", Family::V6)];

/// A service as read, perhaps with holes where something was wrong.
pub(super) struct Draft {
    pub name: Located<String>,
    pub vip: Option<Located<String>>,
    pub listen: Vec<Located<SocketAddr>>,
    pub mark: Vec<Located<Mark>>,
    pub protocol: Protocol,
    pub scheduler: &'static str,
    pub flags: SchedulerFlags,
    pub one_packet: bool,
    pub servers: Vec<Located<Server>>,
    pub persistence: Option<Duration>,
    pub granularity: Option<Granularity>,
    pub engine: Option<&'static str>,
    pub drain: Option<Duration>,
    pub slow_start: Duration,
    pub quorum_up: Option<Command>,
    pub quorum_down: Option<Command>,
    pub mail: bool,
    pub sorry_server: Option<Located<(SocketAddr, Forwarding)>>,
    pub sorry_server_inhibit: bool,
    pub omega: bool,
    pub ha_suspend: bool,
    pub quorum: u32,
    pub hysteresis: u32,
    pub min_up: usize,
}

/// What the servers of a service have in common.
struct Common {
    forwarding: Option<Forwarding>,
    checks: Vec<Check>,
    inhibit_on_failure: bool,
    alpha: bool,
    notify_up: Option<Command>,
    notify_down: Option<Command>,
    mail: bool,
}

/// A way to set a flag of a scheduler.
pub(super) type Flag = fn(&mut SchedulerFlags);

/// By their names, which are ipvsadm's.
pub(super) const FLAGS: [(&str, Flag); 7] = [
    ("flag-1", |flags| flags.first = true),
    ("flag-2", |flags| flags.second = true),
    ("flag-3", |flags| flags.third = true),
    ("sh-fallback", |flags| flags.first = true),
    ("sh-port", |flags| flags.second = true),
    ("mh-fallback", |flags| flags.first = true),
    ("mh-port", |flags| flags.second = true),
];

/// What Linux has, for persistence.
pub(super) const ENGINES: [(&str, &str); 1] = [("sip", "sip")];

const PROTOCOLS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

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

pub(super) fn read(name: Located<String>, section: Section<'_>, bfd: &Sessions, log: &Log) -> Draft {
    let schedulers = SCHEDULERS.map(|name| (name, name));
    let truth = |key| section.get(key).and_then(Value::boolean).is_some_and(|v| v.value);
    let common = Common {
        forwarding: section.required("forwarding").and_then(|v| forwarding::read(v, log)),
        checks: check::read(&section, bfd, log).unwrap_or_default(),
        inhibit_on_failure: truth("inhibit_on_failure"),
        alpha: truth("alpha"),
        notify_up: notify(&section, "notify_up", log),
        notify_down: notify(&section, "notify_down", log),
        mail: truth("mail"),
    };
    let mut flags = SchedulerFlags::default();
    let set = section.get("scheduler_flags").and_then(Value::list).unwrap_or_default();
    set.into_iter().filter_map(|flag| flag.choice(&FLAGS)).for_each(|set| (set.value)(&mut flags));
    let sorry_server: Option<Located<SocketAddr>> =
        section.get("sorry_server").and_then(|value| value.parsed("an address and port", "10.0.5.99:80"));
    let draft = Draft {
        vip: section.required("vip").and_then(Value::string),
        listen: read_listen(&section),
        mark: read_marks(&section),
        protocol: section.get("protocol").and_then(|v| v.choice(&PROTOCOLS)).map_or(Protocol::Tcp, |v| v.value),
        scheduler: section.get("scheduler").and_then(|v| v.choice(&schedulers)).map_or("wlc", |v| v.value),
        flags,
        one_packet: truth("one_packet"),
        granularity: section.get("persistence_granularity").and_then(|value| {
            let text = value.string()?;
            granularity(&text, log)
        }),
        engine: section.get("persistence_engine").and_then(|v| v.choice(&ENGINES)).map(|v| v.value),
        drain: section.get("drain").and_then(Value::duration).map(|v| v.value),
        slow_start: section.get("slow_start").and_then(Value::duration).map_or(Duration::ZERO, |v| v.value),
        quorum_up: notify(&section, "quorum_up", log),
        quorum_down: notify(&section, "quorum_down", log),
        mail: common.mail,
        servers: section
            .required("server")
            .and_then(|value| read_servers(value, &common, bfd, log))
            .unwrap_or_default(),
        persistence: section.get("persistence").and_then(|value| read_persistence(value, log)),
        sorry_server: sorry_server
            .and_then(|at| Some(Located { value: (at.value, common.forwarding?), place: at.place })),
        sorry_server_inhibit: truth("sorry_server_inhibit"),
        omega: truth("omega"),
        ha_suspend: truth("ha_suspend"),
        quorum: section.get("quorum").and_then(|v| v.integer(1..=1_000_000_000)).map_or(1, |v| v.value),
        hysteresis: section.get("hysteresis").and_then(|v| v.integer(0..=1_000_000_000)).map_or(0, |v| v.value),
        min_up: section.get("min_up").and_then(|v| v.integer(0..=65_535u16)).map_or(0, |v| usize::from(v.value)),
        name,
    };
    section.close();
    draft
}

/// None where there is a mark.
fn read_listen(section: &Section<'_>) -> Vec<Located<SocketAddr>> {
    let one = |value: Value<'_>| value.parsed("an address and port", "203.0.113.10:80");
    let marked = section.get("mark").is_some();
    let value = if marked { section.get("listen") } else { section.required("listen") };
    value.map(Value::one_or_more).into_iter().flatten().filter_map(one).collect()
}

/// A number, or one for a family: `{ inet6 = 7 }`; or a list of them.
fn read_marks(section: &Section<'_>) -> Vec<Located<Mark>> {
    let number = |value: Value<'_>, family| {
        let mark = value.integer(1..=u32::MAX)?;
        Some(Located { value: (NonZeroU32::new(mark.value)?, family), place: mark.place })
    };
    let one = |value: Value<'_>| {
        if !value.is_table() {
            return number(value, None).into_iter().collect();
        }
        let Some(section) = value.table() else { return Vec::new() };
        let of = |(key, family)| section.get(key).and_then(|value| number(value, Some(family)));
        let marks = FAMILIES.into_iter().filter_map(of).collect();
        section.close();
        marks
    };
    section.get("mark").map(Value::one_or_more).into_iter().flatten().flat_map(one).collect()
}

fn read_servers(value: Value<'_>, common: &Common, bfd: &Sessions, log: &Log) -> Option<Vec<Located<Server>>> {
    let server = |item: Value<'_>| {
        let section = item.table()?;
        let address: Option<Located<SocketAddr>> =
            section.required("address").and_then(|value| value.parsed("an address and port", "10.0.5.11:80"));
        let weight = section.get("weight").map_or(Some(1), |value| Some(value.integer(0..=65_535u32)?.value));
        let alpha = section.get("alpha").and_then(Value::boolean).map(|v| v.value);
        let notify_up = notify(&section, "notify_up", log).or_else(|| common.notify_up.clone());
        let notify_down = notify(&section, "notify_down", log).or_else(|| common.notify_down.clone());
        let mail = section.get("mail").and_then(Value::boolean).map_or(common.mail, |mail| mail.value);
        let forwarding = section.get("forwarding").and_then(|v| forwarding::read(v, log));
        let inhibit = section.get("inhibit_on_failure").and_then(Value::boolean).map(|v| v.value);
        let limit = |key| section.get(key).and_then(|v| v.integer(0..=1_000_000_000)).map(|v| v.value);
        let (upper, lower) = (limit("upper").unwrap_or(0), limit("lower").unwrap_or(0));
        let checks = check::read(&section, bfd, log).unwrap_or_else(|| common.checks.clone());
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
            alpha: alpha.unwrap_or(common.alpha),
            notify_up,
            notify_down,
            mail,
        };
        Some(Located { value: server, place: address.place })
    };
    Some(distinct(value.list()?.into_iter().filter_map(server), Diagnostic::error, log))
}

/// The same server twice would be one to IPVS: the first is left.
pub(super) fn distinct(
    servers: impl Iterator<Item = Located<Server>>,
    twice: impl Fn(&Place, String) -> Diagnostic,
    log: &Log,
) -> Vec<Located<Server>> {
    let mut addresses = BTreeSet::new();
    let is_new = |server: &Located<Server>| {
        let address = server.value.address;
        let is_new = addresses.insert(address);
        if !is_new {
            log.add(twice(&server.place, format!("server `{address}` is listed twice")));
        }
        is_new
    };
    servers.filter(is_new).collect()
}

/// The one port that a service is for; `None` with several, with every port, and with marked packets.
pub(super) fn one_port(listen: &[Located<SocketAddr>], mark: &[Located<Mark>]) -> Option<u16> {
    let first = listen.first().filter(|_| mark.is_empty())?.value.port();
    (first > 0 && listen.iter().all(|at| at.value.port() == first)).then_some(first)
}

fn notify(parent: &Section<'_>, key: &'static str, log: &Log) -> Option<Command> {
    read_command(parent.get(key)?, log)
}

/// A netmask for IPv4, the length of a prefix for IPv6.
pub(super) fn granularity(text: &Located<String>, log: &Log) -> Option<Granularity> {
    let mask = text.value.parse().ok().map(Granularity::Netmask);
    let prefix = text.value.parse().ok().filter(|prefix| (1..=128).contains(prefix)).map(Granularity::Prefix);
    if mask.or(prefix).is_none() {
        let message = format!("`{}` is neither a netmask nor the length of an IPv6 prefix", text.value);
        log.add(Diagnostic::error(&text.place, message).help("for example \"255.255.255.0\", or \"64\""));
    }
    mask.or(prefix)
}

fn read_persistence(value: Value<'_>, log: &Log) -> Option<Duration> {
    let timeout = value.duration()?;
    if timeout.value.subsec_nanos() != 0 || timeout.value.is_zero() {
        log.add(Diagnostic::error(&timeout.place, "IPVS keeps clients for whole seconds, at least 1s"));
    }
    Some(timeout.value)
}
