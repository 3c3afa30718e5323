//! The control packet (RFC 5880 section 4.1), without authentication: 24 bytes.

use std::time::Duration;

/// The length of a packet without an authentication section.
pub const LENGTH: usize = 24;
/// The same with the shortest one.
const LEAST_AUTHENTICATED: u8 = 26;
const VERSION: u8 = 1;

/// `Sta`: the state of a session, as its end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Held down by order.
    AdminDown,
    /// The other end is not heard, or has just been.
    Down,
    /// The other end is heard, and does not hear us yet as far as is known.
    Init,
    /// Both ends hear each other.
    Up,
}

/// `Diag`: why a session went down last. Those above 8 are reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing was wrong.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const EXPIRED: Self = Self(1);
    /// The other end said that it went down.
    pub const NEIGHBOUR_SAID_SO: Self = Self(3);

    /// For people, in the RFC's words.
    pub fn words(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbour signalled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "a reserved diagnostic",
        }
    }
}

/// A control packet. Intervals are whole microseconds, up to 4294 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// `Diag`.
    pub diagnostic: Diagnostic,
    /// `Sta`.
    pub state: State,
    /// The sender asks for an answer with [`Packet::is_final`].
    pub poll: bool,
    /// The answer to a poll.
    pub is_final: bool,
    /// The sender wants no periodic packets while both ends are up.
    pub demand: bool,
    /// `Detect Mult`: so many of the sender's packets may be lost; not 0.
    pub multiplier: u8,
    /// `My Discriminator`: the sender's name for the session; not 0.
    pub mine: u32,
    /// `Your Discriminator`: the receiver's name for it, 0 when the sender does not know it.
    pub yours: u32,
    /// `Desired Min TX Interval`: the sender would send as often.
    pub min_tx: Duration,
    /// `Required Min RX Interval`: the sender can take packets as often; 0: none at all.
    pub min_rx: Duration,
}

/// Why a datagram is no packet for us (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// It is shorter than a packet, or than it says.
    Short,
    /// Not version 1.
    Version,
    /// `Detect Mult` is 0.
    Multiplier,
    /// `Multipoint` is set.
    Multipoint,
    /// `My Discriminator` is 0.
    Nameless,
    /// `Your Discriminator` is 0 in a state that knows it.
    Unknowing,
    /// It is authenticated, and no session here is.
    Authenticated,
    /// No session here has such a name or such a neighbour.
    Stranger,
    /// It has come further than the session lets it (RFC 5881 section 5).
    Far,
}

