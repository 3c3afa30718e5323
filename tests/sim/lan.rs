//! The LAN: the virtual routers of the directors, what they say there, and what others say who should not.

use crate::clocks::Time;
use crate::net::{Msg, Net};
use crate::node::{Node, Process};
use hamesh::vrrp::advert::{Format, Header};
use hamesh::vrrp::checksum::Form;
use hamesh::vrrp::router::{Action, Event, Parameters, Router, State};
use hamesh::vrrp::timing::Timing;
use hamesh::vrrp::{Auth, LegacyPeers, TTL, Version, group as everybody};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::holder;
use hamesh_fencing::message::{Ack, Message, Renew};
use hamesh_raft::command::{Family, GroupName, NodeId};
use hamesh_raft::membership::Membership;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// A VRRP packet on the wire.
#[derive(Clone, Debug)]
pub struct Packet {
    pub group: GroupName,
    pub source: IpAddr,
    pub ttl: u8,
    pub payload: Arc<[u8]>,
    /// Whether nobody may be moved by it: it is damaged, or of a stranger.
    pub void: bool,
}

/// What was last heard of a group by whoever listens on the LAN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    pub advert: Option<(NodeId, Time)>,
    pub resigned: Option<(NodeId, Time)>,
}

/// What the whole LAN has in common.
#[derive(Clone, Debug)]
pub struct Lan {
    pub interval: Duration,
    pub legacy: LegacyPeers,
    pub heard: BTreeMap<GroupName, Heard>,
}

/// The router outside the mesh that is obeyed where one is.
pub const LEGACY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 200));
/// One that nobody obeys.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66));

impl Lan {
    pub fn any(rng: &mut fastrand::Rng) -> Self {
        let legacy = if rng.u8(0..3) == 0 { vec![LEGACY] } else { Vec::new() };
        let most = if legacy.is_empty() { 3 } else { 2 };
        let interval = Duration::from_millis([100, 300, 1000][rng.usize(0..most)]);
        Self { interval, legacy: LegacyPeers::Only(legacy), heard: BTreeMap::new() }
    }

    /// How long a router may wait for one outside the mesh before it wants the lease.
    pub fn patience(&self) -> Duration {
        if self.legacy.is_empty() { Duration::ZERO } else { self.interval * 4 }
    }

    fn format(&self, group: &str) -> Format {
        let vrid = group.bytes().fold(1, |vrid, byte| vrid ^ byte).max(1);
        Format {
            family: Family::V4,
            version: Version::V3,
            vrid,
            interval: self.interval,
            auth: Auth::None,
            checksum: Form::Pseudo,
            addresses: vec![IpAddr::V4(Ipv4Addr::new(203, 0, 113, vrid))],
            unicast: None,
        }
    }
}

fn address(node: NodeId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(node.0).unwrap_or(u8::MAX)))
}

impl Node {
    /// The virtual routers of a process that begins; what they do first comes with [`Self::start_routers`].
    pub fn routers(&self, net: &Net) -> BTreeMap<GroupName, Router> {
        let router = |priority, preempt| {
            Router::new(Parameters {
                version: Version::V3,
                priority,
                interval: net.lan.interval,
                preempt,
                legacy_peers: net.lan.legacy.clone(),
                source: address(self.id),
                timing: Timing::default(),
            })
        };
        let wishes = self.wishes.iter();
        wishes.map(|(group, (_, c))| (group.clone(), router(c.priority, c.preempt))).collect()
    }

    pub fn start_routers(&mut self, net: &mut Net, now: Moment) {
        let resumed = self.run.as_ref().map(|record| record.pairs.clone()).unwrap_or_default();
        for (group, (up, _)) in self.wishes.clone() {
            let resumed = resumed.iter().any(|(other, _)| *other == group);
            self.route(net, now, &group, Event::Start { resumed });
            if !up {
                self.route(net, now, &group, Event::LinkDown);
            }
        }
    }

