//! keepalived's `auth_hmac`: a trailer behind an advert, as of keepalived 2.4.2 (earlier ones sign something else).
//!
//! ```text
//! advert | 1 | key id | 0 0 | seconds, 4 bytes | 1/65536 s, 2 | counter, 2 | HMAC-SHA-256, the first 16 bytes |
//! ```
//!
//! It signs the family, the version, the virtual router, the source address, the advert without its checksum and the trailer.
//! Over IPv4 the advert's checksum ends before it, over IPv6 it covers it. A sequence number is the wall clock, or one more than
//! the last: what is not younger than the last of its sender is a replay, and what is too old or too new is not listened to.

use super::advert::{Discard, Header};
use super::checksum::{self, Form};
use ring::hmac::{self, Context, HMAC_SHA256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long keys are.
pub const KEY: RangeInclusive<usize> = 32..=64;
const KIND: u8 = 1;
const PREFIX: usize = 12;
const DIGEST: usize = 16;
const LENGTH: usize = PREFIX + DIGEST;
/// The advert's fixed part, and where its checksum is.
const FIXED: usize = 8;
const CHECKSUM: RangeInclusive<usize> = 6..=7;
/// What version 2 has behind the addresses.
const AUTH_DATA: usize = 8;
/// Senders of one virtual router whose last number is known. Only who has a key gets in.
const SENDERS: usize = 16;

/// A key, of [`KEY`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What is sent with a trailer, and what is listened to without one: the three steps in which a LAN begins to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sends none, and checks those that are there.
    ReceiveOnly,
    /// Sends one, and listens to adverts without.
    Permissive,
    /// Sends one, and listens to nothing without.
    Enforce,
}

/// What all routers of a virtual router agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// By their ids, 1 to 255; not empty.
    pub keys: BTreeMap<u8, Key>,
    /// Which of them signs.
    pub active: u8,
    /// Who has to have a trailer.
    pub mode: Mode,
    /// How far a sender's clock may be from ours, in whole seconds; `None`: it does not matter, numbers only have to grow.
    pub window: Option<Duration>,
}

/// The wall clock as a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock(u64);

impl Clock {
    /// At this time since 1970.
    pub fn at(time: Duration) -> Self {
        let fraction = u64::from(time.subsec_nanos()) * 0x1_0000 / 1_000_000_000;
        Self(time.as_secs() << 32 | fraction << 16)
    }
}

/// Signs what is sent and checks what is heard of one virtual router.
#[derive(Clone, Debug)]
pub struct Trailers {
    settings: Settings,
    sent: Option<u64>,
    /// The last number of each sender, and when it was heard, by our count.
    heard: BTreeMap<IpAddr, (u64, u64)>,
    count: u64,
}

