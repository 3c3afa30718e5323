//! One target, as this director sees it: answers in, an observation out. Times are those since the machine's start.

use super::{Answer, Said, Share};
use crate::config::check::{Check, Loss, Probe, Slow};
use crate::config::service::Server;
use hamesh_gossip::observation::{Seen, TargetId, Weight};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is asked, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who is asked.
    pub address: SocketAddr,
    /// What, and what makes it up and down.
    pub check: Check,
}

impl Target {
    /// What is asked of a server.
    pub(super) fn of(server: &Server) -> impl Iterator<Item = Self> {
        let to = |check: &Check| {
            let way = &check.way;
            let (ip, port) = (way.address.unwrap_or(server.address.ip()), way.port.unwrap_or(server.address.port()));
            SocketAddr::new(ip, port)
        };
        server.checks.iter().map(move |check| Self { address: to(check), check: check.clone() })
    }

    /// The same on every node that asks the same, wherefrom it may ask: directors have addresses of their own. Of the targets
    /// of one director that differ in nothing else each has its place, in the order of the configuration, which they share.
    pub(super) fn id(&self, place: usize) -> TargetId {
        let Check { probe, way, interval, again, timeout, warmup: _, fall, rise, slow, loss } = &self.check;
        let connect = way.connect.map_or_else(String::new, |connect| format!(" {connect:?}"));
        let way = (&way.interface, &way.mark);
        let times = (interval, again, timeout, fall, rise, slow, loss);
        let place = if place == 0 { String::new() } else { format!(" {place}") };
        TargetId::of(&format!("{} {probe:?} {way:?} {times:?}{connect}{place}", self.address))
    }

    /// Wherefrom it is asked.
    pub(super) fn source(&self) -> (Option<IpAddr>, u16) {
        (self.check.way.source, self.check.way.source_port)
    }

    /// Whether it is never left to others: what is asked of this machine costs nothing.
    pub(super) fn is_everybodys(&self) -> bool {
        self.is_local() || matches!(self.check.probe, Probe::Bfd(_))
    }

    /// What is asked of this machine is true here alone: others cannot tell, and it is no path that is bad.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.check.probe, Probe::File { .. } | Probe::Process(_))
    }
}

/// A target that is asked every so often.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    interval: Duration,
    again: Duration,
    fall: u8,
    rise: u8,
    seen: Option<Seen>,
    /// Answers in a row that contradict what is seen.
    against: u8,
    asked: Option<Duration>,
    next: Duration,
    why: Option<String>,
    /// What was wrong when it was seen to go down.
    reason: Option<String>,
    share: Share,
    took: Option<Duration>,
    slow: Option<Slow>,
    /// It answers slowly, and answers in a row that say otherwise.
    is_slow: bool,
    paces_against: u8,
    loss: Option<Loss>,
    /// The last answers, the latest in the lowest bit: 1 is a failure.
    failures: u128,
    answers: u8,
}

impl Watch {
    /// Asked first at `first`.
    pub(super) fn new(check: &Check, first: Duration) -> Self {
        let Check { interval, again, fall, rise, slow, loss, .. } = *check;
        Self {
            interval,
            again,
            fall,
            rise,
            seen: None,
            against: 0,
            asked: None,
            next: first,
            why: None,
            reason: None,
            share: Share::Configured,
            took: None,
            slow,
            is_slow: false,
            paces_against: 0,
            loss,
            failures: 0,
            answers: 0,
        }
    }

    /// What is seen, once there were enough answers: one that is right, or `fall` that are not; or too many among the last.
    pub(super) fn seen(&self) -> Option<Seen> {
        if self.lost().is_some() { Some(Seen::Down) } else { self.seen }
    }

    /// How many of the last answers were failures, when they are too many.
    fn lost(&self) -> Option<(u32, u8)> {
        let Loss { of, most } = self.loss?;
        let lost = (self.failures & !(u128::MAX << of)).count_ones();
        (self.answers >= of && lost > u32::from(most)).then_some((lost, of))
    }

