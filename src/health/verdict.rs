//! What the directors together conclude of a target.
//!
//! A director that watches a target itself goes by what it sees: it is the one whose packets get there, or do not. One that
//! does not, as after a takeover, goes by the others, so that its first table is already right. What they say of
//! each other's view is for people, and for [`Verdict::only_here`]: a director that alone cannot reach a server has a bad path,
//! not a bad server.

use hamesh_gossip::observation::{Observation, Seen, Weight};
use hamesh_raft::command::NodeId;
use std::collections::BTreeMap;

/// How many other directors see a target, how many of them see it down, and what it is to weigh by those that see it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Opinions {
    known: usize,
    down: usize,
    /// The weights that are not as configured: mostly none.
    weights: BTreeMap<NodeId, Weight>,
}

impl Opinions {
    /// Counts what one finds, or takes it out again.
    pub(super) fn count(&mut self, node: NodeId, found: Observation, more: bool) {
        let step = |count: &mut usize| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        step(&mut self.known);
        if found.seen == Seen::Down {
            step(&mut self.down);
        }
        if more && found.weight != Weight::default() {
            self.weights.insert(node, found.weight);
        } else {
            self.weights.remove(&node);
        }
    }

    /// The weight of which `agree` of them, or all if there are fewer, say that it is as little, or less. `makes` says what
    /// each makes of the configured weight.
    pub(super) fn weight(&self, agree: usize, makes: impl Fn(&Weight) -> u32) -> Weight {
        let as_configured = self.known.saturating_sub(self.down + self.weights.len());
        let mut weights: Vec<Weight> = self.weights.values().copied().collect();
        if weights.is_empty() {
            return Weight::default();
        }
        weights.extend(std::iter::repeat_n(Weight::default(), as_configured));
        weights.sort_by_key(makes);
        weights.get(agree.min(weights.len()).saturating_sub(1)).copied().unwrap_or_default()
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
pub(super) fn verdict(own: Option<Seen>, others: &Opinions, agree: usize) -> Verdict {
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
    use hamesh_gossip::observation::Share;

    /// `u` and `d` are what others see; of the result `!` is "only here".
    fn of(own: &str, others: &str) -> String {
        let seen = |c: char| if c == 'u' { Seen::Up } else { Seen::Down };
        let mut opinions = Opinions::default();
        for (node, other) in (1..).map(NodeId).zip(others.chars()) {
            // Whoever is counted, taken out and counted again is counted once.
            [true, false, true].iter().for_each(|more| opinions.count(node, seen(other).into(), *more));
        }
        let Verdict { seen, only_here } = verdict(own.chars().next().map(seen), &opinions, 2);
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

    #[test]
    fn a_weight_is_what_enough_of_them_agree_on() {
        let agreed = |weights: &[Option<u32>]| {
            let mut opinions = Opinions::default();
            for (node, weight) in (1..).map(NodeId).zip(weights) {
                let share = weight.map_or(Share::Configured, Share::Exactly);
                opinions.count(node, Observation { seen: Seen::Up, weight: Weight { share, percent: 100 } }, true);
            }
            opinions.count(NodeId(9), Seen::Down.into(), true);
            let makes = |weight: &Weight| if let Share::Exactly(weight) = weight.share { weight } else { 10 };
            makes(&opinions.weight(2, makes))
        };
        assert_eq!(agreed(&[]), 10);
        assert_eq!(agreed(&[Some(3)]), 3, "one is all there is");
        assert_eq!(agreed(&[Some(3), Some(5)]), 5);
        assert_eq!(agreed(&[Some(0), Some(5), Some(90)]), 5, "one that says less does not starve it");
        assert_eq!(agreed(&[Some(3), None, None]), 10);
        assert_eq!(agreed(&[Some(90), Some(80), None]), 80);
        let mut opinions = Opinions::default();
        let weight = Weight { share: Share::Exactly(3), percent: 100 };
        for more in [true, false] {
            opinions.count(NodeId(1), Observation { seen: Seen::Up, weight }, more);
        }
        assert_eq!(opinions, Opinions::default(), "what was said is taken back");
    }
}
