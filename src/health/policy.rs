//! What a service wants in IPVS, given which of its servers are up and what people have ordered.

use crate::config::Service;
use crate::config::service::{self, Server};
use crate::ipvs;
use crate::notify::Change;
use hamesh_gossip::observation::Seen;
use hamesh_raft::command::{Family, ServerOrder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A weight that grows does so in so many steps.
const STEPS: u32 = 20;

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// `None` while nobody knows.
    pub(super) seen: Option<Seen>,
    /// Its share, which a check may have changed.
    pub(super) weight: u32,
    /// What people want of it.
    pub(super) order: Option<ServerOrder>,
}

/// A service's memory: whether it has its quorum, and since when its servers are what they are.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    quorum: bool,
    /// Of its servers; empty before the first look.
    courses: BTreeMap<SocketAddr, Course>,
}

/// A server's past.
#[derive(Clone, Copy, Debug)]
struct Course {
    up: bool,
    /// It came back, and its weight grows.
    back: Option<Duration>,
    /// It was ordered to drain.
    drained: Option<Duration>,
}

/// What follows from a look.
#[derive(Debug)]
pub(super) struct Conclusion {
    /// The service as IPVS is to have it.
    pub(super) table: ipvs::Service,
    /// What is to be told.
    pub(super) told: Vec<Change>,
    /// When time alone changes the table.
    pub(super) next: Option<Duration>,
}

impl Policy {
    pub(super) fn new() -> Self {
        Self { quorum: true, courses: BTreeMap::new() }
    }

    /// Forgets the servers that the service does not have any more.
    pub(super) fn keep(&mut self, service: &Service) {
        let has: BTreeSet<SocketAddr> = service.servers.iter().map(|server| server.address).collect();
        self.courses.retain(|address, _| has.contains(address));
    }

    /// Whether so much of the service is up that it serves.
    pub(super) fn has_quorum(&self) -> bool {
        self.quorum
    }

    /// Whether a server is not served, as of the last look.
    pub(super) fn is_out(&self, server: &Server) -> bool {
        self.courses.get(&server.address).is_some_and(|course| !course.up)
    }

    /// A server that nobody knows of is what it was; at first it is taken to be up, because it was not seen to fail, unless
    /// it is `alpha`.
    /// `looks` are at its servers, in their order; `now` is the time since the machine's start.
    pub(super) fn conclude(&mut self, now: Duration, name: &str, service: &Service, looks: &[Look]) -> Conclusion {
        let first = self.courses.is_empty();
        let mut told = self.follow(now, name, service, looks);
        let servers = || {
            let known = service.servers.iter().zip(looks);
            known.filter_map(|(server, look)| Some(((server, look), self.courses.get(&server.address)?)))
        };
        let in_service = || servers().filter(|((_, look), _)| !is_out(look));
        let up = || in_service().filter_map(|((_, look), course)| course.up.then_some(look));
        // Better to ask servers that look dead than none: when so many fail at once it is the look that is wrong.
        let spared = up().count() < service.min_up;
        let weight: u64 = up().map(|look| u64::from(full_weight(look))).sum();
        let (quorum, hysteresis) = (u64::from(service.quorum), u64::from(service.hysteresis));
        let before = self.quorum;
        let has = spared || if before { weight + hysteresis >= quorum } else { weight >= quorum + hysteresis };
        if has != before && !first {
            let (word, sign, bound) = if has { ("Gained", '+', "<=") } else { ("Lost", '-', ">") };
            let bounds = if has { quorum + hysteresis } else { quorum.saturating_sub(hysteresis) };
            told.push(of_service(name, service, has, || {
                format!("{word} quorum {quorum}{sign}{hysteresis}={bounds} {bound} {weight}")
            }));
        }
        let mut table = ipvs::Service { settings: settings(service), servers: [].into() };
        let mut next: Option<Duration> = None;
        if let Some((sorry, forwarding)) = service.sorry_server.filter(|_| !has || service.sorry_server_inhibit) {
            table.servers.insert(sorry.into(), ipvs::Server::new(forwarding, u32::from(!has)));
            if !has {
                self.quorum = has;
                return Conclusion { table, told, next };
            }
        }
        for ((server, look), course) in servers() {
            let mut at = |time: Duration| next = Some(next.map_or(time, |next| next.min(time)));
            let weight = match (look.order, course.drained, service.drain) {
                (Some(ServerOrder::Disable), ..) => continue,
                (_, Some(since), Some(time)) if now >= since + time => continue,
                (_, Some(since), time) => {
                    time.into_iter().for_each(|time| at(since + time));
                    0
                }
                (_, None, _) if !spared && !course.up && server.inhibit_on_failure => 0,
                (_, None, _) if !spared && !course.up => continue,
                (_, None, _) => match course.back.filter(|back| now < *back + service.slow_start) {
                    Some(back) => {
                        at(now + service.slow_start / STEPS);
                        grown(full_weight(look), now.saturating_sub(back), service.slow_start)
                    }
                    None => full_weight(look),
                },
            };
            let Server { forwarding, upper, lower, .. } = *server;
            table.servers.insert(server.address.into(), ipvs::Server { forwarding, weight, upper, lower });
        }
        self.quorum = has;
        Conclusion { table, told, next }
    }

