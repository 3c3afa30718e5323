//! The table's parts as attributes: `include/uapi/linux/ip_vs.h` and `ip_vs_ctl.c` of Linux.

use super::attribute::{Attributes, Writer};
use super::{SyncDaemon, SyncRole};
use crate::ipvs::{
    Change, Checksum, Connections, Endpoint, Forwarding, Granularity, Persistence, Protocol, SchedulerFlags, Server,
    ServiceKey, Settings, Traffic, Tunnel,
};
use hamesh_raft::command::Family;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

/// `IPVS_CMD_*`.
pub(super) mod command {
    pub(in super::super) const NEW_SERVICE: u8 = 1;
    pub(in super::super) const SET_SERVICE: u8 = 2;
    pub(in super::super) const DEL_SERVICE: u8 = 3;
    pub(in super::super) const GET_SERVICE: u8 = 4;
    pub(in super::super) const NEW_DEST: u8 = 5;
    pub(in super::super) const SET_DEST: u8 = 6;
    pub(in super::super) const DEL_DEST: u8 = 7;
    pub(in super::super) const GET_DEST: u8 = 8;
    pub(in super::super) const NEW_DAEMON: u8 = 9;
    pub(in super::super) const DEL_DAEMON: u8 = 10;
    pub(in super::super) const GET_DAEMON: u8 = 11;
    pub(in super::super) const SET_CONFIG: u8 = 12;
    pub(in super::super) const GET_CONFIG: u8 = 13;
    pub(in super::super) const FLUSH: u8 = 17;
}

/// `IPVS_CMD_ATTR_*`.
pub(super) mod attribute {
    pub(in super::super) const SERVICE: u16 = 1;
    pub(in super::super) const DEST: u16 = 2;
    pub(in super::super) const DAEMON: u16 = 3;
    pub(in super::super) const TIMEOUT_TCP: u16 = 4;
    pub(in super::super) const TIMEOUT_TCP_FIN: u16 = 5;
    pub(in super::super) const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const AF: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDR: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const FWMARK: u16 = 5;
    pub(super) const SCHED_NAME: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
    pub(super) const PE_NAME: u16 = 11;
    pub(super) const STATS64: u16 = 12;
}

/// `IPVS_DEST_ATTR_*`.
mod dest {
    pub(super) const ADDR: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FWD_METHOD: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const U_THRESH: u16 = 5;
    pub(super) const L_THRESH: u16 = 6;
    pub(super) const ACTIVE_CONNS: u16 = 7;
    pub(super) const INACT_CONNS: u16 = 8;
    pub(super) const PERSIST_CONNS: u16 = 9;
    pub(super) const ADDR_FAMILY: u16 = 11;
    pub(super) const STATS64: u16 = 12;
    pub(super) const TUN_TYPE: u16 = 13;
    pub(super) const TUN_PORT: u16 = 14;
    pub(super) const TUN_FLAGS: u16 = 15;
}

/// `IPVS_STATS_ATTR_*`.
mod stats {
    pub(super) const CONNS: u16 = 1;
    pub(super) const INPKTS: u16 = 2;
    pub(super) const OUTPKTS: u16 = 3;
    pub(super) const INBYTES: u16 = 4;
    pub(super) const OUTBYTES: u16 = 5;
}

/// `IPVS_DAEMON_ATTR_*`, and `IP_VS_STATE_*`.
mod daemon {
    pub(super) const STATE: u16 = 1;
    pub(super) const MCAST_IFN: u16 = 2;
    pub(super) const SYNC_ID: u16 = 3;
    pub(super) const SYNC_MAXLEN: u16 = 4;
    pub(super) const MCAST_GROUP: u16 = 5;
    pub(super) const MCAST_GROUP6: u16 = 6;
    pub(super) const MCAST_PORT: u16 = 7;
    pub(super) const MCAST_TTL: u16 = 8;
    pub(super) const MASTER: u32 = 1;
    pub(super) const BACKUP: u32 = 2;
}

