use super::*;
use hamesh_raft::command::{Applicant, ClusterId, Leadership, Lineage, Role};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const L: Duration = Duration::from_secs(1);
const GATE: GateId = GateId(7);
const ME: NodeId = NodeId(1);
const SID: Sid = Sid(3);

fn at(millis: u64) -> Moment {
    let t = Duration::from_millis(10_000 + millis);
    Moment::at(t, t)
}

fn voters(index: u64, ids: &[u64]) -> Membership {
    let halves = vec![ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>()];
    Membership { by: Leadership { term: 1, node: ME }, index, halves, learners: BTreeSet::new() }
}

fn open(shut: Option<GateId>, attempt: u64) -> Command {
    let (ttl, promise) = (L, L + Duration::from_millis(13));
    Command::Open { node: ME, incarnation: 1, attempt, ttl, promise, gate: GATE, shut }
}

/// A cluster of one director, registered, with session s3.
fn state() -> State {
    let by = Leadership { term: 1, node: ME };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let founder =
        Applicant { name: "lb1".to_owned(), role: Role::Director, rack: String::new(), address, key: [0; 32] };
    let lineage = Lineage { counter: 1, id: 1 };
    let mut state = State::default();
    state.apply(1, by, &Command::Found { cluster: ClusterId(1), name: "c".to_owned(), lineage, founder });
    state.apply(2, by, &Command::Register { node: ME, incarnation: 1, rack: String::new(), address });
    state.apply(3, by, &open(None, 1));
    state
}

fn voter(state: &State) -> Voter {
    let mut voter = Voter::new(ME, at(0));
    voter.handle(at(0), Event::Applied(3, state, &voters(1, &[1, 2, 3])));
    voter.handle(at(0), Event::Flushed(3));
    voter
}

fn renew(voter: &mut Voter, now: Moment) -> Option<Ack> {
    let message = Message::Renew(Renew { sid: SID, seq: 9, process: 5, acted: 3 });
    match voter.handle(now, Event::Heard(ME, &message)).pop() {
        Some(Action::Answer(Message::Ack(ack))) => Some(ack),
        Some(Action::Answer(Message::Renew(_) | Message::Ask(_) | Message::Tell(_))) | None => None,
    }
}

#[test]
fn an_ack_echoes_the_renew_and_names_the_voters_in_force() {
    let mut voter = voter(&state());
    let ack = renew(&mut voter, at(5)).unwrap();
    assert_eq!((ack.sid, ack.seq, ack.process), (SID, 9, 5));
    assert_eq!(ack.membership, voters(1, &[1, 2, 3]));
    voter.handle(at(6), Event::MembershipAppended(voters(4, &[1, 4, 5])));
    assert_eq!(renew(&mut voter, at(7)).unwrap().membership.index, 4, "in force from the append on (V5)");
    voter.handle(at(8), Event::MembershipAppended(voters(5, &[2, 4, 5])));
    assert_eq!(renew(&mut voter, at(9)), None, "only voters ack");
    voter.handle(at(10), Event::Truncated(4));
    assert_eq!(renew(&mut voter, at(11)).unwrap().membership.index, 1);
}

#[test]
fn what_ends_a_session_stops_its_acks_from_the_append_until_it_is_truncated() {
    let endings = [
        Command::Fence { sid: SID },
        Command::Expire { sid: SID, by: Leadership::default(), grants: Vec::new() },
        Command::Close { sid: SID, grants: Vec::new() },
        open(Some(GATE), 2),
    ];
    for ending in endings {
        let mut voter = voter(&state());
        assert!(renew(&mut voter, at(1)).is_some());
        voter.handle(at(2), Event::Appended(4, &ending));
        assert_eq!(renew(&mut voter, at(3)), None, "{ending:?}");
        voter.handle(at(4), Event::Truncated(4));
        assert!(renew(&mut voter, at(5)).is_some(), "{ending:?} is gone");
    }
    let mut voter = voter(&state());
    voter.handle(at(2), Event::Appended(4, &open(Some(GateId(8)), 2)));
    assert!(renew(&mut voter, at(3)).is_some(), "another gate's session is not superseded (H7)");
}

#[test]
fn a_fence_holds_over_a_snapshot_which_leaves_no_log() {
    let mut fenced = state();
    fenced.apply(4, Leadership { term: 1, node: ME }, &Command::Fence { sid: SID });
    let mut voter = Voter::new(ME, at(0));
    voter.handle(at(0), Event::Applied(4, &fenced, &voters(1, &[1])));
    assert_eq!(renew(&mut voter, at(1)), None);
}

#[test]
fn an_age_is_bound_only_when_the_fence_is_on_this_disk() {
    let mut fenced = state();
    let mut voter = voter(&fenced);
    let fence = Command::Fence { sid: SID };
    voter.handle(at(1), Event::Appended(4, &fence));
    fenced.apply(4, Leadership { term: 1, node: ME }, &fence);
    voter.handle(at(2), Event::Applied(4, &fenced, &voters(1, &[1, 2, 3])));
    assert!(!voter.known(at(3), SID).unwrap().bound, "applied before the flush (H6)");
    voter.handle(at(4), Event::Flushed(4));
    assert!(voter.known(at(5), SID).unwrap().bound);
}

#[test]
fn silence_counts_from_the_latest_of_start_voting_opening_and_promise() {
    let state = state();
    let mut fresh = Voter::new(ME, at(0));
    fresh.handle(at(100), Event::Applied(3, &state, &voters(1, &[2, 3, 4])));
    assert_eq!(fresh.known(at(200), SID), None, "it does not vote");
    fresh.handle(at(500), Event::Applied(4, &state, &voters(4, &[1, 2, 3])));
    let silent = |voter: &Voter, now| voter.known(at(now), SID).map(|known| known.silent.as_millis());
    assert_eq!(silent(&fresh, 600), Some(100), "a voter since 500 ms (H8)");
    assert!(renew(&mut fresh, at(700)).is_some());
    assert_eq!(silent(&fresh, 750), Some(50));
    fresh.handle(at(800), Event::Applied(5, &state, &voters(4, &[1, 2, 3])));
    assert_eq!(silent(&fresh, 850), Some(150), "an apply is no promise");

    let mut older = Voter::new(ME, at(0));
    older.handle(at(0), Event::Applied(2, &State::default(), &voters(1, &[1])));
    older.handle(at(5000), Event::Applied(3, &state, &voters(1, &[1])));
    assert_eq!(silent(&older, 5010), Some(10), "a newborn session is not old (V2)");
}

#[test]
fn another_nodes_renew_is_no_renew() {
    let mut voter = voter(&state());
    let message = Message::Renew(Renew { sid: SID, seq: 1, process: 1, acted: 0 });
    assert!(voter.handle(at(1), Event::Heard(NodeId(2), &message)).is_empty());
}
