//! How long a lease lasts, and the timing that goes with it.

use std::time::Duration;

/// Raft's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower stands for election after a random silence from this
    pub election_min: Duration,
    /// to this.
    pub election_max: Duration,
}

/// The timing of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseProfile {
    /// L: how long a quorum's promises let the holder act.
    pub ttl: Duration,
    /// R: between two renewals; a fifth of `ttl`, so that four may be lost.
    pub renew: Duration,
    /// Raft's timers.
    pub raft: RaftTiming,
    /// The longest pause of a director that loses a VIP again and again, before it asks for it; zero: none.
    pub damping: Duration,
}

/// Every named profile, the fastest first.
pub const PROFILES: [(&str, LeaseProfile); 4] = [
    ("fast", profile(125, 25, 30, 100, 200)), // for machines that do not stand still: the gate shuts after 90 ms
    ("default", profile(1000, 200, 50, 150, 300)),
    ("vm", profile(2000, 400, 100, 300, 600)), // outlasts the pause of a live migration
    ("wan", profile(3000, 600, 250, 600, 1200)),
];

/// The longest lease: a crashed holder's addresses are dark for as long.
pub const LONGEST_TTL: Duration = Duration::from_secs(60);

/// When none is given.
pub(super) const DEFAULT_DAMPING: Duration = Duration::from_secs(30);

impl Default for LeaseProfile {
    fn default() -> Self {
        PROFILES[1].1
    }
}

impl LeaseProfile {
    /// A profile around a custom `ttl`: the calmest of the known Raft timings that still elects a leader and lets a
    /// renewal through while a lease runs, `2 x election_max + R <= L`, or else the fastest: voters renew without a leader.
    ///
    /// # Errors
    /// It is shorter than that of the fastest profile, which is returned.
    pub fn with_ttl(ttl: Duration) -> Result<Self, Duration> {
        let fastest = PROFILES[0].1;
        if ttl < fastest.ttl {
            return Err(fastest.ttl);
        }
        let renew = ttl / 5;
        let fits = |raft: &RaftTiming| 2 * raft.election_max + renew <= ttl;
        let raft = PROFILES.iter().rev().map(|(_, profile)| profile.raft).find(fits).unwrap_or(fastest.raft);
        Ok(Self { ttl, renew, raft, damping: DEFAULT_DAMPING })
    }
}

const fn profile(ttl: u64, renew: u64, heartbeat: u64, election_min: u64, election_max: u64) -> LeaseProfile {
    LeaseProfile {
        ttl: Duration::from_millis(ttl),
        renew: Duration::from_millis(renew),
        raft: RaftTiming {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
        },
        damping: DEFAULT_DAMPING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_custom_ttl_gets_the_calmest_timing_that_fits() {
        for (ttl, named) in
            [(125, 0), (300, 0), (500, 0), (749, 0), (750, 1), (1000, 1), (1500, 2), (2000, 2), (3000, 3), (9000, 3)]
        {
            let profile = LeaseProfile::with_ttl(ttl * MS).unwrap();
            assert_eq!(profile.raft, PROFILES[named].1.raft, "{ttl} ms");
            assert_eq!(profile.renew, ttl * MS / 5);
        }
    }

    #[test]
    fn a_ttl_below_the_fastest_is_refused_with_that() {
        assert_eq!(LeaseProfile::with_ttl(124 * MS), Err(125 * MS));
    }

    #[test]
    fn named_profiles_leave_four_renewals_to_lose() {
        for (name, profile) in PROFILES {
            assert_eq!(profile.renew * 5, profile.ttl, "{name}");
            assert!(profile.raft.heartbeat * 2 < profile.raft.election_min, "{name}");
        }
    }
}
