//! Several directors' minds with a gossip between them that loses nothing, and servers that do as they are told.

use super::*;
use crate::config::check::{Check, Slow, Way};
use crate::health::{Names, Observed, ServerStatus};
use crate::ipvs::{Forwarding, Protocol, SchedulerFlags, ServiceKey};

const STEP: Duration = Duration::from_millis(50);

/// One service of `servers` servers behind web, asked every second; three failures in a row make one down.
fn services(servers: u8, min_up: usize) -> BTreeMap<String, Service> {
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let (probe, way, again, warmup) = (Probe::Tcp, Way::default(), interval, interval);
    let check = Check { probe, way, interval, again, timeout, warmup, fall: 3, rise: 2, slow: None, loss: None };
    let server = |n| Server {
        address: ([10, 0, 5, n], 80).into(),
        weight: 1,
        forwarding: Forwarding::Nat,
        checks: vec![check.clone()],
        inhibit_on_failure: false,
        upper: 0,
        lower: 0,
        alpha: false,
        notify_up: None,
        notify_down: None,
        mail: false,
    };
    let service = Service {
        vip: "web".to_owned(),
        listen: vec![ServiceKey::Address(Protocol::Tcp, SocketAddr::from(([203, 0, 113, 10], 80)).into())],
        protocol: Protocol::Tcp,
        scheduler: "rr",
        flags: SchedulerFlags::default(),
        one_packet: false,
        granularity: None,
        engine: None,
        drain: Some(10 * SECOND),
        slow_start: Duration::ZERO,
        quorum_up: None,
        quorum_down: None,
        mail: false,
        servers: (1..=servers).map(server).collect(),
        persistence: None,
        sorry_server: None,
        sorry_server_inhibit: false,
        omega: false,
        ha_suspend: false,
        quorum: 1,
        hysteresis: 0,
        min_up,
    };
    BTreeMap::from([("web".to_owned(), service)])
}

/// As gossip hands them out.
fn shared(facts: &BTreeMap<NodeId, BTreeMap<String, String>>) -> BTreeMap<NodeId, Arc<BTreeMap<String, String>>> {
    facts.iter().map(|(node, facts)| (*node, Arc::new(facts.clone()))).collect()
}

struct Mesh {
    now: Moment,
    minds: BTreeMap<NodeId, Health>,
    facts: BTreeMap<NodeId, BTreeMap<String, String>>,
    wanted: BTreeMap<NodeId, Arc<Wanted>>,
    short: BTreeSet<NodeId>,
    asked: BTreeMap<NodeId, usize>,
    /// How long each answer takes.
    took: Duration,
    /// What a director finds that a server weighs.
    weighs: fn(NodeId, u8) -> Share,
}

impl Mesh {
    /// Directors 1 to `count`; the first holds web.
    fn new(count: u64, servers: u8, min_up: usize) -> Self {
        Self::of(count, &services(servers, min_up))
    }

    fn of(count: u64, services: &BTreeMap<String, Service>) -> Self {
        let now = Moment::default();
        let mind = |id| (NodeId(id), Health::new(now, NodeId(id), HealthMesh::default(), services));
        let mut mesh = Self {
            now,
            minds: (1..=count).map(mind).collect(),
            facts: BTreeMap::new(),
            wanted: BTreeMap::new(),
            short: BTreeSet::new(),
            asked: BTreeMap::new(),
            took: Duration::from_millis(1),
            weighs: |_, _| Share::Configured,
        };
        mesh.event(NodeId(1), Event::Holds(["web".to_owned()].into()), &|_, _| true);
        mesh
    }

