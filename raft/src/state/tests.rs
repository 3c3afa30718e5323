use super::*;
use crate::command::Family;
use std::net::Ipv4Addr;

const BY: Leadership = Leadership { term: 1, node: NodeId(1) };
const L: Duration = Duration::from_secs(1);

/// Two directors, registered, and the log so far.
struct Log {
    state: State,
    index: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { state: State::default(), index: 0 };
        let applicant = |name: &str| Applicant {
            name: name.to_owned(),
            role: Role::Director,
            rack: String::new(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            key: [0; 32],
        };
        let lineage = Lineage { counter: 1, id: 1 };
        log.add(&Command::Found { cluster: ClusterId(1), name: "c".to_owned(), lineage, founder: applicant("lb1") });
        let (id, role, expires_at) = (InvitationId(1), Role::Director, Duration::from_secs(9));
        log.add(&Command::Invite { id, secret_hash: [0; 32], role, expires_at });
        let joined = log.add(&Command::Join { invitation: id, applicant: applicant("lb2"), at: Duration::ZERO });
        assert_eq!(joined, Outcome::Joined(NodeId(2)));
        log.register(1, 1);
        log.register(2, 1);
        log
    }

    fn add(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, BY, command)
    }

    fn register(&mut self, node: u64, incarnation: u64) -> Outcome {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        self.add(&Command::Register { node: NodeId(node), incarnation, rack: String::new(), address })
    }

    fn open(&mut self, node: u64, incarnation: u64, attempt: u64, shut: bool) -> Option<Sid> {
        let gate = GateId(u128::from(node));
        let (ttl, promise, shut) = (L, L + L, shut.then_some(gate));
        match self.add(&Command::Open { node: NodeId(node), incarnation, attempt, ttl, promise, gate, shut }) {
            Outcome::Opened(sid) => Some(sid),
            Outcome::Done | Outcome::Joined(_) | Outcome::Refused(_) => None,
        }
    }

    fn stand(&mut self, sid: Sid, group: &str, address: u8) -> Outcome {
        let addresses = vec![Ipv4Addr::new(203, 0, 113, address).into()];
        let definition = Definition { family: Family::V4, vrid: 1, addresses };
        self.add(&Command::Candidate { sid, group: group.to_owned(), definition, priority: 100, preempt: false })
    }

    fn grant(&mut self, group: &str, to: Sid) -> bool {
        self.add(&Command::Grant { group: group.to_owned(), to }) == Outcome::Done
    }

    fn holder(&self, group: &str) -> Option<(Sid, u64)> {
        self.state.holder(group).map(|holder| (holder.sid, holder.token.index))
    }

    fn expire(&mut self, sid: Sid, by: Leadership, to: Sid) -> bool {
        self.add(&Command::Expire { sid, by, grants: vec![("web".to_owned(), to)] }) == Outcome::Done
    }
}

#[test]
fn a_delayed_or_doubled_open_supersedes_nothing() {
    let mut log = Log::new();
    let first = log.open(1, 1, 1, true).unwrap();
    let second = log.open(1, 1, 3, true).unwrap();
    assert_eq!(log.open(1, 1, 2, true), None, "delayed");
    assert_eq!(log.open(1, 1, 3, true), None, "doubled");
    assert!(!log.state.sessions.contains_key(&first) && log.state.sessions.contains_key(&second));
    log.register(1, 2);
    assert_eq!(log.open(1, 1, 9, true), None, "of the predecessor");
    assert!(log.state.sessions.contains_key(&second));
    assert_eq!(
        log.register(1, 2),
        Outcome::Refused(
            "start 2 of lb1 is not newer than start 2, which the cluster remembers: its disk is an old copy".to_owned(),
        )
    );
}

#[test]
fn an_open_that_shut_no_gate_leaves_the_older_session_to_its_ages() {
    let mut log = Log::new();
    let older = log.open(1, 1, 1, true).unwrap();
    log.stand(older, "web", 1);
    assert!(log.grant("web", older));
    let newer = log.open(1, 1, 2, false).unwrap();
    assert!(log.state.sessions.contains_key(&older) && log.state.sessions.contains_key(&newer), "H7");
    assert_eq!(log.holder("web").unwrap().0, older);
    assert!(log.open(1, 1, 3, true).is_some());
    assert_eq!(log.holder("web"), None, "its gate was shut");
}

