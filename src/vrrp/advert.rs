//! The bytes of an advert, and every reason to throw one away.
//!
//! ```text
//! v2 |2|1| vrid | priority | count | auth type | interval, s     | checksum | IPv4 x count | 8 bytes of auth data |
//! v3 |3|1| vrid | priority | count | 0 |  interval, 12 bits of cs | checksum | IPv4 or IPv6 x count |
//! ```
//!
//! A discarded advert ends here: it never reaches the [router](super::router), so it can move no state and no timer.

use super::checksum::{self, Form};
use super::lists;
use super::unicast::Unicast;
use super::{Auth, TTL, Version};
use hamesh_raft::command::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use thiserror::Error;

/// The one packet type there is (RFC 9568 section 5.2.2).
const ADVERTISEMENT: u8 = 1;
const FIXED: usize = 8;
/// Version 2 messages end in this many bytes, with or without a password (RFC 3768 section 5.3.10).
const AUTH_DATA: usize = 8;
/// The count of addresses is one byte.
pub const MAX_ADDRESSES: usize = 255;

/// What all routers of one virtual router must agree on. It encodes our adverts and judges theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Of the adverts and of what they list. IPv6 goes with version 3 only.
    pub family: Family,
    /// The protocol's version.
    pub version: Version,
    /// The virtual router's id, 1 to 255.
    pub vrid: u8,
    /// Between two adverts of a MASTER. Version 2: whole seconds, 1 to 255. Version 3: 10 ms to 40.95 s in steps of 10 ms.
    pub interval: Duration,
    /// Version 2 only.
    pub auth: Auth,
    /// What we send; both forms are accepted. Version 3 over IPv4 only.
    pub checksum: Form,
    /// The VIPs in the order of the configuration; at most [`MAX_ADDRESSES`] are sent. Older keepalived drops an
    /// advert whose list is not its own, so nothing is ever added to it.
    pub addresses: Vec<IpAddr>,
    /// In place of the multicast group.
    pub unicast: Option<Unicast>,
}

/// What the IP header says of a received advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom, [`super::group`] as a rule.
    pub destination: IpAddr,
    /// TTL or hop limit, as received.
    pub ttl: u8,
}

/// A valid advert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// 0: the sender stops being MASTER. 255: it owns the addresses.
    pub priority: u8,
    /// The sender's interval.
    pub interval: Duration,
    /// The sender's VIPs. A list other than ours is worth a log line and nothing more (RFC 9568 section 7.1).
    pub addresses: Vec<IpAddr>,
    /// The form its checksum is right in; version 2 is always plain.
    pub checksum: Form,
}

/// Why a received packet is no advert of our virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Discard {
    /// It was forwarded, or forged from afar.
    #[error("TTL is {0}")]
    Ttl(u8),
    /// By multicast to a router that speaks by unicast, or the other way round.
    #[error("sent to another destination than ours are")]
    Destination,
    /// By unicast from no peer.
    #[error("its sender is no peer")]
    Source,
    /// Less than the fixed part.
    #[error("only {0} bytes")]
    Short(usize),
    /// More or less than the count of addresses asks for.
    #[error("{actual} bytes where its own address count asks for {expected}")]
    Length {
        /// By its count.
        expected: usize,
        /// As received.
        actual: usize,
    },
    /// Version 3: it lists no address (RFC 9568 section 5.2.5).
    #[error("no addresses")]
    Empty,
    /// Configured otherwise there or here.
    #[error("version {0}")]
    Version(u8),
    /// RFC 9568 knows one type.
    #[error("unknown packet type {0}")]
    Type(u8),
    /// Another virtual router's.
    #[error("virtual router {0}")]
    Vrid(u8),
    /// Right in neither form.
    #[error("checksum is wrong")]
    Checksum,
    /// Version 2: configured otherwise there or here.
    #[error("authentication type {0}")]
    AuthType(u8),
    /// No authentication header, or trailer, as VRRP uses it.
    #[error("authentication header or trailer is malformed")]
    AuthHeader,
    /// Authenticated with another key there or here, or not what was sent.
    #[error("authentication digest is wrong")]
    Digest,
    /// Authenticated, and heard before.
    #[error("sequence number {0} is no new one")]
    Replay(u32),
    /// It has no authentication trailer, and one is asked for.
    #[error("no authentication trailer")]
    Unsigned,
    /// Behind it an authentication trailer of a key that is not here.
    #[error("authentication key {0} is not known")]
    Key(u8),
    /// By its authentication trailer it is so many seconds old, or of a time that is yet to come.
    #[error("its clock is {0} s behind ours")]
    Clock(i32),
    /// Version 2: most likely another cluster on the LAN with our VRID.
    #[error("password is wrong")]
    Password,
    /// Version 2: not our interval (RFC 3768 section 7.1). Version 3: zero.
    #[error("advertisement interval is {0:?}")]
    Interval(Duration),
}

impl Discard {
    /// A short, stable name, for a counter's label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ttl(_) => "ttl",
            Self::Destination => "destination",
            Self::Source => "source",
            Self::AuthHeader => "auth_header",
            Self::Digest => "digest",
            Self::Replay(_) => "replay",
            Self::Unsigned => "unsigned",
            Self::Key(_) => "key",
            Self::Clock(_) => "clock",
            Self::Short(_) => "short",
            Self::Length { .. } => "length",
            Self::Empty => "empty",
            Self::Version(_) => "version",
            Self::Type(_) => "type",
            Self::Vrid(_) => "vrid",
            Self::Checksum => "checksum",
            Self::AuthType(_) => "auth_type",
            Self::Password => "password",
            Self::Interval(_) => "interval",
        }
    }
}

