//! The replicated state under any sequence of entries: whatever is proposed, delayed or doubled, each group has one
//! holder, its tokens only grow, and an address is held by one group.

use hamesh_raft::codec;
use hamesh_raft::command::{
    Applicant, ClusterId, Command, Definition, Family, GateId, GroupName, InvitationId, Leadership, Lineage, NodeId,
    Outcome, Role, Sid, Token,
};
use hamesh_raft::state::State;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const L: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn leader(node: u64) -> Leadership {
    Leadership { term: 1, node: NodeId(node) }
}

fn applicant(name: &str, key: u8) -> Applicant {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7112));
    Applicant { name: name.to_owned(), role: Role::Director, rack: "r1".to_owned(), address, key: [key; 32] }
}

fn open(node: u64, incarnation: u64, attempt: u64, shut: bool) -> Command {
    let gate = GateId(u128::from(node));
    let (ttl, promise, shut) = (L, L * 2, shut.then_some(gate));
    Command::Open { node: NodeId(node), incarnation, attempt, ttl, promise, gate, shut }
}

fn candidate(sid: Sid, group: &str, addresses: &[u8]) -> Command {
    let addresses = addresses.iter().map(|last| IpAddr::from([203, 0, 113, *last])).collect();
    let definition = Definition { family: Family::V4, vrid: 51, addresses };
    Command::Candidate { sid, group: group.to_owned(), definition, priority: 100, preempt: true }
}

fn grant(group: &str, to: Sid) -> Command {
    Command::Grant { group: group.to_owned(), to }
}

fn register(node: u64, incarnation: u64) -> Command {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7112));
    Command::Register { node: NodeId(node), incarnation, rack: "r1".to_owned(), address }
}

fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(_))
}

/// A log that is applied as it grows, written by the leadership of node 1.
struct Log {
    state: State,
    index: u64,
}

impl Log {
    /// Three directors, each started once.
    fn new() -> Self {
        let mut log = Self { state: State::default(), index: 0 };
        let lineage = Lineage { counter: 1, id: 7 };
        let founder = applicant("lb1", 1);
        log.add(&Command::Found { cluster: ClusterId(1), name: "c".to_owned(), lineage, founder });
        for (node, name, key) in [(2, "lb2", 2), (3, "lb3", 3)] {
            log.invite(node);
            assert_eq!(log.join(node, name, key, Duration::ZERO), Outcome::Joined(NodeId(node)));
        }
        for node in 1..=3 {
            assert_eq!(log.add(&register(node, 1)), Outcome::Done);
        }
        log
    }

    fn add(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, leader(1), command)
    }

    fn invite(&mut self, id: u64) -> Outcome {
        let (id, role) = (InvitationId(id), Role::Director);
        self.add(&Command::Invite { id, secret_hash: [0; 32], role, expires_at: HOUR })
    }

    fn join(&mut self, invitation: u64, name: &str, key: u8, at: Duration) -> Outcome {
        self.add(&Command::Join { invitation: InvitationId(invitation), applicant: applicant(name, key), at })
    }

    fn session(&mut self, node: u64) -> Sid {
        assert_eq!(self.add(&open(node, 1, self.index, false)), Outcome::Opened(Sid(self.index)));
        Sid(self.index)
    }

    fn holder(&self, group: &str) -> Option<(Sid, Token)> {
        self.state.holder(group).map(|holder| (holder.sid, holder.token))
    }

    fn granted_now(&self, to: Sid) -> Option<(Sid, Token)> {
        Some((to, Token { lineage: 1, index: self.index }))
    }
}

#[test]
fn an_invitation_admits_one_bearer_however_often_it_asks() {
    let mut log = Log::new();
    log.invite(9);
    assert!(refused(&log.invite(9)), "an id is used once");
    assert_eq!(log.join(9, "lb4", 4, L), Outcome::Joined(NodeId(4)));
    assert_eq!(log.join(9, "lb4", 4, L), Outcome::Joined(NodeId(4)), "the first answer was lost");
    assert!(refused(&log.join(9, "lb4", 5, L)), "another key");
    assert!(refused(&log.join(9, "lb5", 4, L)), "another name");
    assert_eq!(log.state.members.len(), 4);
}

#[test]
fn an_invitation_admits_nobody_after_its_end_or_in_another_role_or_under_a_name_in_use() {
    let mut log = Log::new();
    log.invite(9);
    assert!(refused(&log.join(9, "lb4", 4, HOUR)));
    assert!(refused(&log.join(9, "lb1", 4, L)));
    let witness = Applicant { role: Role::Witness, ..applicant("w1", 4) };
    assert!(refused(&log.add(&Command::Join { invitation: InvitationId(9), applicant: witness, at: L })));
    assert!(refused(&log.join(8, "lb4", 4, L)), "no such invitation");
    assert_eq!(log.join(9, "lb4", 4, L), Outcome::Joined(NodeId(4)), "none of those used it");
}

