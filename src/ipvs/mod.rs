//! IPVS's table, and how to get from the present one to the wanted one.
//!
//! A [`Table`] maps what a service takes ([`ServiceKey`]) to the service, and a [`Service`] maps where its servers listen
//! ([`Endpoint`]) to the servers. What is wanted comes from the configuration and the verdicts of health, what is present from
//! the kernel ([`crate::kernel::ipvs`]); [`plan()`] gives the [`Change`]s between them. Words and limits are those of the
//! kernel's `net/netfilter/ipvs` and of `ipvsadm(8)`.

mod plan;
#[cfg(test)]
pub(crate) mod tests;

pub use plan::{Change, Scope, plan};

use hamesh_raft::command::Family;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::AddAssign;
use std::time::Duration;

/// The schedulers that Linux has, each a module `ip_vs_NAME`.
pub const SCHEDULERS: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos"];

/// Most weight and the highest threshold a server can have: the kernel keeps them in an `int`.
pub const MAX_WEIGHT: u32 = i32::MAX.cast_unsigned();

/// All services, each with its servers.
pub type Table = BTreeMap<ServiceKey, Service>;

/// What a service takes. Two services with one key cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// Packets of a protocol to an address and port. Port 0 is every port that no other service takes; then the service
    /// must be persistent.
    Address(Protocol, Endpoint),
    /// Packets of one family that a firewall rule has marked, to whatever address.
    Mark(NonZeroU32, Family),
}

/// What IPVS balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// An address and a port; a [`SocketAddr`] without the flow and scope that IPVS does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv4 or IPv6.
    pub ip: IpAddr,
    /// 0 only where a service takes every port, or marked packets.
    pub port: u16,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How it balances.
    pub settings: Settings,
    /// Its servers. The same endpoint twice cannot be.
    pub servers: BTreeMap<Endpoint, Server>,
}

/// How a service balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// One of [`SCHEDULERS`], or of another module's: at most 15 characters.
    pub scheduler: String,
    /// What the scheduler does with it is the scheduler's own.
    pub flags: SchedulerFlags,
    /// Every datagram is balanced by itself and no connection remembered: UDP only.
    pub one_packet: bool,
    /// Clients that stay with their server.
    pub persistence: Option<Persistence>,
}

/// `flag-1` to `flag-3` of `ipvsadm -b`. For `sh` and `mh` the first is fallback (another server when the one that
/// was hashed has weight 0), the second is port (the client's port is hashed too).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `flag-1`; `sh-fallback`, `mh-fallback`.
    pub first: bool,
    /// `flag-2`; `sh-port`, `mh-port`.
    pub second: bool,
    /// `flag-3`.
    pub third: bool,
}

/// New connections of a client go where its last one went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// After a client's last connection: whole seconds, at least one.
    pub timeout: Duration,
    /// Which clients count as one.
    pub granularity: Granularity,
    /// What tells clients apart instead of their address: `sip`, the only one Linux has.
    pub engine: Option<String>,
}

/// Clients that are equal under this count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// IPv4: these bits of the address. By default all.
    Netmask(Ipv4Addr),
    /// IPv6: the first bits of the address, 1 to 128. By default 128.
    Prefix(u8),
}

/// A real server, as one service uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// How packets get there.
    pub forwarding: Forwarding,
    /// Its share, at most [`MAX_WEIGHT`]. With 0 it gets no new connections and keeps those it has.
    pub weight: u32,
    /// From so many connections on it gets no new ones; 0 is without limit. At most [`MAX_WEIGHT`].
    pub upper: u32,
    /// Below so many it gets new ones again; 0 is three quarters of `upper`. Not above `upper`.
    pub lower: u32,
}

/// How packets get to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// Destination address and port are translated, and back in the answers, which must come back through the director.
    Nat,
    /// Only the MAC address is the server's: it stands on a LAN of the director, and has the VIP itself.
    Direct,
    /// Inside another packet to the server, which has the VIP itself.
    Tunnel(Tunnel),
    /// A number that is none of these: only ever read, not to be configured.
    Other(u8),
}

/// What a packet to a server is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// IP in IP, or IPv6 in and over either.
    Ipip,
    /// Generic UDP encapsulation; Linux 5.2.
    Gue {
        /// Where the server takes it, 1 to 65535.
        port: u16,
        /// Of the UDP header.
        checksum: Checksum,
    },
    /// Generic routing encapsulation; Linux 5.3. [`Checksum::Remote`] is GUE's alone.
    Gre {
        /// Of the GRE header.
        checksum: Checksum,
    },
}

/// What of a tunnel's outer header is summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// Nothing; the inner packet has its own.
    #[default]
    None,
    /// The whole packet.
    Full,
    /// The inner checksum is left to the outer: remote checksum offload.
    Remote,
}

/// What the kernel has counted since the service, or the server, was put in, up to two seconds ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections begun.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients that came by; with direct and tunnel none do.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients that came by.
    pub bytes_out: u64,
}

/// The connections that a server has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Established.
    pub active: u32,
    /// In any other state.
    pub inactive: u32,
    /// Clients bound to it by persistence.
    pub persistent: u32,
}

/// What the kernel has counted for every service of a table.
pub type Counts = BTreeMap<ServiceKey, Count>;

/// What the kernel has counted for a service and each of its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Of all its servers, those that have left included.
    pub traffic: Traffic,
    /// Of each that is there now.
    pub servers: BTreeMap<Endpoint, (Connections, Traffic)>,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.connections += more.connections;
        self.packets_in += more.packets_in;
        self.packets_out += more.packets_out;
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
    }
}

impl AddAssign for Connections {
    fn add_assign(&mut self, more: Self) {
        self.active += more.active;
        self.inactive += more.inactive;
        self.persistent += more.persistent;
    }
}

impl ServiceKey {
    /// The family of the service's clients.
    pub fn family(&self) -> Family {
        match self {
            Self::Address(_, endpoint) => endpoint.family(),
            Self::Mark(_, family) => *family,
        }
    }
}

impl Endpoint {
    /// The family of the address.
    pub fn family(&self) -> Family {
        match self.ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: address.port() }
    }
}

impl Granularity {
    /// Every client for itself.
    pub fn finest(family: Family) -> Self {
        match family {
            Family::V4 => Self::Netmask(Ipv4Addr::BROADCAST),
            Family::V6 => Self::Prefix(128),
        }
    }
}

impl Settings {
    /// A service with this scheduler and nothing special.
    pub fn new(scheduler: &str) -> Self {
        let flags = SchedulerFlags::default();
        Self { scheduler: scheduler.to_owned(), flags, one_packet: false, persistence: None }
    }
}

impl Server {
    /// A server without limits.
    pub fn new(forwarding: Forwarding, weight: u32) -> Self {
        Self { forwarding, weight, upper: 0, lower: 0 }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

/// As `ipvsadm -Ln` prints it.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(protocol, endpoint) => write!(f, "{protocol} {endpoint}"),
            Self::Mark(mark, Family::V4) => write!(f, "FWM {mark}"),
            Self::Mark(mark, Family::V6) => write!(f, "FWM {mark} IPv6"),
        }
    }
}