/// The virtual router a packet is for, to find the [`Format`] that judges it.
pub fn vrid(message: &[u8]) -> Option<u8> {
    message.get(1).copied()
}

impl Format {
    /// Our advert with `priority`, sent from `source` to `destination` (the pseudo-header holds both).
    pub fn encode(&self, priority: u8, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
        let mut message = vec![self.version.number() << 4 | ADVERTISEMENT, self.vrid, priority, count];
        match self.version {
            Version::V2 => message.extend([auth_type(&self.auth), seconds(self.interval)]),
            Version::V3 => message.extend(centiseconds(self.interval).to_be_bytes()),
        }
        message.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(address) => message.extend(address.octets()),
                IpAddr::V6(address) => message.extend(address.octets()),
            }
        }
        let form = match (self.version, self.family) {
            (Version::V2, _) => {
                message.extend(auth_data(&self.auth));
                Form::Plain
            }
            (Version::V3, Family::V4) => self.checksum,
            (Version::V3, Family::V6) => Form::Pseudo,
        };
        let sum = checksum::of(form, &message, source, destination);
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        message
    }

    /// Judges an IP payload. The checks of RFC 9568 section 7.1 and RFC 3768 section 7.1; those that need a sound
    /// message come after the checksum, so that damage is not reported as a wrong password.
    pub fn decode(&self, message: &[u8], header: &Header) -> Result<Advert, Discard> {
        match &self.unicast {
            Some(unicast) => unicast.judge(header)?,
            None if header.ttl != TTL => return Err(Discard::Ttl(header.ttl)),
            None if !header.destination.is_multicast() => return Err(Discard::Destination),
            None => {}
        }
        let Some((fixed, rest)) = message.split_first_chunk::<FIXED>() else {
            return Err(Discard::Short(message.len()));
        };
        let [kind, vrid, priority, count, high, low, ..] = *fixed;
        if kind >> 4 != self.version.number() {
            return Err(Discard::Version(kind >> 4));
        }
        if kind & 0x0f != ADVERTISEMENT {
            return Err(Discard::Type(kind & 0x0f));
        }
        if vrid != self.vrid {
            return Err(Discard::Vrid(vrid));
        }
        let each = match self.family {
            Family::V4 => size_of::<Ipv4Addr>(),
            Family::V6 => size_of::<Ipv6Addr>(),
        };
        let list = each * usize::from(count);
        let tail = match self.version {
            Version::V2 => AUTH_DATA,
            Version::V3 => 0,
        };
        if rest.len() != list + tail {
            return Err(Discard::Length { expected: FIXED + list + tail, actual: message.len() });
        }
        if count == 0 && self.version == Version::V3 && !self.addresses.is_empty() {
            return Err(Discard::Empty);
        }
        let (list, tail) = rest.split_at(list);
        let (interval, checksum) = match self.version {
            Version::V2 => (self.check_v2(message, high, low, tail)?, Form::Plain),
            Version::V3 => check_v3(message, header, u16::from_be_bytes([high & 0x0f, low]))?,
        };
        let addresses = match self.family {
            Family::V4 => list.as_chunks::<4>().0.iter().map(|octets| IpAddr::from(*octets)).collect(),
            Family::V6 => list.as_chunks::<16>().0.iter().map(|octets| IpAddr::from(*octets)).collect(),
        };
        Ok(Advert { priority, interval, addresses, checksum })
    }

    /// Whether the sender has our VIPs, in whatever order.
    pub fn lists_the_same(&self, advert: &Advert) -> bool {
        lists::same(&self.addresses, &advert.addresses)
    }

    fn check_v2(&self, message: &[u8], auth: u8, interval: u8, data: &[u8]) -> Result<Duration, Discard> {
        if !checksum::is_plain(message) {
            return Err(Discard::Checksum);
        }
        if auth != auth_type(&self.auth) {
            return Err(Discard::AuthType(auth));
        }
        match &self.auth {
            Auth::Pass(password) if data != password.bytes() => return Err(Discard::Password),
            // Without authentication the data is ignored on receipt (RFC 3768 section 5.3.10).
            Auth::Pass(_) | Auth::Ah(_) | Auth::None => {}
        }
        if interval != seconds(self.interval) {
            return Err(Discard::Interval(Duration::from_secs(interval.into())));
        }
        Ok(Duration::from_secs(interval.into()))
    }
}

fn check_v3(message: &[u8], header: &Header, centiseconds: u16) -> Result<(Duration, Form), Discard> {
    let Some(form) = checksum::verify(message, header.source, header.destination) else {
        return Err(Discard::Checksum);
    };
    let interval = Duration::from_millis(10) * u32::from(centiseconds);
    // No router can keep to it, and a timer made of it would always be over.
    if interval.is_zero() {
        return Err(Discard::Interval(interval));
    }
    Ok((interval, form))
}

fn auth_type(auth: &Auth) -> u8 {
    match auth {
        Auth::None => 0,
        Auth::Pass(_) => 1,
        Auth::Ah(_) => 2,
    }
}

fn auth_data(auth: &Auth) -> [u8; AUTH_DATA] {
    match auth {
        // The digest stands in the header.
        Auth::None | Auth::Ah(_) => [0; AUTH_DATA],
        Auth::Pass(password) => *password.bytes(),
    }
}

fn seconds(interval: Duration) -> u8 {
    u8::try_from(interval.as_secs()).unwrap_or(u8::MAX).max(1)
}

fn centiseconds(interval: Duration) -> u16 {
    u16::try_from(interval.as_millis() / 10).unwrap_or(u16::MAX).clamp(1, 0x0fff)
}

#[cfg(test)]
mod tests;
