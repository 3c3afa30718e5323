//! The two clocks of a lease.
//!
//! `CLOCK_MONOTONIC_RAW` is never slewed and stops in suspend; `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC` are slewed alike by
//! NTP, and their difference is the time in suspend. So the first clock here is RAW, and the second RAW with the sleep.
//! Whoever may act stops as soon as **either** says so; whoever waits lets time pass only when **both** do. What is
//! left to assume of a machine is one thing: RAW runs true within [`DRIFT_PPM`] while the machine runs. (BOOTTIME itself
//! would not do: slewed by -8 % it is 160 ms late after two seconds, and RAW cannot help when there was a suspend among them.)
//! `tokio`'s and `std`'s `Instant` are `CLOCK_MONOTONIC`, slewed and stopped in suspend: never used for a lease.

use rustix::time::{ClockId, clock_gettime};
use std::ops::Add;
use std::time::Duration;

/// How far a crystal may be off, in parts per million: rho of the safety argument.
pub const DRIFT_PPM: u32 = 500;

/// Timer granularity plus the gate's lateness: q of the safety argument.
pub const LATENESS: Duration = Duration::from_millis(12);

/// One reading of both clocks, each since its own unspecified beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Moment {
    /// RAW, and the time in suspend.
    with_sleep: Duration,
    raw: Duration,
}

/// The reads that belong together must not be further apart: it would count as sleep.
const TOGETHER: Duration = Duration::from_micros(20);
/// So often they are tried, on a machine that keeps being interrupted between them.
const TRIES: usize = 16;

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        let mut slept = (Duration::MAX, Duration::ZERO);
        for _ in 0..TRIES {
            let before = read(ClockId::Boottime);
            let monotonic = read(ClockId::Monotonic);
            let apart = read(ClockId::Boottime).saturating_sub(before);
            slept = slept.min((apart, before.saturating_sub(monotonic)));
            if apart <= TOGETHER {
                break;
            }
        }
        let raw = read(ClockId::MonotonicRaw);
        Self { with_sleep: raw + slept.1, raw }
    }

    /// A reading made up of two, for simulators and tests: RAW with the time in suspend, and RAW.
    pub const fn at(with_sleep: Duration, raw: Duration) -> Self {
        Self { with_sleep, raw }
    }

    /// The two, as [`Self::at`] takes them: to put deadlines in order, and to tell another process one.
    pub const fn both(self) -> (Duration, Duration) {
        (self.with_sleep, self.raw)
    }

    /// For whoever acts: whether either clock has reached `deadline`.
    pub fn reached(&self, deadline: Self) -> bool {
        self.with_sleep >= deadline.with_sleep || self.raw >= deadline.raw
    }

    /// For whoever acts: what is left until `deadline`, by the clock that is further on. Zero once reached.
    pub fn until(&self, deadline: Self) -> Duration {
        let left = |end: Duration, now: Duration| end.saturating_sub(now);
        left(deadline.with_sleep, self.with_sleep).min(left(deadline.raw, self.raw))
    }

    /// For whoever waits: how long ago `earlier` surely was, by the clock that counted less.
    pub fn since(&self, earlier: Self) -> Duration {
        let passed = |now: Duration, then: Duration| now.saturating_sub(then);
        passed(self.with_sleep, earlier.with_sleep).min(passed(self.raw, earlier.raw))
    }

    /// For whoever waits: what is left until [`Self::since`] says that `deadline` has come, by the clock that counts less.
    pub fn wait(&self, deadline: Self) -> Duration {
        let left = |end: Duration, now: Duration| end.saturating_sub(now);
        left(deadline.with_sleep, self.with_sleep).max(left(deadline.raw, self.raw))
    }

    /// The later of two readings, clock by clock.
    pub fn later(self, other: Self) -> Self {
        Self { with_sleep: self.with_sleep.max(other.with_sleep), raw: self.raw.max(other.raw) }
    }

    /// The earlier of two readings, clock by clock.
    pub fn earlier(self, other: Self) -> Self {
        Self { with_sleep: self.with_sleep.min(other.with_sleep), raw: self.raw.min(other.raw) }
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self { with_sleep: self.with_sleep + span, raw: self.raw + span }
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
    // These clocks begin at boot and never go below zero.
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
        // Who goes by `since` and slept for `until` would not sleep again.
        assert_eq!(resumed.wait(start + S), S);
        let later = Moment::at(21 * S, 11 * S);
        assert_eq!((later.wait(start + S), later.since(start)), (Duration::ZERO, S));
    }

    #[test]
    fn a_reading_counts_what_the_kernel_counts() {
        let before = (read(ClockId::MonotonicRaw), read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic)));
        let now = Moment::now();
        let slept = now.with_sleep - now.raw;
        assert!(now.raw >= before.0);
        // Whatever NTP does to the two meanwhile: the difference is the sleep and nothing else.
        let apart = slept.abs_diff(before.1);
        assert!(apart < Duration::from_millis(5), "{slept:?} of sleep, and the kernel says {:?}", before.1);
    }

    #[test]
    fn the_promise_outlasts_the_lease_by_drift_and_lateness() {
        assert_eq!(promise_for(S, LATENESS), Duration::from_micros(1_013_007));
        assert!(promise_for(Duration::from_millis(300), LATENESS) > Duration::from_millis(312));
    }
}
