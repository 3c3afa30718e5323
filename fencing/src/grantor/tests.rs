use super::*;
use hamesh_raft::command::{Applicant, ClusterId, Definition, Family, GateId, InvitationId, Lineage, Role};
use std::net::{Ipv4Addr, SocketAddr};

const L: Duration = Duration::from_secs(1);
const LG: Duration = Duration::from_millis(1013);
/// The longest pause of one that loses a group again and again.
const DAMPING_BY: Duration = Duration::from_secs(30);
const BY: Leadership = Leadership { term: 4, node: NodeId(1) };

fn at(millis: u64) -> Moment {
    let t = Duration::from_millis(10_000 + millis);
    Moment::at(t, t)
}

fn voters(index: u64, ids: &[u64]) -> Membership {
    Membership { by: BY, index, halves: vec![set(ids)], learners: BTreeSet::new() }
}

fn set(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn known(silent: u64, acted: u64, bound: bool) -> Known {
    let silent = Duration::from_millis(silent);
    Known { silent, renewed: Some(silent), acted, bound }
}

/// Three directors with a session each that stand for web by priority 101 to 103; the first holds it.
struct Bench {
    grantor: Grantor,
    state: State,
    index: u64,
    sids: Vec<Sid>,
    own: BTreeMap<Sid, Known>,
    now: Moment,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            grantor: Grantor::new(at(0), DAMPING_BY),
            state: State::default(),
            index: 0,
            sids: Vec::new(),
            own: BTreeMap::new(),
            now: at(0),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let role = Role::Director;
        for node in 1..=3 {
            let applicant = Applicant { name: format!("lb{node}"), role, rack: String::new(), address, key: [0; 32] };
            if node == 1 {
                let lineage = Lineage { counter: 1, id: 1 };
                bench.log(Command::Found { cluster: ClusterId(1), name: "c".to_owned(), lineage, founder: applicant });
            } else {
                let (id, expires_at) = (InvitationId(node), Duration::from_secs(9));
                bench.log(Command::Invite { id, secret_hash: [0; 32], role, expires_at });
                bench.log(Command::Join { invitation: id, applicant, at: Duration::ZERO });
            }
            let node = NodeId(node);
            bench.log(Command::Register { node, incarnation: 1, rack: String::new(), address });
            let gate = GateId(u128::from(node.0));
            bench.log(Command::Open { node, incarnation: 1, attempt: 1, ttl: L, promise: LG, gate, shut: None });
            bench.sids.push(Sid(bench.index));
            bench.own.insert(Sid(bench.index), known(10, 99, false));
        }
        for (priority, sid) in (101..).zip(bench.sids.clone()) {
            let definition =
                Definition { family: Family::V4, vrid: 1, addresses: vec![Ipv4Addr::new(203, 0, 113, 1).into()] };
            let group = "web".to_owned();
            bench.log(Command::Candidate { sid, group, definition, priority, preempt: false });
        }
        bench.log(Command::Grant { group: "web".to_owned(), to: bench.sids[0] });
        bench.applied(&voters(1, &[1, 2, 3]));
        bench.grantor.handle(at(0), Event::Leads(Some(BY)));
        bench.grantor.handle(at(0), Event::Replicating(set(&[1, 2, 3])));
        bench
    }

    fn log(&mut self, command: Command) {
        self.index += 1;
        self.state.apply(self.index, BY, &command);
    }

    fn applied(&mut self, membership: &Membership) -> Vec<Action> {
        self.grantor.handle(self.now, Event::Applied(Arc::new(self.state.clone()), membership.clone()))
    }

    /// Ticks at `millis`, and lets these voters answer what they are asked about the first session.
    fn tick(&mut self, millis: u64, answers: &[(u64, Known)]) -> Vec<Command> {
        self.now = at(millis);
        let mut actions = self.grantor.handle(self.now, Event::Tick(self.own.clone()));
        let asks: Vec<Ask> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Ask(_, ask) if ask.sid == self.sids[0] => Some(ask.clone()),
                Action::Ask(..) | Action::Propose(..) | Action::Move(..) => None,
            })
            .collect();
        for Ask { sid, round } in asks {
            for (node, known) in answers {
                let tell = Tell { sid, round, known: *known };
                actions.extend(self.grantor.handle(self.now, Event::Told(NodeId(*node), tell)));
            }
        }
        let proposed = actions.into_iter().filter_map(|action| match action {
            Action::Propose(by, command) => {
                assert_eq!(by, BY);
                Some(command)
            }
            Action::Ask(..) | Action::Move(..) => None,
        });
        proposed.collect()
    }

    /// Ticks at `millis`: where the holder's node is asked to hand web to.
    fn asked_to_move(&mut self, millis: u64) -> Option<(NodeId, Sid)> {
        self.now = at(millis);
        let mut actions = self.applied(&voters(1, &[1, 2, 3]));
        actions.extend(self.grantor.handle(self.now, Event::Tick(self.own.clone())));
        actions.into_iter().find_map(|action| match action {
            Action::Move(node, _, _, to) => Some((node, to)),
            Action::Ask(..) | Action::Propose(..) => None,
        })
    }

    fn fence(&mut self) {
        self.log(Command::Fence { sid: self.sids[0] });
        self.applied(&voters(1, &[1, 2, 3]));
    }
}