    pub fn tick_routers(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = &self.process else { return };
        let is_due = |router: &Router| router.next_deadline().is_some_and(|deadline| now.reached(deadline));
        let due: Vec<_> = process.routers.iter().filter(|(_, router)| is_due(router)).map(|(g, _)| g.clone()).collect();
        for group in due {
            self.route(net, now, &group, Event::Tick);
        }
    }

    /// Tells a virtual router, and does what it orders.
    pub fn route(&mut self, net: &mut Net, now: Moment, group: &str, event: Event) {
        let Some(router) = self.process.as_mut().and_then(|process| process.routers.get_mut(group)) else { return };
        let (heard, was_master) =
            (matches!(event, Event::Heard { .. }), matches!(router.status().state, State::Master(_)));
        for action in router.handle(now, event) {
            if heard && was_master && action == Action::Yield {
                net.count("preempted by VRRP");
            }
            net.note(self.id, || format!("VRRP of {group}: {action:?}"));
            match action {
                Action::Want => self.want(net, now, group),
                Action::Refuse => self.hold(net, now, holder::Event::Refuse(group.to_owned())),
                Action::Yield => {
                    self.hold(net, now, holder::Event::Refuse(group.to_owned()));
                    self.give_up(net, now, group);
                }
                Action::SendAdvert => self.advert(net, group, self.wishes.get(group).map_or(1, |(_, c)| c.priority)),
                Action::Resign => self.advert(net, group, 0),
                Action::Announce(_) => {}
            }
        }
    }

    /// The link of a group goes down, or comes back.
    pub fn wish(&mut self, net: &mut Net, now: Moment, group: &str) {
        let Some((up, _)) = self.wishes.get(group) else { return };
        let event = if *up { Event::LinkUp } else { Event::LinkDown };
        self.route(net, now, group, event);
    }

    /// Its configuration has changed: a new priority or definition, which a candidate tells the mesh.
    pub fn reweigh(&mut self, net: &mut Net, now: Moment, group: &str) {
        let Some((_, candidate)) = self.wishes.get(group) else { return };
        let Some(router) = self.process.as_mut().and_then(|process| process.routers.get_mut(group)) else { return };
        router.set_priority(candidate.priority);
        if router.status().candidate {
            self.want(net, now, group);
        }
    }

    pub fn want(&mut self, net: &mut Net, now: Moment, group: &str) {
        if let Some((_, candidate)) = self.wishes.get(group).cloned() {
            self.hold(net, now, holder::Event::Want(group.to_owned(), candidate));
        }
    }

    /// The gate lets out what is no claim, and claims only while it is open.
    fn advert(&mut self, net: &mut Net, group: &str, priority: u8) {
        let gates = &self.gates;
        let open = self.process.as_ref().is_some_and(|p| gates[p.gate].is_open(&self.clocks, net.now, group));
        if priority > 0 && !open {
            return net.count("advert at a shut gate");
        }
        let heard = net.lan.heard.entry(group.to_owned()).or_default();
        let slot = if priority > 0 { &mut heard.advert } else { &mut heard.resigned };
        *slot = Some((self.id, net.now));
        broadcast(net, self.id, group, address(self.id), priority);
    }

    /// A packet for one of our virtual routers.
    pub fn packet(&mut self, net: &mut Net, now: Moment, packet: &Packet) {
        let Some(router) = self.process.as_ref().and_then(|process| process.routers.get(&packet.group)) else { return };
        let before = (router.status().state, router.next_deadline());
        let header = Header { source: packet.source, destination: everybody(Family::V4), ttl: packet.ttl };
        // One that serves without a lease leaves the addresses to strangers too.
        let mut weighed = false;
        match net.lan.format(&packet.group).decode(&packet.payload, &header) {
            Ok(advert) => {
                weighed = self.process.as_ref().is_some_and(|process| process.solitude.is_silent());
                let member = ![LEGACY, STRANGER].contains(&packet.source);
                let event = Event::Heard { advert, source: packet.source, member };
                self.route(net, now, &packet.group, event);
            }
            Err(_) => net.count("packet discarded"),
        }
        let router = self.process.as_ref().and_then(|process| process.routers.get(&packet.group));
        let after = router.map(|router| (router.status().state, router.next_deadline()));
        if packet.void && !weighed && after != Some(before) {
            net.violations.push(format!("S5: {packet:?} moved {} from {before:?} to {after:?}", self.id));
        }
    }

