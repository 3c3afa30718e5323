//! Nodes in one process, with lines between them that can be cut.

use super::*;
use crate::codec;
use crate::command::{Leadership, Outcome};
use crate::raft::{ChangeError, FoundError, ProposeError, ServeError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_proposes_all_apply_in_the_order_that_the_observer_is_promised() {
    let dir = tempfile::tempdir().unwrap();
    let (_lines, members) = cluster(3, dir.path()).await;
    let leader = &members[0];
    let applied = leader.raft.propose(invite(1)).await.unwrap();
    assert_eq!(applied.outcome, Outcome::Done);
    for member in &members {
        let view = member.sees(|view| view.applied >= applied.index).await;
        assert_eq!(view.membership.halves, vec![ids(&[1, 2, 3])]);
        assert_eq!(view.membership, view.effective);
        assert_eq!(view.state, leader.raft.view().borrow().state);
        let heard = member.recorder.heard();
        let place = |what: &dyn Fn(&Heard) -> bool| heard.iter().position(what).unwrap();
        let noted = place(&|heard| matches!(heard, Heard::Appended(e) if e.iter().any(|e| e.index == applied.index)));
        let acted = place(&|heard| matches!(heard, Heard::Applied(view) if view.applied >= applied.index));
        assert!(noted < acted, "{heard:?}");
        let mut flushes =
            heard.iter().enumerate().filter(|(_, h)| matches!(h, Heard::Flushed(i) if *i >= applied.index));
        assert!(flushes.all(|(flush, _)| noted < flush), "flushed before it was appended: {heard:?}");
        let entry = heard.iter().find_map(|heard| match heard {
            Heard::Appended(entries) => entries.iter().find(|entry| entry.index == applied.index),
            Heard::Truncated(_) | Heard::Flushed(_) | Heard::Applied(_) => None,
        });
        assert_eq!(entry.unwrap().what, What::Command(Arc::new(invite(1))));
    }
    let standing = leader.stands(|standing| standing.followers.values().all(|f| f.matched >= applied.index)).await;
    assert_eq!(standing.followers.keys().copied().collect::<BTreeSet<_>>(), ids(&[2, 3]));
    leader.stands(|standing| standing.quorum_heard.is_some_and(|heard| heard.elapsed() < PATIENCE)).await;
    assert!(matches!(leader.raft.found().await, Err(FoundError::Founded)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_learners_are_promoted_in_one_joint_change_and_a_stale_expectation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_lines, members) = cluster(3, dir.path()).await;
    let memberships: Vec<Membership> = members[0]
        .recorder
        .heard()
        .into_iter()
        .flat_map(|heard| match heard {
            Heard::Appended(entries) => entries,
            Heard::Truncated(_) | Heard::Flushed(_) | Heard::Applied(_) => vec![],
        })
        .filter_map(|entry| match entry.what {
            What::Membership(membership) => Some(membership),
            What::Blank | What::Command(_) => None,
        })
        .collect();
    let halves: Vec<_> = memberships.iter().map(|membership| membership.halves.clone()).collect();
    let (one, three) = (ids(&[1]), ids(&[1, 2, 3]));
    let joint = vec![one.clone(), three.clone()];
    assert_eq!(halves, [vec![one.clone()], vec![one.clone()], vec![one], joint, vec![three]]);
    assert_eq!(memberships[2].learners, ids(&[2, 3]));

    let stale = members[0].raft.change_voters(ids(&[1]), &memberships[2]).await;
    assert!(matches!(stale, Err(ChangeError::Changed(_))), "{stale:?}");
    let now = members[0].raft.view().borrow().effective.clone();
    let unknown = members[0].raft.change_voters(ids(&[1, 2, 9]), &now).await;
    assert!(matches!(unknown, Err(ChangeError::Impossible(_))), "{unknown:?}");
    let nobody = members[0].raft.change_voters(ids(&[]), &now).await;
    assert!(matches!(nobody, Err(ChangeError::Impossible(_))), "{nobody:?}");
    members[0].raft.change_voters(ids(&[1]), &now).await.unwrap();
    let now = members[0].raft.view().borrow().effective.clone();
    assert_eq!((now.halves.clone(), now.learners.clone()), (vec![ids(&[1])], ids(&[2, 3])), "who votes no more learns");
    let voter = members[0].raft.remove_learner(NodeId(1), &now).await;
    assert!(matches!(voter, Err(ChangeError::Impossible(_))), "{voter:?}");
    members[0].raft.remove_learner(NodeId(3), &now).await.unwrap();
    assert_eq!(members[0].raft.view().borrow().membership.learners, ids(&[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_left_half_way_is_finished_by_the_next_leader() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, mut members) = cluster(3, dir.path()).await;
    for id in [4, 5] {
        members.push(start(&lines, id, dir.path()).await);
        members[0].raft.add_learner(NodeId(id)).await.unwrap();
    }
    let joint = vec![[1, 2, 3].into(), [1, 2, 3, 4, 5].into()];
    let joint = openraft::Membership::new_with_defaults(joint, []);
    members[0].raft.openraft().append_membership(joint, openraft::EntryPayload::Blank, []).await.unwrap();
    members[1].sees(|view| view.membership.halves.len() == 2).await;
    members.remove(0).stop(&lines).await;
    let new = tokio::select! {
        new = members[0].leads() => new, new = members[1].leads() => new,
        new = members[2].leads() => new, new = members[3].leads() => new,
    };
    let leader = &members[usize::try_from(new.node.0 - 2).unwrap()].raft;
    let now = leader.view().borrow().effective.clone();
    assert_eq!(now.halves, [ids(&[1, 2, 3]), ids(&[1, 2, 3, 4, 5])]);
    leader.change_voters(now.halves[1].clone(), &now).await.unwrap();
    assert_eq!(leader.view().borrow().membership.halves, [ids(&[1, 2, 3, 4, 5])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_catches_up_on_a_line_that_carries_few_entries_at_a_time() {
    const BEHIND: u64 = 200;
    /// Some five entries, of 44 bytes each.
    const NARROW: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let (lines, members) = cluster(3, dir.path()).await;
    lines.isolate(NodeId(3));
    let proposals = (1..=BEHIND).map(|id| members[0].raft.propose(invite(id)));
    let applied = futures_util::future::try_join_all(proposals).await.unwrap();
    *lines.narrow.lock().unwrap() = Some(NARROW);
    lines.heal();
    let last = applied.iter().map(|applied| applied.index).max().unwrap();
    members[2].sees(|view| view.applied >= last).await;
    // What is proposed meanwhile is committed by a quorum over such lines too.
    members[0].raft.propose(invite(BEHIND + 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_loss_of_the_leader_the_others_go_on_and_the_old_one_takes_back_what_never_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, members) = cluster(3, dir.path()).await;
    let old = members[0].leads().await;
    lines.isolate(NodeId(1));
    // Accepted before the loss is noticed, and never committed.
    let lost = tokio::spawn({
        let raft = members[0].raft.clone();
        async move { raft.propose(invite(666)).await }
    });
    let new = tokio::select! { new = members[1].leads() => new, new = members[2].leads() => new };
    assert!(new > old);
    let leader = &members[usize::try_from(new.node.0 - 1).unwrap()];
    let applied = leader.raft.propose_under(new, invite(2)).await.unwrap();
    // The old one has long heard no quorum: it knows that it cannot, though it does not know who can.
    let refused = members[0].raft.propose(invite(3)).await;
    assert!(matches!(refused, Err(ProposeError::Unavailable)), "{refused:?}");
    lines.heal();
    members[0].sees(|view| view.applied >= applied.index).await;
    let undecided = tokio::time::timeout(PATIENCE, lost).await.unwrap().unwrap();
    assert!(matches!(undecided, Err(ProposeError::Undecided)), "{undecided:?}");
    assert!(members[0].recorder.heard().iter().any(|heard| matches!(heard, Heard::Truncated(_))));
    let state = leader.raft.view().borrow().state.clone();
    assert_eq!(members[0].raft.view().borrow().state, state);
    let follower = members[0].raft.propose(invite(4)).await;
    assert!(matches!(follower, Err(ProposeError::NotLeader(Some(node))) if node == new.node), "{follower:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_under_a_leadership_that_is_over_is_refused_though_the_node_leads_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_lines, members) = cluster(3, dir.path()).await;
    let first = members[0].leads().await;
    members[0].raft.propose_under(first, invite(1)).await.unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        let node = members[to].raft.me();
        members[from]
            .stands(|standing| standing.followers.get(&node).is_some_and(|f| f.matched == standing.last_log))
            .await;
        members[from].raft.transfer_leadership(node).await.unwrap();
        members[to].leads().await;
    }
    let second = members[0].leads().await;
    assert!(second > first);
    let refused = members[0].raft.propose_under(first, invite(2)).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader(_))), "{refused:?}");
    let applied = members[0].raft.propose_under(second, invite(3)).await.unwrap();
    let heard = members[0].recorder.heard();
    let by = heard.iter().find_map(|heard| match heard {
        Heard::Appended(entries) => entries.iter().find(|entry| entry.index == applied.index).map(|entry| entry.by),
        Heard::Truncated(_) | Heard::Flushed(_) | Heard::Applied(_) => None,
    });
    assert_eq!(by, Some(second), "the entry bears the leadership it was proposed under");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_learner_gets_a_snapshot_and_goes_on_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, mut members) = cluster(1, dir.path()).await;
    let mut proposals = tokio::task::JoinSet::new();
    for id in 0..4200 {
        let raft = members[0].raft.clone();
        proposals.spawn(async move { raft.propose(invite(id)).await.unwrap().index });
    }
    let last = proposals.join_all().await.into_iter().max().unwrap();
    members.push(start(&lines, 2, dir.path()).await);
    let added = members[0].raft.add_learner(NodeId(2)).await.unwrap();
    let view = members[1].sees(|view| view.applied >= added.index).await;
    assert_eq!(view.state, members[0].raft.view().borrow().state);
    assert_eq!(view.membership, view.effective);
    let heard = members[1].recorder.heard();
    let appended: usize = heard
        .iter()
        .map(|heard| match heard {
            Heard::Appended(entries) => entries.len(),
            Heard::Truncated(_) | Heard::Flushed(_) | Heard::Applied(_) => 0,
        })
        .sum();
    assert!(appended < 3000, "all {appended} entries came one by one");
    let jump = heard.iter().position(|heard| matches!(heard, Heard::Applied(view) if view.applied > 1000)).unwrap();
    let Heard::Applied(jumped) = &heard[jump] else { unreachable!() };
    assert!(heard[..jump].contains(&Heard::Flushed(jumped.applied)), "a snapshot is on disk when it is applied");
    let more = members[0].raft.propose(invite(9999)).await.unwrap();
    assert!(more.index > last);
    members[1].sees(|view| view.applied >= more.index).await;

    // And the same from its own disk.
    let learner = members.pop().unwrap();
    let before = learner.raft.view().borrow().clone();
    learner.stop(&lines).await;
    let learner = start(&lines, 2, dir.path()).await;
    let view = learner.sees(|view| view.applied >= before.applied).await;
    assert_eq!(view.state, before.state);
    assert_eq!(view.membership, before.membership);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_the_observer_hears_the_log_that_is_not_applied_then_that_it_is_on_disk_then_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, mut members) = cluster(3, dir.path()).await;
    let done = members[0].raft.propose(invite(1)).await.unwrap();
    lines.isolate(NodeId(1));
    let raft = members[0].raft.clone();
    let hung = tokio::spawn(async move { raft.propose(invite(2)).await });
    let recorder = members[0].recorder.clone();
    let noted = |heard: &[Heard]| heard.iter().any(|heard| *heard == Heard::Flushed(done.index + 1));
    while !noted(&recorder.heard()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    members.remove(0).stop(&lines).await;
    assert!(matches!(hung.await.unwrap(), Err(ProposeError::Stopped(_) | ProposeError::Undecided)));

    lines.isolate(NodeId(1)); // still: nobody may tell it more
    let again = start(&lines, 1, dir.path()).await;
    let heard = again.recorder.heard();
    let [Heard::Appended(rest), Heard::Flushed(flushed), Heard::Applied(view), ..] = &heard[..] else {
        panic!("{heard:?}");
    };
    assert_eq!(rest.last().unwrap().what, What::Command(Arc::new(invite(2))));
    assert_eq!(rest.first().unwrap().index, view.applied + 1);
    assert_eq!((*flushed, rest.last().unwrap().index), (done.index + 1, done.index + 1));
    assert!(view.applied >= done.index, "the committed mark rode on the write after it");
    assert_eq!(view.effective.halves, vec![ids(&[1, 2, 3])]);
    assert_eq!(again.raft.standing().borrow().leading, None, "a restarted leader is no leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_no_honest_node_sends_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, members) = cluster(3, dir.path()).await;
    let victim = &members[2];
    victim.sees(|view| view.membership.halves == vec![ids(&[1, 2, 3])]).await;
    lines.isolate(NodeId(3)); // it must learn nothing from its leader meanwhile
    let before = victim.raft.view().borrow().clone();
    let vote = |term: u64, node: u64| {
        // As `Request::Vote`: variant 1, ballot, no log, no transfer.
        let ballot = (Leadership { term, node: NodeId(node) }, false);
        codec::encode(&(1u32, ballot, Option::<u64>::None, false))
    };
    let forged = victim.raft.serve(NodeId(2), vote(99, 1)).await;
    assert!(matches!(forged, Err(ServeError::Refused { from: NodeId(2), .. })), "{forged:?}");
    for garbage in [vec![], vec![1], vec![2, 0], vec![1, 77], vec![1; 100]] {
        assert!(
            matches!(victim.raft.serve(NodeId(1), garbage.clone()).await, Err(ServeError::Malformed(_))),
            "{garbage:?}"
        );
    }
    assert_eq!(*victim.raft.view().borrow(), before);
    // The same ballot in the own name is answered.
    assert!(victim.raft.serve(NodeId(1), vote(1, 1)).await.is_ok());
}

/// A follower with another build, then the leader: nobody takes in what it cannot read, and nothing of it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_layout_is_not_understood_and_spoils_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, members) = cluster(3, dir.path()).await;
    let foreign = [&[codec::VERSION + 1][..], &codec::encode(&invite(7))[1..]].concat();
    let error = members[0].raft.serve(NodeId(2), foreign).await.unwrap_err();
    let words = format!("layout version {}, this hamesh reads {}", codec::VERSION + 1, codec::VERSION);
    assert!(error.to_string().contains(&words), "{error}");

    lines.other_version.lock().unwrap().insert(NodeId(3));
    for id in 10..20 {
        members[0].raft.propose(invite(id)).await.unwrap();
    }
    assert!(members[2].raft.view().borrow().applied < members[0].raft.view().borrow().applied);
    // Now two of three speak the other layout: they lead among themselves, and the first is alone.
    lines.other_version.lock().unwrap().insert(NodeId(2));
    let leads = |member: &&Member| member.raft.standing().borrow().leading.is_some();
    let elected = async {
        loop {
            match members[1..].iter().find(leads) {
                Some(next) => return next,
                None => tokio::time::sleep(TIMING.heartbeat).await,
            }
        }
    };
    let next = tokio::time::timeout(PATIENCE, elected).await.expect("the two elect one of themselves");
    let applied = next.raft.propose(invite(20)).await.unwrap();
    assert!(members[0].raft.view().borrow().applied < applied.index, "what it cannot read it has not taken in");

    lines.other_version.lock().unwrap().insert(NodeId(1));
    for member in &members {
        member.raft.peer_back(NodeId(1));
        let view = member.sees(|view| view.applied >= applied.index).await;
        assert_eq!(view.state.invitations.len(), 11, "all that was proposed, once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_too_long_is_not_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let (_lines, members) = cluster(1, dir.path()).await;
    let last = members[0].raft.standing().borrow().last_log;
    let long =
        Command::Close { sid: crate::command::Sid(1), grants: vec![("x".repeat(70_000), crate::command::Sid(1))] };
    assert!(matches!(members[0].raft.propose(long).await, Err(ProposeError::TooLong(length)) if length > 70_000));
    assert_eq!(members[0].raft.standing().borrow().last_log, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_comes_back_without_an_election() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, members) = cluster(3, dir.path()).await;
    let leadership = members[0].leads().await;
    lines.isolate(NodeId(3));
    tokio::time::sleep(5 * TIMING.election_max).await;
    lines.heal();
    let applied = members[0].raft.propose_under(leadership, invite(1)).await.unwrap();
    members[2].sees(|view| view.applied >= applied.index).await;
    assert_eq!(members[2].raft.standing().borrow().term, leadership.term, "without pre-vote it would have raised it");
    members[0].raft.propose_under(leadership, invite(2)).await.unwrap();
}
