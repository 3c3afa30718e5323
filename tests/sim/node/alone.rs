//! A director that hears no member and serves all the same, as the daemon does with `quorum_loss = "vrrp"`: the virtual routers
//! decide, and while it serves so the node neither says nor hears anything in the mesh (H13).

use super::Node;
use crate::hands::Failing;
use crate::net::{Msg, Net};
use hamesh::vrrp::router::{Event, State};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::holder::Action;
use hamesh_raft::command::{GroupName, NodeId, Token};
use std::collections::BTreeSet;
use std::time::Duration;

/// The token of what no lease stands behind.
pub const UNFENCED: Token = Token { lineage: 0, index: 0 };
/// A connection of the mesh that has heard nothing for so long is lost.
pub const IDLE: Duration = Duration::from_millis(700);
/// So often one is tried.
const DIAL: Duration = Duration::from_millis(100);
/// Less than this cannot be armed in time.
const SHORTEST: Duration = Duration::from_millis(300);

/// How alone a process is.
#[derive(Default)]
pub struct Solitude {
    /// Nothing is said in the mesh.
    silent: bool,
    /// When a member was heard last.
    heard: Option<Moment>,
    /// When connections were tried last.
    dialed: Option<Moment>,
    /// Since when no member is heard, and no session lives.
    since: Option<Moment>,
    /// The groups that go by VRRP alone.
    unfenced: BTreeSet<GroupName>,
    /// Those of them that are claimed.
    held: BTreeSet<GroupName>,
    armed: Option<Moment>,
}

impl Solitude {
    pub fn is_silent(&self) -> bool {
        self.silent
    }
}

impl Node {
    /// How long its gate is armed for what no lease stands behind, if there is any: the silence after which others take over.
    pub fn serves_unfenced(&self, net: &Net) -> Option<Duration> {
        let process = self.process.as_ref()?;
        (!process.solitude.held.is_empty()).then(|| (net.lan.interval * 3).max(SHORTEST))
    }

    /// A member is heard. False if this node does not listen: what it serves without a lease ends first.
    pub fn listens(&mut self, net: &mut Net, now: Moment, from: NodeId, msg: &Msg) -> bool {
        let Some(process) = self.process.as_mut().filter(|_| from != self.id) else { return true };
        process.solitude.heard = Some(now);
        if !process.solitude.silent {
            return true;
        }
        if let Msg::Hello { answered: false } = msg {
            net.send(self.id, from, Msg::Hello { answered: true });
        }
        net.count("silent among members");
        // Of the others the mesh only says that there is a connection: at the next look.
        if let Msg::Lease(_) = msg {
            self.rejoin(net, now);
        }
        false
    }

    /// Whether no member is connected.
    fn is_alone(&self, now: Moment) -> bool {
        self.process.as_ref().is_some_and(|process| {
            process.raft.leading().is_none() && process.solitude.heard.is_none_or(|heard| now.since(heard) >= IDLE)
        })
    }

    /// Every few milliseconds.
    pub fn look_alone(&mut self, net: &mut Net, now: Moment) {
        let Some(after) = net.quorum_loss else { return };
        let alone = self.is_alone(now);
        let Some(process) = &mut self.process else { return };
        let Some(holder) = &process.holder else { return };
        let drained = process.raft.state.members.get(&self.id).is_none_or(|member| member.drained);
        if !alone || !holder.is_between_sessions() || drained {
            return self.rejoin(net, now);
        }
        if process.solitude.dialed.is_none_or(|dialed| now.since(dialed) >= DIAL) {
            process.solitude.dialed = Some(now);
            for other in process.raft.state.members.keys().filter(|other| **other != self.id) {
                net.send(self.id, *other, Msg::Hello { answered: false });
            }
        }
        let since = *process.solitude.since.get_or_insert(now);
        if now.since(since) >= after {
            for (group, router) in &mut process.routers {
                if process.solitude.unfenced.insert(group.clone()) {
                    process.solitude.silent = true;
                    router.stand_alone(now, true);
                }
            }
            self.tick_routers(net, now);
            self.serve_unfenced(net, now);
        }
    }

    /// Ends what was served without a lease, and says nothing in the mesh until the gate is shut.
    pub fn rejoin(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = &mut self.process else { return };
        process.solitude.since = None;
        if process.solitude.unfenced.is_empty() {
            return;
        }
        for group in process.solitude.held.clone() {
            self.give_up(net, now, &group);
        }
        let Some(process) = &mut self.process else { return };
        let over = process.solitude.armed.is_none_or(|until| now.reached(until));
        if self.failing == Some(Failing::Unclaim) {
            net.count("gate stuck");
            // Again and again, before it can be shut.
            self.failing = self.failing.filter(|_| net.chance(800));
            if !over {
                return;
            }
        }
        process.hands.forget_arming();
        self.gates[process.gate].shut();
        net.unfenced.remove(&self.id);
        net.note(self.id, || "goes by its lease again".to_owned());
        for router in process.routers.values_mut() {
            router.stand_alone(now, false);
        }
        process.solitude = Solitude { heard: process.solitude.heard, ..Solitude::default() };
        self.tick_routers(net, now);
    }

    /// One of them yields, by the rules of VRRP.
    pub fn give_up(&mut self, net: &mut Net, now: Moment, group: &str) {
        let Some(process) = &mut self.process else { return };
        if process.solitude.held.remove(group) {
            self.gates[process.gate].unhold(group);
            self.route(net, now, group, Event::Revoked);
        }
    }

    fn serve_unfenced(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = &mut self.process else { return };
        let solitude = &process.solitude;
        let claims = |(group, router): &(&GroupName, &_)| is_claiming(router) && !solitude.held.contains(*group);
        let claiming: Vec<GroupName> = process.routers.iter().filter(claims).map(|(group, _)| group.clone()).collect();
        for group in claiming {
            self.claim_unfenced(net, now, group);
        }
        let Some(silence) = self.serves_unfenced(net) else { return };
        let ttl = self.profile.ttl;
        let Some(process) = &mut self.process else { return };
        if process.solitude.armed.is_none_or(|until| now.until(until) + silence.min(ttl) / 4 < silence) {
            process.solitude.armed = Some(now + silence);
            process.hands.take_first(Action::Arm(now + silence));
            self.hurry(net);
        }
    }

    fn claim_unfenced(&mut self, net: &mut Net, now: Moment, group: GroupName) {
        let Some((_, candidate)) = self.wishes.get(&group) else { return };
        let Some(process) = &mut self.process else { return };
        self.gates[process.gate].hold(group.clone(), UNFENCED, candidate.definition.addresses.clone());
        process.solitude.held.insert(group.clone());
        process.solitude.armed = None;
        net.unfenced.insert(self.id);
        if net.chance(400) {
            // The next time it is asked to shut.
            self.failing = Some(Failing::Unclaim);
        }
        net.opened = true;
        net.count("served without a lease");
        net.note(self.id, || format!("serves {group} without a lease"));
        self.route(net, now, &group, Event::Granted);
    }
}

fn is_claiming(router: &hamesh::vrrp::router::Router) -> bool {
    matches!(router.status().state, State::Claiming)
}