impl Trailers {
    /// That has heard and said nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, sent: None, heard: BTreeMap::new(), count: 0 }
    }

    /// Goes by other settings from now on. What was said and heard stays so.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The advert with its trailer, where one is sent.
    pub fn sign(&mut self, clock: Clock, advert: Vec<u8>, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let key = self.settings.keys.get(&self.settings.active);
        let (Mode::Permissive | Mode::Enforce, Some(key)) = (self.settings.mode, key.cloned()) else { return advert };
        let sequence = self.next(clock);
        let mut message = advert;
        message.extend([KIND, self.settings.active, 0, 0]);
        message.extend(sequence.to_be_bytes());
        let digest = digest(&key, source, &message);
        message.extend(digest);
        if source.is_ipv6() {
            message[CHECKSUM].fill(0);
            let sum = checksum::of(Form::Pseudo, &message, source, destination);
            message[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// The advert before its trailer, for the checks of adverts.
    ///
    /// # Errors
    /// Why it is to be thrown away.
    pub fn open<'a>(&mut self, clock: Clock, message: &'a [u8], header: &Header) -> Result<Cow<'a, [u8]>, Discard> {
        let Some((advert, trailer)) = split(message, header.source.is_ipv6()) else {
            return match self.settings.mode {
                Mode::Enforce => Err(Discard::Unsigned),
                Mode::ReceiveOnly | Mode::Permissive => Ok(Cow::Borrowed(message)),
            };
        };
        let [kind, id, r0, r1, s0, s1, s2, s3, s4, s5, s6, s7, theirs @ ..] = *trailer;
        if (kind, r0, r1) != (KIND, 0, 0) {
            return Err(Discard::AuthHeader);
        }
        let sequence = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        // Before the digest, which costs more.
        if self.is_beyond(clock.0, sequence) {
            return Err(Discard::Clock(seconds(clock.0).wrapping_sub(seconds(sequence)).cast_signed()));
        }
        let key = self.settings.keys.get(&id).ok_or(Discard::Key(id))?;
        let ours = digest(key, header.source, &message[..advert.len() + PREFIX]);
        // Without a shortcut: how long it takes tells nothing.
        if ours.iter().zip(theirs).fold(0, |differs, (a, b)| differs | (a ^ b)) != 0 {
            return Err(Discard::Digest);
        }
        if header.source.is_ipv6() && checksum::verify(message, header.source, header.destination).is_none() {
            return Err(Discard::Checksum);
        }
        self.note(clock, header.source, sequence)?;
        Ok(if header.source.is_ipv6() { Cow::Owned(alone(advert, header)) } else { Cow::Borrowed(advert) })
    }

    fn note(&mut self, clock: Clock, source: IpAddr, sequence: u64) -> Result<(), Discard> {
        // A number that is out of the window says nothing any more: its sender's clock was put right.
        let last = self.heard.get(&source).map(|(last, _)| *last).filter(|last| !self.is_beyond(clock.0, *last));
        if last.is_some_and(|last| !is_after(sequence, last)) {
            return Err(Discard::Replay(seconds(sequence)));
        }
        self.count += 1;
        self.heard.insert(source, (sequence, self.count));
        if self.heard.len() > SENDERS
            && let Some(oldest) = self.heard.iter().min_by_key(|(_, (_, heard))| *heard).map(|(source, _)| *source)
        {
            self.heard.remove(&oldest);
        }
        Ok(())
    }

    fn next(&mut self, Clock(clock): Clock) -> u64 {
        let next = match self.sent {
            // Our own clock was put back: whoever has a window does not hear us otherwise.
            Some(sent) if is_after(clock, sent) || self.is_beyond(clock, sent) => clock,
            Some(sent) => sent.wrapping_add(1),
            None => clock,
        };
        self.sent = Some(next);
        next
    }

    fn is_beyond(&self, clock: u64, sequence: u64) -> bool {
        let apart = seconds(clock).wrapping_sub(seconds(sequence)).cast_signed().unsigned_abs();
        self.settings.window.is_some_and(|window| u64::from(apart) > window.as_secs())
    }
}

/// The advert and its trailer, as far as its own count of addresses leaves just one.
fn split(message: &[u8], six: bool) -> Option<(&[u8], &[u8; LENGTH])> {
    let [kind, _, _, count, ..] = message else { return None };
    let each = if six { 16 } else { 4 };
    let data = if kind >> 4 == 2 { AUTH_DATA } else { 0 };
    let (advert, trailer) = message.split_at_checked(FIXED + each * usize::from(*count) + data)?;
    Some((advert, trailer.try_into().ok()?))
}

