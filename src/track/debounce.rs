//! Interfaces that flap: a change counts once it has lasted, keepalived's `interface_up_down_delays`.

use crate::config::track::Delays;
use hamesh_fencing::clock::Moment;
use std::collections::BTreeMap;

/// What is made of what interfaces say.
#[derive(Debug, Default)]
pub struct Debounce {
    delays: BTreeMap<String, Delays>,
    links: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    /// What counts.
    up: bool,
    /// It says otherwise, and counts so from then on.
    turns: Option<Moment>,
}

impl Debounce {
    /// With the delays of the interfaces that have some.
    pub fn new(delays: &BTreeMap<String, Delays>) -> Self {
        Self { delays: delays.clone(), links: BTreeMap::new() }
    }

    /// Whether an interface counts as up that is, or is not. What is seen first counts at once.
    pub fn see(&mut self, now: Moment, name: &str, up: bool) -> bool {
        let Some(delays) = self.delays.get(name) else { return up };
        let known = self.links.entry(name.to_owned()).or_insert(Known { up, turns: None });
        if known.up == up {
            known.turns = None;
            return up;
        }
        let delay = if up { delays.up } else { delays.down };
        if now.reached(*known.turns.get_or_insert(now + delay)) {
            *known = Known { up, turns: None };
        }
        known.up
    }

    /// It is not there at all: that counts at once.
    pub fn gone(&mut self, name: &str) {
        self.links.remove(name);
    }

    /// When to look again, though nothing has been told.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.links.values().filter_map(|known| known.turns).reduce(Moment::earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_change_counts_once_it_has_lasted() {
        let seconds = Duration::from_secs;
        let delays = Delays { down: seconds(2), up: seconds(3) };
        let mut debounce = Debounce::new(&BTreeMap::from([("eth0".to_owned(), delays)]));
        let mut at = |second, name: &str, up| {
            let counts = debounce.see(Moment::default() + seconds(second), name, up);
            (counts, debounce.next_deadline().map(|due| due.since(Moment::default()).as_secs()))
        };
        assert_eq!(at(0, "eth0", true), (true, None), "what is seen first");
        assert_eq!(at(1, "eth0", false), (true, Some(3)));
        assert_eq!(at(2, "eth0", true), (true, None), "it was back in time");
        assert_eq!(at(4, "eth0", false), (true, Some(6)));
        assert_eq!(at(5, "eth0", false), (true, Some(6)), "seen again, no later");
        assert_eq!(at(6, "eth0", false), (false, None));
        assert_eq!(at(7, "eth0", true), (false, Some(10)));
        assert_eq!(at(10, "eth0", true), (true, None));
        assert_eq!(at(11, "eth1", false), (false, None), "one without delays");
        debounce.gone("eth0");
        assert!(!debounce.see(Moment::default() + seconds(12), "eth0", false), "made anew, without carrier");
    }
}