#[test]
fn an_expire_counts_once_fenced_and_under_the_leadership_that_measured() {
    let mut log = Log::new();
    let (one, two) = (log.open(1, 1, 1, false).unwrap(), log.open(2, 1, 1, false).unwrap());
    log.stand(one, "web", 1);
    log.stand(two, "web", 1);
    assert!(log.grant("web", one));
    assert!(!log.expire(one, BY, two), "not fenced");
    assert_eq!(log.add(&Command::Fence { sid: one }), Outcome::Done);
    assert!(!log.expire(one, Leadership { term: 1, node: NodeId(2) }, two), "two nodes can lead in one term");
    assert_eq!(log.holder("web").unwrap().0, one, "fenced is not expired");
    assert!(log.expire(one, BY, two));
    assert_eq!(log.holder("web"), Some((two, log.index)));
}

#[test]
fn a_fenced_session_stands_for_nothing_and_is_granted_nothing() {
    let mut log = Log::new();
    let one = log.open(1, 1, 1, false).unwrap();
    log.stand(one, "web", 1);
    log.add(&Command::Fence { sid: one });
    assert!(!log.state.groups.contains_key("web"));
    assert!(matches!(log.stand(one, "web", 1), Outcome::Refused(_)));
    assert!(!log.grant("web", one));
}

#[test]
fn the_first_fence_is_the_one_that_counts() {
    let mut log = Log::new();
    let one = log.open(1, 1, 1, false).unwrap();
    log.add(&Command::Fence { sid: one });
    let first = log.index;
    log.add(&Command::Fence { sid: one });
    assert_eq!(log.state.sessions[&one].fenced, Some(first));
}

#[test]
fn an_address_belongs_to_one_group() {
    let mut log = Log::new();
    let (one, two) = (log.open(1, 1, 1, false).unwrap(), log.open(2, 1, 1, false).unwrap());
    log.stand(one, "VI_1", 10);
    log.stand(two, "VI_WEB", 10);
    assert!(log.grant("VI_1", one));
    assert!(!log.grant("VI_WEB", two), "H11");
    assert_eq!(log.state.obstacle("VI_WEB", two), Some("203.0.113.10 belongs to vip.VI_1, which is held".to_owned()));
    log.add(&Command::Close { sid: one, grants: vec![("VI_1".to_owned(), two)] });
    assert_eq!(log.holder("VI_1"), None, "named, but no candidate of it (H12)");
    assert!(log.grant("VI_WEB", two));
}

#[test]
fn a_release_withdraws_its_candidacy_and_stands_when_its_grantee_is_gone() {
    let mut log = Log::new();
    let (one, two) = (log.open(1, 1, 1, false).unwrap(), log.open(2, 1, 1, false).unwrap());
    log.stand(one, "web", 1);
    log.stand(two, "web", 1);
    assert!(log.grant("web", one));
    let token = log.state.holder("web").unwrap().token;
    log.add(&Command::Fence { sid: two });
    let release = Command::Release { group: "web".to_owned(), token, to: Some(two) };
    assert_eq!(log.add(&release), Outcome::Done);
    assert_eq!(log.holder("web"), None);
    assert!(matches!(log.add(&release), Outcome::Refused(_)), "doubled");
    assert!(!log.grant("web", one), "V4");
    log.stand(one, "web", 1);
    assert!(log.grant("web", one));
    assert!(matches!(log.add(&release), Outcome::Refused(_)), "a token names one grant");
    assert_eq!(log.holder("web"), Some((one, log.index - 1)));
}

fn pin(node: Option<u64>) -> Command {
    Command::Pin { group: "web".to_owned(), node: node.map(NodeId) }
}

/// lb1 holds web, lb2 is a candidate.
fn held() -> (Log, Sid, Sid) {
    let mut log = Log::new();
    let (one, two) = (log.open(1, 1, 1, false).unwrap(), log.open(2, 1, 1, false).unwrap());
    log.stand(one, "web", 1);
    log.stand(two, "web", 1);
    assert!(log.grant("web", one));
    (log, one, two)
}