/// `IP_VS_SVC_F_*`.
mod flag {
    pub(super) const PERSISTENT: u32 = 0x01;
    pub(super) const ONE_PACKET: u32 = 0x04;
    pub(super) const FIRST: u32 = 0x08;
    pub(super) const SECOND: u32 = 0x10;
    pub(super) const THIRD: u32 = 0x20;
}

/// `IP_VS_TUNNEL_ENCAP_FLAG_*`.
const CHECKSUM: u16 = 1;
const REMOTE_CHECKSUM: u16 = 2;

/// `IP_VS_CONN_F_*`, the forwarding of them.
const NAT: u32 = 0;
const TUNNEL: u32 = 2;
const DIRECT: u32 = 3;
const FORWARDINGS: u32 = 7;

/// `IP_VS_CONN_F_TUNNEL_TYPE_*`.
const IPIP: u8 = 0;
const GUE: u8 = 1;
const GRE: u8 = 2;

/// A change as a command and its attributes.
pub(super) fn change(change: &Change) -> (u8, Writer) {
    let mut writer = Writer::default();
    let service = |writer: &mut Writer, key: &ServiceKey, settings: Option<&Settings>| {
        writer.nested(attribute::SERVICE, |inner| {
            put_key(inner, key);
            if let Some(settings) = settings {
                put_settings(inner, key.family(), settings);
            }
        });
    };
    let server = |writer: &mut Writer, at: &Endpoint, server: Option<&Server>| {
        writer.nested(attribute::DEST, |inner| {
            put_endpoint(inner, at);
            if let Some(server) = server {
                put_server(inner, server);
            }
        });
    };
    let command = match change {
        Change::AddService(key, settings) => {
            service(&mut writer, key, Some(settings));
            command::NEW_SERVICE
        }
        Change::SetService(key, settings) => {
            service(&mut writer, key, Some(settings));
            command::SET_SERVICE
        }
        Change::RemoveService(key) => {
            service(&mut writer, key, None);
            command::DEL_SERVICE
        }
        Change::AddServer(key, at, new) => {
            service(&mut writer, key, None);
            server(&mut writer, at, Some(new));
            command::NEW_DEST
        }
        Change::SetServer(key, at, new) => {
            service(&mut writer, key, None);
            server(&mut writer, at, Some(new));
            command::SET_DEST
        }
        Change::RemoveServer(key, at) => {
            service(&mut writer, key, None);
            server(&mut writer, at, None);
            command::DEL_DEST
        }
    };
    (command, writer)
}

/// The question for the servers of a service.
pub(super) fn servers_of(key: &ServiceKey) -> Writer {
    let mut writer = Writer::default();
    writer.nested(attribute::SERVICE, |inner| put_key(inner, key));
    writer
}

/// A service of a dump.
pub(super) fn service(bytes: &[u8]) -> io::Result<(ServiceKey, Settings, Traffic)> {
    let outer = Attributes::parse(bytes)?;
    let attributes = outer.nested(attribute::SERVICE)?;
    let family = get_family(&attributes, service::AF)?;
    let key = match attributes.has(service::FWMARK).then(|| attributes.u32(service::FWMARK)).transpose()? {
        Some(mark) => ServiceKey::Mark(NonZeroU32::new(mark).ok_or_else(|| strange("the mark 0"))?, family),
        None => {
            let protocol = match libc::c_int::from(attributes.u16(service::PROTOCOL)?) {
                libc::IPPROTO_TCP => Protocol::Tcp,
                libc::IPPROTO_UDP => Protocol::Udp,
                libc::IPPROTO_SCTP => Protocol::Sctp,
                number => return Err(strange(&format!("protocol {number}"))),
            };
            let ip = get_ip(&attributes, service::ADDR, family)?;
            ServiceKey::Address(protocol, Endpoint { ip, port: attributes.be16(service::PORT)? })
        }
    };
    Ok((key, get_settings(&attributes, family)?, get_traffic(&attributes.nested(service::STATS64)?)?))
}

