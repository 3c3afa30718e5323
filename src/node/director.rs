//! A director: the holder and the virtual routers of one machine, and the hands that do what they order.
//!
//! Events wait in one queue; actions are performed in order, and a failed one comes back as an event.

mod alarms;
mod alone;
mod claiming;
mod conflicts;
mod guarding;
mod leases;
mod links;
mod looking;
mod telling;
mod turning;

pub(crate) use alone::Silence;

use super::claim::Hands;
use super::lan::{Hears, Neighbours, Place};
use super::lane::LaneOutput;
use super::lans::{Lans, Opened};
use super::reload::Fresh;
use super::served::Served;
use crate::config::Config;
use crate::kernel::link::Link;
use crate::net::arp::Mac;
use crate::notify::What;
use crate::track::Effect;
use crate::vrrp::advert::{self, Header};
use crate::vrrp::{ah, conflict, hearing, router};
use alarms::Alarms;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::holder::{self, Holder};
use hamesh_fencing::message::Renew;
use hamesh_raft::command::{Family, GroupName, NodeId, Token};
use hamesh_raft::state::State;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Occurrences that are handled in one turn, at most.
const TOGETHER: usize = 64;

/// What the interfaces bring.
#[derive(Debug)]
pub(crate) enum Occurred {
    /// A VRRP packet; `ip` is the header of one that is authenticated, and empty otherwise.
    Packet { interface: String, header: Header, ip: Vec<u8>, payload: Vec<u8> },
    /// ARP or neighbour discovery of this sender, which says that `claimed` is at `mac`.
    Neighbour { interface: String, sender: IpAddr, claimed: IpAddr, mac: Mac, answers: Option<IpAddr> },
    /// An interface as it is now.
    Link(Link),
    /// An interface is not there.
    LinkGone(String),
    /// An interface that had come is open.
    Opened(Opened),
    /// The wall clock was set.
    WallClock,
    /// A configuration to be served from now on, and the LANs of it that were not open.
    Reloaded(Fresh, Lans),
    /// The services of a lease that is being claimed are in IPVS.
    Programmed(GroupName, Token),
}

/// An event for one of the minds.
enum Happened {
    Lease(holder::Event),
    Router(GroupName, router::Event),
    Ear(GroupName, hearing::Event),
    Opened(Opened),
    Reloaded(Fresh, Lans),
    Programmed(GroupName, Token),
}

/// What a director begins with.
pub(super) struct Site {
    pub(super) config: Arc<Config>,
    pub(super) groups: BTreeMap<GroupName, Served>,
    pub(super) lans: Lans,
    pub(super) hands: Hands,
    pub(super) tell: mpsc::Sender<Occurred>,
    pub(super) occurrences: mpsc::Receiver<Occurred>,
}

/// The lane's part that only directors have.
pub(crate) struct Director {
    me: NodeId,
    holder: Holder,
    config: Arc<Config>,
    groups: BTreeMap<GroupName, Served>,
    /// Whose packets those of a virtual router are, by interface.
    vrids: BTreeMap<(Family, u8), Vec<(String, GroupName)>>,
    /// What follows for each group from what it tracks, as last told.
    effects: BTreeMap<GroupName, Effect>,
    alarms: Alarms,
    /// Groups whose configuration changes as soon as this node does not use them any more.
    turning: BTreeSet<GroupName>,
    /// Leases that are being claimed, until their services are in IPVS.
    programming: BTreeMap<GroupName, claiming::Programming>,
    /// Whether more is guarded and open than the configuration has, for groups that turn.
    surplus: bool,
    lans: Lans,
    interfaces: links::Interfaces,
    hands: Hands,
    tell: mpsc::Sender<Occurred>,
    occurrences: mpsc::Receiver<Occurred>,
    queue: VecDeque<Happened>,
    neighbours: Arc<Neighbours>,
    state: Arc<State>,
    renewals: VecDeque<(BTreeSet<NodeId>, Renew)>,
    outputs: Vec<LaneOutput>,
    /// What was told of sync groups last.
    told: BTreeMap<GroupName, What>,
    places: BTreeMap<GroupName, Place>,
    /// The stop is told once it is done, and not what it consists of.
    stopping: bool,
    /// When a guard asked last what keepalived says.
    asked: Option<Moment>,
    solitude: alone::Solitude,
    conflicts: conflict::Watch,
    /// Who was last heard to answer for an address that this director is MASTER of.
    suspect: Option<(GroupName, IpAddr, Mac)>,
}