    /// What is told when hamesh stops, as if all that is up went down.
    pub(super) fn farewell(&self, name: &str, service: &Service) -> Vec<Change> {
        const SHUT: &str = "Shutting down";
        let is_up = |server: &&Server| self.courses.get(&server.address).is_some_and(|course| course.up);
        let up = service.servers.iter().filter(|_| service.omega).filter(is_up);
        let told = up.map(|server| of_server(name, service, server, false, SHUT));
        let quorum = (service.omega && self.quorum).then(|| of_service(name, service, false, || SHUT.to_owned()));
        told.chain(quorum).collect()
    }

    /// Takes down what has changed for each server, and returns what is to be told of it.
    fn follow(&mut self, now: Duration, name: &str, service: &Service, looks: &[Look]) -> Vec<Change> {
        let mut told = Vec::new();
        for (server, look) in service.servers.iter().zip(looks) {
            let seen = look.seen.map(|seen| seen == Seen::Up);
            let new = || Course { up: seen.unwrap_or(!server.alpha), back: None, drained: None };
            let course = self.courses.entry(server.address).or_insert_with(new);
            // Where nothing is asked any more nothing is known to be wrong.
            let up = seen.unwrap_or(if server.checks.is_empty() { !server.alpha } else { course.up });
            if up != course.up {
                course.up = up;
                course.back = up.then_some(now);
                let text = if up { "CHECK succeed on service" } else { "CHECK failed on service" };
                told.push(of_server(name, service, server, up, text));
            }
            match (look.order == Some(ServerOrder::Drain), course.drained) {
                (true, None) => course.drained = Some(now),
                (false, Some(_)) => (course.drained, course.back) = (None, Some(now)),
                (true, Some(_)) | (false, None) => {}
            }
        }
        told
    }
}

fn of_service(name: &str, service: &Service, up: bool, text: impl FnOnce() -> String) -> Change {
    let script = if up { &service.quorum_up } else { &service.quorum_down };
    let mail = service.mail.then(text);
    Change { service: service.title(name), server: None, up, script: script.clone(), mail }
}

fn of_server(name: &str, service: &Service, server: &Server, up: bool, text: &str) -> Change {
    let script = if up { &server.notify_up } else { &server.notify_down };
    let title = service::title(service.protocol, server.address.ip(), server.address.port());
    let mail = server.mail.then(|| text.to_owned());
    Change { service: service.title(name), server: Some(title), up, script: script.clone(), mail }
}

/// By somebody's order it is none that serves.
fn is_out(look: &Look) -> bool {
    matches!(look.order, Some(ServerOrder::Disable | ServerOrder::Drain))
}

fn full_weight(look: &Look) -> u32 {
    match look.order {
        Some(ServerOrder::Weight(weight)) => weight,
        Some(ServerOrder::Drain | ServerOrder::Disable) | None => look.weight,
    }
}