impl Packet {
    /// Reads a datagram, by the rules of RFC 5880 section 6.8.6 that need no session. What follows a packet is not looked at.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, Discard> {
        let [first, flags, multiplier, length, rest @ ..] = bytes else { return Err(Discard::Short) };
        let flag = |bit: u8| flags & bit != 0;
        let authenticated = flag(0x04);
        if first >> 5 != VERSION {
            return Err(Discard::Version);
        }
        let least = if authenticated { LEAST_AUTHENTICATED } else { 24 };
        if *length < least || usize::from(*length) > bytes.len() {
            return Err(Discard::Short);
        }
        if *multiplier == 0 {
            return Err(Discard::Multiplier);
        }
        if flag(0x01) {
            return Err(Discard::Multipoint);
        }
        // The last is the interval of echoes, which nobody here sends.
        let ([mine, yours, min_tx, min_rx, ..], _) = rest.as_chunks::<4>() else { return Err(Discard::Short) };
        let micros = |word: &[u8; 4]| Duration::from_micros(u32::from_be_bytes(*word).into());
        let packet = Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: match flags >> 6 {
                0 => State::AdminDown,
                1 => State::Down,
                2 => State::Init,
                _ => State::Up,
            },
            poll: flag(0x20),
            is_final: flag(0x10),
            demand: flag(0x02),
            multiplier: *multiplier,
            mine: u32::from_be_bytes(*mine),
            yours: u32::from_be_bytes(*yours),
            min_tx: micros(min_tx),
            min_rx: micros(min_rx),
        };
        if packet.mine == 0 {
            return Err(Discard::Nameless);
        }
        if packet.yours == 0 && matches!(packet.state, State::Init | State::Up) {
            return Err(Discard::Unknowing);
        }
        if authenticated { Err(Discard::Authenticated) } else { Ok(packet) }
    }

    /// As it is sent. An interval beyond 4294 s is cut to that.
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = state << 6 | flag(self.poll, 0x20) | flag(self.is_final, 0x10) | flag(self.demand, 0x02);
        let micros = |interval: Duration| u32::try_from(interval.as_micros()).unwrap_or(u32::MAX);
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&[VERSION << 5 | self.diagnostic.0 & 0x1f, flags, self.multiplier, 24]);
        let words = [self.mine, self.yours, micros(self.min_tx), micros(self.min_rx)];
        for (place, word) in bytes[4..20].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What keepalived 2.2.7 sends first, and its answer to a poll; and FRR 8.4.4, up and polling. Taken off the wire.
    const DOWN: [u8; LENGTH] = *b"\x20\x40\x05\x18\x1a\x69\x02\xc1\0\0\0\0\x00\x0f\x42\x40\0\0\x27\x10\0\0\0\0";
    const FINAL: [u8; LENGTH] = *b"\x20\xd0\x05\x18\x1a\x69\x02\xc1\x05\x27\x6a\x14\0\0\x27\x10\0\0\x27\x10\0\0\0\0";
    const POLL: [u8; LENGTH] =
        *b"\x20\xe0\x03\x18\x05\x27\x6a\x14\x1a\x69\x02\xc1\0\x04\x93\xe0\0\x04\x93\xe0\0\0\xc3\x50";

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state: State::Down,
            poll: false,
            is_final: false,
            demand: false,
            multiplier: 5,
            mine: 0x1a69_02c1,
            yours: 0,
            min_tx: Duration::from_secs(1),
            min_rx: Duration::from_millis(10),
        }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(Packet::parse(&DOWN), Ok(packet()));
        assert_eq!(packet().to_bytes(), DOWN);
        let interval = Duration::from_millis(10);
        let up = Packet { state: State::Up, yours: 0x0527_6a14, min_tx: interval, ..packet() };
        assert_eq!(Packet::parse(&FINAL), Ok(Packet { is_final: true, ..up }));
        assert_eq!(Packet { is_final: true, ..up }.to_bytes(), FINAL);
        let interval = Duration::from_millis(300);
        let frr = Packet {
            poll: true,
            multiplier: 3,
            mine: up.yours,
            yours: up.mine,
            min_tx: interval,
            min_rx: interval,
            ..up
        };
        assert_eq!(Packet::parse(&POLL), Ok(frr));
        // But for the interval of echoes.
        assert_eq!(frr.to_bytes()[..20], POLL[..20]);
    }

    #[test]
    fn what_is_no_packet() {
        let with = |at: usize, byte: u8| {
            let mut bytes = DOWN;
            bytes[at] = byte;
            Packet::parse(&bytes).map(drop)
        };
        assert_eq!(Packet::parse(&DOWN[..23]), Err(Discard::Short));
        assert_eq!(Packet::parse(&[]), Err(Discard::Short));
        assert_eq!(with(0, 0x00), Err(Discard::Version));
        assert_eq!(with(0, 0x40), Err(Discard::Version));
        assert_eq!(with(1, 0x41), Err(Discard::Multipoint));
        assert_eq!(with(1, 0x80), Err(Discard::Unknowing), "Init");
        assert_eq!(with(1, 0xc0), Err(Discard::Unknowing), "Up");
        assert_eq!(with(1, 0x00), Ok(()), "AdminDown");
        assert_eq!(with(1, 0x44), Err(Discard::Short), "with authentication it is longer");
        assert_eq!(with(2, 0), Err(Discard::Multiplier));
        assert_eq!(with(3, 23), Err(Discard::Short));
        assert_eq!(with(3, 25), Err(Discard::Short), "longer than what came");
        let mut nameless = DOWN;
        nameless[4..8].fill(0);
        assert_eq!(Packet::parse(&nameless), Err(Discard::Nameless));
        let mut authenticated = [DOWN.as_slice(), &[1, 5, 1, b'a', b'b']].concat();
        (authenticated[1], authenticated[3]) = (0x44, 29);
        assert_eq!(Packet::parse(&authenticated), Err(Discard::Authenticated));
        assert_eq!(Packet::parse(&[DOWN.as_slice(), &[0; 9]].concat()), Ok(packet()), "padded");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged_and_what_is_taken_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..40), like in any::<bool>()) {
            let mut bytes = bytes;
            if let (true, [first, _, multiplier, length, ..]) = (like, bytes.as_mut_slice()) {
                (*first, *length) = (0x20 | *first & 0x1f, 24);
                *multiplier = (*multiplier).max(1);
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert_eq!(Packet::parse(&packet.to_bytes()), Ok(packet));
                // All but the "control plane independent" bit, and the interval of echoes.
                let again = packet.to_bytes();
                prop_assert_eq!(again[0], bytes[0]);
                prop_assert_eq!(again[1], bytes[1] & !0x08);
                prop_assert_eq!(&again[2..20], &bytes[2..20]);
            }
        }
    }
}
