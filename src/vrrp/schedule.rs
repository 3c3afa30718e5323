//! What a MASTER does by the clock: adverts, and bursts of gratuitous ARP.

use super::timing::Garp;
use hamesh_fencing::clock::Moment;
use std::time::Duration;

/// The least time between two answers: a flood of adverts, forged or not, must not turn us into one.
pub const ANSWER_GAP: Duration = Duration::from_millis(250);

/// What the gap behind an answering burst grows to while the flood lasts: a burst has many packets.
pub const LONGEST_GAP: Duration = Duration::from_secs(8);

/// The timers of one time as MASTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    advertise_at: Moment,
    /// Answering adverts wait until then.
    quiet_until: Moment,
    burst: Option<Burst>,
    /// Answering bursts wait until then.
    calm_at: Moment,
    gap: Duration,
}

/// A burst that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst {
    at: Moment,
    rounds: u8,
    /// The second one, so long behind it. Zero: there is none.
    again: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// An advert.
    pub advert: bool,
    /// A burst of so many rounds.
    pub burst: Option<u8>,
}

impl Schedule {
    /// An advert and a burst are due at once.
    pub fn begin(now: Moment, garp: &Garp) -> Self {
        let burst = (garp.repeat > 0).then_some(Burst { at: now, rounds: garp.repeat, again: garp.delay });
        let calm_at = now + ANSWER_GAP;
        Self { advertise_at: now, quiet_until: calm_at, burst, calm_at, gap: ANSWER_GAP }
    }

    /// The earliest time something is due.
    pub fn next(&self) -> Moment {
        self.burst.map_or(self.advertise_at, |burst| burst.at.earlier(self.advertise_at))
    }

    /// Takes what is due and sets the next times.
    pub fn take(&mut self, now: Moment, interval: Duration, garp: &Garp) -> Due {
        let advert = now.reached(self.advertise_at);
        if advert {
            // From the deadline, so that late wake-ups do not add up; from now after a whole interval was missed.
            let next = self.advertise_at + interval;
            self.advertise_at = if now.reached(next) { now + interval } else { next };
        }
        let Some(burst) = self.burst.filter(|burst| now.reached(burst.at)) else { return Due { advert, burst: None } };
        let Burst { rounds, again, .. } = burst;
        self.burst = if again.is_zero() {
            let refresh = Burst { at: now + garp.refresh, rounds: garp.refresh_repeat, again: Duration::ZERO };
            (!garp.refresh.is_zero() && garp.refresh_repeat > 0).then_some(refresh)
        } else {
            Some(Burst { at: now + again, rounds, again: Duration::ZERO })
        };
        Due { advert, burst: Some(rounds) }
    }

    /// Brings an advert forward: to now, or to the end of the gap behind the last answer. Answers that wait for the same
    /// time are one.
    pub fn advertise_soon(&mut self, now: Moment) {
        let at = if now.reached(self.quiet_until) { now } else { self.quiet_until };
        self.advertise_at = at.earlier(self.advertise_at);
        self.quiet_until = self.quiet_until.later(self.advertise_at + ANSWER_GAP);
    }

    /// Brings a burst forward in the same way, and with it a second one. While it is asked for again and again the gap
    /// doubles.
    pub fn announce_soon(&mut self, now: Moment, rounds: u8, again: Duration) {
        let (at, gap) =
            if now.reached(self.calm_at) { (now, ANSWER_GAP) } else { (self.calm_at, LONGEST_GAP.min(self.gap * 2)) };
        if rounds > 0 && self.burst.is_none_or(|burst| !at.reached(burst.at)) {
            self.burst = Some(Burst { at, rounds, again });
            (self.calm_at, self.gap) = (at + gap, gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Moment {
        Moment::default() + Duration::from_millis(millis)
    }

    /// Asks every millisecond and returns when adverts and bursts went out, in ms.
    fn run(schedule: &mut Schedule, from: u64, to: u64, answers: impl Fn(u64) -> bool) -> (Vec<u64>, Vec<u64>) {
        let (mut adverts, mut bursts) = (vec![], vec![]);
        for ms in from..to {
            if answers(ms) {
                schedule.advertise_soon(at(ms));
                schedule.announce_soon(at(ms), 5, Duration::from_secs(5));
            }
            let due = schedule.take(at(ms), INTERVAL, &Garp::default());
            adverts.extend(due.advert.then_some(ms));
            bursts.extend(due.burst.map(|_| ms));
        }
        (adverts, bursts)
    }

    #[test]
    fn bursts_come_at_the_claim_after_five_seconds_and_every_minute() {
        let (adverts, bursts) = run(&mut Schedule::begin(at(0), &Garp::default()), 0, 130_000, |_| false);
        assert_eq!(bursts, [0, 5_000, 65_000, 125_000]);
        assert_eq!(adverts, (0..130).map(|s| s * 1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_flood_of_claims_gets_four_adverts_a_second_and_fewer_and_fewer_bursts() {
        let begin = Schedule::begin(at(0), &Garp::default());
        let (adverts, bursts) = run(&mut begin.clone(), 0, 10_000, |ms| (2_000..3_000).contains(&ms));
        assert_eq!(adverts[..8], [0, 1_000, 2_000, 2_250, 2_500, 2_750, 3_000, 4_000]);
        // The last claim of the flood gets one too, and a second one.
        assert_eq!(bursts, [0, 2_000, 2_250, 2_750, 3_750, 8_750]);
        let (_, bursts) = run(&mut begin.clone(), 0, 60_000, |_| true);
        let expected = [0, 250, 750, 1_750, 3_750, 7_750, 12_750, 15_750, 20_750, 23_750, 28_750, 31_750];
        assert_eq!(bursts[..12], expected);
    }

    #[test]
    fn a_claim_a_second_is_no_flood() {
        let (_, bursts) = run(&mut Schedule::begin(at(0), &Garp::default()), 0, 5_000, |ms| ms % 1_000 == 500);
        assert_eq!(bursts, [0, 500, 1_500, 2_500, 3_500, 4_500]);
    }

    #[test]
    fn what_is_switched_off_is_not_sent() {
        let zero = Duration::ZERO;
        let once = Garp { repeat: 1, delay: zero, refresh: zero, ..Garp::default() };
        let mut schedule = Schedule::begin(at(0), &once);
        assert_eq!(schedule.take(at(0), INTERVAL, &once).burst, Some(1));
        for ms in 1..200_000 {
            assert_eq!(schedule.take(at(ms), INTERVAL, &once).burst, None);
        }
        schedule.announce_soon(at(200_000), 0, zero);
        assert_eq!(schedule.take(at(200_000), INTERVAL, &once).burst, None);
    }

    #[test]
    fn a_late_wake_up_sends_one_advert_and_small_delays_do_not_add_up() {
        let garp = Garp::default();
        let mut schedule = Schedule::begin(at(0), &garp);
        assert!(schedule.take(at(0), INTERVAL, &garp).advert);
        assert!(schedule.take(at(1_004), INTERVAL, &garp).advert);
        assert_eq!(schedule.next(), at(2_000));
        assert!(schedule.take(at(7_500), INTERVAL, &garp).advert);
        assert!(!schedule.take(at(7_501), INTERVAL, &garp).advert);
        assert_eq!(schedule.next(), at(8_500));
    }
}