/// The part of a weight that a server has so long after it came back; at least 1, unless it is 0.
fn grown(weight: u32, elapsed: Duration, whole: Duration) -> u32 {
    let part = u128::from(weight) * elapsed.as_nanos() / whole.as_nanos().max(1);
    u32::try_from(part).unwrap_or(weight).max(1).min(weight)
}

fn settings(service: &Service) -> ipvs::Settings {
    let family = service.listen.first().map_or(Family::V4, ipvs::ServiceKey::family);
    let finest = ipvs::Granularity::finest(family);
    let granularity = service.granularity.unwrap_or(finest);
    let engine = service.engine.map(str::to_owned);
    let persistence = service.persistence.map(|timeout| ipvs::Persistence { timeout, granularity, engine });
    let (flags, one_packet) = (service.flags, service.one_packet);
    ipvs::Settings { scheduler: service.scheduler.to_owned(), flags, one_packet, persistence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::notify::Command;

    fn told(what: &str) -> Command {
        Command { words: vec![what.to_owned()], user: None }
    }

    /// Three servers of weight 1, 2 and 3.
    fn service() -> Service {
        let server = |n| Server {
            address: ([10, 0, 5, n], 80).into(),
            weight: u32::from(n),
            forwarding: ipvs::Forwarding::Nat,
            checks: Vec::new(),
            inhibit_on_failure: false,
            upper: 0,
            lower: 0,
            alpha: false,
            notify_up: Some(told("up")),
            notify_down: Some(told("down")),
            mail: n == 1,
        };
        Service {
            vip: "web".to_owned(),
            listen: vec![ipvs::ServiceKey::Address(
                ipvs::Protocol::Tcp,
                ipvs::Endpoint { ip: [203, 0, 113, 10].into(), port: 80 },
            )],
            protocol: ipvs::Protocol::Tcp,
            scheduler: "wrr",
            flags: ipvs::SchedulerFlags::default(),
            one_packet: false,
            granularity: None,
            engine: None,
            drain: None,
            slow_start: Duration::ZERO,
            quorum_up: Some(told("quorum")),
            quorum_down: Some(told("no quorum")),
            mail: true,
            servers: (1..=3).map(server).collect(),
            persistence: None,
            sorry_server: Some((([10, 0, 5, 9], 80).into(), ipvs::Forwarding::Nat)),
            sorry_server_inhibit: false,
            omega: false,
            ha_suspend: false,
            quorum: 1,
            hysteresis: 0,
            min_up: 0,
        }
    }

    /// The last byte and the weight of each server in the table, while those in `down` are down.
    fn with(policy: &mut Policy, service: &Service, down: &[u8]) -> String {
        at(policy, 0, service, down, None).0
    }

    /// The same at a second, with an order of the first server, and who is told, and when it changes by itself.
    fn at(
        policy: &mut Policy,
        second: u64,
        service: &Service,
        down: &[u8],
        order: Option<ServerOrder>,
    ) -> (String, String, Option<u64>) {
        let last = |ip: std::net::IpAddr| match ip {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => panic!("{ip}"),
        };
        let look = |server: &Server| {
            let n = last(server.address.ip());
            let seen = if down.contains(&n) { Some(Seen::Down) } else { Some(Seen::Up).filter(|_| !server.alpha) };
            Look { seen, weight: server.weight, order: order.filter(|_| n == 1) }
        };
        let looks: Vec<_> = service.servers.iter().map(look).collect();
        let Conclusion { table, told, next } = policy.conclude(Duration::from_secs(second), "web/tcp", service, &looks);
        let server = |(at, server): (&ipvs::Endpoint, &ipvs::Server)| format!("{}x{}", last(at.ip), server.weight);
        let told: Vec<_> = told.iter().filter_map(|told| Some(told.script.as_ref()?.words[0].as_str())).collect();
        let servers: Vec<_> = table.servers.iter().map(server).collect();
        (servers.join(" "), told.join(", "), next.map(|next| next.as_secs()))
    }

    #[test]
    fn who_is_told_of_what() {
        let mut policy = Policy::new();
        let mut told = |down: &[u8]| at(&mut policy, 0, &service(), down, None).1;
        assert_eq!(told(&[1]), "", "nothing has changed yet");
        assert_eq!(told(&[1, 2]), "down");
        assert_eq!(told(&[1, 2, 3]), "down, no quorum");
        assert_eq!(told(&[1, 2]), "up, quorum");
    }

    #[test]
    fn what_is_told_has_keepaliveds_names_and_reasons() {
        let mut policy = Policy::new();
        let strict = Service { quorum: 3, hysteresis: 1, ..service() };
        let mut told = |seen: [Seen; 3]| {
            let looks = [0, 1, 2].map(|at| Look { seen: Some(seen[at]), weight: 1, order: None });
            let told = policy.conclude(Duration::ZERO, "web/tcp", &strict, &looks).told;
            let show = |Change { service, server, up, mail, .. }: Change| format!("{service} {server:?} {up} {mail:?}");
            told.into_iter().map(show).collect::<Vec<_>>()
        };
        told([Seen::Up; 3]);
        let (one, down) = (r#"[203.0.113.10]:tcp:80 Some("[10.0.5.1]:tcp:80") false"#, Seen::Down);
        assert_eq!(told([down, Seen::Up, Seen::Up]), [format!(r#"{one} Some("CHECK failed on service")"#)]);
        assert_eq!(
            told([down, down, Seen::Up]),
            [
                r#"[203.0.113.10]:tcp:80 Some("[10.0.5.2]:tcp:80") false None"#,
                r#"[203.0.113.10]:tcp:80 None false Some("Lost quorum 3-1=2 > 1")"#
            ]
        );
        let several = Service { listen: vec![service().listen[0]; 2], ..service() };
        assert_eq!(several.title("web/tcp"), "[web]:0");
        let mark = ipvs::ServiceKey::Mark(7.try_into().expect("not zero"), Family::V4);
        assert_eq!(Service { listen: vec![mark], ..service() }.title("x"), "FWM 7");
    }

    #[test]
    fn a_drained_server_keeps_its_connections_for_a_time_and_a_disabled_one_none() {
        let drains = Service { drain: Some(Duration::from_secs(60)), ..service() };
        let mut policy = Policy::new();
        let mut order = |second, order| at(&mut policy, second, &drains, &[], order);
        order(0, None);
        let (servers, _, next) = order(5, Some(ServerOrder::Drain));
        assert_eq!((servers.as_str(), next), ("1x0 2x2 3x3", Some(65)));
        assert_eq!(order(64, Some(ServerOrder::Drain)).0, "1x0 2x2 3x3");
        assert_eq!(order(65, Some(ServerOrder::Drain)).0, "2x2 3x3");
        assert_eq!(order(66, None).0, "1x1 2x2 3x3");
        assert_eq!(order(67, Some(ServerOrder::Disable)).0, "2x2 3x3");
        assert_eq!(order(68, Some(ServerOrder::Weight(70))).0, "1x70 2x2 3x3");
        let mut forever = Policy::new();
        assert_eq!(at(&mut forever, 0, &service(), &[], Some(ServerOrder::Drain)).2, None);
    }

    #[test]
    fn orders_count_for_the_quorum() {
        let strict = Service { quorum: 6, ..service() };
        for (order, serves) in
            [(ServerOrder::Disable, false), (ServerOrder::Drain, false), (ServerOrder::Weight(1), true)]
        {
            let mut policy = Policy::new();
            at(&mut policy, 0, &strict, &[], Some(order));
            assert_eq!(policy.has_quorum(), serves, "{order:?}");
        }
    }

    #[test]
    fn a_server_that_comes_back_grows_and_those_of_the_start_do_not() {
        let mut slow = Service { slow_start: Duration::from_secs(100), ..service() };
        slow.servers[1].weight = 50;
        let mut policy = Policy::new();
        let mut look = |second, down: &[u8]| {
            let (servers, _, next) = at(&mut policy, second, &slow, down, None);
            (servers, next)
        };
        assert_eq!(look(0, &[]), ("1x1 2x50 3x3".to_owned(), None));
        assert_eq!(look(10, &[2]), ("1x1 3x3".to_owned(), None));
        assert_eq!(look(20, &[]), ("1x1 2x1 3x3".to_owned(), Some(25)));
        assert_eq!(look(70, &[]), ("1x1 2x25 3x3".to_owned(), Some(75)));
        assert_eq!(look(120, &[]), ("1x1 2x50 3x3".to_owned(), None));
    }

    #[test]
    fn an_alpha_server_is_down_until_it_was_seen_up() {
        let mut alpha = Service { sorry_server: None, ..service() };
        alpha.servers[0].alpha = true;
        assert_eq!(with(&mut Policy::new(), &alpha, &[]), "2x2 3x3");
    }

    #[test]
    fn a_server_that_is_down_leaves_and_the_last_makes_room_for_the_sorry_server() {
        let mut policy = Policy::new();
        assert_eq!(with(&mut policy, &service(), &[]), "1x1 2x2 3x3");
        assert_eq!(with(&mut policy, &service(), &[2]), "1x1 3x3");
        assert_eq!(with(&mut policy, &service(), &[1, 2, 3]), "9x1");
        assert!(!policy.has_quorum());
        let bare = Service { sorry_server: None, ..service() };
        assert_eq!(with(&mut policy, &bare, &[1, 2, 3]), "");
    }

    #[test]
    fn an_inhibited_sorry_server_keeps_its_connections_when_the_quorum_is_back() {
        let inhibited = Service { sorry_server_inhibit: true, ..service() };
        let mut policy = Policy::new();
        assert_eq!(with(&mut policy, &inhibited, &[1, 2, 3]), "9x1");
        assert_eq!(with(&mut policy, &inhibited, &[3]), "1x1 2x2 9x0");
    }

    #[test]
    fn a_stop_tells_of_what_was_up_where_it_is_omega() {
        let mut policy = Policy::new();
        let farewell = |policy: &Policy, service: &Service| {
            let told = policy.farewell("web/tcp", service).into_iter();
            let told = told.filter_map(|told| Some(told.script?.words[0].clone()));
            told.collect::<Vec<_>>().join(", ")
        };
        let omega = Service { omega: true, ..service() };
        at(&mut policy, 0, &omega, &[1, 2], None);
        assert_eq!(farewell(&policy, &omega), "down, no quorum", "of the one that is up");
        assert_eq!(farewell(&policy, &service()), "");
        at(&mut policy, 1, &omega, &[1, 2, 3], None);
        assert_eq!(farewell(&policy, &omega), "");
    }

    #[test]
    fn an_inhibited_server_keeps_its_connections() {
        let mut inhibited = Service { sorry_server: None, ..service() };
        inhibited.servers.iter_mut().for_each(|server| server.inhibit_on_failure = true);
        assert_eq!(with(&mut Policy::new(), &inhibited, &[2, 3]), "1x1 2x0 3x0");
    }

    #[test]
    fn quorum_counts_weights_and_hysteresis_holds_it_either_way() {
        let strict = Service { quorum: 3, hysteresis: 1, ..service() };
        let mut policy = Policy::new();
        assert_eq!(with(&mut policy, &strict, &[3]), "1x1 2x2", "3 of 3");
        assert_eq!(with(&mut policy, &strict, &[1, 3]), "2x2", "2, which hysteresis lets pass");
        assert_eq!(with(&mut policy, &strict, &[2, 3]), "9x1", "1 is too little");
        assert_eq!(with(&mut policy, &strict, &[3]), "9x1", "3 is not enough to come back");
        assert_eq!(with(&mut policy, &strict, &[2]), "1x1 3x3", "4 is");
    }

    #[test]
    fn below_min_up_nobody_is_taken_out() {
        let spared = Service { min_up: 2, ..service() };
        let mut policy = Policy::new();
        assert_eq!(with(&mut policy, &spared, &[1]), "2x2 3x3");
        assert_eq!(with(&mut policy, &spared, &[1, 2]), "1x1 2x2 3x3");
        assert_eq!(with(&mut policy, &spared, &[1, 2, 3]), "1x1 2x2 3x3");
        assert!(policy.has_quorum());
    }
}