    /// A message of the lease plane that somebody made up: it must prolong nothing.
    pub fn forged(&mut self, net: &mut Net, now: Moment, from: NodeId, message: &Message) {
        let Some(process) = &self.process else { return };
        net.count("forged on the lease plane");
        let left = |process: &Process| process.holder.as_ref().and_then(|holder| holder.status(now).remaining);
        let promised = |process: &Process| {
            process
                .voter
                .sessions()
                .map(|sid| process.voter.known(now, sid).and_then(|k| k.renewed))
                .collect::<Vec<_>>()
        };
        let before = (left(process), promised(process));
        self.lease(net, now, from, message.clone());
        let Some(process) = &self.process else { return };
        let after = (left(process), promised(process));
        if after.0 > before.0 || after.1 != before.1 {
            net.violations
                .push(format!("S5: forged {message:?} of {from} moved {} from {before:?} to {after:?}", self.id));
        }
    }
}

/// Says on the LAN what an advert says.
fn broadcast(net: &mut Net, from: NodeId, group: &str, source: IpAddr, priority: u8) {
    let payload = net.lan.format(group).encode(priority, source, everybody(Family::V4)).into();
    let packet = Packet { group: group.to_owned(), source, ttl: TTL, payload, void: false };
    for to in net.directors.clone() {
        if to != from && !net.is_cut_on_the_lan(from, to) {
            net.packet(from, to, packet.clone());
        }
    }
}

/// A keepalived outside the mesh speaks. It is obeyed if the configuration names it.
pub fn legacy_speaks(net: &mut Net, group: &str, priority: u8) {
    net.count("legacy peer heard");
    match net.lan.legacy.obeys(LEGACY) {
        true => broadcast(net, NodeId(0), group, LEGACY, priority),
        false => forge(net, group, LEGACY, priority, false),
    }
}

/// Packets that must move nobody: of a stranger, forwarded, damaged, cut short.
pub fn forge_packets(net: &mut Net, group: &str) {
    let priority = [0, 255, 100][net.rng.usize(0..3)];
    let damaged = net.rng.bool();
    let member = net.rng.choice(net.directors.clone()).map_or(STRANGER, address);
    forge(net, group, if damaged { member } else { STRANGER }, priority, damaged);
}

fn forge(net: &mut Net, group: &str, source: IpAddr, priority: u8, damaged: bool) {
    let (mut payload, mut ttl) = (net.lan.format(group).encode(priority, source, everybody(Family::V4)), TTL);
    if damaged {
        match net.rng.u8(0..4) {
            0 => ttl = net.rng.u8(0..TTL),
            1 => payload.truncate(net.rng.usize(0..payload.len())),
            2 => payload.push(0),
            _ => {
                let at = net.rng.usize(0..payload.len());
                payload[at] ^= 1 << net.rng.u8(0..8);
            }
        }
    }
    let packet = Packet { group: group.to_owned(), source, ttl, payload: payload.into(), void: true };
    for to in net.directors.clone() {
        net.packet(NodeId(0), to, packet.clone());
    }
}

/// Promises that nobody gave, and a Renew in another's name.
pub fn forge_leases(net: &mut Net, nodes: &[Node]) {
    let Some(process) = nodes.iter().find_map(|node| node.process.as_ref()) else { return };
    let membership = Membership { learners: Default::default(), ..Membership::clone(&process.raft.effective()) };
    for (sid, session) in process.raft.state.sessions.clone() {
        let (seq, random) = (net.rng.u64(1..200), net.rng.u64(..));
        for voter in membership.voters() {
            let ack = Ack { sid, seq, process: random, membership: membership.clone() };
            net.send(voter, session.node, Msg::Forged(Message::Ack(ack)));
            if voter != session.node {
                let renew = Renew { sid, seq, process: random, acted: 0 };
                net.send(voter, voter, Msg::Forged(Message::Renew(renew)));
            }
        }
    }
}