    fn event(&mut self, node: NodeId, event: Event, answers: &dyn Fn(NodeId, u8) -> bool) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.minds.get_mut(&node).unwrap().handle(self.now, event) {
                match action {
                    Action::Ask(id, target) => {
                        *self.asked.entry(node).or_default() += 1;
                        let IpAddr::V4(ip) = target.address.ip() else { panic!() };
                        let server = ip.octets()[3];
                        let up = answers(node, server);
                        let said =
                            if up { Said::Up((self.weighs)(node, server)) } else { Said::Down("refused".to_owned()) };
                        events.push(Event::Answered(id, Answer { said, took: self.took }));
                    }
                    Action::Say(key, Some(value)) => drop(self.facts.entry(node).or_default().insert(key, value)),
                    Action::Say(key, None) => drop(self.facts.entry(node).or_default().remove(&key)),
                    Action::Want(wanted) => drop(self.wanted.insert(node, wanted)),
                    Action::Tell(Change { script, mail, .. }) => assert_eq!((script, mail), (None, None)),
                    Action::Short(_, true) => assert!(self.short.insert(node)),
                    Action::Short(_, false) => assert!(self.short.remove(&node)),
                }
            }
        }
    }

    /// Lets time pass. `answers` says whether a server answers a director.
    fn pass(&mut self, time: Duration, answers: impl Fn(NodeId, u8) -> bool) {
        let end = self.now + time;
        while !self.now.reached(end) {
            self.now = self.now + STEP;
            for node in self.minds.keys().copied().collect::<Vec<_>>() {
                self.event(node, Event::Facts(shared(&self.facts)), &answers);
                if self.now.reached(self.minds[&node].next_deadline()) {
                    self.event(node, Event::Tick, &answers);
                }
            }
        }
    }

    /// How many servers web has in the table of a director.
    fn serves(&self, node: u64) -> usize {
        self.wanted[&NodeId(node)]["web"].values().map(|service| service.servers.len()).sum()
    }
}

impl Mesh {
    /// The weight of a server in the table of a director.
    fn weight(&self, node: u64, server: u8) -> Option<u32> {
        let table = self.wanted[&NodeId(node)]["web"].values().next().unwrap();
        table.servers.iter().find(|(at, _)| at.ip == IpAddr::from([10, 0, 5, server])).map(|(_, server)| server.weight)
    }