#[test]
fn a_pin_lasts_until_its_node_loses_the_group() {
    let endings: [fn(&mut Log, Sid); 4] = [
        |log, sid| drop(log.add(&Command::Close { sid, grants: vec![] })),
        |log, sid| drop(log.add(&Command::Fence { sid })),
        |log, sid| drop(log.add(&Command::Withdraw { sid, group: "web".to_owned() })),
        |log, _| drop(log.add(&Command::Drain { node: NodeId(2), drained: true })),
    ];
    for ending in endings {
        let (mut log, one, two) = held();
        assert_eq!(log.add(&pin(Some(2))), Outcome::Done);
        let token = log.state.holder("web").unwrap().token;
        log.add(&Command::Release { group: "web".to_owned(), token, to: Some(two) });
        log.stand(one, "web", 1);
        assert!(log.state.is_pinned("web", NodeId(2)), "the old holder's leaving ends nothing");
        assert_eq!(log.holder("web").map(|(sid, _)| sid), Some(two));
        ending(&mut log, two);
        assert!(!log.state.is_pinned("web", NodeId(2)));
    }
}

#[test]
fn a_pin_that_cannot_be_kept_is_refused() {
    let (mut log, one, two) = held();
    let refused = |log: &mut Log, node: u64| match log.add(&pin(Some(node))) {
        Outcome::Refused(why) => why,
        Outcome::Done | Outcome::Joined(_) | Outcome::Opened(_) => panic!("not refused"),
    };
    assert!(refused(&mut log, 9).contains("no member"));
    log.add(&Command::Drain { node: NodeId(2), drained: true });
    assert!(refused(&mut log, 2).contains("lb2 is drained"));
    log.add(&Command::Drain { node: NodeId(2), drained: false });
    log.stand(two, "web", 2);
    assert!(refused(&mut log, 2).contains("otherwise than the holder's"));
    log.add(&Command::Withdraw { sid: two, group: "web".to_owned() });
    assert!(refused(&mut log, 2).contains("no candidate"));
    assert_eq!(log.add(&pin(Some(1))), Outcome::Done, "where it is already");
    assert_eq!(log.add(&pin(None)), Outcome::Done);
    log.add(&Command::Close { sid: one, grants: vec![] });
    assert!(matches!(log.add(&pin(None)), Outcome::Refused(_)), "no such group any more");
}

#[test]
fn a_drained_node_keeps_what_it_holds_and_is_granted_nothing() {
    let (mut log, one, two) = held();
    for node in [1, 2] {
        log.add(&Command::Drain { node: NodeId(node), drained: true });
    }
    assert_eq!(log.holder("web").map(|(sid, _)| sid), Some(one), "the leader asks it to move");
    log.add(&Command::Close { sid: one, grants: vec![("web".to_owned(), two)] });
    assert_eq!(log.holder("web"), None);
    log.add(&Command::Drain { node: NodeId(2), drained: false });
    assert!(log.grant("web", two));
}

#[test]
fn a_removed_node_leaves_its_name_and_never_its_id() {
    let (mut log, one, two) = held();
    assert!(matches!(log.add(&Command::Remove { node: NodeId(2) }), Outcome::Refused(_)), "it has a session");
    log.add(&Command::Close { sid: two, grants: vec![] });
    assert_eq!(log.add(&Command::Remove { node: NodeId(2) }), Outcome::Done);
    assert!(matches!(log.register(2, 2), Outcome::Refused(_)));
    let (id, role, expires_at) = (InvitationId(2), Role::Director, Duration::from_secs(9));
    log.add(&Command::Invite { id, secret_hash: [0; 32], role, expires_at });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let applicant = Applicant { name: "lb2".to_owned(), role, rack: String::new(), address, key: [1; 32] };
    assert_eq!(log.add(&Command::Join { invitation: id, applicant, at: Duration::ZERO }), Outcome::Joined(NodeId(3)));
    log.add(&Command::Remove { node: NodeId(3) });
    log.add(&Command::Close { sid: one, grants: vec![] });
    assert!(matches!(log.add(&Command::Remove { node: NodeId(1) }), Outcome::Refused(_)), "the last one");
}
