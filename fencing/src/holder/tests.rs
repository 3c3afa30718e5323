use super::*;
use hamesh_raft::command::{Applicant, ClusterId, Family, Leadership, Lineage, Role};
use std::net::{Ipv4Addr, SocketAddr};

const L: Duration = Duration::from_secs(1);
const ME: NodeId = NodeId(1);
const GATE: GateId = GateId(7);
const TERMS: Terms = Terms { ttl: L, promise: Duration::from_millis(1013), renew: Duration::from_millis(200) };
const BY: Leadership = Leadership { term: 1, node: ME };

fn at(millis: u64) -> Moment {
    let t = Duration::from_millis(10_000 + millis);
    Moment::at(t, t)
}

fn voters(index: u64, ids: &[u64]) -> Membership {
    let halves = vec![ids.iter().copied().map(NodeId).collect()];
    Membership { by: BY, index, halves, learners: BTreeSet::new() }
}

fn wish() -> Candidate {
    let definition = Definition { family: Family::V4, vrid: 1, addresses: vec![Ipv4Addr::new(203, 0, 113, 1).into()] };
    Candidate { definition, priority: 100, preempt: false }
}

fn web() -> GroupName {
    "web".to_owned()
}

/// A holder in a cluster of one director and three voters, and the log it sees.
struct Bench {
    holder: Holder,
    state: State,
    index: u64,
    seq: u64,
}

impl Bench {
    fn new() -> Self {
        let me = Identity { node: ME, incarnation: 1, process: 5, gate: GATE };
        let mut bench = Self { holder: Holder::new(me, TERMS), state: State::default(), index: 0, seq: 0 };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let founder =
            Applicant { name: "lb1".to_owned(), role: Role::Director, rack: String::new(), address, key: [0; 32] };
        let lineage = Lineage { counter: 1, id: 1 };
        bench.log(&Command::Found { cluster: ClusterId(1), name: "c".to_owned(), lineage, founder });
        bench.log(&Command::Register { node: ME, incarnation: 1, rack: String::new(), address });
        bench
    }

    fn log(&mut self, command: &Command) -> u64 {
        self.index += 1;
        self.state.apply(self.index, BY, command);
        self.index
    }

    fn applied(&mut self, now: Moment) -> Vec<Action> {
        let event = Event::Applied(self.index, Arc::new(self.state.clone()), voters(1, &[1, 2, 3]));
        self.does(now, event)
    }

    fn does(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let actions = self.holder.handle(now, event);
        for action in &actions {
            if let Action::Send(_, renew) = action {
                self.seq = renew.seq;
            }
        }
        actions
    }

    /// Commits what was proposed.
    fn commit(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Propose(command) = action {
                self.log(&command.clone());
            }
        }
    }

    fn ack(&mut self, now: Moment, sid: Sid, from: u64, membership: &Membership) -> Vec<Action> {
        let ack = Ack { sid, seq: self.seq, process: 5, membership: membership.clone() };
        self.does(now, Event::Heard(NodeId(from), ack))
    }

    /// A live session with a promise until 1 s, that has claimed web.
    fn holding() -> (Self, Sid, Token) {
        let mut bench = Self::new();
        let asked = bench.applied(at(0));
        bench.commit(&asked);
        let sid = Sid(bench.index);
        bench.does(at(0), Event::Want(web(), wish()));
        let stands = bench.applied(at(0));
        bench.commit(&stands);
        let index = bench.log(&Command::Grant { group: web(), to: sid });
        bench.applied(at(0));
        bench.ack(at(5), sid, 2, &voters(1, &[1, 2, 3]));
        let acts = bench.ack(at(5), sid, 3, &voters(1, &[1, 2, 3]));
        let token = Token { lineage: 1, index };
        assert!(acts.contains(&Action::Arm(at(0) + L)), "{acts:?}");
        let record =
            acts.iter().position(|a| matches!(a, Action::Record(Some(r)) if r.pairs.contains(&(web(), token))));
        let claim = acts.iter().position(|a| *a == Action::Claim(web(), token, wish().definition));
        assert!(record.unwrap() < claim.unwrap(), "a pair is written before its claim (H1)");
        bench.does(at(6), Event::Claimed(web(), token));
        (bench, sid, token)
    }
}

fn proposals(actions: &[Action]) -> Vec<&Command> {
    let commands = actions.iter().filter_map(|a| if let Action::Propose(command) = a { Some(command) } else { None });
    commands.collect()
}

