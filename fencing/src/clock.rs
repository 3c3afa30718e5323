//! The two clocks of a lease.
//!
//! `CLOCK_BOOTTIME` counts suspend and is slewed by NTP; `CLOCK_MONOTONIC_RAW` is never slewed and stops in suspend.
//! Whoever may act stops as soon as **either** says so; whoever waits lets time pass only when **both** do. What is
//! left to assume of a machine is one thing: RAW runs true within [`DRIFT_PPM`] while the machine runs.
//! `tokio`'s and `std`'s `Instant` are `CLOCK_MONOTONIC`, slewed and stopped in suspend: never used for a lease.

use rustix::time::{ClockId, clock_gettime};
use std::ops::Add;
use std::time::Duration;

/// How far a crystal may be off, in parts per million: rho of the safety argument.
pub const DRIFT_PPM: u32 = 500;

/// Timer granularity plus the gate's lateness: q of the safety argument.
pub const LATENESS: Duration = Duration::from_millis(12);

/// One reading of both clocks, each since its own unspecified beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    boottime: Duration,
    raw: Duration,
}

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { boottime: read(ClockId::Boottime), raw: read(ClockId::MonotonicRaw) }
    }

    /// A reading made up of two, for simulators and tests.
    pub const fn at(boottime: Duration, raw: Duration) -> Self {
        Self { boottime, raw }
    }

    /// For whoever acts: whether either clock has reached `deadline`.
    pub fn reached(&self, deadline: Self) -> bool {
        self.boottime >= deadline.boottime || self.raw >= deadline.raw
    }

    /// For whoever acts: what is left until `deadline`, by the clock that is further on. Zero once reached.
    pub fn until(&self, deadline: Self) -> Duration {
        let left = |end: Duration, now: Duration| end.saturating_sub(now);
        left(deadline.boottime, self.boottime).min(left(deadline.raw, self.raw))
    }

    /// For whoever waits: how long ago `earlier` surely was, by the clock that counted less.
    pub fn since(&self, earlier: Self) -> Duration {
        let passed = |now: Duration, then: Duration| now.saturating_sub(then);
        passed(self.boottime, earlier.boottime).min(passed(self.raw, earlier.raw))
    }

    /// The later of two readings, clock by clock.
    pub fn later(self, other: Self) -> Self {
        Self { boottime: self.boottime.max(other.boottime), raw: self.raw.max(other.raw) }
    }

    /// The earlier of two readings, clock by clock.
    pub fn earlier(self, other: Self) -> Self {
        Self { boottime: self.boottime.min(other.boottime), raw: self.raw.min(other.raw) }
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self { boottime: self.boottime + span, raw: self.raw + span }
    }
}

/// Lg for a session of length `ttl` behind a gate that closes up to `lateness` late:
/// `(L/(1-rho) + q)(1+rho)`, rounded up to a microsecond.
pub fn promise_for(ttl: Duration, lateness: Duration) -> Duration {
    let million = 1_000_000u128;
    let rho = u128::from(DRIFT_PPM);
    let slow = (ttl.as_nanos() * million).div_ceil(million - rho);
    let nanos = ((slow + lateness.as_nanos()) * (million + rho)).div_ceil(million);
    Duration::from_micros(u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX))
}

fn read(clock: ClockId) -> Duration {
    let t = clock_gettime(clock);
    // Both clocks begin at boot and never go below zero.
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_suspend_ends_the_holder_and_does_not_help_the_voter() {
        let start = Moment::at(10 * S, 10 * S);
        let resumed = Moment::at(20 * S, 10 * S);
        assert!(resumed.reached(start + S));
        assert_eq!(resumed.since(start), Duration::ZERO);
        assert_eq!(resumed.until(start + S), Duration::ZERO);
    }

    #[test]
    fn the_promise_outlasts_the_lease_by_drift_and_lateness() {
        assert_eq!(promise_for(S, LATENESS), Duration::from_micros(1_013_007));
        assert!(promise_for(Duration::from_millis(300), LATENESS) > Duration::from_millis(312));
    }
}
