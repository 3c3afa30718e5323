//! Who should vote: the largest odd number up to five, grown by pairs, spread over racks.
//!
//! The number of voters never shrinks by itself: a voter that is gone is replaced when another node is ready, and until
//! then its vote is missed. One that was removed votes no more, replaced or not. An even number would tolerate no more
//! failures and need more acks.

use crate::command::{NodeId, Role};
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};

/// The most voters.
pub const MOST_VOTERS: usize = 5;

/// The next set of voters, one step from `voters`; `None` when nothing is to be done. `ready` nodes are reachable and caught
/// up; `gone` ones have been unreachable for long. The `leader` goes on voting.
pub fn next(
    state: &State,
    voters: &BTreeSet<NodeId>,
    ready: &BTreeSet<NodeId>,
    gone: &BTreeSet<NodeId>,
    leader: NodeId,
) -> Option<BTreeSet<NodeId>> {
    let mut kept: BTreeSet<NodeId> = voters.iter().copied().filter(|node| state.members.contains_key(node)).collect();
    if kept.len() < voters.len() {
        if kept.len().is_multiple_of(2) {
            match best(state, &kept, ready, gone) {
                Some(successor) => kept.insert(successor),
                None => kept.iter().copied().rfind(|node| *node != leader).is_some_and(|node| kept.remove(&node)),
            };
        }
        return Some(kept);
    }
    if let Some(lost) = voters.intersection(gone).next() {
        let mut kept = voters.clone();
        kept.remove(lost);
        if let Some(successor) = best(state, &kept, ready, gone) {
            kept.insert(successor);
            return Some(kept);
        }
    }
    if voters.len() + 2 > MOST_VOTERS {
        return None;
    }
    let mut grown = voters.clone();
    for _ in 0..2 {
        grown.insert(best(state, &grown, ready, gone)?);
    }
    Some(grown)
}

/// Why a member does not vote, in words for people.
pub fn why_learner(state: &State, voters: &BTreeSet<NodeId>) -> String {
    match voters.len() {
        MOST_VOTERS.. => format!("{MOST_VOTERS} voters are enough"),
        voting => format!("an odd number votes: {voting} of {}", state.members.len()),
    }
}

/// The ready node whose rack has the fewest voters; a witness first, then the lowest id.
fn best(state: &State, voters: &BTreeSet<NodeId>, ready: &BTreeSet<NodeId>, gone: &BTreeSet<NodeId>) -> Option<NodeId> {
    let mut racks: BTreeMap<&str, usize> = BTreeMap::new();
    for member in voters.iter().filter_map(|node| state.members.get(node)) {
        *racks.entry(&member.rack).or_default() += 1;
    }
    let free = ready.iter().filter(|node| !voters.contains(node) && !gone.contains(node));
    let members = free.filter_map(|node| Some((*node, state.members.get(node)?)));
    members
        .min_by_key(|(node, member)| {
            (racks.get(member.rack.as_str()).copied().unwrap_or(0), member.role != Role::Witness, *node)
        })
        .map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Applicant, ClusterId, Command, InvitationId, Leadership, Lineage};
    use std::time::Duration;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn state(nodes: &[(&str, Role)]) -> State {
        let mut state = State::default();
        let mut index = 0;
        let mut apply = |command| {
            index += 1;
            state.apply(index, Leadership::default(), &command);
        };
        for (n, (rack, role)) in nodes.iter().enumerate() {
            let applicant = Applicant {
                name: format!("lb{n}"),
                role: *role,
                rack: (*rack).to_owned(),
                address: "10.0.0.1:7112".parse().unwrap(),
                key: [u8::try_from(n).unwrap(); 32],
            };
            if n == 0 {
                let lineage = Lineage { counter: 1, id: 1 };
                apply(Command::Found { cluster: ClusterId(1), name: "c".to_owned(), lineage, founder: applicant });
                continue;
            }
            let (id, expires_at) = (InvitationId(n as u64), Duration::from_secs(9));
            apply(Command::Invite { id, secret_hash: [0; 32], role: *role, expires_at });
            apply(Command::Join { invitation: id, applicant, at: Duration::ZERO });
        }
        state
    }

    #[test]
    fn two_nodes_have_one_voter_and_three_have_three() {
        let state = state(&[("a", Role::Director); 4]);
        assert_eq!(next(&state, &set(&[1]), &set(&[1, 2]), &set(&[]), NodeId(1)), None);
        assert_eq!(next(&state, &set(&[1]), &set(&[1, 2, 3]), &set(&[]), NodeId(1)), Some(set(&[1, 2, 3])));
        assert_eq!(next(&state, &set(&[1, 2, 3]), &set(&[1, 2, 3, 4]), &set(&[]), NodeId(1)), None);
    }

    #[test]
    fn racks_count_before_witnesses_and_witnesses_before_ids() {
        use Role::{Director, Witness};
        let state = state(&[("a", Director), ("a", Director), ("b", Director), ("b", Witness), ("a", Witness)]);
        assert_eq!(next(&state, &set(&[1]), &set(&[1, 2, 3, 4, 5]), &set(&[]), NodeId(1)), Some(set(&[1, 4, 5])));
    }

    #[test]
    fn a_removed_voter_is_replaced_or_takes_another_along() {
        let mut state = state(&[("a", Role::Director); 4]);
        state.apply(99, Leadership::default(), &Command::Remove { node: NodeId(2) });
        let next = |ready| next(&state, &set(&[1, 2, 3]), &ready, &set(&[]), NodeId(3));
        assert_eq!(next(set(&[1, 3, 4])), Some(set(&[1, 3, 4])));
        assert_eq!(next(set(&[1, 3])), Some(set(&[3])), "two voters are no better than one; the leader stays");
    }

    #[test]
    fn a_lost_voter_is_replaced_and_never_just_dropped() {
        let state = state(&[("a", Role::Director); 4]);
        assert_eq!(next(&state, &set(&[1, 2, 3]), &set(&[2, 3]), &set(&[1]), NodeId(1)), None);
        assert_eq!(next(&state, &set(&[1, 2, 3]), &set(&[2, 3, 4]), &set(&[1]), NodeId(1)), Some(set(&[2, 3, 4])));
    }
}