#[test]
fn the_deadline_counts_from_before_the_send_and_needs_a_quorum_of_one_membership() {
    let (mut bench, sid, _) = Bench::holding();
    bench.does(at(210), Event::Tick);
    assert_eq!(bench.ack(at(215), sid, 2, &voters(1, &[1, 2, 3])), []);
    assert_eq!(bench.ack(at(216), sid, 3, &voters(9, &[1, 2, 3])), [], "another membership (V5)");
    assert_eq!(bench.ack(at(216), sid, 2, &voters(1, &[1, 2, 3])), [], "the same voter twice");
    assert_eq!(bench.ack(at(300), sid, 1, &voters(1, &[1, 2, 3])), [Action::Arm(at(210) + L)]);
}

#[test]
fn an_ack_for_another_process_or_another_transmission_counts_for_nothing() {
    let (mut bench, sid, _) = Bench::holding();
    bench.does(at(210), Event::Tick);
    for (process, seq) in [(4, bench.seq), (5, bench.seq + 1)] {
        for from in [1, 2, 3] {
            let ack = Ack { sid, seq, process, membership: voters(1, &[1, 2, 3]) };
            assert_eq!(bench.does(at(215), Event::Heard(NodeId(from), ack)), []);
        }
    }
}

#[test]
fn a_session_dies_with_its_deadline_and_is_not_taken_up_again() {
    let (mut bench, sid, token) = Bench::holding();
    let dies = bench.does(at(1000), Event::Tick);
    assert_eq!(dies, [Action::Record(None), Action::Shut, Action::Unclaim(web(), token)]);
    assert_eq!(bench.does(at(1010), Event::Tick), [], "no Open before the gate is shut, no Renew (V1)");
    let opens = bench.does(at(1020), Event::Shut);
    let [Action::Propose(Command::Open { shut, attempt, .. })] = opens.as_slice() else { panic!("{opens:?}") };
    assert_eq!((*shut, *attempt), (Some(GATE), 2));
    assert!(bench.state.sessions.contains_key(&sid), "the dead one is still in the state");
    assert_eq!(bench.applied(at(1030)), []);
    bench.commit(&opens);
    let begins = bench.applied(at(1040));
    let fresh = Sid(bench.index);
    assert!(matches!(begins.last(), Some(Action::Send(_, renew)) if renew.sid == fresh), "{begins:?}");
}

#[test]
fn an_open_that_comes_late_is_not_used_while_a_later_one_is_on_its_way() {
    let mut bench = Bench::new();
    let first = bench.applied(at(0));
    let second = bench.does(at(300), Event::Tick);
    assert_eq!(proposals(&second).len(), 1);
    assert_eq!(proposals(&bench.does(at(700), Event::Tick)), Vec::<&Command>::new(), "it is waited for longer");
    bench.commit(&first);
    assert_eq!(bench.applied(at(710)), []);
    bench.commit(&second);
    assert!(matches!(bench.applied(at(720)).last(), Some(Action::Send(..))));
}

#[test]
fn a_group_is_released_after_it_is_unclaimed_and_gone_from_the_record() {
    let (mut bench, _, token) = Bench::holding();
    let orders = bench.does(at(20), Event::Refuse(web()));
    assert!(orders.contains(&Action::Unclaim(web(), token)));
    assert!(!proposals(&orders).iter().any(|c| matches!(c, Command::Release { .. })), "not before the kernel says so");
    let first = bench.does(at(30), Event::Unclaimed(web(), token));
    let again = bench.does(at(300), Event::Tick);
    for orders in [first, again] {
        let record = orders.iter().position(|a| matches!(a, Action::Record(Some(r)) if r.pairs.is_empty()));
        let release = orders.iter().position(|a| matches!(a, Action::Propose(Command::Release { .. })));
        assert!(record.unwrap() < release.unwrap(), "written again too: the first write may have failed: {orders:?}");
    }
}

#[test]
fn a_token_that_was_released_is_never_claimed_again() {
    let (mut bench, _, token) = Bench::holding();
    bench.does(at(20), Event::Refuse(web()));
    bench.does(at(30), Event::Unclaimed(web(), token));
    bench.does(at(40), Event::Want(web(), wish()));
    // The Release is still on its way: the state gives us the group.
    let orders = bench.applied(at(50));
    assert!(!orders.iter().any(|a| matches!(a, Action::Claim(..))), "{orders:?}");
}

