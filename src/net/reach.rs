//! How long a plane tries to reach its members, and how far it reaches.

use std::time::{Duration, Instant};

/// The spans of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The first try to connect, hello included. Twice as long after each that got no answer, up to [`LONGEST`] times as
    /// long: a line that is far, or full of such tries, answers later.
    pub attempt: Duration,
    /// The pause after the first failed try.
    pub pause_min: Duration,
    /// The pause doubles up to this.
    pub pause_max: Duration,
    /// A connection that hears nothing for this long is lost. Milliseconds; at least three times `keepalive`.
    pub idle: Duration,
    /// How often a silent connection says something, at the end that has dialed.
    pub keepalive: Duration,
}

/// How many times its first length a try to connect lasts at most.
pub(super) const LONGEST: u32 = 4;

impl Timing {
    /// Of the mesh.
    pub const MESH: Self = Self {
        attempt: Duration::from_millis(300),
        pause_min: Duration::from_millis(50),
        pause_max: Duration::from_millis(500),
        idle: Duration::from_millis(700),
        keepalive: Duration::from_millis(200),
    };

    /// Of the lease plane: it comes back at once, and a lossy path does not cut it.
    pub const LEASE: Self = Self {
        attempt: Duration::from_millis(300),
        pause_min: Duration::from_millis(10),
        pause_max: Duration::from_millis(50),
        idle: Duration::from_millis(1000),
        keepalive: Duration::from_millis(250),
    };
}

/// A connection that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Since when it counts.
    pub since: Instant,
    /// The round trip measured when it came up.
    pub rtt: Duration,
    /// How far the two wall clocks are apart, up to a round trip.
    pub clock_off: Duration,
    /// The other end's incarnation.
    pub incarnation: u64,
}

/// What there is between this node and a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The connection that this node dialed.
    pub outgoing: Option<Link>,
    /// The connection that the member dialed.
    pub incoming: Option<Link>,
    /// Why the last try failed, in words; gone once both are there.
    pub trouble: Option<String>,
}

impl Reach {
    /// Whether it is connected, both ways.
    pub fn is_up(&self) -> bool {
        self.outgoing.is_some() && self.incoming.is_some()
    }
}