/// A server of a dump, of a service of `family`.
pub(super) fn server(bytes: &[u8], family: Family) -> io::Result<(Endpoint, Server, Connections, Traffic)> {
    let outer = Attributes::parse(bytes)?;
    let attributes = outer.nested(attribute::DEST)?;
    // Kernels before 3.18 do not say it: then it is the service's.
    let said = attributes.has(dest::ADDR_FAMILY);
    let family = if said { get_family(&attributes, dest::ADDR_FAMILY)? } else { family };
    let at = Endpoint { ip: get_ip(&attributes, dest::ADDR, family)?, port: attributes.be16(dest::PORT)? };
    let server = Server {
        forwarding: get_forwarding(&attributes)?,
        weight: attributes.u32(dest::WEIGHT)?,
        upper: attributes.u32(dest::U_THRESH)?,
        lower: attributes.u32(dest::L_THRESH)?,
    };
    let connections = Connections {
        active: attributes.u32(dest::ACTIVE_CONNS)?,
        inactive: attributes.u32(dest::INACT_CONNS)?,
        persistent: attributes.u32(dest::PERSIST_CONNS)?,
    };
    Ok((at, server, connections, get_traffic(&attributes.nested(dest::STATS64)?)?))
}

/// A synchronization daemon to be started.
pub(super) fn put_sync_daemon(wanted: &SyncDaemon) -> Writer {
    let mut writer = Writer::default();
    writer.nested(attribute::DAEMON, |inner| {
        inner.u32(daemon::STATE, state(wanted.role));
        inner.text(daemon::MCAST_IFN, &wanted.interface);
        inner.u32(daemon::SYNC_ID, wanted.id.into());
        // These are for Linux 4.3 and later; without them every kernel has its own.
        wanted.longest.into_iter().for_each(|longest| inner.u16(daemon::SYNC_MAXLEN, longest));
        match wanted.group {
            Some(IpAddr::V4(group)) => inner.put(daemon::MCAST_GROUP, &group.octets()),
            Some(IpAddr::V6(group)) => inner.put(daemon::MCAST_GROUP6, &group.octets()),
            None => {}
        }
        wanted.port.into_iter().for_each(|port| inner.u16(daemon::MCAST_PORT, port));
        wanted.ttl.into_iter().for_each(|ttl| inner.u8(daemon::MCAST_TTL, ttl));
    });
    writer
}

/// A synchronization daemon to be stopped.
pub(super) fn put_sync_role(role: SyncRole) -> Writer {
    let mut writer = Writer::default();
    writer.nested(attribute::DAEMON, |inner| inner.u32(daemon::STATE, state(role)));
    writer
}

/// A synchronization daemon of a dump.
pub(super) fn sync_daemon(bytes: &[u8]) -> io::Result<SyncDaemon> {
    let outer = Attributes::parse(bytes)?;
    let attributes = outer.nested(attribute::DAEMON)?;
    let role = match attributes.u32(daemon::STATE)? {
        daemon::MASTER => SyncRole::Master,
        daemon::BACKUP => SyncRole::Backup,
        other => return Err(strange(&format!("synchronization state {other}"))),
    };
    let id = u8::try_from(attributes.u32(daemon::SYNC_ID)?).map_err(|_| strange("a synchronization id above 255"))?;
    let has = |kind| Some(kind).filter(|kind| attributes.has(*kind));
    let group = match (has(daemon::MCAST_GROUP), has(daemon::MCAST_GROUP6)) {
        (Some(kind), _) => Some(IpAddr::from(attributes.array::<4>(kind)?)),
        (None, Some(kind)) => Some(IpAddr::from(attributes.array::<16>(kind)?)),
        (None, None) => None,
    };
    Ok(SyncDaemon {
        role,
        interface: attributes.text(daemon::MCAST_IFN)?,
        id,
        longest: has(daemon::SYNC_MAXLEN).map(|kind| attributes.u16(kind)).transpose()?,
        group,
        port: has(daemon::MCAST_PORT).map(|kind| attributes.u16(kind)).transpose()?,
        ttl: has(daemon::MCAST_TTL).map(|kind| attributes.u8(kind)).transpose()?,
    })
}