impl Director {
    pub(super) fn new(me: NodeId, holder: Holder, site: Site, resumed: &BTreeSet<GroupName>, silence: Silence) -> Self {
        let Site { config, mut groups, lans, mut hands, tell, occurrences } = site;
        leases::level_all(&mut groups, &config);
        let queue = groups.values().flat_map(|served| started(served, resumed.contains(&served.lease))).collect();
        let vrids = by_vrid(&groups);
        hands.refuse(deaf(&groups));
        Self {
            me,
            holder,
            config,
            groups,
            vrids,
            alarms: Alarms::default(),
            effects: BTreeMap::new(),
            turning: BTreeSet::new(),
            programming: BTreeMap::new(),
            surplus: false,
            lans,
            interfaces: links::Interfaces::default(),
            hands,
            tell,
            occurrences,
            queue,
            neighbours: Arc::default(),
            state: Arc::default(),
            renewals: VecDeque::new(),
            outputs: Vec::new(),
            told: BTreeMap::new(),
            places: BTreeMap::new(),
            stopping: false,
            asked: None,
            solitude: alone::Solitude::new(silence),
            conflicts: conflict::Watch::default(),
            suspect: None,
        }
    }

    /// Returns when something has happened that [`Self::settle`] is to look at.
    pub(crate) async fn happens(director: &mut Option<Self>) {
        let Some(director) = director else { return std::future::pending().await };
        let now = Moment::now();
        let lease = director.holder.next_deadline(now).map(|deadline| now.until(deadline));
        let next = director.alarms.next(now).into_iter().chain(lease).min();
        let pause = next.unwrap_or(Duration::from_secs(1));
        tokio::select! {
            biased;
            occurred = director.occurrences.recv() => match occurred {
                Some(occurred) => {
                    director.occurred(occurred);
                    // What has come together is handled together, and no more: timers have their turn.
                    for _ in 0..TOGETHER {
                        let Ok(occurred) = director.occurrences.try_recv() else { break };
                        director.occurred(occurred);
                    }
                }
                None => std::future::pending().await,
            },
            () = sleep(pause) => {}
        }
    }

    /// Something about the lease.
    pub(crate) fn lease(&mut self, event: holder::Event) {
        // What the cluster says, and the end: a lease begins beside nothing.
        self.rejoin(Moment::now());
        if let holder::Event::Applied(_, state, _) = &event {
            self.state = state.clone();
        }
        self.stopping |= matches!(event, holder::Event::Stop);
        self.queue.push_back(Happened::Lease(event));
    }

    /// What gossip says of the LANs. A director that hears the holder again may sit among hosts that hold an outdated
    /// entry: the holder announces itself.
    pub(crate) fn neighbours(&mut self, neighbours: Arc<Neighbours>) {
        let heals = |old: Option<&Place>, new: &Place| {
            new.hears == Hears::Holder && new.up && old.is_some_and(|old| old.hears != Hears::Holder || !old.up)
        };
        for (group, places) in &neighbours.places {
            let old = self.neighbours.places.get(group);
            let others = places.iter().filter(|(node, _)| **node != self.me);
            if others.into_iter().any(|(node, place)| heals(old.and_then(|old| old.get(node)), place)) {
                self.queue.push_back(Happened::Router(group.clone(), router::Event::Announce));
            }
        }
        self.neighbours = Arc::new(Neighbours::clone(&neighbours).remembering(&self.neighbours));
        self.serve_locally();
        self.hands.refuse(deaf(&self.groups));
    }