#[test]
fn starts_are_registered_in_order_and_never_twice() {
    let mut log = Log::new();
    assert!(refused(&log.add(&register(2, 1))), "the same start, or a copy of its disk");
    assert_eq!(log.add(&register(2, 3)), Outcome::Done);
    assert!(refused(&log.add(&register(2, 2))), "an older disk");
    assert!(refused(&log.add(&register(9, 1))), "nobody");
    assert!(refused(&log.add(&open(2, 1, 1, true))), "an Open of the start before");
    assert!(!refused(&log.add(&open(2, 3, 1, true))), "attempts are counted anew");
}

#[test]
fn a_group_is_granted_to_nobody_but_the_one_that_is_named() {
    let mut log = Log::new();
    let (first, second) = (log.session(1), log.session(2));
    log.add(&candidate(first, "web", &[10]));
    log.add(&candidate(second, "web", &[10]));
    assert_eq!(log.holder("web"), None, "candidates alone get nothing");
    log.add(&grant("web", first));
    assert_eq!(log.holder("web"), log.granted_now(first));
    assert!(refused(&log.add(&grant("web", second))), "it is held");
    log.add(&Command::Close { sid: first, grants: Vec::new() });
    assert_eq!(log.holder("web"), None, "nobody was named, though one was willing");
}

#[test]
fn an_end_grants_each_group_whose_name_still_holds_and_leaves_the_others_free() {
    let mut log = Log::new();
    let (first, second) = (log.session(1), log.session(2));
    for (group, address) in [("web", 10), ("api", 11), ("dns", 12)] {
        log.add(&candidate(first, group, &[address]));
        log.add(&grant(group, first));
    }
    log.add(&candidate(second, "web", &[10]));
    log.add(&candidate(second, "dns", &[12]));
    log.add(&Command::Withdraw { sid: second, group: "dns".to_owned() });
    log.add(&Command::Fence { sid: first });
    assert_eq!(log.holder("web").map(|(sid, _)| sid), Some(first), "a Fence frees nothing");
    let grants = ["web", "api", "dns"].map(|group| (group.to_owned(), second)).to_vec();
    assert_eq!(log.add(&Command::Expire { sid: first, by: leader(1), grants }), Outcome::Done);
    assert_eq!(log.holder("web"), log.granted_now(second));
    assert_eq!((log.holder("api"), log.holder("dns")), (None, None));
}

#[test]
fn an_address_of_a_held_group_is_granted_in_no_other_not_even_by_one_entry() {
    let mut log = Log::new();
    let (first, second) = (log.session(1), log.session(2));
    log.add(&candidate(first, "VI_1", &[10]));
    log.add(&candidate(second, "VI_WEB", &[10, 11]));
    log.add(&grant("VI_1", first));
    assert!(log.state.obstacle("VI_WEB", second).is_some_and(|why| why.contains("203.0.113.10")));
    assert!(refused(&log.add(&grant("VI_WEB", second))));
    log.add(&candidate(second, "VI_1", &[10]));
    let grants = vec![("VI_WEB".to_owned(), second), ("VI_1".to_owned(), second)];
    log.add(&Command::Close { sid: first, grants });
    assert_eq!(log.holder("VI_WEB"), log.granted_now(second), "free now");
    assert_eq!(log.holder("VI_1"), None, "its address went with the grant before");
}

/// One entry of a hostile log: sessions and tokens are picked from all that there ever were.
#[derive(Clone, Debug)]
enum Step {
    Register(u64, u64),
    Open(u64, u64, u64, bool),
    Close(usize, usize),
    Candidate(usize, usize, Vec<u8>),
    Withdraw(usize, usize),
    Release(usize, usize, Option<usize>),
    Fence(usize),
    Expire(usize, u64, usize),
    Grant(usize, usize),
    /// An entry of before, once more.
    Again(usize),
}

const GROUPS: [&str; 3] = ["web", "api", "dns"];

fn step() -> impl Strategy<Value = Step> {
    let any = || 0..64usize;
    let group = || 0..GROUPS.len();
    let addresses = proptest::collection::vec(10..14u8, 1..3);
    prop_oneof![
        1 => (1..4u64, 1..4u64).prop_map(|(node, incarnation)| Step::Register(node, incarnation)),
        4 => (1..4u64, 1..3u64, 1..9u64, proptest::bool::ANY).prop_map(|(n, i, a, shut)| Step::Open(n, i, a, shut)),
        1 => (any(), any()).prop_map(|(sid, to)| Step::Close(sid, to)),
        8 => (any(), group(), addresses).prop_map(|(sid, group, addresses)| Step::Candidate(sid, group, addresses)),
        1 => (any(), group()).prop_map(|(sid, group)| Step::Withdraw(sid, group)),
        3 => (group(), any(), proptest::option::of(any())).prop_map(|(group, t, to)| Step::Release(group, t, to)),
        1 => any().prop_map(Step::Fence),
        2 => (any(), 1..3u64, any()).prop_map(|(sid, by, to)| Step::Expire(sid, by, to)),
        6 => (group(), any()).prop_map(|(group, to)| Step::Grant(group, to)),
        3 => any().prop_map(Step::Again),
    ]
}