#[test]
fn only_the_silence_of_a_set_that_meets_every_quorum_fences() {
    let mut bench = Bench::new();
    let fence = Command::Fence { sid: bench.sids[0] };
    let silent = known(1020, 99, false);
    assert_eq!(bench.tick(2000, &[(2, silent), (3, silent)]), [], "the leader itself has heard it");
    bench.own.insert(bench.sids[0], silent);
    assert_eq!(bench.tick(2100, &[(1, silent)]), [], "the others may hear it: a broken link fences nobody");
    assert_eq!(bench.tick(2200, &[(1, silent), (2, known(5, 99, false))]), []);
    assert_eq!(bench.tick(2300, &[(1, silent), (3, silent)]), [fence]);
}

#[test]
fn an_answer_long_ago_is_no_silence_now() {
    let mut bench = Bench::new();
    let silent = known(1020, 99, false);
    bench.own.insert(bench.sids[0], silent);
    assert_eq!(bench.tick(2000, &[(2, silent)]), []);
    assert_eq!(bench.tick(2500, &[(3, silent)]), [], "L/4 old");
}

#[test]
fn a_dead_session_is_fenced_while_its_promises_run_out_and_expires_when_they_have() {
    let mut bench = Bench::new();
    let (sid, ms) = (bench.sids[0], Duration::from_millis);
    let pause = |bench: &Bench| bench.grantor.pause(bench.now, &bench.own);
    bench.own.insert(sid, known(1000, 99, false));
    assert_eq!(bench.tick(2000, &[(2, known(1000, 99, false))]), [], "its deadline may be this very moment");
    assert_eq!(pause(&bench).map(|pause| pause.as_micros()), Some(1001), "clocks may differ by this");
    let dead = known(1002, 99, false);
    bench.own.insert(sid, dead);
    assert_eq!(bench.tick(2002, &[(1, dead), (2, dead)]), [Command::Fence { sid }]);
    bench.now = at(2005);
    bench.log(Command::Fence { sid });
    let asked = bench.applied(&voters(1, &[1, 2, 3]));
    assert!(matches!(asked.as_slice(), [Action::Ask(..)]), "at once: {asked:?}");
    assert_eq!(bench.tick(2015, &[(1, known(1005, 0, true)), (2, known(1006, 0, true))]), []);
    assert_eq!(pause(&bench), Some(ms(7)), "until the next one has waited Lg");
    assert_eq!(bench.tick(2022, &[]), []);
    assert_eq!(pause(&bench), Some(ms(1)));
    assert_eq!(bench.tick(2023, &[]).len(), 1);
}

#[test]
fn what_is_proposed_and_not_committed_is_proposed_again_more_and_more_seldom() {
    let mut bench = Bench::new();
    let dead = known(1020, 99, false);
    bench.own.insert(bench.sids[0], dead);
    let mut proposed = Vec::new();
    for millis in (2000..32_000).step_by(50) {
        if !bench.tick(millis, &[(1, dead), (2, dead)]).is_empty() {
            proposed.push(millis);
        }
    }
    let apart: Vec<u64> = proposed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(apart, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]);
}

#[test]
fn ages_count_only_from_the_bound_and_grow_from_when_they_were_told() {
    let mut bench = Bench::new();
    bench.fence();
    assert_eq!(bench.tick(3000, &[(1, known(2000, 0, true)), (2, known(2000, 0, false))]), []);
    assert_eq!(bench.tick(3100, &[(2, known(900, 0, true))]), []);
    assert_eq!(bench.tick(3205, &[]), []);
    let expires = bench.tick(3214, &[]);
    let [Command::Expire { sid, by, grants }] = expires.as_slice() else { panic!("{expires:?}") };
    assert_eq!((*sid, *by), (bench.sids[0], BY));
    assert_eq!(*grants, [("web".to_owned(), bench.sids[2])], "the grantee is named: the best priority");
}