    /// Where this director is a real server of the holder, what members forward passes. The holder may forward from its
    /// virtual MAC too.
    fn serve_locally(&mut self) {
        let local = || self.groups.iter().filter(|(_, served)| served.config.localnode);
        let members = local().flat_map(|(name, served)| {
            let (_, virtual_mac) = served.config.virtual_mac().unzip();
            self.neighbours.macs(name, self.me).chain(virtual_mac)
        });
        let members: BTreeSet<_> = members.collect();
        let addresses = local().flat_map(|(_, served)| served.definition.addresses.iter().copied()).collect();
        self.hands.serve_locally(addresses, members);
    }

    /// This director's path to the servers is worse than others', or not any more: its priority says so to the mesh and to
    /// the LAN.
    pub(crate) fn short(&mut self, group: &GroupName, short: bool) {
        let Some(served) = self.groups.get_mut(group) else { return };
        let before = served.priority();
        served.short = short;
        served.router.set_priority(served.priority());
        telling::tell_priority(served, before, &mut self.outputs);
        let lease = served.lease.clone();
        self.want(&lease);
    }

    /// What a group tracks has changed: its priority, or whether it may be claimed here.
    pub(crate) fn weigh(&mut self, group: &GroupName, effect: Effect) {
        // Of a group that has its turn later, too.
        self.effects.insert(group.clone(), effect);
        let Some(served) = self.groups.get_mut(group).filter(|served| !served.config.track.is_empty()) else { return };
        if matches!(effect, Effect::Provisional(_)) && !served.unseen {
            return;
        }
        let (before, unseen) = (served.priority(), std::mem::take(&mut served.unseen));
        match effect {
            Effect::Priority(priority) | Effect::Provisional(priority) => {
                (served.weighed, served.fault) = (priority, false);
            }
            Effect::Fault => served.fault = true,
        }
        served.router.set_priority(served.priority());
        telling::tell_priority(served, before, &mut self.outputs);
        tracing::info!(%group, priority = served.priority(), fault = served.fault, "tracking");
        let lease = served.lease.clone();
        if self.level(&lease) {
            // Its routers hear of it.
        } else if self.is_up(&lease) {
            self.want(&lease);
        } else if unseen && !self.is_unseen(&lease) {
            self.tell_fault(&lease);
        }
    }

    /// Whether the kernel has not shut the gate of a session that is over.
    pub(crate) fn is_stuck(&self) -> bool {
        self.holder.is_shutting()
    }

    /// Handles what waits, and what comes of it.
    pub(crate) async fn settle(&mut self) {
        let now = Moment::now();
        if self.holder.next_deadline(now).is_some_and(|deadline| now.reached(deadline)) {
            self.queue.push_back(Happened::Lease(holder::Event::Tick));
        }
        let due = self.alarms.due(now).into_iter();
        self.queue.extend(due.map(|group| Happened::Router(group, router::Event::Tick)));
        while self.happened().await || self.turn().await {}
    }

    /// What can wait until others have heard what was settled.
    pub(crate) async fn tidy(&mut self) {
        self.hands.tidy().await;
    }

    /// Handles what waits. Returns whether there was anything.
    async fn happened(&mut self) -> bool {
        let any = !self.queue.is_empty();
        while let Some(happened) = self.queue.pop_front() {
            match happened {
                Happened::Reloaded(fresh, lans) => {
                    self.rejoin(Moment::now());
                    self.reload(fresh, lans).await;
                }
                Happened::Opened(opened) => self.opened(opened).await,
                Happened::Lease(event) => {
                    let given_up = self.gives_up(&event);
                    let actions = self.holder.handle(Moment::now(), event);
                    self.perform(actions).await;
                    given_up.into_iter().for_each(|lease| self.give_up_claim(lease));
                }
                Happened::Programmed(lease, token) => self.programmed(lease, token).await,
                Happened::Router(group, event) => self.route(&group, event),
                Happened::Ear(group, event) => {
                    let Some(served) = self.groups.get_mut(&group) else { continue };
                    for hearing::Action::Probe(targets) in served.ear.handle(Moment::now(), event) {
                        self.hands.probe(served, &targets);
                    }
                }
            }
        }
        any
    }