    /// What was wrong with the last answer.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Why it is down: what was wrong when it went. What is told to others is to stay the same while nothing changes.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.seen() == Some(Seen::Down))
    }

    /// What the last good answer made of its weight, and what is left of that while its answers are slow.
    pub(super) fn weight(&self) -> Weight {
        let percent = self.slow.filter(|_| self.is_slow).map_or(100, |slow| slow.percent);
        Weight { share: self.share, percent }
    }

    /// How long the last good answer took.
    pub(super) fn took(&self) -> Option<Duration> {
        self.took
    }

    /// When it is to be asked; `None` while it is.
    pub(super) fn next(&self) -> Option<Duration> {
        self.asked.is_none().then_some(self.next)
    }

    /// It is being asked.
    pub(super) fn ask(&mut self, now: Duration) {
        self.asked = Some(now);
    }

    /// It has answered, or not as it should. Whether what is seen has changed.
    pub(super) fn answered(&mut self, now: Duration, answer: Answer) -> bool {
        let (seen, weight) = (self.seen(), self.weight());
        let slow = self.slow.filter(|slow| answer.took > slow.after);
        let said = match (answer.said, slow) {
            (Said::Up(_), Some(Slow { after, percent: 0 })) => {
                Said::Down(format!("answered after {:?}, more than {after:?}", answer.took))
            }
            (Said::Up(share), slow) => {
                self.paced(slow.is_some());
                Said::Up(share)
            }
            (said, _) => said,
        };
        let (says, enough) = match said {
            Said::Up(share) => {
                (self.why, self.share, self.took) = (None, share, Some(answer.took));
                (Seen::Up, if self.seen.is_none() { 1 } else { self.rise })
            }
            Said::Down(why) => {
                self.why = Some(why);
                (Seen::Down, self.fall)
            }
            Said::Unasked(why) => {
                self.why = Some(why);
                self.again_after(now, self.interval);
                return false;
            }
        };
        self.failures = self.failures << 1 | u128::from(says == Seen::Down);
        self.answers = self.answers.saturating_add(1);
        if let Some((lost, of)) = self.lost().filter(|_| says == Seen::Up) {
            self.why = Some(format!("{lost} of the last {of} answers were failures"));
        }
        self.against = if self.seen == Some(says) { 0 } else { self.against + 1 };
        if self.against >= enough {
            (self.seen, self.against) = (Some(says), 0);
        }
        self.again_after(now, if self.against > 0 { self.again } else { self.interval });
        if seen != self.seen() {
            self.reason.clone_from(&self.why);
        }
        seen != self.seen() || weight != self.weight()
    }

    /// A good answer was slow, or not.
    fn paced(&mut self, slowly: bool) {
        self.paces_against = if slowly == self.is_slow { 0 } else { self.paces_against + 1 };
        if self.paces_against >= if slowly { self.fall } else { self.rise } {
            (self.is_slow, self.paces_against) = (slowly, 0);
        }
    }

    /// From question to question, however long the answer took: a pause of this machine is not caught up.
    fn again_after(&mut self, now: Duration, pause: Duration) {
        self.next = self.asked.take().map_or(now, |asked| asked + pause).max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::Way;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn watch() -> Watch {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        let again = Duration::from_millis(500);
        let (probe, way, warmup) = (Probe::Tcp, Way::default(), interval);
        let (slow, loss) = (Some(Slow { after: at(800), percent: 0 }), None);
        Watch::new(&Check { probe, way, interval, again, timeout, warmup, fall: 3, rise: 2, slow, loss }, at(0))
    }

    fn good() -> Answer {
        Answer { said: Said::Up(Share::Configured), took: at(1) }
    }

    fn bad() -> Answer {
        Answer { said: Said::Down("refused".to_owned()), took: at(1) }
    }

    fn play(watch: &mut Watch, answers: &str) -> String {
        let mut seen = String::new();
        for answer in answers.chars() {
            watch.ask(at(0));
            watch.answered(at(0), if answer == '+' { good() } else { bad() });
            seen.push(match watch.seen() {
                None => '?',
                Some(Seen::Up) => 'u',
                Some(Seen::Down) => 'd',
            });
        }
        seen
    }

    #[test]
    fn falls_and_rises_by_answers_in_a_row() {
        assert_eq!(play(&mut watch(), "+-+--+---"), "uuuuuuuud", "one good answer begins anew");
        assert_eq!(play(&mut watch(), "---+-++"), "??ddddu");
        assert_eq!(play(&mut watch(), "--+"), "??u", "unknown until one is right");
    }

    #[test]
    fn is_asked_every_interval_and_never_twice_at_once() {
        let mut watch = watch();
        watch.ask(at(100));
        assert_eq!(watch.next(), None);
        watch.answered(at(900), good());
        assert_eq!(watch.next(), Some(at(2_100)));
        watch.ask(at(2_100));
        watch.answered(at(2_200), bad());
        assert_eq!((watch.next(), watch.why()), (Some(at(2_600)), Some("refused")), "doubt asks again sooner");
        watch.ask(at(2_600));
        assert_eq!(watch.next(), None, "one that takes longer than its interval is waited for");
        watch.answered(at(9_000), good());
        assert_eq!((watch.next(), watch.why()), (Some(at(9_000)), None));
    }

    #[test]
    fn too_many_failures_among_the_last_are_down_though_never_three_in_a_row() {
        let mut watch = Watch { loss: Some(Loss { of: 6, most: 2 }), ..watch() };
        assert_eq!(play(&mut watch, "+-+-+-"), "uuuuud", "three of six");
        assert_eq!(watch.why(), Some("refused"));
        assert_eq!(play(&mut watch, "+"), "d", "two of six, and still three of the last six");
        assert_eq!(watch.why(), Some("3 of the last 6 answers were failures"));
        assert_eq!(play(&mut watch, "++"), "uu");
    }

    #[test]
    fn a_slow_answer_is_a_failure() {
        let mut watch = watch();
        for _ in 0..3 {
            watch.answered(at(0), Answer { took: at(801), ..good() });
        }
        assert_eq!((watch.seen(), watch.why()), (Some(Seen::Down), Some("answered after 801ms, more than 800ms")));
        watch.answered(at(0), Answer { took: at(800), ..good() });
        assert_eq!(watch.why(), None);
    }

    #[test]
    fn slow_answers_in_a_row_leave_a_part_of_the_weight() {
        let mut watch = Watch { slow: Some(Slow { after: at(800), percent: 40 }), ..watch() };
        let mut took = |millis| {
            let changed = watch.answered(at(0), Answer { took: at(millis), ..good() });
            (watch.weight().percent, changed)
        };
        assert_eq!([900, 900, 100].map(&mut took), [(100, true), (100, false), (100, false)], "seen, and not yet slow");
        assert_eq!([900, 900, 900].map(&mut took), [(100, false), (100, false), (40, true)]);
        assert_eq!([100, 900, 100, 100].map(&mut took), [(40, false), (40, false), (40, false), (100, true)]);
        assert_eq!((watch.seen(), watch.why()), (Some(Seen::Up), None));
    }

    #[test]
    fn what_could_not_be_asked_says_nothing() {
        let mut watch = watch();
        assert_eq!(play(&mut watch, "+--"), "uuu");
        for _ in 0..5 {
            watch.ask(at(0));
            let unasked = Answer { said: Said::Unasked("no socket".to_owned()), took: at(0) };
            assert!(!watch.answered(at(0), unasked));
        }
        assert_eq!((watch.seen(), watch.why()), (Some(Seen::Up), Some("no socket")));
        assert_eq!(play(&mut watch, "-"), "d", "the third failure in a row of those that were asked");
    }

    #[test]
    fn a_weight_that_changes_is_a_change() {
        let mut watch = watch();
        let weighs = |share| Answer { said: Said::Up(share), took: at(3) };
        let changes =
            [Share::Exactly(7), Share::Exactly(7), Share::More(-1)].map(|share| watch.answered(at(0), weighs(share)));
        assert_eq!(changes, [true, false, true]);
        assert_eq!((watch.weight().share, watch.took()), (Share::More(-1), Some(at(3))));
    }
}
