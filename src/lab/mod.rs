//! The laboratory: a LAN, a mesh network and the machines on them, on one Linux machine and without touching it.
//!
//! Hosts are network namespaces ([`host`]) on Ethernet switches in user space ([`switch`]) whose faults are exact and
//! counted. An observer in the LAN's switch ([`observer`]) and clients with real kernels ([`client`]) judge what
//! they see on the wire; no log of the system under test counts. `hamesh demo`, `tests/faults` and `tests/interop`
//! are built from it.

pub mod client;
pub mod cluster;
pub mod frame;
pub mod frr;
pub mod gated;
pub mod host;
pub mod legacy;
pub mod observer;
mod pcap;
pub mod sandbox;
pub mod scene;
pub mod status;
pub mod switch;
pub mod sys;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The address all of it is about.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Prefix length of both networks.
pub const PREFIX: u8 = 24;
/// The address all of it is about where IPv6 is looked at.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
/// Prefix length of the LAN's IPv6 network.
pub const PREFIX6: u8 = 64;
/// The VIP's virtual router.
pub const VRID: u8 = 51;
/// Advertisement interval in whole seconds, as keepalived's file wants it.
pub const ADVERT_SECONDS: u8 = 1;
/// Every host's interface on the LAN.
pub const LAN_NIC: &str = "eth0";
/// A director's interface on the mesh network.
pub const MESH_NIC: &str = "eth1";
/// A director's second interface on the LAN.
pub const SECOND_NIC: &str = "eth2";

/// A panic elsewhere leaves records that are still worth reading.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
