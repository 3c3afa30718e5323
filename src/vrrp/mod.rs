//! VRRP: what we say to the LAN and what we make of what the LAN says.
//!
//! [`advert`] and [`checksum`] are the bytes, [`router`] is the mind, [`guard`] the one beside a keepalived that elects, [`schedule`] is what a MASTER does by the
//! clock, [`conflict`] sees who else answers for its addresses. Nothing here opens a socket or reads a clock. The lease decides who *may* be MASTER; this module decides
//! who *wants* to be, and keeps the peace with routers that know nothing of leases.
//!
//! RFC 9568 (version 3), RFC 3768 (version 2), and keepalived's habits where the two differ.

pub mod advert;
pub mod ah;
pub mod checksum;
pub mod conflict;
pub mod guard;
pub mod hearing;
pub mod hmac;
pub mod lists;
pub mod router;
pub mod schedule;
pub mod timing;
pub mod unicast;

#[cfg(test)]
mod rfc_tests;

use hamesh_raft::command::Family;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IP protocol number of VRRP (RFC 9568 section 5.1.1.4).
pub const PROTOCOL: u8 = 112;

/// All VRRP routers of a LAN, over IPv4 (RFC 9568 section 5.1.1.2).
pub const ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// All VRRP routers of a LAN, over IPv6 (RFC 9568 section 5.1.2.2).
pub const ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// Where adverts go.
pub const fn group(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(ROUTERS_V4),
        Family::V6 => IpAddr::V6(ROUTERS_V6),
    }
}

/// The TTL or hop limit of every advert: proof that no router forwarded it (RFC 9568 sections 5.1.1.3 and 5.1.2.3).
pub const TTL: u8 = 255;

/// The protocol's version. One virtual router speaks one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 3768.
    V2,
    /// RFC 9568.
    V3,
}

impl Version {
    /// 2 or 3, as on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// How a version 2 router is authenticated. It is no secret on the LAN: it tells misconfigured routers apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Type 0, and the only one of version 3.
    #[default]
    None,
    /// Type 1: a password in clear text.
    Pass(Password),
    /// Type 2: a digest in an authentication header, see [`ah`]. Over IPv4.
    Ah(Password),
}

/// A version 2 password or key: eight bytes, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password([u8; 8]);

impl Password {
    /// The most bytes that fit.
    pub const MAX: usize = 8;

    /// The first eight bytes of `text`; keepalived cuts a longer one the same way.
    pub fn cut(text: &str) -> Self {
        let mut padded = [0; Self::MAX];
        for (slot, byte) in padded.iter_mut().zip(text.bytes()) {
            *slot = byte;
        }
        Self(padded)
    }

    /// As on the wire.
    pub fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Which routers outside the mesh are obeyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LegacyPeers {
    /// Whoever speaks, as the RFC says.
    #[default]
    Any,
    /// These addresses. Nobody, when empty: then only members count, and a spoofed priority 255 is counted and ignored.
    Only(Vec<IpAddr>),
}

impl LegacyPeers {
    /// Whether an advert of `source` counts.
    pub fn obeys(&self, source: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Only(peers) => peers.contains(&source),
        }
    }

    /// Whether nobody outside the mesh is obeyed.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Only(peers) => peers.is_empty(),
        }
    }
}