#[test]
fn nothing_expires_within_lg_of_a_change_of_voters() {
    let mut bench = Bench::new();
    bench.fence();
    let old = known(9000, 0, true);
    bench.now = at(3000);
    bench.applied(&voters(9, &[1, 2, 4]));
    assert_eq!(bench.tick(3100, &[(1, old), (2, old)]), []);
    assert_eq!(bench.tick(4012, &[(1, old), (2, old)]), []);
    assert_eq!(bench.tick(4014, &[(1, old), (2, old)]).len(), 1);
}

#[test]
fn while_voters_change_each_half_has_its_say() {
    let mut bench = Bench::new();
    bench.fence();
    let old = known(9000, 0, true);
    bench.applied(&Membership { halves: vec![set(&[1, 2, 3]), set(&[3, 4, 5])], ..voters(9, &[]) });
    assert_eq!(bench.tick(3000, &[(1, old), (2, old)]), [], "4 and 5 may have acked under the new half alone");
    assert_eq!(bench.tick(3010, &[(4, old)]), []);
    assert_eq!(bench.tick(3020, &[(3, old)]).len(), 1);
}

#[test]
fn another_leaders_changes_that_end_where_they_began_count_too() {
    let mut bench = Bench::new();
    bench.fence();
    let old = known(9000, 0, true);
    bench.now = at(3000);
    bench.grantor.handle(at(3000), Event::Leads(None));
    let by = Leadership { term: 3, node: NodeId(2) };
    bench.applied(&Membership { by, ..voters(20, &[1, 2, 3]) });
    bench.grantor.handle(at(3000), Event::Leads(Some(BY)));
    assert_eq!(bench.tick(3100, &[(1, old), (2, old)]), []);
    let mut bench = Bench::new();
    bench.fence();
    bench.now = at(3000);
    bench.applied(&voters(20, &[1, 2, 3]));
    assert_eq!(bench.tick(3100, &[(1, old), (2, old)]).len(), 1, "our own, of learners only, delays nothing (V6)");
}

#[test]
fn what_an_earlier_leadership_measured_is_void() {
    let mut bench = Bench::new();
    bench.fence();
    let old = known(9000, 0, true);
    bench.tick(3000, &[(1, old)]);
    bench.grantor.handle(at(3000), Event::Leads(None));
    bench.grantor.handle(at(3000), Event::Leads(Some(BY)));
    assert_eq!(bench.tick(3100, &[(2, old)]), []);
}

#[test]
fn a_grantee_that_a_quorum_has_not_seen_acting_is_fenced() {
    let mut bench = Bench::new();
    let (token, fence) = (bench.index, Command::Fence { sid: bench.sids[0] });
    let renews_only = known(10, token - 1, false);
    bench.own.insert(bench.sids[0], renews_only);
    assert_eq!(bench.tick(500, &[(1, renews_only), (2, renews_only)]), []);
    assert_eq!(bench.tick(1100, &[(1, renews_only), (2, known(10, token, false))]), [], "one has seen it act");
    assert_eq!(bench.tick(1200, &[(1, renews_only), (2, renews_only)]), [fence], "V3");
}

#[test]
fn a_leader_that_has_just_started_lets_lg_pass() {
    let mut bench = Bench::new();
    bench.fence();
    bench.now = at(3000);
    bench.grantor = Grantor::new(bench.now, DAMPING_BY);
    bench.applied(&voters(1, &[1, 2, 3]));
    bench.grantor.handle(bench.now, Event::Leads(Some(BY)));
    let old = known(9000, 0, true);
    assert_eq!(bench.tick(3100, &[(1, old), (2, old)]), [], "it may have changed the voters before");
    assert_eq!(bench.tick(4012, &[(1, old), (2, old)]), []);
    assert_eq!(bench.tick(4014, &[(1, old), (2, old)]).len(), 1);
}