/// As it would be without a trailer: over IPv6 its checksum covers that, and was right.
fn alone(advert: &[u8], header: &Header) -> Vec<u8> {
    let mut advert = advert.to_vec();
    advert[CHECKSUM].fill(0);
    let sum = checksum::of(Form::Pseudo, &advert, header.source, header.destination);
    advert[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    advert
}

/// Of the advert and the trailer's first part.
fn digest(Key(key): &Key, source: IpAddr, message: &[u8]) -> [u8; DIGEST] {
    let [kind, vrid] = [message[0], message[1]];
    let mut pseudo = [0; 20];
    match source {
        IpAddr::V4(source) => {
            pseudo[0] = 4;
            pseudo[4..8].copy_from_slice(&source.octets());
        }
        IpAddr::V6(source) => {
            pseudo[0] = 6;
            pseudo[4..].copy_from_slice(&source.octets());
        }
    }
    (pseudo[1], pseudo[2]) = (kind >> 4, vrid);
    let mut context = Context::with_key(&hmac::Key::new(HMAC_SHA256, key));
    for part in [&pseudo[..], &message[..*CHECKSUM.start()], &[0; 2], &message[FIXED..], &[0; DIGEST]] {
        context.update(part);
    }
    let mut digest = [0; DIGEST];
    digest.copy_from_slice(&context.sign().as_ref()[..DIGEST]);
    digest
}

/// Serial numbers (RFC 1982).
fn is_after(one: u64, other: u64) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

fn seconds(sequence: u64) -> u32 {
    u32::try_from(sequence >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::TTL;
    use super::*;
    use std::net::Ipv4Addr;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const FOUR: Header = Header { source: SOURCE, destination: IpAddr::V4(super::super::ROUTERS_V4), ttl: TTL };
    /// Captured from keepalived 2.4.3, versions 3 and 2, with the key 00 01 .. 1f and the id 1.
    const CAPTURED: [&str; 2] = [
        "31336401003205a4c0000264010100006b01f66c836800002a5bb445ec41a4932196df5ab1044dbc",
        "213364010001b865c00002640000000000000000010100006b01f66f092400004fbc8298c4448ec2d7c1d7ce7112c55c",
    ];
    /// Made with Python's hmac, with the second key: from 192.0.2.1, and from fe80::1 to ff02::12.
    const MADE_4: &str = "3133c80100644402c0000264010200006800000080000007c78d874c9265ec8c197ad9b024aff6e3";
    const MADE_6: &str = "313364010064756afe800000000000000000000000000100010200006800000080000007\
                          229dde00712e78158d7b75ce0ef71214";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn settings(active: u8, mode: Mode, window: Option<u64>) -> Settings {
        let second = b"a key of forty bytes, in plain ASCII....".to_vec();
        let keys = BTreeMap::from([(1, Key((0..32).collect())), (2, Key(second))]);
        Settings { keys, active, mode, window: window.map(Duration::from_secs) }
    }

    fn trailers(active: u8) -> Trailers {
        Trailers::new(settings(active, Mode::Enforce, None))
    }

    fn six() -> Header {
        let [source, destination] = ["fe80::1", "ff02::12"].map(|address| address.parse().unwrap());
        Header { source, destination, ttl: TTL }
    }

    fn sequence(message: &[u8]) -> u64 {
        let at = message.len() - LENGTH + 4;
        u64::from_be_bytes(message[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn we_sign_as_others_do_and_check_what_they_signed() {
        for (hex, active, header, length) in
            [(CAPTURED[0], 1, FOUR, 12), (CAPTURED[1], 1, FOUR, 20), (MADE_4, 2, FOUR, 12), (MADE_6, 2, six(), 24)]
        {
            let message = bytes(hex);
            let opened = trailers(active).open(Clock(0), &message, &header).map(Cow::into_owned).unwrap();
            assert_eq!((opened.len(), &opened[..6], &opened[8..]), (length, &message[..6], &message[8..length]));
            if header.source.is_ipv6() {
                let form = checksum::verify(&opened, header.source, header.destination);
                assert_eq!(form, Some(Form::Pseudo), "its own, without the trailer");
            }
            let clock = Clock(sequence(&message));
            let signed = trailers(active).sign(clock, opened, header.source, header.destination);
            assert_eq!(signed, message);
        }
    }

    #[test]
    fn whatever_was_changed_is_found() {
        for (hex, header) in [(CAPTURED[0], FOUR), (MADE_6, six())] {
            let message = bytes(hex);
            let trailer = message.len() - LENGTH;
            for at in 0..message.len() {
                let mut changed = message.clone();
                changed[at] ^= 0x11;
                let judged = trailers(1).open(Clock(0), &changed, &header).map(Cow::into_owned);
                let expected = match at {
                    // Of version 2 there is no trailer at this place, nor with another count of addresses.
                    0 | 3 => Discard::Unsigned,
                    6 | 7 if header.source.is_ipv6() => Discard::Checksum,
                    // The checks of adverts see to it.
                    6 | 7 => {
                        assert!(judged.is_ok());
                        continue;
                    }
                    _ if at == trailer || at == trailer + 2 || at == trailer + 3 => Discard::AuthHeader,
                    _ if at == trailer + 1 => Discard::Key(message[at] ^ 0x11),
                    _ => Discard::Digest,
                };
                assert_eq!(judged, Err(expected), "byte {at}");
            }
            let elsewhere = Header { source: "192.0.2.2".parse().unwrap(), ..FOUR };
            assert_eq!(trailers(1).open(Clock(0), &bytes(CAPTURED[0]), &elsewhere), Err(Discard::Digest));
            for length in 0..message.len() {
                let judged = trailers(1).open(Clock(0), &message[..length], &header);
                assert_eq!(judged, Err(Discard::Unsigned), "{length} bytes");
            }
        }
    }

    #[test]
    fn the_steps_of_a_rollout() {
        let advert = bytes(&CAPTURED[0][..24]);
        for (mode, sends, hears) in
            [(Mode::ReceiveOnly, false, true), (Mode::Permissive, true, true), (Mode::Enforce, true, false)]
        {
            let mut trailers = Trailers::new(settings(1, mode, None));
            let sent = trailers.sign(Clock(7), advert.clone(), FOUR.source, FOUR.destination);
            assert_eq!(sent.len() > advert.len(), sends, "{mode:?}");
            assert_eq!(trailers.open(Clock(7), &advert, &FOUR).is_ok(), hears, "{mode:?}");
            let mut forged = bytes(CAPTURED[0]);
            forged[2] = 255;
            assert_eq!(trailers.open(Clock(7), &forged, &FOUR), Err(Discard::Digest), "{mode:?}");
        }
    }

    #[test]
    fn numbers_grow_with_the_clock_and_are_taken_once() {
        let advert = bytes(&CAPTURED[0][..24]);
        let (mut sender, mut receiver) = (trailers(1), trailers(1));
        let time = Clock::at(Duration::new(1_700_000_000, 500_000_000));
        assert_eq!(time.0, 1_700_000_000 << 32 | 0x8000_0000);
        let mut sign = |clock| sender.sign(clock, advert.clone(), FOUR.source, FOUR.destination);
        let (first, second, third) = (sign(time), sign(time), sign(Clock(time.0 - 9)));
        assert_eq!([&first, &second, &third].map(|sent| sequence(sent)), [time.0, time.0 + 1, time.0 + 2]);
        for (message, fresh) in [(&second, true), (&second, false), (&first, false), (&third, true)] {
            assert_eq!(receiver.open(time, message, &FOUR).is_ok(), fresh);
        }
        assert_eq!(receiver.open(time, &third, &FOUR), Err(Discard::Replay(1_700_000_000)));
    }

    #[test]
    fn what_is_out_of_the_window_is_not_listened_to() {
        let advert = bytes(&CAPTURED[0][..24]);
        let at = |second: u64| Clock::at(Duration::from_secs(second));
        let with = || Trailers::new(settings(1, Mode::Enforce, Some(5)));
        let (mut sender, mut receiver) = (with(), with());
        let said = sender.sign(at(1000), advert.clone(), FOUR.source, FOUR.destination);
        assert_eq!(receiver.open(at(1006), &said, &FOUR), Err(Discard::Clock(6)));
        assert_eq!(receiver.open(at(994), &said, &FOUR), Err(Discard::Clock(-6)));
        assert!(receiver.open(at(1005), &said, &FOUR).is_ok());
        // The sender's clock is put back by more than the window: it is heard again at once.
        let said = sender.sign(at(900), advert, FOUR.source, FOUR.destination);
        assert_eq!(sequence(&said), at(900).0);
        assert!(receiver.open(at(901), &said, &FOUR).is_ok());
    }

    #[test]
    fn only_so_many_senders_are_remembered() {
        let advert = bytes(&CAPTURED[0][..24]);
        let (mut sender, mut receiver) = (trailers(1), trailers(1));
        for last in 1..=u8::try_from(SENDERS).unwrap() + 4 {
            let source = IpAddr::from([192, 0, 2, last]);
            let said = sender.sign(Clock(9), advert.clone(), source, FOUR.destination);
            assert!(receiver.open(Clock(9), &said, &Header { source, ..FOUR }).is_ok());
        }
        assert_eq!(receiver.heard.len(), SENDERS);
        assert!(!receiver.heard.contains_key(&SOURCE), "the one that was silent for longest is forgotten");
    }
}
