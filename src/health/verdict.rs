//! What the directors together conclude of a target.
//!
//! A director that watches a target itself goes by what it sees: it is the one whose packets get there, or do not. One that
//! does not, as after a takeover, goes by the others, so that its first table is already right. What they say of
//! each other's view is for people, and for [`Verdict::only_here`]: a director that alone cannot reach a server has a bad path,
//! not a bad server.

use hamesh_gossip::observation::Seen;

/// How many other directors see a target, and how many of them see it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    known: usize,
    down: usize,
}

impl Tally {
    /// Counts what one sees, or takes it out again.
    pub(super) fn count(&mut self, seen: Seen, more: bool) {
        let step = |count: &mut usize| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        step(&mut self.known);
        if seen == Seen::Down {
            step(&mut self.down);
        }
    }
}

/// A conclusion and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What to go by; `None` while nobody knows.
    pub(super) seen: Option<Seen>,
    /// The others would call it up, and this director sees it down.
    pub(super) only_here: bool,
}

/// Of one target. `others` are the fresh observations; `agree` of them are needed to call it down, or all if there are fewer.
pub(super) fn verdict(own: Option<Seen>, others: Tally, agree: usize) -> Verdict {
    let theirs = match others.known {
        0 => None,
        known if others.down >= agree.min(known) => Some(Seen::Down),
        _ => Some(Seen::Up),
    };
    Verdict { seen: own.or(theirs), only_here: own == Some(Seen::Down) && theirs == Some(Seen::Up) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u` and `d` are what others see; of the result `!` is "only here".
    fn of(own: &str, others: &str) -> String {
        let seen = |c: char| if c == 'u' { Seen::Up } else { Seen::Down };
        let mut tally = Tally::default();
        // Whoever is counted twice and taken out once is counted once.
        others.chars().for_each(|other| [true, true, false].iter().for_each(|more| tally.count(seen(other), *more)));
        let Verdict { seen, only_here } = verdict(own.chars().next().map(seen), tally, 2);
        let seen = match seen {
            None => "?",
            Some(Seen::Up) => "u",
            Some(Seen::Down) => "d",
        };
        format!("{seen}{}", if only_here { "!" } else { "" })
    }

    #[test]
    fn own_eyes_first_then_the_others_in_agreement() {
        assert_eq!(of("", ""), "?");
        assert_eq!(of("", "u"), "u");
        assert_eq!(of("", "d"), "d", "one is all there is");
        assert_eq!(of("", "du"), "u", "one liar of two");
        assert_eq!(of("", "ddu"), "d");
        assert_eq!(of("u", "ddd"), "u", "it gets there");
        assert_eq!(of("d", "uu"), "d!");
        assert_eq!(of("d", "du"), "d!");
        assert_eq!(of("d", "dd"), "d");
        assert_eq!(of("d", ""), "d");
    }
}