#[test]
fn a_release_names_a_candidate_that_can_take_it() {
    let mut bench = Bench::new();
    bench.tick(100, &[]);
    let [first, second, third] = bench.sids.clone()[..] else { panic!() };
    let token = bench.state.holder("web").unwrap().token;
    let release = |to| Command::Release { group: "web".to_owned(), token, to };
    assert_eq!(bench.grantor.complete(release(None)), release(Some(third)));
    assert_eq!(bench.grantor.complete(release(Some(second))), release(Some(second)));
    bench.own.insert(third, known(500, 99, false));
    bench.tick(200, &[]);
    assert_eq!(bench.grantor.complete(release(None)), release(Some(second)), "the best has not renewed within 2R");
    bench.grantor.handle(at(300), Event::Replicating(set(&[1, 3])));
    assert_eq!(bench.grantor.complete(release(Some(second))), release(None), "nor is the other reached");
    let close = bench.grantor.complete(Command::Close { sid: first, grants: Vec::new() });
    assert_eq!(close, Command::Close { sid: first, grants: Vec::new() });
}

#[test]
fn no_voters_change_while_a_session_is_fenced() {
    let mut bench = Bench::new();
    assert!(bench.grantor.may_change_voters());
    bench.fence();
    assert!(!bench.grantor.may_change_voters());
}

#[test]
fn a_move_goes_where_it_was_ordered_and_nobody_is_better_there() {
    let mut bench = Bench::new();
    let [first, second, third] = bench.sids.clone()[..] else { panic!() };
    assert_eq!(bench.asked_to_move(100), None);
    let pin = |node| Command::Pin { group: "web".to_owned(), node: Some(NodeId(node)) };
    bench.log(pin(2));
    assert_eq!(bench.asked_to_move(200), Some((NodeId(1), second)), "not to the best priority");
    let token = bench.state.holder("web").unwrap().token;
    bench.log(Command::Release { group: "web".to_owned(), token, to: Some(second) });
    for sid in [first, third] {
        let definition = bench.state.holder("web").unwrap().definition.clone();
        let group = "web".to_owned();
        bench.log(Command::Candidate { sid, group, definition, priority: 200, preempt: true });
    }
    let hears = |node| (NodeId(node), Hearing::Holder);
    let hears = BTreeMap::from([("web".to_owned(), BTreeMap::from([hears(1), hears(3)]))]);
    bench.grantor.handle(at(300), Event::Hears(hears));
    assert!([400, 1500, 3000, 9000].into_iter().all(|millis| bench.asked_to_move(millis).is_none()), "it stays");
    bench.log(Command::Pin { group: "web".to_owned(), node: None });
    assert_eq!(bench.asked_to_move(10_000), None);
    assert_eq!(bench.asked_to_move(11_100), Some((NodeId(2), first)), "by priorities again, after a second");
}

#[test]
fn one_that_asks_to_be_relieved_is_by_whoever_never_preempts_and_wherever_it_was_moved_to() {
    let mut bench = Bench::new();
    let [first, second, third] = bench.sids.clone()[..] else { panic!() };
    let definition = bench.state.holder("web").unwrap().definition.clone();
    let stands = |sid, priority| Command::Candidate {
        sid,
        group: "web".to_owned(),
        definition: definition.clone(),
        priority,
        preempt: false,
    };
    let hears = BTreeMap::from([2, 3].map(|node| (NodeId(node), Hearing::Holder)));
    bench.grantor.handle(at(0), Event::Hears(BTreeMap::from([("web".to_owned(), hears)])));
    bench.log(Command::Pin { group: "web".to_owned(), node: Some(NodeId(1)) });
    bench.log(stands(first, 1));
    assert!(
        [100, 1500, 3000].into_iter().all(|millis| bench.asked_to_move(millis).is_none()),
        "it stays, and by right"
    );
    bench.log(stands(first, 0));
    bench.log(stands(third, 0));
    assert_eq!(bench.asked_to_move(4000), None, "not for a moment");
    assert_eq!(bench.asked_to_move(5100), Some((NodeId(1), second)), "the best of those that are better off");
    bench.log(stands(second, 0));
    assert!([6000, 7500].into_iter().all(|millis| bench.asked_to_move(millis).is_none()), "nobody is better off");
}

#[test]
fn what_a_drained_node_holds_goes_to_the_best_that_can_take_it() {
    let mut bench = Bench::new();
    let third = bench.sids[2];
    let drain = |node| Command::Drain { node: NodeId(node), drained: true };
    bench.log(drain(1));
    assert_eq!(bench.asked_to_move(100), Some((NodeId(1), third)));
    bench.log(drain(3));
    bench.grantor.handle(at(200), Event::Replicating(set(&[1, 3])));
    assert_eq!(bench.asked_to_move(2000), None, "nobody can: a drained holder is better than none");
}

