//! The authentication header before a version 2 advert (RFC 2402, RFC 2338 section 5.3.6.3), as keepalived fills it in.
//!
//! ```text
//! | 112 | 4 | 0 0 | SPI: the source address | sequence number | HMAC-MD5-96, 12 bytes | VRRP |
//! ```
//!
//! One counter serves both ways: what is heard must be above it, and raises it, so that whoever becomes MASTER goes on where
//! the last one ended. keepalived starts at 1. We start at the wall clock's seconds: a router that was started again is not
//! taken for a replay of itself.

use super::advert::{Discard, Header};
use super::{PROTOCOL, Password};
use std::net::{IpAddr, Ipv4Addr};

/// The IP protocol number.
pub const AH: u8 = 51;
const LENGTH: usize = 24;
const DIGEST: usize = 12;
/// The length in 32-bit words, less two.
const WORDS: u8 = 4;
/// Without options.
const IP_LENGTH: usize = 20;
/// Internetwork control (CS6).
const CLASS: u8 = 0xc0;

/// Seals what is sent and opens what is heard of one virtual router.
#[derive(Clone, Debug)]
pub struct Authentication {
    key: Password,
    /// The last sequence number, sent or heard.
    last: u32,
}

/// The virtual router that the message behind the header is for.
pub fn vrid(payload: &[u8]) -> Option<u8> {
    super::advert::vrid(payload.get(LENGTH..)?)
}

impl Authentication {
    /// With the key of all routers; the first packet has the sequence number behind `last`.
    pub fn new(key: Password, last: u32) -> Self {
        Self { key, last }
    }

    /// The whole IPv4 packet that holds `message`, but for its header's checksum, which the kernel fills in.
    pub fn seal(&mut self, source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, message: &[u8]) -> Vec<u8> {
        // The numbers end in 2106; one that does not grow is not listened to, as RFC 2402 section 3.3.2 wants.
        self.last = self.last.saturating_add(1);
        let sequence = self.last.to_be_bytes();
        let whole = u16::try_from(IP_LENGTH + LENGTH + message.len()).unwrap_or(u16::MAX).to_be_bytes();
        // The digest covers the identification, and the kernel replaces a zero.
        let [high, low] = match [sequence[2], sequence[3]] {
            [0, 0] => [0xff, 0xff],
            other => other,
        };
        let mut packet = vec![0x45, CLASS, whole[0], whole[1], high, low, 0, 0, ttl, AH, 0, 0];
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend([PROTOCOL, WORDS, 0, 0]);
        packet.extend(source.octets());
        packet.extend(sequence);
        packet.extend([0; DIGEST]);
        packet.extend(message);
        let (ip, payload) = packet.split_at(IP_LENGTH);
        let digest = self.digest(ip, payload, !destination.is_multicast());
        let at = IP_LENGTH + LENGTH - DIGEST;
        packet[at..at + DIGEST].copy_from_slice(&digest);
        packet
    }

