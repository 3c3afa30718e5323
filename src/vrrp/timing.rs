//! When a router waits and how often it speaks, beside its interval: keepalived's options, by its names.

use std::time::Duration;

/// What may differ between routers without confusing them, but for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Intervals of silence, beside the skew, after which a MASTER is gone: 1 to 100, the same on every router. RFC 9568
    /// section 6.1 has 3.
    pub down_timer_adverts: u8,
    /// For so long after a start the router neither wants the addresses nor listens: a LAN that is not forwarding yet looks
    /// like one without a MASTER. Up to 1000 s.
    pub startup_delay: Duration,
    /// The same until the machine has run for so long. Up to 1000 s.
    pub delay_after_boot: Duration,
    /// How long a living MASTER of lower priority is left alone, from its first advert on. Up to 1000 s.
    pub preempt_delay: Duration,
    /// A MASTER that yields to a higher priority says a last word, from which switches learn where it was.
    pub higher_prio_send_advert: bool,
    /// A MASTER does not answer an advert of lower priority with one; gratuitous ARP it sends all the same.
    pub lower_prio_no_advert: bool,
    /// Gratuitous ARP, and unsolicited neighbour advertisements.
    pub garp: Garp,
}

/// Bursts of announcements: each address once a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garp {
    /// Rounds at the claim, and again after `delay`.
    pub repeat: u8,
    /// Between these two. Zero: there is no second.
    pub delay: Duration,
    /// Between bursts without any cause: a host that learned a wrong address while we could not hear of it is dark no
    /// longer than this. Zero: there are none.
    pub refresh: Duration,
    /// Rounds of those.
    pub refresh_repeat: u8,
    /// Rounds after an advert of lower priority, and again after `lower_prio_delay`. Zero: none.
    pub lower_prio_repeat: u8,
    /// Between these two. Zero: there is no second.
    pub lower_prio_delay: Duration,
    /// Between two announcements on one LAN, for switches that drop what comes faster. Zero: as fast as they go.
    pub interval: Duration,
}

impl Default for Timing {
    /// keepalived's.
    fn default() -> Self {
        Self {
            down_timer_adverts: 3,
            startup_delay: Duration::ZERO,
            delay_after_boot: Duration::ZERO,
            preempt_delay: Duration::ZERO,
            higher_prio_send_advert: false,
            lower_prio_no_advert: false,
            garp: Garp::default(),
        }
    }
}

impl Default for Garp {
    /// keepalived's, but for the refresh, which it leaves off: after a healed split its clients stay dark.
    fn default() -> Self {
        let delay = Duration::from_secs(5);
        Self {
            repeat: 5,
            delay,
            refresh: Duration::from_secs(60),
            refresh_repeat: 1,
            lower_prio_repeat: 5,
            lower_prio_delay: delay,
            interval: Duration::ZERO,
        }
    }
}