/// The third stands for web with preemption, and hears whoever holds it. `lose` takes web from it, and back to it as soon as
/// the leader asks for it: how long that takes, or `None` within a minute.
struct Flapping {
    bench: Bench,
    millis: u64,
}

impl Flapping {
    fn new() -> Self {
        let mut bench = Bench::new();
        let definition = bench.state.holder("web").unwrap().definition.clone();
        let (sid, group) = (bench.sids[2], "web".to_owned());
        bench.log(Command::Candidate { sid, group, definition, priority: 200, preempt: true });
        let hears = BTreeMap::from([(NodeId(3), Hearing::Holder)]);
        bench.grantor.handle(at(0), Event::Hears(BTreeMap::from([("web".to_owned(), hears)])));
        let mut flapping = Self { bench, millis: 1000 };
        flapping.hand_to(2);
        flapping
    }

    fn hand_to(&mut self, index: usize) {
        let bench = &mut self.bench;
        let (from, to) = (bench.state.holder("web").unwrap().clone(), bench.sids[index]);
        let was = bench.state.groups["web"].candidates[&from.sid].clone();
        bench.log(Command::Release { group: "web".to_owned(), token: from.token, to: Some(to) });
        let (group, definition) = ("web".to_owned(), was.definition);
        let (priority, preempt) = (was.priority, was.preempt);
        bench.log(Command::Candidate { sid: from.sid, group, definition, priority, preempt });
        bench.now = at(self.millis);
        bench.applied(&voters(1, &[1, 2, 3]));
    }

    fn back_after(&mut self) -> Option<u64> {
        let lost = self.millis;
        while self.millis < lost + 60_000 {
            self.millis += 100;
            if let Some((node, to)) = self.bench.asked_to_move(self.millis) {
                assert_eq!((node, to), (NodeId(1), self.bench.sids[2]));
                self.hand_to(2);
                return Some(self.millis - lost);
            }
        }
        None
    }

    fn held_back(&self) -> (u32, Duration) {
        self.bench.grantor.losses(at(self.millis), "web", NodeId(3))
    }
}

#[test]
fn one_that_loses_a_group_again_and_again_waits_longer_each_time() {
    let mut flapping = Flapping::new();
    for (losses, seconds) in (1..).zip([1, 1, 1, 3, 5, 9, 17, 31, 31]) {
        flapping.hand_to(0);
        assert_eq!(flapping.held_back().0, losses);
        let back = flapping.back_after().unwrap();
        assert!(back.abs_diff(seconds * 1000) <= 200, "loss {losses}: back after {back} ms");
        assert_eq!(flapping.held_back(), (losses, Duration::ZERO));
        flapping.millis += 5000;
    }
    flapping.millis += 60_000;
    assert_eq!(flapping.held_back(), (0, Duration::ZERO), "a minute without a loss is forgiven");
    flapping.hand_to(0);
    assert_eq!(flapping.held_back(), (1, Duration::ZERO));
}

#[test]
fn what_was_lost_counts_under_the_next_leader_and_frees_no_group_of_its_best() {
    let mut flapping = Flapping::new();
    for _ in 0..5 {
        flapping.hand_to(0);
        flapping.hand_to(2);
    }
    flapping.bench.grantor.handle(at(flapping.millis), Event::Leads(None));
    flapping.bench.grantor.handle(at(flapping.millis), Event::Leads(Some(BY)));
    flapping.hand_to(0);
    assert_eq!(flapping.held_back(), (6, Duration::from_secs(8)));
    let token = flapping.bench.state.holder("web").unwrap().token;
    let release = |to| Command::Release { group: "web".to_owned(), token, to };
    let third = flapping.bench.sids[2];
    flapping.bench.tick(flapping.millis, &[]);
    assert_eq!(flapping.bench.grantor.complete(release(None)), release(Some(third)), "a free group is not held back");
}

#[test]
fn orders_and_better_candidates_are_no_losses() {
    let mut flapping = Flapping::new();
    flapping.bench.log(Command::Pin { group: "web".to_owned(), node: Some(NodeId(1)) });
    flapping.hand_to(0);
    assert_eq!(flapping.held_back().0, 0, "moved");
    flapping.bench.log(Command::Pin { group: "web".to_owned(), node: None });
    flapping.hand_to(2);
    assert_eq!(flapping.bench.grantor.losses(at(flapping.millis), "web", NodeId(1)).0, 0, "to a better one");
    flapping.bench.log(Command::Drain { node: NodeId(3), drained: true });
    flapping.hand_to(0);
    assert_eq!(flapping.held_back().0, 0, "drained");
}
