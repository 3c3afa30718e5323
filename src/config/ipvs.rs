//! `[ipvs]`: what a director's IPVS does beside its services.

use super::diagnostic::{Diagnostic, Located, Log};
use super::group;
use super::reader::{Section, Value};
use std::net::IpAddr;
use std::time::Duration;

/// What is the same for all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipvs {
    /// Connections are told to other directors.
    pub sync: Option<Sync>,
    /// How long silent connections are remembered.
    pub timeouts: Timeouts,
    /// A start removes every service there is, also those of others.
    pub flush: bool,
}

/// How directors tell each other of their connections, so that these survive a takeover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// The LAN between them.
    pub interface: String,
    /// The VIP group whose holder tells; the others listen. `None`: all do both.
    pub vip: Option<String>,
    /// Who listens takes what has its number.
    pub id: u8,
    /// The longest message in bytes; `None`: what the interface takes.
    pub longest: Option<u16>,
    /// Where to; `None`: 224.0.0.81.
    pub group: Option<IpAddr>,
    /// UDP; `None`: 8848.
    pub port: Option<u16>,
    /// Of the packets; `None`: 1.
    pub ttl: Option<u8>,
}

/// Whole seconds; 0 leaves what the kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection.
    pub tcp: Duration,
    /// A TCP connection after its FIN.
    pub tcp_fin: Duration,
    /// UDP.
    pub udp: Duration,
}

pub(super) fn read(section: Section<'_>, log: &Log) -> Ipvs {
    let ipvs = Ipvs {
        sync: section.get("sync").and_then(Value::table).and_then(read_sync),
        timeouts: section
            .get("timeouts")
            .and_then(Value::table)
            .map(|table| read_timeouts(table, log))
            .unwrap_or_default(),
        flush: section.get("flush").and_then(Value::boolean).is_some_and(|flush| flush.value),
    };
    section.close();
    ipvs
}

fn read_sync(section: Section<'_>) -> Option<Sync> {
    let interface = section.required("interface").and_then(Value::string);
    let sync = Sync {
        interface: interface.map(|name| name.value).unwrap_or_default(),
        vip: section.get("vip").and_then(Value::string).map(|vip| vip.value),
        id: section.get("id").and_then(|v| v.integer(0..=255u8)).map_or(0, |v| v.value),
        longest: section.get("longest").and_then(|v| v.integer(1..=65_507u16)).map(|v| v.value),
        group: section.get("group").and_then(|v| v.parsed("a multicast address", "224.0.0.81")).map(|v| v.value),
        port: section.get("port").and_then(|v| v.integer(1..=65_535u16)).map(|v| v.value),
        ttl: section.get("ttl").and_then(|v| v.integer(1..=255u8)).map(|v| v.value),
    };
    section.close();
    Some(sync).filter(|sync| !sync.interface.is_empty())
}

fn read_timeouts(section: Section<'_>, log: &Log) -> Timeouts {
    let seconds = |key| {
        let time: Located<Duration> = section.get(key).and_then(Value::duration)?;
        if time.value.subsec_nanos() != 0 {
            log.add(Diagnostic::error(&time.place, "IPVS remembers connections for whole seconds"));
        }
        Some(time.value)
    };
    let [tcp, tcp_fin, udp] = ["tcp", "tcp_fin", "udp"].map(|key| seconds(key).unwrap_or_default());
    section.close();
    Timeouts { tcp, tcp_fin, udp }
}

/// The group that is named must be there; `place` is whose configuration it is.
pub(super) fn check(ipvs: &Ipvs, groups: &[group::Draft], log: &Log) {
    let Some(vip) = ipvs.sync.as_ref().and_then(|sync| sync.vip.as_ref()) else { return };
    if let (false, Some(first)) = (groups.iter().any(|group| group.name.value == *vip), groups.first()) {
        let message = format!("connections are to be told by the holder of `{vip}`, and there is no such VIP group");
        log.add(Diagnostic::error(&first.name.place, message));
    }
}
