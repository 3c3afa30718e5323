//! A machine's clocks, as functions of true time.

use hamesh_fencing::clock::Moment;
use std::time::Duration;

/// True time since the beginning of the schedule; no node can read it.
pub type Time = Duration;

pub const MILLION: u32 = 1_000_000;
/// Far enough from the beginning of the wall clock to be set back by decades.
const PRESENT: Duration = Duration::from_secs(56 * 365 * 24 * 3600);
/// The most that NTP slews, forward or back.
const SLEW: u32 = 80_000;

/// The clocks of one boot of one machine. Rates are in ticks per million true ones.
#[derive(Clone, Debug)]
pub struct Clocks {
    crystal: u32,
    /// The kernel's timers and the wall clock are slewed by NTP, `CLOCK_MONOTONIC_RAW` is not.
    slewed: u32,
    /// Since the machine had been awake for so long, when the kernel's timers had counted this.
    slewed_since: (Duration, Duration),
    /// What the wall clock says when the timers and the sleep say nothing.
    wall0: Duration,
    /// How often somebody has set the wall clock back.
    set_back: u32,
    boot0: Duration,
    raw0: Duration,
    slept: Duration,
    asleep_since: Option<Time>,
}

impl Clocks {
    /// That drift by up to so many ppm.
    pub fn any(rng: &mut fastrand::Rng, drift: u32) -> Self {
        // The ends of the range are where the margins are thin.
        let crystal = match rng.u8(0..4) {
            0 => MILLION - drift,
            1 => MILLION + drift,
            _ => rng.u32(MILLION - drift..=MILLION + drift),
        };
        Self {
            crystal,
            slewed: crystal + any_slew(rng) - SLEW,
            slewed_since: (Duration::ZERO, Duration::ZERO),
            wall0: PRESENT,
            set_back: 0,
            boot0: Duration::from_millis(rng.u64(0..1_000_000)),
            raw0: Duration::from_millis(rng.u64(0..1_000_000)),
            slept: Duration::ZERO,
            asleep_since: None,
        }
    }

    pub fn read(&self, t: Time) -> Moment {
        let raw = scaled(self.awake(t), self.crystal);
        Moment::at(self.boot0 + raw + self.asleep(t), self.raw0 + raw)
    }

    /// What the kernel's own timers count: slewed, and still in suspend.
    pub fn jiffies(&self, t: Time) -> Duration {
        let (awake, counted) = self.slewed_since;
        counted + scaled(self.awake(t).saturating_sub(awake), self.slewed)
    }

    /// The wall clock, as far as `meta time` is concerned: slewed, and it counts suspend.
    pub fn wall(&self, t: Time) -> Duration {
        self.wall0 + self.jiffies(t) + self.asleep(t)
    }

    /// Somebody sets the wall clock, by as much forward or back.
    pub fn set_wall(&mut self, forward: bool, by: Duration) {
        self.set_back += u32::from(!forward);
        self.wall0 = if forward { self.wall0 + by } else { self.wall0.saturating_sub(by) };
    }

    pub fn set_back(&self) -> u32 {
        self.set_back
    }

    /// NTP slews otherwise from now on.
    pub fn slew(&mut self, rng: &mut fastrand::Rng, t: Time) {
        self.slewed_since = (self.awake(t), self.jiffies(t));
        self.slewed = self.crystal + any_slew(rng) - SLEW;
    }

    /// How far the crystal is off, in ppm.
    pub fn drift(&self) -> u32 {
        self.crystal.abs_diff(MILLION)
    }

    pub fn is_slewed(&self) -> bool {
        self.slewed != self.crystal
    }

    pub fn suspend(&mut self, t: Time) {
        self.asleep_since.get_or_insert(t);
    }

    pub fn resume(&mut self, t: Time) {
        self.slept = self.asleep(t);
        self.asleep_since = None;
    }

    pub fn is_suspended(&self) -> bool {
        self.asleep_since.is_some()
    }

    pub fn asleep(&self, t: Time) -> Duration {
        self.slept + self.asleep_since.map_or(Duration::ZERO, |since| t.saturating_sub(since))
    }

    fn awake(&self, t: Time) -> Duration {
        t.saturating_sub(self.asleep(t))
    }
}

fn any_slew(rng: &mut fastrand::Rng) -> u32 {
    match rng.u8(0..8) {
        0 | 1 => 0,
        2 => rng.u32(0..2 * SLEW),
        _ => SLEW,
    }
}

fn scaled(span: Duration, rate: u32) -> Duration {
    // A schedule takes seconds, so this is far from the end of 64 bits.
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos * u64::from(rate) / u64::from(MILLION))
}
