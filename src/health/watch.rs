//! One target, as this director sees it: answers in, an observation out. Times are those since the machine's start.

use crate::config::check::Check;
use hamesh_gossip::observation::Seen;
use std::time::Duration;

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
}

impl Watch {
    /// Asked first at `first`.
    pub(super) fn new(check: &Check, first: Duration) -> Self {
        let Check { interval, again, fall, rise, .. } = *check;
        Self { interval, again, fall, rise, seen: None, against: 0, asked: None, next: first, why: None }
    }

    /// What is seen, once there were enough answers: one that is right, or `fall` that are not.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.seen
    }

    /// What was wrong with the last answer.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
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
    pub(super) fn answered(&mut self, now: Duration, answer: Result<(), String>) -> bool {
        let (says, enough) = match &answer {
            Ok(()) => (Seen::Up, if self.seen.is_none() { 1 } else { self.rise }),
            Err(_) => (Seen::Down, self.fall),
        };
        self.why = answer.err();
        self.against = if self.seen == Some(says) { 0 } else { self.against + 1 };
        let changed = self.against >= enough;
        if changed {
            (self.seen, self.against) = (Some(says), 0);
        }
        // From question to question, however long the answer took: a pause of this machine is not caught up.
        let pause = if self.against > 0 { self.again } else { self.interval };
        self.next = self.asked.take().map_or(now, |asked| asked + pause).max(now);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::Probe;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn watch() -> Watch {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        let again = Duration::from_millis(500);
        Watch::new(&Check { probe: Probe::Tcp, interval, again, timeout, fall: 3, rise: 2 }, at(0))
    }

    fn play(watch: &mut Watch, answers: &str) -> String {
        let mut seen = String::new();
        for answer in answers.chars() {
            watch.ask(at(0));
            watch.answered(at(0), if answer == '+' { Ok(()) } else { Err("refused".to_owned()) });
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
        watch.answered(at(900), Ok(()));
        assert_eq!(watch.next(), Some(at(2_100)));
        watch.ask(at(2_100));
        watch.answered(at(2_200), Err("refused".to_owned()));
        assert_eq!((watch.next(), watch.why()), (Some(at(2_600)), Some("refused")), "doubt asks again sooner");
        watch.ask(at(2_600));
        watch.answered(at(9_000), Ok(()));
        assert_eq!((watch.next(), watch.why()), (Some(at(9_000)), None));
    }
}
