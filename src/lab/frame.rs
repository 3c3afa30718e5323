//! As much of Ethernet, ARP, neighbour discovery, IP and VRRP as the laboratory must tell apart. Reads of short frames are `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Of every host.
pub const BROADCAST: Mac = [0xff; 6];

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VRRP: u8 = 112;
/// An authentication header of VRRP, and its length.
const AH: u8 = 51;
const AH_LENGTH: usize = 24;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Where the IPv6 payload starts: nobody here sends extension headers.
const IPV6_PAYLOAD: usize = 54;

/// What a rule of the switch applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every frame.
    Any,
    /// VRRP over IPv4 and IPv6 (protocol 112).
    Vrrp,
    /// ARP.
    Arp,
    /// UDP over IPv4 from or to this port.
    Udp(u16),
    /// Frames of more bytes than this, as on a path whose MTU is smaller than its ends believe.
    Longer(usize),
    /// Every second pair of IPv4 hosts, as behind a dead member of a link aggregate.
    EverySecondFlow,
}

impl Kind {
    /// Whether a frame is of this kind.
    #[must_use]
    pub fn matches(self, frame: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Vrrp => match ether_type(frame) {
                Some(IPV4) => matches!(frame.get(23), Some(&VRRP | &AH)),
                Some(IPV6) => frame.get(20) == Some(&VRRP),
                _ => false,
            },
            Self::Arp => ether_type(frame) == Some(ARP),
            Self::Udp(port) => udp_ports(frame).is_some_and(|(from, to)| from == port || to == port),
            Self::Longer(most) => frame.len() > most,
            Self::EverySecondFlow => {
                let ends = ipv4(frame, 26).zip(ipv4(frame, 30)).filter(|_| ether_type(frame) == Some(IPV4));
                ends.is_some_and(|(from, to)| (from.octets()[3] ^ to.octets()[3]) % 2 == 1)
            }
        }
    }
}

/// Destination address.
#[must_use]
pub fn destination(frame: &[u8]) -> Option<Mac> {
    frame.get(0..6)?.try_into().ok()
}

/// Source address.
#[must_use]
pub fn source(frame: &[u8]) -> Option<Mac> {
    frame.get(6..12)?.try_into().ok()
}

fn ether_type(frame: &[u8]) -> Option<u16> {
    word(frame, 12)
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

fn ipv4(frame: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

fn ipv6(frame: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets))
}

/// Where the IPv4 payload starts.
fn ipv4_payload(frame: &[u8], protocol: u8) -> Option<usize> {
    let header = usize::from(frame.get(14)? & 0x0f) * 4;
    (ether_type(frame)? == IPV4 && *frame.get(23)? == protocol).then_some(14 + header)
}

fn udp_ports(frame: &[u8]) -> Option<(u16, u16)> {
    let at = ipv4_payload(frame, UDP)?;
    Some((word(frame, at)?, word(frame, at + 2)?))
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Who sends.
    pub sender: (Mac, Ipv4Addr),
    /// Who is asked, or answered.
    pub target: (Mac, Ipv4Addr),
}

impl Arp {
    /// Reads one.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        (ether_type(frame)? == ARP && word(frame, 14)? == 1 && word(frame, 16)? == IPV4).then_some(())?;
        Some(Self {
            operation: word(frame, 20)?,
            sender: (frame.get(22..28)?.try_into().ok()?, ipv4(frame, 28)?),
            target: (frame.get(32..38)?.try_into().ok()?, ipv4(frame, 38)?),
        })
    }

    /// The frame that carries it, without padding.
    #[must_use]
    pub fn frame(&self, destination: Mac) -> [u8; 42] {
        let mut frame = [0; 42];
        let parts: [(usize, &[u8]); 9] = [
            (0, &destination),
            (6, &self.sender.0),
            (12, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4]),
            (20, &self.operation.to_be_bytes()),
            (22, &self.sender.0),
            (28, &self.sender.1.octets()),
            (32, &self.target.0),
            (38, &self.target.1.octets()),
            (42, &[]),
        ];
        for (at, bytes) in parts {
            frame[at..at + bytes.len()].copy_from_slice(bytes);
        }
        frame
    }

    /// An announcement: the sender claims an address for itself, as a request or as a reply (RFC 5227 section 3).
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.sender.1 == self.target.1
    }
}