    /// The message behind the header, if the peer has our key and it is none that was heard before.
    ///
    /// # Errors
    /// Why it is to be thrown away.
    pub fn open<'a>(&mut self, ip: &[u8], payload: &'a [u8], header: &Header) -> Result<&'a [u8], Discard> {
        let Some((ah, message)) = payload.split_first_chunk::<LENGTH>() else {
            return Err(Discard::Short(payload.len()));
        };
        let [next, words, _, _, i0, i1, i2, i3, s0, s1, s2, s3, digest @ ..] = *ah;
        let index = IpAddr::from([i0, i1, i2, i3]);
        if (next, words) != (PROTOCOL, WORDS) || index != header.source || ip.len() < IP_LENGTH {
            return Err(Discard::AuthHeader);
        }
        let ours = self.digest(ip, payload, !header.destination.is_multicast());
        // Without a shortcut: how long it takes tells nothing.
        if ours.iter().zip(digest).fold(0, |differs, (a, b)| differs | (a ^ b)) != 0 {
            return Err(Discard::Digest);
        }
        let sequence = u32::from_be_bytes([s0, s1, s2, s3]);
        if sequence <= self.last {
            return Err(Discard::Replay(sequence));
        }
        self.last = sequence;
        Ok(message)
    }

    /// HMAC-MD5-96 (RFC 2403) of a packet without what changes on its way, and without the digest itself. keepalived takes
    /// the TTL for such only in unicast.
    fn digest(&self, ip: &[u8], payload: &[u8], unicast: bool) -> [u8; DIGEST] {
        let mut ip = ip.to_vec();
        for (at, byte) in ip.iter_mut().enumerate() {
            let changes = match at {
                1 | 6 | 7 | 10 | 11 => true,
                8 => unicast,
                _ => false,
            };
            if changes {
                *byte = 0;
            }
        }
        let pad = |with: u8| {
            let mut block = [with; 64];
            for (slot, byte) in block.iter_mut().zip(self.key.bytes()) {
                *slot ^= byte;
            }
            block
        };
        let (before, after) = payload.split_at(LENGTH - DIGEST);
        let md5 = |parts: &[&[u8]]| {
            let mut context = md5::Context::new();
            parts.iter().for_each(|part| context.consume(part));
            context.finalize().0
        };
        let inner = md5(&[&pad(0x36), &ip, before, &[0; DIGEST], &after[DIGEST..]]);
        let outer = md5(&[&pad(0x5c), &inner]);
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&outer[..DIGEST]);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const GROUP: Ipv4Addr = super::super::ROUTERS_V4;
    const HEADER: Header = Header { source: IpAddr::V4(SOURCE), destination: IpAddr::V4(GROUP), ttl: 255 };
    const MESSAGE: &str = "213364020201f3fec0000264c00002650000000000000000";

    /// Captured from keepalived 2.2.7 with the password "s3cr": the IP header, and what is behind it.
    const CAPTURED: [(&str, &str); 2] = [
        ("45c0004400010000ff3318b2c0000201e0000012", "70040000c000020100000001d393596f363fad97abfb3d8b"),
        ("45c0004400020000ff3318b1c0000201e0000012", "70040000c000020100000002e61e8011723ad2dcb5d7d18c"),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn key() -> Authentication {
        Authentication::new(Password::cut("s3cr"), 0)
    }

    #[test]
    fn we_seal_as_keepalived_does_and_open_what_it_sealed() {
        let (mut ours, mut theirs, message) = (key(), key(), bytes(MESSAGE));
        for (ip, ah) in CAPTURED {
            let (mut ip, payload) = (bytes(ip), [bytes(ah), message.clone()].concat());
            assert_eq!(theirs.open(&ip, &payload, &HEADER), Ok(&message[..]));
            assert_eq!(vrid(&payload), Some(51));
            ip[10..12].fill(0); // the kernel's
            assert_eq!(ours.seal(SOURCE, GROUP, 255, &message), [ip, payload].concat());
        }
    }

    #[test]
    fn no_sequence_number_is_taken_twice_and_a_new_master_goes_on_behind_the_old() {
        let (mut router, message) = (key(), bytes(MESSAGE));
        let packets = CAPTURED.map(|(ip, ah)| (bytes(ip), [bytes(ah), message.clone()].concat()));
        for (ip, payload) in [&packets[1], &packets[1], &packets[0]] {
            let heard = router.open(ip, payload, &HEADER);
            assert_eq!(heard.is_ok(), payload == &packets[1].1 && router.last == 2 && heard.is_ok());
        }
        assert_eq!(router.open(&packets[0].0, &packets[0].1, &HEADER), Err(Discard::Replay(1)));
        assert_eq!(router.open(&packets[1].0, &packets[1].1, &HEADER), Err(Discard::Replay(2)));
        let next = router.seal(SOURCE, GROUP, 255, &message);
        assert_eq!(next[28..32], [0, 0, 0, 3]);
    }

    #[test]
    fn whatever_was_changed_is_found() {
        let (ip, payload) = (bytes(CAPTURED[0].0), [bytes(CAPTURED[0].1), bytes(MESSAGE)].concat());
        let judge = |ip: &[u8], payload: &[u8]| key().open(ip, payload, &HEADER).map(<[u8]>::len);
        assert_eq!(judge(&ip, &payload), Ok(24));
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            let expected = match at {
                0 | 1 | 4..8 => Discard::AuthHeader,
                _ => Discard::Digest,
            };
            assert_eq!(judge(&ip, &changed), Err(expected), "byte {at}");
        }
        for (at, covered) in
            [(1, false), (2, true), (5, true), (6, false), (8, true), (11, false), (15, true), (19, true)]
        {
            let mut changed = ip.clone();
            changed[at] ^= 1;
            assert_eq!(judge(&changed, &payload).is_err(), covered, "byte {at} of the IP header");
        }
        for length in 0..LENGTH {
            assert_eq!(judge(&ip, &payload[..length]), Err(Discard::Short(length)));
        }
        assert_eq!(Authentication::new(Password::cut("other"), 0).open(&ip, &payload, &HEADER), Err(Discard::Digest));
    }

    #[test]
    fn by_unicast_the_ttl_may_change_on_the_way() {
        let peer = Ipv4Addr::new(192, 0, 2, 7);
        let header = Header { destination: IpAddr::V4(peer), ..HEADER };
        let mut packet = key().seal(SOURCE, peer, 255, &bytes(MESSAGE));
        packet[8] = 60;
        assert_eq!(key().open(&packet[..20], &packet[20..], &header), Ok(&bytes(MESSAGE)[..]));
    }

    #[test]
    fn the_identification_is_never_the_zero_that_the_kernel_replaces() {
        let mut router = Authentication::new(Password::cut("s3cr"), 0x0001_fffe);
        let ids: Vec<_> = (0..3).map(|_| router.seal(SOURCE, GROUP, 255, &[])[4..6].to_vec()).collect();
        assert_eq!(ids, [[0xff, 0xff], [0xff, 0xff], [0, 1]]);
    }
}
