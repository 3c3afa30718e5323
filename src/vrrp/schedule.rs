//! What a MASTER does by the clock: adverts, and bursts of gratuitous ARP.

use hamesh_fencing::clock::Moment;
use std::time::Duration;

/// The second burst after a claim, for switches and hosts that missed the first (keepalived's `garp_master_delay`).
pub const SECOND_BURST: Duration = Duration::from_secs(5);

/// A burst without any cause: a host that learned a wrong address while we could not hear of it is dark no longer than this.
pub const REFRESH: Duration = Duration::from_secs(60);

/// The least time between two answers: a flood of adverts, forged or not, must not turn us into one.
pub const ANSWER_GAP: Duration = Duration::from_millis(250);

/// The timers of one time as MASTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    advertise_at: Moment,
    announce_at: Moment,
    /// Whether the next burst has a second one behind it.
    repeat: bool,
    /// Answers wait until then.
    quiet_until: Moment,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// An advert.
    pub advert: bool,
    /// A burst.
    pub burst: bool,
}

impl Schedule {
    /// An advert and a burst are due at once.
    pub fn begin(now: Moment) -> Self {
        Self { advertise_at: now, announce_at: now, repeat: true, quiet_until: now + ANSWER_GAP }
    }

    /// The earliest time something is due.
    pub fn next(&self) -> Moment {
        self.advertise_at.earlier(self.announce_at)
    }

    /// Takes what is due and sets the next times.
    pub fn take(&mut self, now: Moment, interval: Duration) -> Due {
        let due = Due { advert: now.reached(self.advertise_at), burst: now.reached(self.announce_at) };
        if due.advert {
            // From the deadline, so that late wake-ups do not add up; from now after a whole interval was missed.
            let next = self.advertise_at + interval;
            self.advertise_at = if now.reached(next) { now + interval } else { next };
        }
        if due.burst {
            self.announce_at = now + if self.repeat { SECOND_BURST } else { REFRESH };
            self.repeat = false;
        }
        due
    }

    /// Brings an advert forward, and with `burst` a burst and its second one: to now, or to the end of the gap behind
    /// the last answer. Answers that wait for the same time are one.
    pub fn answer(&mut self, now: Moment, burst: bool) {
        let at = if now.reached(self.quiet_until) { now } else { self.quiet_until };
        if at.reached(self.advertise_at) && (!burst || at.reached(self.announce_at)) {
            return;
        }
        self.advertise_at = self.advertise_at.earlier(at);
        if burst {
            self.announce_at = self.announce_at.earlier(at);
            self.repeat = true;
        }
        self.quiet_until = at + ANSWER_GAP;
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
                schedule.answer(at(ms), true);
            }
            let due = schedule.take(at(ms), INTERVAL);
            adverts.extend(due.advert.then_some(ms));
            bursts.extend(due.burst.then_some(ms));
        }
        (adverts, bursts)
    }

    #[test]
    fn bursts_come_at_the_claim_after_five_seconds_and_every_minute() {
        let (adverts, bursts) = run(&mut Schedule::begin(at(0)), 0, 130_000, |_| false);
        assert_eq!(bursts, [0, 5_000, 65_000, 125_000]);
        assert_eq!(adverts, (0..130).map(|s| s * 1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_flood_of_claims_gets_four_answers_a_second_and_the_last_claim_gets_one() {
        let (adverts, bursts) = run(&mut Schedule::begin(at(0)), 0, 10_000, |ms| (2_000..3_000).contains(&ms));
        assert_eq!(adverts[..8], [0, 1_000, 2_000, 2_250, 2_500, 2_750, 3_000, 4_000]);
        assert_eq!(bursts, [0, 2_000, 2_250, 2_500, 2_750, 3_000, 8_000]);
    }

    #[test]
    fn a_late_wake_up_sends_one_advert_and_small_delays_do_not_add_up() {
        let mut schedule = Schedule::begin(at(0));
        assert!(schedule.take(at(0), INTERVAL).advert);
        assert!(schedule.take(at(1_004), INTERVAL).advert);
        assert_eq!(schedule.next(), at(2_000));
        assert!(schedule.take(at(7_500), INTERVAL).advert);
        assert!(!schedule.take(at(7_501), INTERVAL).advert);
        assert_eq!(schedule.next(), at(8_500));
    }
}