fn state(role: SyncRole) -> u32 {
    match role {
        SyncRole::Master => daemon::MASTER,
        SyncRole::Backup => daemon::BACKUP,
    }
}

fn put_key(writer: &mut Writer, key: &ServiceKey) {
    writer.u16(service::AF, number(key.family()));
    match key {
        ServiceKey::Address(protocol, endpoint) => {
            let protocol = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            writer.u16(service::PROTOCOL, protocol);
            writer.put(service::ADDR, &octets(endpoint.ip));
            writer.be16(service::PORT, endpoint.port);
        }
        ServiceKey::Mark(mark, _) => writer.u32(service::FWMARK, mark.get()),
    }
}

fn put_settings(writer: &mut Writer, family: Family, settings: &Settings) {
    let Settings { scheduler, flags, one_packet, persistence } = settings;
    let bits = [
        (persistence.is_some(), flag::PERSISTENT),
        (*one_packet, flag::ONE_PACKET),
        (flags.first, flag::FIRST),
        (flags.second, flag::SECOND),
        (flags.third, flag::THIRD),
    ];
    let bits: u32 = bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
    writer.text(service::SCHED_NAME, scheduler);
    // `struct ip_vs_flags`: the flags, and which of them are meant.
    writer.put(service::FLAGS, &[bits.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat());
    let seconds = persistence.as_ref().map_or(0, |p| u32::try_from(p.timeout.as_secs()).unwrap_or(u32::MAX));
    writer.u32(service::TIMEOUT, seconds);
    match persistence.as_ref().map_or_else(|| Granularity::finest(family), |p| p.granularity) {
        Granularity::Netmask(mask) => writer.put(service::NETMASK, &mask.octets()),
        Granularity::Prefix(bits) => writer.u32(service::NETMASK, u32::from(bits)),
    }
    if let Some(engine) = persistence.as_ref().and_then(|p| p.engine.as_ref()) {
        writer.text(service::PE_NAME, engine);
    }
}

fn get_settings(attributes: &Attributes<'_>, family: Family) -> io::Result<Settings> {
    let bits = attributes.u32(service::FLAGS)?;
    let has = |bit: u32| bits & bit != 0;
    let persistence = if has(flag::PERSISTENT) {
        let granularity = match family {
            Family::V4 => Granularity::Netmask(Ipv4Addr::from(attributes.array::<4>(service::NETMASK)?)),
            Family::V6 => {
                let bits = u8::try_from(attributes.u32(service::NETMASK)?);
                Granularity::Prefix(bits.map_err(|_| strange("a prefix above 255"))?)
            }
        };
        let timeout = Duration::from_secs(attributes.u32(service::TIMEOUT)?.into());
        let engine = attributes.has(service::PE_NAME).then(|| attributes.text(service::PE_NAME)).transpose()?;
        Some(Persistence { timeout, granularity, engine })
    } else {
        None
    };
    Ok(Settings {
        scheduler: attributes.text(service::SCHED_NAME)?,
        flags: SchedulerFlags { first: has(flag::FIRST), second: has(flag::SECOND), third: has(flag::THIRD) },
        one_packet: has(flag::ONE_PACKET),
        persistence,
    })
}

fn put_endpoint(writer: &mut Writer, at: &Endpoint) {
    writer.u16(dest::ADDR_FAMILY, number(at.family()));
    writer.put(dest::ADDR, &octets(at.ip));
    writer.be16(dest::PORT, at.port);
}

fn put_server(writer: &mut Writer, server: &Server) {
    let (method, tunnel) = match server.forwarding {
        Forwarding::Nat => (NAT, None),
        Forwarding::Direct => (DIRECT, None),
        Forwarding::Tunnel(tunnel) => (TUNNEL, Some(tunnel)),
        Forwarding::Other(method) => (method.into(), None),
    };
    writer.u32(dest::FWD_METHOD, method);
    writer.u32(dest::WEIGHT, server.weight);
    writer.u32(dest::U_THRESH, server.upper);
    writer.u32(dest::L_THRESH, server.lower);
    let flags = |checksum| match checksum {
        Checksum::None => 0,
        Checksum::Full => CHECKSUM,
        Checksum::Remote => REMOTE_CHECKSUM,
    };
    match tunnel {
        None => {}
        Some(Tunnel::Ipip) => writer.u8(dest::TUN_TYPE, IPIP),
        Some(Tunnel::Gue { port, checksum }) => {
            writer.u8(dest::TUN_TYPE, GUE);
            writer.be16(dest::TUN_PORT, port);
            writer.u16(dest::TUN_FLAGS, flags(checksum));
        }
        Some(Tunnel::Gre { checksum }) => {
            writer.u8(dest::TUN_TYPE, GRE);
            writer.u16(dest::TUN_FLAGS, flags(checksum));
        }
    }
}

fn get_forwarding(attributes: &Attributes<'_>) -> io::Result<Forwarding> {
    let method = attributes.u32(dest::FWD_METHOD)? & FORWARDINGS;
    Ok(match method {
        NAT => Forwarding::Nat,
        DIRECT => Forwarding::Direct,
        TUNNEL => {
            // Kernels before 5.2 have no other.
            let kind = if attributes.has(dest::TUN_TYPE) { attributes.u8(dest::TUN_TYPE)? } else { IPIP };
            let flags = if attributes.has(dest::TUN_FLAGS) { attributes.u16(dest::TUN_FLAGS)? } else { 0 };
            let checksum = match (flags & REMOTE_CHECKSUM != 0, flags & CHECKSUM != 0) {
                (true, _) => Checksum::Remote,
                (false, true) => Checksum::Full,
                (false, false) => Checksum::None,
            };
            Forwarding::Tunnel(match kind {
                IPIP => Tunnel::Ipip,
                GUE => Tunnel::Gue { port: attributes.be16(dest::TUN_PORT)?, checksum },
                GRE => Tunnel::Gre { checksum },
                other => return Err(strange(&format!("tunnel type {other}"))),
            })
        }
        other => Forwarding::Other(u8::try_from(other).unwrap_or(u8::MAX)),
    })
}

fn get_traffic(attributes: &Attributes<'_>) -> io::Result<Traffic> {
    Ok(Traffic {
        connections: attributes.u64(stats::CONNS)?,
        packets_in: attributes.u64(stats::INPKTS)?,
        packets_out: attributes.u64(stats::OUTPKTS)?,
        bytes_in: attributes.u64(stats::INBYTES)?,
        bytes_out: attributes.u64(stats::OUTBYTES)?,
    })
}

/// `AF_INET` and `AF_INET6`.
const INET: u16 = 2;
const INET6: u16 = 10;

fn number(family: Family) -> u16 {
    match family {
        Family::V4 => INET,
        Family::V6 => INET6,
    }
}

fn get_family(attributes: &Attributes<'_>, kind: u16) -> io::Result<Family> {
    match attributes.u16(kind)? {
        INET => Ok(Family::V4),
        INET6 => Ok(Family::V6),
        other => Err(strange(&format!("address family {other}"))),
    }
}

/// `union nf_inet_addr`: always 16 bytes.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn get_ip(attributes: &Attributes<'_>, kind: u16, family: Family) -> io::Result<IpAddr> {
    Ok(match family {
        Family::V4 => Ipv4Addr::from(attributes.array::<4>(kind)?).into(),
        Family::V6 => Ipv6Addr::from(attributes.array::<16>(kind)?).into(),
    })
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer has {what}, which hamesh does not know"))
}
