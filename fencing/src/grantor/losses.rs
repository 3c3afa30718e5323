//! Directors that lose a group again and again, and how long they wait before they may ask for it back.
//!
//! Every node keeps this account from the applied state, so the next leader has it too. A free group is granted to the best
//! candidate whatever it has lost: only taking a group from somebody who serves it is held back.

use crate::clock::Moment;
use hamesh_raft::command::{GroupName, NodeId, Token};
use hamesh_raft::state::State;
use std::collections::BTreeMap;
use std::time::Duration;

/// So many losses are no pattern: a crash, a restart, somebody at work.
const FREE: u32 = 3;
/// Of the first loss beyond; twice as long for each more.
const FIRST: Duration = Duration::from_secs(2);

/// Who has lost what of late.
#[derive(Clone, Debug, Hash)]
pub(super) struct Losses {
    /// The longest pause; zero holds nobody back.
    longest: Duration,
    grants: BTreeMap<GroupName, Granted>,
    counts: BTreeMap<(GroupName, NodeId), Count>,
}

/// A grant as it was when it was seen first.
#[derive(Clone, Debug, Hash)]
struct Granted {
    token: Token,
    node: NodeId,
    priority: u8,
}

#[derive(Clone, Debug, Hash)]
struct Count {
    losses: u32,
    last: Moment,
}

impl Losses {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, grants: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Compares the state with the last one. A loss is what nobody ordered and no better candidate asked for: the priority
    /// that counts is the one that the group was granted with, so one that falls and rises again is a cause of losses.
    pub(super) fn applied(&mut self, now: Moment, state: &State) {
        let memory = self.longest * 2;
        self.counts.retain(|_, count| now.since(count.last) < memory);
        let Self { grants, counts, .. } = self;
        grants.retain(|group, old| {
            let new = seen(state, group);
            match &new {
                Some(new) if new.token == old.token => return true,
                Some(new) if new.node == old.node || new.priority > old.priority => return false,
                Some(_) | None => {}
            }
            let pinned = state.groups.get(group).and_then(|group| group.pinned);
            let drained = state.members.get(&old.node).is_none_or(|member| member.drained);
            if !drained && pinned.is_none_or(|node| node == old.node) {
                let count = counts.entry((group.clone(), old.node)).or_insert(Count { losses: 0, last: now });
                (count.losses, count.last) = (count.losses.saturating_add(1), now);
            }
            false
        });
        for group in state.groups.keys() {
            if !grants.contains_key(group)
                && let Some(granted) = seen(state, group)
            {
                grants.insert(group.clone(), granted);
            }
        }
    }

    /// How often the node has lost the group of late, and how long it may not ask for it yet.
    pub(super) fn of(&self, now: Moment, group: &str, node: NodeId) -> (u32, Duration) {
        let Some(count) = self.counts.get(&(group.to_owned(), node)) else { return (0, Duration::ZERO) };
        let past = now.since(count.last);
        if past >= self.longest * 2 {
            return (0, Duration::ZERO);
        }
        (count.losses, pause(count.losses, self.longest).saturating_sub(past))
    }
}

fn seen(state: &State, group: &str) -> Option<Granted> {
    let (holder, node) = (state.holder(group)?, state.holder_node(group)?);
    let priority = state.groups.get(group)?.candidates.get(&holder.sid).map_or(0, |candidate| candidate.priority);
    Some(Granted { token: holder.token, node, priority })
}

/// What `losses` within the memory cost.
fn pause(losses: u32, longest: Duration) -> Duration {
    let Some(more) = losses.checked_sub(FREE + 1) else { return Duration::ZERO };
    FIRST.saturating_mul(2u32.saturating_pow(more)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_and_is_bounded() {
        let longest = Duration::from_secs(30);
        let seconds = [0, 0, 0, 0, 2, 4, 8, 16, 30, 30];
        for (losses, expected) in (0..).zip(seconds) {
            assert_eq!(pause(losses, longest), Duration::from_secs(expected), "{losses}");
        }
        assert_eq!(pause(u32::MAX, longest), longest);
        assert_eq!(pause(u32::MAX, Duration::ZERO), Duration::ZERO);
    }
}