    /// What is to be sent and said.
    pub(crate) fn drain(&mut self, renewals: &mut VecDeque<(BTreeSet<NodeId>, Renew)>, outputs: &mut Vec<LaneOutput>) {
        renewals.append(&mut self.renewals);
        outputs.append(&mut self.outputs);
    }

    fn occurred(&mut self, occurred: Occurred) {
        let now = Moment::now();
        match occurred {
            Occurred::Packet { interface, header, ip, payload } => {
                let vrid = if ip.is_empty() { advert::vrid(&payload) } else { ah::vrid(&payload) };
                let family = Family::of(header.source);
                let here = vrid.and_then(|vrid| self.vrids.get(&(family, vrid)));
                let Some((_, group)) = here.and_then(|here| here.iter().find(|(name, _)| *name == interface)) else {
                    return;
                };
                let Some(served) = self.groups.get_mut(group) else { return };
                match served.judge(&header, &ip, &payload) {
                    Ok(advert) => {
                        let member =
                            self.neighbours.addresses(&served.name).any(|(_, address)| address == header.source);
                        served.notice_list(&advert, header.source, member);
                        served.ear.handle(now, hearing::Event::Advert);
                        // A peer beyond a router is no neighbour, and cannot be asked.
                        if served.format.unicast.is_some() {
                            served.ear.handle(now, hearing::Event::Answer);
                        }
                        let heard = router::Event::Heard { advert, source: header.source, member };
                        self.queue.push_back(Happened::Router(served.name.clone(), heard));
                    }
                    Err(discard) => served.discard(now, header.source, discard),
                }
            }
            Occurred::Neighbour { interface, sender, claimed, mac, answers } => {
                self.claimed(&interface, claimed, mac);
                let family = Family::of(sender);
                let on_it =
                    |served: &&mut Served| served.config.interface == interface && served.config.family == family;
                let groups = self.groups.values_mut().filter(on_it);
                for served in groups.filter(|served| Some(sender) != served.own_address()) {
                    served.ear.handle(now, hearing::Event::Neighbour(sender));
                    if answers.is_some() && answers == served.own_address() {
                        served.ear.handle(now, hearing::Event::Answer);
                    }
                }
            }
            Occurred::Link(link) => self.link(&link.interface.name, Some(&link)),
            Occurred::LinkGone(name) => self.link(&name, None),
            Occurred::Opened(opened) => self.queue.push_back(Happened::Opened(opened)),
            Occurred::WallClock => self.hands.wall_clock(),
            Occurred::Reloaded(fresh, lans) => self.queue.push_back(Happened::Reloaded(fresh, lans)),
            Occurred::Programmed(lease, token) => self.queue.push_back(Happened::Programmed(lease, token)),
        }
    }

    async fn perform(&mut self, actions: Vec<holder::Action>) {
        // A record that was not replaced, or a group that was not shut, voids what relies on it; what shuts goes on.
        let (mut recorded, mut stuck) = (true, false);
        for action in actions {
            match action {
                holder::Action::Arm(_) | holder::Action::Claim(..) | holder::Action::Propose(_) if stuck => {}
                holder::Action::Send(voters, renew) => self.renewals.push_back((voters, renew)),
                holder::Action::Arm(deadline) => self.hands.arm(deadline, &self.groups),
                holder::Action::Shut => match self.hands.shut() {
                    Ok(()) if recorded => self.queue.push_back(Happened::Lease(holder::Event::Shut)),
                    // Asked for again, together with the record.
                    Ok(()) => {}
                    Err(error) => tracing::error!(%error, "the gate was not shut; trying again"),
                },
                holder::Action::Record(record) => {
                    if let Err(error) = self.hands.record(record.as_ref()) {
                        tracing::error!(%error, "the may-act record was not replaced; the lease is left to its deadline");
                        (recorded, stuck) = (false, true);
                        self.queue.push_back(Happened::Lease(holder::Event::Stuck));
                    }
                }
                holder::Action::Claim(lease, token, definition) => {
                    stuck |= self.claim(lease, token, definition).await;
                }
                holder::Action::Unclaim(lease, token) => {
                    self.programming.remove(&lease);
                    let names = self.members(&lease);
                    let event = match self.hands.unclaim(&leases::of(&self.groups, &names), token) {
                        Ok(()) => holder::Event::Unclaimed(lease, token),
                        Err(error) => {
                            tracing::error!(%lease, %token, %error, "the gate was not shut; the lease is left to its deadline");
                            stuck = true;
                            holder::Event::Stuck
                        }
                    };
                    self.route_all(names, &router::Event::Revoked);
                    self.queue.push_back(Happened::Lease(event));
                }
                holder::Action::Propose(command) => self.outputs.push(LaneOutput::Propose(command)),
                holder::Action::Stopped => {
                    self.hands.clear().await;
                    self.outputs.push(LaneOutput::Stopped);
                }
            }
        }
    }