    /// What a director shows of a server, the first being 1.
    fn shows(&self, node: u64, server: usize) -> ServerStatus {
        let names = (1..=9).map(|id| (NodeId(id), format!("lb{id}"))).collect();
        self.minds[&NodeId(node)].status(&names)[0].servers[server - 1].clone()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_server_that_fails_is_out_everywhere_within_interval_times_fall_and_back_after_rise() {
    let mut mesh = Mesh::new(3, 4, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    assert_eq!([1, 2, 3].map(|node| mesh.serves(node)), [4, 4, 4]);
    mesh.pass(4 * SECOND, |_, server| server != 2);
    assert_eq!([1, 2, 3].map(|node| mesh.serves(node)), [3, 3, 3]);
    assert!(mesh.short.is_empty());
    mesh.pass(3 * SECOND, |_, _| true);
    assert_eq!([1, 2, 3].map(|node| mesh.serves(node)), [4, 4, 4]);
}

#[test]
fn a_director_that_alone_sees_servers_fail_is_short_and_the_pool_of_others_unchanged() {
    let mut mesh = Mesh::new(3, 4, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    mesh.pass(6 * SECOND, |node, _| node != NodeId(1));
    assert_eq!([2, 3].map(|node| mesh.serves(node)), [4, 4]);
    assert_eq!(mesh.short, [NodeId(1)].into());
    mesh.pass(6 * SECOND, |_, _| true);
    assert!(mesh.short.is_empty());
}

#[test]
fn what_is_suspended_is_asked_by_the_holder_alone() {
    let mut services = services(4, 0);
    services.get_mut("web").expect("it is there").ha_suspend = true;
    let mut mesh = Mesh::of(3, &services);
    mesh.pass(5 * SECOND, |_, _| true);
    assert_eq!(mesh.asked.keys().collect::<Vec<_>>(), [&NodeId(1)]);
    mesh.event(NodeId(1), Event::Holds(Holdings::new()), &|_, _| true);
    mesh.event(NodeId(2), Event::Holds(["web".to_owned()].into()), &|_, _| true);
    mesh.asked.clear();
    mesh.pass(6 * SECOND, |_, server| server != 2);
    assert_eq!(mesh.asked.keys().collect::<Vec<_>>(), [&NodeId(2)]);
    assert_eq!(mesh.serves(2), 3);
}

#[test]
fn slow_answers_lower_the_weight_and_quick_ones_raise_it() {
    let mut services = services(1, 0);
    let server = &mut services.get_mut("web").expect("it is there").servers[0];
    (server.weight, server.checks[0].slow) = (10, Some(Slow { after: Duration::from_millis(200), percent: 35 }));
    let mut mesh = Mesh::of(1, &services);
    let weight = |mesh: &Mesh| {
        let mut servers = mesh.wanted[&NodeId(1)]["web"].values().flat_map(|service| service.servers.values());
        servers.next().map(|server| server.weight)
    };
    mesh.pass(3 * SECOND, |_, _| true);
    assert_eq!(weight(&mesh), Some(10));
    mesh.took = Duration::from_millis(300);
    mesh.pass(4 * SECOND, |_, _| true);
    assert_eq!(weight(&mesh), Some(3));
    mesh.took = Duration::from_millis(100);
    mesh.pass(3 * SECOND, |_, _| true);
    assert_eq!(weight(&mesh), Some(10));
}

#[test]
fn a_short_slow_start_waits_between_its_steps() {
    let mut services = services(2, 0);
    services.get_mut("web").unwrap().slow_start = SECOND;
    let mut mesh = Mesh::of(1, &services);
    mesh.pass(5 * SECOND, |_, server| server != 2);
    assert_eq!(mesh.serves(1), 1);
    for _ in 0..80 {
        mesh.pass(STEP, |_, _| true);
        assert!(!mesh.now.reached(mesh.minds[&NodeId(1)].next_deadline()), "it has just been asked");
    }
    assert_eq!(mesh.serves(1), 2);
}

/// Directors ask from addresses of their own, and share what they see all the same.
#[test]
fn what_is_asked_from_two_addresses_is_two_targets_and_the_same_two_everywhere() {
    let asked = |sources: [u8; 2]| {
        let mut services = services(1, 0);
        services.insert("web2".to_owned(), services["web"].clone());
        for (service, source) in services.values_mut().zip(sources) {
            service.servers[0].checks[0].way.source = Some([10, 0, 0, source].into());
        }
        let mut health = Health::new(Moment::default(), NodeId(1), HealthMesh::default(), &services);
        let actions = health.handle(Moment::default(), Event::Holds(["web".to_owned()].into()));
        let asks = actions.into_iter().filter_map(|action| match action {
            Action::Ask(id, target) => Some((target.check.way.source, id)),
            Action::Say(..) | Action::Want(_) | Action::Tell(_) | Action::Short(..) => None,
        });
        asks.collect::<BTreeMap<_, _>>()
    };
    let (here, there) = (asked([1, 2]), asked([3, 4]));
    assert_eq!(here.keys().map(|source| source.unwrap().to_string()).collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.2"]);
    assert!(here.values().eq(there.values()) && here.values().collect::<BTreeSet<_>>().len() == 2);
    assert_eq!(asked([5, 5]).values().collect::<Vec<_>>(), [&here[&Some([10, 0, 0, 1].into())]]);
}

#[test]
fn one_server_of_many_is_no_bad_path() {
    let mut mesh = Mesh::new(3, 8, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    mesh.pass(6 * SECOND, |node, server| node != NodeId(1) || server != 1);
    assert!(mesh.short.is_empty());
    assert_eq!(mesh.serves(1), 7, "what the holder cannot reach it does not serve");
}

#[test]
fn a_liar_empties_no_pool() {
    let mut mesh = Mesh::new(5, 4, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    mesh.pass(20 * SECOND, |node, _| node != NodeId(3));
    assert_eq!([1, 2, 4, 5].map(|node| mesh.serves(node)), [4, 4, 4, 4]);
}

#[test]
fn when_all_fail_at_once_min_up_keeps_them() {
    for (min_up, left) in [(0, 0), (2, 4)] {
        let mut mesh = Mesh::new(3, 4, min_up);
        mesh.pass(5 * SECOND, |_, _| true);
        mesh.pass(5 * SECOND, |_, _| false);
        assert_eq!([1, 2, 3].map(|node| mesh.serves(node)), [left; 3]);
    }
}

#[test]
fn a_target_is_watched_by_three_and_the_holder() {
    let mut mesh = Mesh::new(8, 64, 0);
    mesh.pass(10 * SECOND, |_, _| true);
    let before = mesh.asked.clone();
    mesh.pass(10 * SECOND, |_, _| true);
    let asked = |node: u64| mesh.asked[&NodeId(node)] - before[&NodeId(node)];
    assert_eq!(asked(1), 640, "the holder asks all 64 each second");
    let others: usize = (2..=8).map(asked).sum();
    // 64 x 3 observers, of which the holder is one in eight.
    assert!((1_400..=1_920).contains(&others), "{others}");
}

#[test]
fn a_new_holder_goes_by_the_others_until_it_has_looked() {
    let mut mesh = Mesh::new(8, 16, 0);
    mesh.pass(10 * SECOND, |_, server| server > 4);
    assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(|node| mesh.serves(node)), [12; 8]);
}

#[test]
fn what_a_check_makes_of_a_weight_is_known_to_directors_that_do_not_ask() {
    let mut weighted = services(16, 0);
    let service = weighted.get_mut("web").unwrap();
    service.servers.iter_mut().for_each(|server| server.weight = 40);
    service.servers[2].checks[0].slow = Some(Slow { after: Duration::ZERO, percent: 25 });
    let mut mesh = Mesh::of(8, &weighted);
    mesh.weighs = |node, server| match (server, node.0) {
        (1, _) => Share::Exactly(7),
        (2, _) => Share::More(-30),
        // The only one that is asked for all says less than the rest.
        (4, 1) => Share::Exactly(0),
        (4, _) => Share::Exactly(9),
        _ => Share::Configured,
    };
    mesh.pass(12 * SECOND, |_, _| true);
    let tables = |server| [1, 2, 3, 4, 5, 6, 7, 8].map(|node| mesh.weight(node, server).unwrap());
    assert_eq!([tables(1), tables(2), tables(3), tables(5)], [[7; 8], [10; 8], [10; 8], [40; 8]]);
    assert_eq!(tables(4), [0, 9, 9, 9, 9, 9, 9, 9], "the holder goes by itself, and two of three others say 9");
    let asks = |node: u64| mesh.shows(node, 1).observers.contains_key(&format!("lb{node}"));
    assert!((2..=8).filter(|node| !asks(*node)).count() >= 4, "most of them have not asked");
    assert!(mesh.shows(8, 4).observations.iter().any(|one| one.director == "lb1" && one.weight == Some(0)));
    // Another weight, and none: each is another observation.
    mesh.weighs = |_, _| Share::Exactly(3);
    mesh.pass(2 * SECOND, |_, _| true);
    assert_eq!([2, 3, 4, 5, 6, 7, 8].map(|node| mesh.weight(node, 1)), [Some(3); 7]);
    mesh.weighs = |_, _| Share::Configured;
    mesh.pass(2 * SECOND, |_, _| true);
    assert_eq!([2, 3, 4, 5, 6, 7, 8].map(|node| mesh.weight(node, 1)), [Some(40); 7]);
}

#[test]
fn a_verdict_says_whose_word_it_is_and_everybody_knows_why() {
    let mut mesh = Mesh::new(8, 16, 0);
    mesh.pass(10 * SECOND, |node, server| server != 1 && (server != 2 || node != NodeId(1)));
    let far = (2..=8).find(|node| !mesh.shows(*node, 1).observers.contains_key(&format!("lb{node}"))).unwrap();
    let shown = mesh.shows(far, 1);
    let lb1 =
        Observed { director: "lb1".to_owned(), seen: "down".to_owned(), weight: None, why: Some("refused".to_owned()) };
    assert_eq!((shown.state.as_str(), &shown.why, shown.balanced), ("down", &None, None));
    assert!(shown.observations.contains(&lb1), "{shown:?}");
    let known = shown.observations.len();
    let words = format!("this director has not looked; {known} of {known} others see it down, and 2 must");
    assert_eq!(shown.verdict, words);
    let alone = mesh.shows(1, 2);
    assert!(alone.verdict.ends_with("see it up: the path is bad, not the server"), "{}", alone.verdict);
    assert_eq!(mesh.shows(1, 1).verdict, "this director sees so itself");
    assert_eq!(mesh.shows(1, 3).balanced, Some(1));
    let looks = |node: &u64| mesh.shows(*node, 2).observers.contains_key(&format!("lb{node}"));
    let other = (2..=8).find(looks).unwrap();
    let words = mesh.shows(other, 2).verdict;
    assert!(words.starts_with("this director sees it up, though 1 of "), "{words}");
    let fresh = Mesh::new(1, 1, 0);
    assert_eq!(fresh.shows(1, 1).state, "up", "the holder asks at once");
    mesh.pass(5 * SECOND, |_, _| true);
    assert!(mesh.facts.values().all(|facts| facts.keys().all(|key| !key.starts_with("why"))), "all is well");
}

#[test]
fn observations_of_a_director_that_is_gone_or_hung_count_no_more() {
    let mut mesh = Mesh::new(4, 16, 0);
    mesh.pass(10 * SECOND, |_, server| server > 4);
    // All but the last are gone: it watches everything itself, and what they saw is nothing any more.
    let last = mesh.facts.remove(&NodeId(4)).unwrap();
    mesh.event(NodeId(4), Event::Facts([(NodeId(4), last.clone().into())].into()), &|_, _| true);
    assert!(mesh.minds[&NodeId(4)].peers.is_empty());
    // One that is alive by gossip and says nothing new is believed for sixteen seconds.
    let mut hung = mesh.facts.clone();
    hung.insert(NodeId(4), last);
    mesh.event(NodeId(4), Event::Facts(shared(&hung)), &|_, _| true);
    let known = |mesh: &Mesh| mesh.minds[&NodeId(4)].peers.values().filter(|peer| !peer.is_silent()).count();
    assert_eq!(known(&mesh), 3);
    mesh.now = mesh.now + 17 * SECOND;
    mesh.event(NodeId(4), Event::Tick, &|_, _| true);
    assert_eq!(known(&mesh), 0);
}

#[test]
fn an_order_holds_everywhere_and_its_time_runs_out_by_itself() {
    let mut mesh = Mesh::new(3, 4, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    let drain = Orders::from([(("web".to_owned(), ([10, 0, 5, 2], 80).into()), ServerOrder::Drain)]);
    mesh.event(NodeId(1), Event::Orders(drain), &|_, _| true);
    assert_eq!(mesh.weight(1, 2), Some(0));
    mesh.pass(9 * SECOND, |_, _| true);
    assert_eq!(mesh.weight(1, 2), Some(0));
    mesh.pass(2 * SECOND, |_, _| true);
    assert_eq!(mesh.weight(1, 2), None, "its connections had their time");
    let status = mesh.minds[&NodeId(1)].status(&Names::new());
    assert_eq!(status[0].servers[1].order.as_deref(), Some("drained by order"));
    mesh.event(NodeId(1), Event::Orders(Orders::new()), &|_, _| true);
    assert_eq!(mesh.weight(1, 2), Some(1));
}

/// What a director serves after other words came, before and after `answers` could be heard.
fn reloaded(change: impl Fn(&mut Service), answers: impl Fn(NodeId, u8) -> bool + Copy) -> [usize; 2] {
    let mut mesh = Mesh::new(3, 4, 0);
    mesh.pass(8 * SECOND, |_, server| server != 2);
    assert_eq!(mesh.serves(1), 3);
    let mut other = services(4, 0);
    change(other.get_mut("web").expect("it is there"));
    let event = Event::Services(HealthMesh::default(), other);
    let mind = mesh.minds.get_mut(&NodeId(1)).expect("it is there");
    let mut asked = Vec::new();
    for action in mind.handle(mesh.now, event) {
        match action {
            Action::Want(wanted) => drop(mesh.wanted.insert(NodeId(1), wanted)),
            Action::Ask(id, target) => asked.push((id, target.address)),
            Action::Say(..) | Action::Tell(_) | Action::Short(..) => {}
        }
    }
    let at_once = mesh.serves(1);
    for (id, address) in asked {
        let up = (1..=4).any(|n| address.ip() == IpAddr::from([10, 0, 5, n]) && answers(NodeId(1), n));
        let said = if up { Said::Up(Share::Configured) } else { Said::Down("refused".to_owned()) };
        mesh.event(NodeId(1), Event::Answered(id, Answer { said, took: mesh.took }), &answers);
    }
    mesh.pass(8 * SECOND, answers);
    [at_once, mesh.serves(1)]
}

#[test]
fn other_services_keep_what_is_known_of_their_servers() {
    let still = |_: NodeId, server: u8| server != 2;
    let asks = |service: &mut Service, server: usize, interval| service.servers[server].checks[0].interval = interval;
    assert_eq!(reloaded(|service| service.quorum = 2, still), [3, 3]);
    assert_eq!(reloaded(|service| asks(service, 1, SECOND / 2), still), [3, 3], "down, whatever it is asked now");
    assert_eq!(reloaded(|service| asks(service, 1, SECOND / 2), |_, _| true), [3, 4]);
    assert_eq!(reloaded(|service| asks(service, 0, SECOND / 2), |_, _| false), [3, 0], "up, until it fails");
    assert_eq!(reloaded(|service| drop(service.servers.remove(1)), still), [3, 3]);
    assert_eq!(reloaded(|service| drop(service.servers.remove(0)), still), [2, 2]);
    assert_eq!(reloaded(|service| service.servers[1].checks.clear(), still), [4, 4], "nothing is asked of it any more");
}

#[test]
fn a_target_that_stays_is_not_asked_anew_and_one_that_went_is_asked_no_more() {
    let mut mesh = Mesh::new(1, 4, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    mesh.asked.clear();
    mesh.event(NodeId(1), Event::Services(HealthMesh::default(), services(5, 0)), &|_, _| true);
    assert_eq!(mesh.asked[&NodeId(1)], 1, "the new one");
    mesh.event(NodeId(1), Event::Services(HealthMesh::default(), services(2, 0)), &|_, _| true);
    mesh.asked.clear();
    mesh.pass(10 * SECOND, |_, _| true);
    assert_eq!((mesh.asked[&NodeId(1)], mesh.serves(1)), (20, 2));
    mesh.event(NodeId(1), Event::Services(HealthMesh::default(), BTreeMap::new()), &|_, _| true);
    assert_eq!(mesh.wanted[&NodeId(1)].len(), 0);
}

#[test]
fn a_director_without_services_any_more_has_no_bad_path() {
    let mut mesh = Mesh::new(3, 4, 0);
    mesh.pass(5 * SECOND, |_, _| true);
    mesh.pass(6 * SECOND, |node, _| node != NodeId(1));
    assert_eq!(mesh.short, [NodeId(1)].into());
    mesh.event(NodeId(1), Event::Services(HealthMesh::default(), BTreeMap::new()), &|_, _| true);
    assert!(mesh.short.is_empty());
}

#[test]
fn status_says_who_sees_what_and_why() {
    let mut mesh = Mesh::new(3, 2, 0);
    mesh.pass(6 * SECOND, |node, server| node != NodeId(1) || server != 2);
    let names = [(NodeId(1), "lb1".to_owned()), (NodeId(2), "lb2".to_owned())].into();
    let status = mesh.minds[&NodeId(1)].status(&names);
    let server = &status[0].servers[1];
    assert_eq!((server.state.as_str(), server.why.as_deref()), ("down", Some("refused")));
    let seen = [("lb1", "down"), ("lb2", "up"), ("n3", "up")].map(|(node, seen)| (node.to_owned(), seen.to_owned()));
    assert_eq!(server.observers, seen.into());
}

/// It is never left to others, is not asked, and is heard at once.
#[test]
fn a_session_tells_without_being_asked() {
    let mut services = services(2, 0);
    for (server, name) in services.get_mut("web").unwrap().servers.iter_mut().zip(["one", "two"]) {
        server.checks[0].probe = Probe::Bfd(name.to_owned());
        (server.checks[0].fall, server.checks[0].rise) = (1, 1);
    }
    let mut health = Health::new(Moment::default(), NodeId(9), HealthMesh::default(), &services);
    let at = |millis| Moment::default() + Duration::from_millis(millis);
    let mut served = 0;
    let mut hear = |health: &mut Health, millis, event| {
        for action in health.handle(at(millis), event) {
            match action {
                Action::Want(wanted) => served = wanted["web"].values().map(|table| table.servers.len()).sum(),
                Action::Ask(..) => panic!("a session was asked"),
                Action::Say(..) | Action::Tell(_) | Action::Short(..) => {}
            }
        }
        served
    };
    let session = |name: &str, up| Event::Session(name.to_owned(), if up { Ok(()) } else { Err("expired".to_owned()) });
    assert_eq!(hear(&mut health, 0, Event::Holds(BTreeSet::new())), 2, "nothing is known");
    hear(&mut health, 10, session("one", true));
    assert_eq!(hear(&mut health, 500, session("two", false)), 1);
    let status = &health.status(&Names::new())[0].servers;
    assert_eq!((status[0].state.as_str(), status[1].state.as_str()), ("up", "down"));
    assert_eq!(status[1].why.as_deref(), Some("expired"));
    for step in 1..20 {
        assert_eq!(hear(&mut health, 500 + step * 400, Event::Tick), 1, "it stays so");
    }
    assert_eq!(hear(&mut health, 9000, session("two", true)), 2);
}
