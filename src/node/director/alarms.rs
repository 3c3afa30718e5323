//! When each virtual router is to be asked again.

use hamesh_fencing::clock::Moment;
use hamesh_raft::command::GroupName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The routers by their deadlines: a thousand of them cost an event of one nothing.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// By the clock that counts suspend, which is never behind the other: of deadlines that were read at different times it
    /// alone says in which order they come.
    by_time: BTreeSet<(Duration, GroupName)>,
    by_group: BTreeMap<GroupName, Moment>,
}

impl Alarms {
    /// A group's next deadline; `None`: it waits for nothing.
    pub(super) fn set(&mut self, group: &GroupName, at: Option<Moment>) {
        let before = self.by_group.get(group).copied();
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before.both().0, group.clone()));
        }
        match at {
            Some(at) => {
                self.by_time.insert((at.both().0, group.clone()));
                self.by_group.insert(group.clone(), at);
            }
            None => drop(self.by_group.remove(group)),
        }
    }

    /// What is left until the first one.
    pub(super) fn next(&self, now: Moment) -> Option<Duration> {
        let (_, group) = self.by_time.first()?;
        self.by_group.get(group).map(|at| now.until(*at))
    }

    /// Those whose deadline has come.
    pub(super) fn due(&self, now: Moment) -> Vec<GroupName> {
        let due =
            self.by_time.iter().take_while(|(_, group)| self.by_group.get(group).is_some_and(|at| now.reached(*at)));
        due.map(|(_, group)| group.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sleep: u64, ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms + sleep), Duration::from_millis(ms))
    }

    #[test]
    fn a_group_has_one_deadline_and_the_first_comes_first() {
        let mut alarms = Alarms::default();
        let [a, b] = ["a", "b"].map(GroupName::from);
        alarms.set(&a, Some(at(0, 30)));
        alarms.set(&b, Some(at(0, 20)));
        alarms.set(&a, Some(at(0, 10)));
        assert_eq!(alarms.next(at(0, 4)), Some(Duration::from_millis(6)));
        assert_eq!(alarms.due(at(0, 10)), std::slice::from_ref(&a));
        alarms.set(&a, None);
        assert_eq!((alarms.due(at(0, 19)), alarms.due(at(0, 20))), (vec![], vec![b.clone()]));
        alarms.set(&b, None);
        assert_eq!(alarms.next(at(0, 21)), None);
    }

    #[test]
    fn what_was_set_before_a_suspend_is_due_after_it() {
        let mut alarms = Alarms::default();
        let [a, b] = ["a", "b"].map(GroupName::from);
        alarms.set(&a, Some(at(0, 110)));
        alarms.set(&b, Some(at(50, 105)));
        assert_eq!(alarms.due(at(50, 102)), [a]);
    }
}