/// What a hostile log can pick from.
#[derive(Default)]
struct Past {
    sids: Vec<Sid>,
    tokens: Vec<Token>,
    commands: Vec<Command>,
}

fn pick<T: Clone>(from: &[T], which: usize) -> Option<T> {
    from.get(which % from.len().max(1)).cloned()
}

impl Past {
    fn command(&self, step: &Step) -> Option<Command> {
        let sid = |which: &usize| pick(&self.sids, *which);
        let group = |which: &usize| GROUPS[*which].to_owned();
        let all = |to: Sid| GROUPS.map(|group| (group.to_owned(), to)).to_vec();
        Some(match step {
            Step::Register(node, incarnation) => register(*node, *incarnation),
            Step::Open(node, incarnation, attempt, shut) => open(*node, *incarnation, *attempt, *shut),
            Step::Close(s, to) => Command::Close { sid: sid(s)?, grants: all(sid(to)?) },
            Step::Candidate(s, g, addresses) => candidate(sid(s)?, GROUPS[*g], addresses),
            Step::Withdraw(s, g) => Command::Withdraw { sid: sid(s)?, group: group(g) },
            Step::Release(g, token, to) => {
                Command::Release { group: group(g), token: pick(&self.tokens, *token)?, to: to.as_ref().and_then(sid) }
            }
            Step::Fence(s) => Command::Fence { sid: sid(s)? },
            Step::Expire(s, by, to) => Command::Expire { sid: sid(s)?, by: leader(*by), grants: all(sid(to)?) },
            Step::Grant(g, to) => grant(GROUPS[*g], sid(to)?),
            Step::Again(which) => pick(&self.commands, *which)?,
        })
    }
}

/// Whether `command` is one that may end this grant.
fn ends(command: &Command, sid: Sid, token: Token, before: &State) -> bool {
    let session = &before.sessions[&sid];
    matches!(command, Command::Release { token: given, .. } if *given == token)
        || matches!(command, Command::Close { sid: closed, .. } if *closed == sid)
        || matches!(command, Command::Expire { sid: over, by, .. }
            if *over == sid && *by == leader(1) && session.fenced.is_some())
        || matches!(command, Command::Open { node, shut, .. } if *node == session.node && *shut == Some(session.gate))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tokens_only_grow_and_an_address_has_one_holder_whatever_is_proposed(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let (mut log, mut past) = (Log::new(), Past::default());
        let mut last: BTreeMap<GroupName, Token> = BTreeMap::new();
        let mut over: BTreeSet<Sid> = BTreeSet::new();
        let mut attempts: BTreeMap<(NodeId, u64), u64> = BTreeMap::new();
        for step in &steps {
            let Some(command) = past.command(step) else { continue };
            let before = log.state.clone();
            let outcome = log.add(&command);
            past.commands.push(command.clone());
            if let Outcome::Opened(sid) = outcome {
                prop_assert_eq!(sid, Sid(log.index));
                let session = &log.state.sessions[&sid];
                let (start, attempt) = ((session.node, session.incarnation), session.attempt);
                prop_assert!(attempts.insert(start, attempt).is_none_or(|before| before < attempt), "a late Open");
                past.sids.push(sid);
            }
            if refused(&outcome) {
                prop_assert_eq!(&before, &log.state, "a refusal changed something");
            }
            for (name, group) in &before.groups {
                let Some(was) = &group.holder else { continue };
                if log.state.holder(name) != Some(was) {
                    prop_assert!(ends(&command, was.sid, was.token, &before), "{:?} took {} away", command, name);
                }
            }
            let mut addresses = BTreeSet::new();
            for (name, group) in &log.state.groups {
                let Some(holder) = &group.holder else { continue };
                prop_assert!(log.state.sessions.contains_key(&holder.sid), "a holder without a session");
                let own: BTreeSet<IpAddr> = holder.definition.addresses.iter().copied().collect();
                prop_assert!(addresses.is_disjoint(&own), "an address in two groups");
                addresses.extend(own);
                if before.holder(name) == Some(holder) {
                    continue;
                }
                prop_assert_eq!(holder.token, Token { lineage: 1, index: log.index });
                prop_assert!(last.insert(name.clone(), holder.token).is_none_or(|token| token < holder.token));
                prop_assert!(log.state.sessions[&holder.sid].fenced.is_none(), "granted to a fenced session");
                past.tokens.push(holder.token);
            }
            over.extend(before.sessions.keys().filter(|sid| !log.state.sessions.contains_key(sid)));
            for (sid, session) in &log.state.sessions {
                prop_assert!(!over.contains(sid), "a session came back");
                let stands = log.state.groups.values().any(|group| group.candidates.contains_key(sid));
                prop_assert!(session.fenced.is_none() || !stands, "a fenced session stands");
            }
        }
        let copy: Option<State> = codec::decode(&codec::encode(&log.state), 1 << 20).ok();
        prop_assert_eq!(copy, Some(log.state), "a snapshot lost something");
    }
}
