//! What a service wants in IPVS, given which of its servers are up.

use crate::config::Service;
use crate::config::service::Server;
use crate::ipvs;
use hamesh_gossip::observation::Seen;

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// `None` while nobody knows.
    pub(super) seen: Option<Seen>,
    /// Its share, which a check may have changed.
    pub(super) weight: u32,
}

/// A service's memory: whether it has its quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    quorum: bool,
}

impl Policy {
    pub(super) fn new() -> Self {
        Self { quorum: true }
    }

    /// Whether so much of the service is up that it serves.
    pub(super) fn has_quorum(self) -> bool {
        self.quorum
    }

    /// The service as IPVS is to have it. A server that nobody knows of is taken to be up: it was not seen to fail.
    /// `looks` are at its servers, in their order.
    pub(super) fn table(&mut self, service: &Service, looks: &[Look]) -> ipvs::Service {
        let servers =
            || service.servers.iter().zip(looks).map(|(server, look)| (server, look, look.seen != Some(Seen::Down)));
        let up = || servers().filter_map(|(_, look, up)| up.then_some(look));
        // Better to ask servers that look dead than none: when so many fail at once it is the look that is wrong.
        let spared = up().count() < service.min_up;
        let weight: u64 = up().map(|look| u64::from(look.weight)).sum();
        let (quorum, hysteresis) = (u64::from(service.quorum), u64::from(service.hysteresis));
        self.quorum = spared || if self.quorum { weight + hysteresis >= quorum } else { weight >= quorum + hysteresis };
        let mut table = ipvs::Service { settings: settings(service), servers: [].into() };
        if let Some((sorry, forwarding)) = service.sorry_server.filter(|_| !self.quorum) {
            table.servers.insert(sorry.into(), ipvs::Server::new(forwarding, 1));
            return table;
        }
        for (server, look, up) in servers() {
            let weight = match (spared || up, server.inhibit_on_failure) {
                (true, _) => look.weight,
                (false, true) => 0,
                (false, false) => continue,
            };
            let Server { forwarding, upper, lower, .. } = *server;
            table.servers.insert(server.address.into(), ipvs::Server { forwarding, weight, upper, lower });
        }
        table
    }
}

fn settings(service: &Service) -> ipvs::Settings {
    let granularity = ipvs::Granularity::finest(ipvs::Endpoint::from(service.listen).family());
    let persistence = service.persistence.map(|timeout| ipvs::Persistence { timeout, granularity, engine: None });
    ipvs::Settings { persistence, ..ipvs::Settings::new(service.scheduler) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        Service {
            vip: "web".to_owned(),
            listen: ([203, 0, 113, 10], 80).into(),
            protocol: ipvs::Protocol::Tcp,
            scheduler: "wrr",
            servers: (1..=3).map(server).collect(),
            persistence: None,
            sorry_server: Some((([10, 0, 5, 9], 80).into(), ipvs::Forwarding::Nat)),
            quorum: 1,
            hysteresis: 0,
            min_up: 0,
        }
    }

    /// The last byte and the weight of each server in the table, while those in `down` are down.
    fn with(policy: &mut Policy, service: &Service, down: &[u8]) -> String {
        let last = |ip: std::net::IpAddr| match ip {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => panic!("{ip}"),
        };
        let look = |server: &Server| Look {
            seen: down.contains(&last(server.address.ip())).then_some(Seen::Down),
            weight: server.weight,
        };
        let looks: Vec<_> = service.servers.iter().map(look).collect();
        let table = policy.table(service, &looks);
        let server = |(at, server): (&ipvs::Endpoint, &ipvs::Server)| format!("{}x{}", last(at.ip), server.weight);
        table.servers.iter().map(server).collect::<Vec<_>>().join(" ")
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