    fn route_all(&mut self, names: Vec<GroupName>, event: &router::Event) {
        self.queue.extend(names.into_iter().map(|name| Happened::Router(name, event.clone())));
    }

    fn route(&mut self, group: &GroupName, event: router::Event) {
        let Some(served) = self.groups.get_mut(group) else { return };
        let before = served.router.status().state;
        // One that resumes was told before; one that starts without its link is in FAULT in a moment.
        let starts = matches!(event, router::Event::Start { resumed } if resumed || !served.up);
        let rival = matches!(&event, router::Event::Heard { advert, member: false, .. } if advert.priority > 0);
        let actions = served.router.handle(Moment::now(), event);
        let (lease, after) = (served.lease.clone(), served.router.status().state);
        self.alarms.set(group, served.router.next_deadline());
        if std::mem::discriminant(&before) != std::mem::discriminant(&after) {
            tracing::info!(%group, from = %before, to = %after, "VRRP");
        }
        let news = rival || telling::is_news(served, after);
        if news && !self.stopping && !starts && !self.is_unseen(&lease) {
            self.tell_state(group, before, rival);
        }
        let Some(served) = self.groups.get_mut(group) else { return };
        let (mut wants, mut yields) = (false, false);
        for action in actions {
            match action {
                router::Action::Want => wants = true,
                router::Action::Refuse | router::Action::Yield => {
                    yields |= action == router::Action::Yield;
                    self.queue.push_back(Happened::Lease(holder::Event::Refuse(lease.clone())));
                }
                router::Action::SendAdvert => self.hands.advert(served, served.priority()),
                // Of a link that is down nothing is heard.
                router::Action::Resign if !served.link.up => {}
                router::Action::Resign => self.hands.advert(served, 0),
                router::Action::Announce(rounds) => self.hands.announce(served, rounds),
            }
        }
        if wants {
            self.want(&lease);
        }
        if yields {
            // Nothing happens where a lease stands behind it: the holder unclaims.
            self.give_up(group);
        }
    }
}

/// The addresses that nothing is delivered to.
fn deaf(groups: &BTreeMap<GroupName, Served>) -> BTreeSet<IpAddr> {
    let deaf = groups.values().filter(|served| !served.config.accepts());
    deaf.flat_map(|served| served.definition.addresses.iter().copied()).collect()
}

/// Where packets of each virtual router go.
fn by_vrid(groups: &BTreeMap<GroupName, Served>) -> BTreeMap<(Family, u8), Vec<(String, GroupName)>> {
    let mut vrids: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, Served { config, .. }) in groups {
        let here = vrids.entry((config.family, config.vrid)).or_default();
        here.push((config.interface.clone(), name.clone()));
    }
    vrids
}

/// The first events of a group's router.
fn started(served: &Served, resumed: bool) -> Vec<Happened> {
    let mut events = vec![router::Event::Start { resumed }];
    if !served.up {
        events.push(router::Event::LinkDown);
    }
    events.into_iter().map(|event| Happened::Router(served.name.clone(), event)).collect()
}