#[test]
fn a_failed_claim_releases_and_stands_again_after_a_pause() {
    let (mut bench, sid, token) = Bench::holding();
    bench.does(at(20), Event::Refuse(web()));
    let releases = bench.does(at(30), Event::Unclaimed(web(), token));
    bench.commit(&releases);
    bench.applied(at(31));
    let stands = bench.does(at(300), Event::Want(web(), wish()));
    bench.commit(&stands);
    bench.log(&Command::Grant { group: web(), to: sid });
    let claims = bench.applied(at(310));
    let Some(Action::Claim(_, token, _)) = claims.iter().find(|a| matches!(a, Action::Claim(..))).cloned() else {
        panic!("{claims:?}")
    };
    let fails = bench.does(at(320), Event::ClaimFailed(web(), token));
    assert!(matches!(proposals(&fails).as_slice(), [Command::Release { to: None, .. }]), "{fails:?}");
    bench.commit(&fails);
    let stands = |actions: &[Action]| proposals(actions).iter().any(|c| matches!(c, Command::Candidate { .. }));
    assert!(!stands(&bench.applied(at(330))), "V4");
    assert!(!stands(&bench.does(at(900), Event::Tick)));
}

#[test]
fn a_resumed_session_acts_only_for_recorded_pairs_that_the_state_still_gives() {
    let (bench, sid, token) = Bench::holding();
    let record = |pairs| MayAct { sid, ttl: L, promise: TERMS.promise, gate: GATE, pairs };
    let me = Identity { node: ME, incarnation: 2, process: 6, gate: GATE };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let register = Command::Register { node: ME, incarnation: 2, rack: String::new(), address };
    let claims_with = |pairs: BTreeSet<(GroupName, Token)>, known: bool| {
        let mut holder = Holder::resume(at(100), me, TERMS.renew, record(pairs));
        holder.handle(at(100), Event::Want(web(), wish()));
        let mut state = if known { bench.state.clone() } else { State::default() };
        state.apply(bench.index + 1, BY, &register);
        holder.handle(at(101), Event::Applied(bench.index + 1, Arc::new(state), voters(1, &[1, 2, 3])));
        let mut seen = holder.handle(at(102), Event::Tick);
        for from in [2, 3] {
            let ack = Ack { sid, seq: 1, process: 6, membership: voters(1, &[1, 2, 3]) };
            seen.extend(holder.handle(at(103), Event::Heard(NodeId(from), ack)));
        }
        let arms = seen.iter().any(|a| matches!(a, Action::Arm(_)));
        (arms, seen.iter().any(|a| matches!(a, Action::Claim(..))))
    };
    assert_eq!(claims_with(BTreeSet::from([(web(), token)]), true), (true, true));
    assert_eq!(claims_with(BTreeSet::new(), true), (true, false), "the predecessor may have released it");
    assert_eq!(claims_with(BTreeSet::from([(web(), token)]), false), (false, false), "not replayed yet");
}

#[test]
fn what_is_stuck_is_left_to_its_deadline() {
    let (mut bench, sid, token) = Bench::holding();
    bench.does(at(210), Event::Tick);
    bench.does(at(211), Event::Stuck);
    for from in [1, 2, 3] {
        assert_eq!(bench.ack(at(215), sid, from, &voters(1, &[1, 2, 3])), [], "acks on their way do not prolong it");
    }
    assert!(!bench.does(at(500), Event::Tick).iter().any(|a| matches!(a, Action::Send(..))));
    assert!(bench.does(at(1000), Event::Tick).contains(&Action::Unclaim(web(), token)));
    let again = bench.does(at(1300), Event::Tick);
    assert_eq!(again, [Action::Record(None), Action::Shut], "until both are done");
}

#[test]
fn a_stop_hands_over_closes_and_clears_the_record() {
    let (mut bench, sid, token) = Bench::holding();
    assert!(bench.does(at(20), Event::Stop).contains(&Action::Unclaim(web(), token)));
    let closes = bench.does(at(30), Event::Unclaimed(web(), token));
    assert_eq!(closes, [Action::Record(None), Action::Propose(Command::Close { sid, grants: Vec::new() })]);
    bench.commit(&closes);
    assert_eq!(bench.applied(at(40)), [Action::Stopped]);
}