/// A message of neighbour discovery (RFC 4861 sections 4.3 and 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Whether it asks, or else tells.
    pub asks: bool,
    /// Of which address.
    pub target: Ipv6Addr,
}

impl Discovery {
    /// Reads one.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        (ether_type(frame)? == IPV6 && *frame.get(20)? == ICMPV6).then_some(())?;
        let asks = match frame.get(IPV6_PAYLOAD)? {
            135 => true,
            136 => false,
            _ => return None,
        };
        Some(Self { asks, target: ipv6(frame, IPV6_PAYLOAD + 8)? })
    }

    /// The question who has `target`, which names the asker's MAC: nobody has to ask back.
    #[must_use]
    pub fn question(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let [.., a, b, c] = target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
        let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &[1, 1], &mac].concat();
        let covered = [&source.octets()[..], &group.octets(), &[0, 0, 0, 32, 0, 0, 0, ICMPV6], &message].concat();
        let mut sum =
            covered.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let [.., high, low] = (!sum).to_be_bytes();
        (message[2], message[3]) = (high, low);
        let ethernet = [&[0x33, 0x33, 0xff, a, b, c], &mac[..], &IPV6.to_be_bytes()].concat();
        let header = [&[0x60, 0, 0, 0, 0, 32, ICMPV6, 255], &source.octets()[..], &group.octets()].concat();
        [ethernet, header, message].concat()
    }
}

/// What the laboratory reads of a VRRP advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VrrpHeader {
    /// 2 or 3.
    pub version: u8,
    /// The virtual router.
    pub vrid: u8,
    /// 0 means the sender gives up.
    pub priority: u8,
    /// Who says so.
    pub source: IpAddr,
}

impl VrrpHeader {
    /// Reads one.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (at, source) = if ether_type(frame)? == IPV6 {
            (*frame.get(20)? == VRRP).then_some(())?;
            (IPV6_PAYLOAD, IpAddr::V6(ipv6(frame, 22)?))
        } else {
            let at = ipv4_payload(frame, VRRP).or_else(|| Some(ipv4_payload(frame, AH)? + AH_LENGTH))?;
            (at, IpAddr::V4(ipv4(frame, 26)?))
        };
        Some(Self { version: frame.get(at)? >> 4, vrid: *frame.get(at + 1)?, priority: *frame.get(at + 2)?, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arp_frame_reads_back_as_it_was_written() {
        let arp = Arp {
            operation: 1,
            sender: ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1)),
            target: ([0; 6], Ipv4Addr::new(10, 0, 0, 2)),
        };
        let frame = arp.frame(BROADCAST);
        assert_eq!(Arp::parse(&frame), Some(arp));
        assert!(Kind::Arp.matches(&frame) && !Kind::Vrrp.matches(&frame));
        assert_eq!((destination(&frame), source(&frame)), (Some(BROADCAST), Some(arp.sender.0)));
    }

    #[test]
    fn a_question_of_neighbour_discovery_reads_back_as_it_was_written() {
        let (source, target) = ("fe80::6f:1".parse().unwrap(), "fd77::100".parse().unwrap());
        let frame = Discovery::question([2, 0, 0, 0, 0, 1], source, target);
        assert_eq!(Discovery::parse(&frame), Some(Discovery { asks: true, target }));
        // The sum over what it covers, itself included, is all ones.
        let covered = [&frame[22..54], &[0, 32, 0, ICMPV6], &frame[54..]].concat();
        let sum = covered.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn no_short_frame_is_read_past_its_end() {
        let frame = [0x08; 64];
        for length in 0..frame.len() {
            let short = &frame[..length];
            assert!(
                Arp::parse(short).is_none() && VrrpHeader::parse(short).is_none() && Discovery::parse(short).is_none()
            );
            assert!(!Kind::Udp(53).matches(short));
        }
    }
}
