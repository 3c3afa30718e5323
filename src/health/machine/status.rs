//! The health mesh for people: who sees what of a server, why, and what follows.

use super::{Health, Served, together, weighed};
use crate::config::service::Server;
use crate::health::policy::Policy;
use crate::health::watch::Watch;
use crate::health::{Names, Observed, ServerStatus, ServiceStatus, word};
use crate::ipvs::{self, ServiceKey};
use hamesh_gossip::observation::{Seen, TargetId, Weight};
use hamesh_raft::command::{NodeId, ServerOrder};
use std::collections::BTreeMap;

/// What one director sees of the targets of a server.
#[derive(Default)]
struct View<'a> {
    seen: Vec<Option<Seen>>,
    weights: Vec<Weight>,
    why: Option<&'a str>,
}

/// Why each of the others says that targets are down.
type Reasons<'a> = BTreeMap<NodeId, BTreeMap<TargetId, &'a str>>;

impl Health {
    /// For people.
    pub fn status(&self, names: &Names) -> Vec<ServiceStatus> {
        let reasons = self.reasons();
        let service = |(name, Served { service, policy, targets }): (&String, &Served)| {
            let key = service.listen.first();
            let table = key.and_then(|key| self.wanted.as_ref()?.get(&service.vip)?.get(key));
            let servers = service.servers.iter().zip(targets);
            ServiceStatus {
                name: name.clone(),
                vip: service.vip.clone(),
                listen: service.listen.iter().map(entrance).collect::<Vec<_>>().join(", "),
                protocol: service.protocol.to_string().to_lowercase(),
                scheduler: service.scheduler.to_owned(),
                quorum: policy.has_quorum(),
                traffic: None,
                sorry: service.sorry_server.and_then(|(at, _)| Some(table?.servers.get(&at.into())?.weight)),
                servers: servers
                    .map(|(server, ids)| self.server(name, policy, server, ids, table, names, &reasons))
                    .collect(),
            }
        };
        self.services.iter().map(service).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of a server")]
    fn server(
        &self,
        service: &str,
        policy: &Policy,
        server: &Server,
        ids: &[TargetId],
        table: Option<&ipvs::Service>,
        names: &Names,
        reasons: &Reasons<'_>,
    ) -> ServerStatus {
        let name = |node: &NodeId| names.get(node).cloned().unwrap_or_else(|| node.to_string());
        let own: Vec<&Watch> = ids.iter().filter_map(|id| self.targets.get(id)?.watch.as_ref()).collect();
        let views = self.views(ids, &own, reasons);
        let look = self.look(service, server, ids);
        let observed = |(node, view): (&NodeId, &View<'_>)| {
            let seen = together(view.seen.iter().copied());
            Observed {
                director: name(node),
                seen: word(seen),
                weight: (seen == Some(Seen::Up)).then(|| weighed(server.weight, &view.weights)),
                why: view.why.map(str::to_owned),
            }
        };
        ServerStatus {
            address: server.address,
            weight: look.weight,
            balanced: table.and_then(|table| Some(table.servers.get(&server.address.into())?.weight)),
            order: look.order.map(|order| match order {
                ServerOrder::Weight(weight) => format!("weight {weight} by order"),
                ServerOrder::Drain => "drained by order".to_owned(),
                ServerOrder::Disable => "disabled by order".to_owned(),
            }),
            state: word(look.seen.or(policy.is_out(server).then_some(Seen::Down))),
            verdict: self.verdict(server, ids, &views),
            why: own.iter().find_map(|watch| watch.why()).map(str::to_owned),
            connections: None,
            traffic: None,
            response_ms: own.iter().filter_map(|watch| watch.took()).max().map(|took| took.as_secs_f64() * 1000.0),
            observers: views
                .iter()
                .map(|(node, view)| (name(node), word(together(view.seen.iter().copied()))))
                .collect(),
            observations: views.iter().map(observed).collect(),
        }
    }

    /// What each director that looks sees.
    fn views<'a>(&'a self, ids: &[TargetId], own: &[&'a Watch], reasons: &Reasons<'a>) -> BTreeMap<NodeId, View<'a>> {
        let mut views: BTreeMap<NodeId, View<'a>> = BTreeMap::new();
        for (id, (node, found)) in ids.iter().flat_map(|id| self.others(*id).map(move |other| (id, other))) {
            let view = views.entry(node).or_default();
            view.seen.push(Some(found.seen));
            view.weights.push(found.weight);
            view.why = view.why.or_else(|| reasons.get(&node)?.get(id).copied());
        }
        if !own.is_empty() {
            let seen = own.iter().map(|watch| watch.seen()).collect();
            let weights = own.iter().map(|watch| watch.weight()).collect();
            let why = own.iter().find_map(|watch| watch.reason().or(watch.why()));
            views.insert(self.me, View { seen, weights, why });
        }
        views
    }

    /// By whose word a server is what it is.
    fn verdict(&self, server: &Server, ids: &[TargetId], views: &BTreeMap<NodeId, View<'_>>) -> String {
        let says = |view: &View<'_>| together(view.seen.iter().copied());
        let others: Vec<Option<Seen>> =
            views.iter().filter(|(node, _)| **node != self.me).map(|(_, v)| says(v)).collect();
        let down = others.iter().filter(|seen| **seen == Some(Seen::Down)).count();
        let (known, must) = (others.len(), self.mesh.agree.min(others.len()));
        let own = views.get(&self.me).and_then(says);
        let taken = if server.alpha { "down until it was seen up" } else { "up until it was seen down" };
        match own {
            _ if server.checks.is_empty() => "nothing is asked of it".to_owned(),
            Some(Seen::Down) if ids.iter().any(|id| self.judge(*id).only_here) => {
                format!(
                    "this director sees it down and {} of {known} others see it up: the path is bad, not the server",
                    known - down
                )
            }
            Some(Seen::Up) if down > 0 => {
                format!("this director sees it up, though {down} of {known} others see it down")
            }
            Some(_) => "this director sees so itself".to_owned(),
            None if known == 0 => format!("nobody has seen it yet: {taken}"),
            None => format!("this director has not looked; {down} of {known} others see it down, and {must} must"),
        }
    }
}

/// What a service takes, for people who know its protocol.
fn entrance(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address(_, at) => at.to_string(),
        ServiceKey::Mark(mark, _) => format!("fwmark {mark}"),
    }
}
