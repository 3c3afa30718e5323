//! The lane: one thread for everything a lease and an advert depend on.
//!
//! It has real-time priority and locked memory when the machine allows, waits for no disk and no other task, and reads
//! [`Moment::now`] after each thing it was woken by. Its queues are bounded; a full one drops what will be said again.

use super::core::lock;
use super::director::{Director, Silence};
use super::flight::{Flight, Flights};
use super::lan::Neighbours;
use super::reload::Fresh;
use crate::kernel::watchdog::Watchdog;
use crate::net::Reach;
use crate::net::lease::{DATAGRAM_LIMIT, Datagram, LeasePlane, SendError, Via};
use crate::notify::Notice;
use crate::track::Effect;
use crate::vrrp::advert::Discard;
use crate::vrrp::conflict::Conflict;
use bytes::Bytes;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::{self, Grantor};
use hamesh_fencing::holder;
use hamesh_fencing::message::{Ack, Known, Message};
use hamesh_fencing::voter::{self, Voter};
use hamesh_raft::codec;
use hamesh_raft::command::{Command, GroupName, Leadership, NodeId, Sid, Token};
use hamesh_raft::{Standing, View};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// Whatever goes through all groups, and what nothing wakes for, is done this often.
const LOOK: Duration = Duration::from_millis(50);
/// The same for each group, where they are so many that the looks would cost more than their adverts.
const LOOK_PER_GROUP: Duration = Duration::from_micros(400);
/// The same while this director may serve without a lease: its gate is armed for three adverts at a time, and they may come
/// every hundredth of a second.
const LOOK_ALONE: Duration = Duration::from_millis(10);

/// What the other tasks tell the lane.
#[derive(Debug)]
pub(crate) enum LaneInput {
    /// The leader asks for a group to be handed over.
    Move(GroupName, Token, Sid),
    /// What gossip says of the LANs.
    Neighbours(Arc<Neighbours>),
    /// Serve another configuration.
    Reload(Fresh),
    /// This director sees much less of the servers behind a group than others do, or not any more.
    Short(GroupName, bool),
    /// What a group tracks says so.
    Weigh(GroupName, Effect),
    /// Feed this as long as the lane turns.
    Watch(Watchdog),
    /// Hand over, close, end.
    Stop,
}

/// What the lane tells the other tasks.
#[derive(Debug)]
pub(crate) enum LaneOutput {
    /// Bring this to the leader.
    Propose(Command),
    /// Propose this in this leadership of our own.
    ProposeUnder(Leadership, Command),
    /// Ask a holder's node to hand a group over.
    AskToMove(NodeId, GroupName, Token, Sid),
    /// Spread a fact.
    Fact(String, String),
    /// Tell whoever wants to know.
    Notice(Notice),
    /// Take a fact back.
    Retract(String),
    /// The director has handed over and closed.
    Stopped,
}

/// What people see of the lane.
#[derive(Clone, Debug, Default)]
pub(crate) struct LaneStatus {
    pub(crate) session: Option<Sid>,
    pub(crate) remaining: Option<Duration>,
    pub(crate) groups: BTreeMap<GroupName, GroupStatus>,
    pub(crate) gate: Option<GateStatus>,
    pub(crate) warnings: Vec<String>,
}

/// One VIP group on this director.
#[derive(Clone, Debug)]
pub(crate) struct GroupStatus {
    pub(crate) vrrp: crate::vrrp::router::Status,
    pub(crate) open: bool,
    /// Without a lease.
    pub(crate) unfenced: bool,
    pub(crate) interface: InterfaceStatus,
    /// Others that it needs and are down, or not there.
    pub(crate) missing: Vec<String>,
    pub(crate) discarded: BTreeMap<&'static str, u64>,
    pub(crate) last_discard: Option<(Moment, IpAddr, Discard)>,
    /// A stranger that answers for one of its addresses.
    pub(crate) conflict: Option<Conflict>,
    /// Addresses that could not be removed yet.
    pub(crate) leftovers: usize,
}

/// A group's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterfaceStatus {
    /// It can carry the group.
    Up,
    /// It is down, or has no address of its own.
    Down,
    /// It, or its device with the virtual MAC, is not there.
    Absent,
}

/// The gate of this director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateStatus {
    /// Whether nobody else can change it, and whether it sees what packet sockets send.
    Rules { persistent: bool, packet_sockets: bool },
    /// There is none: addresses end, so much later than a gate would shut.
    Lifetimes(Duration),
    /// Switched off.
    Off,
}

/// The lane's own things.
pub(crate) struct Lane {
    pub(crate) me: NodeId,
    pub(crate) voter: Arc<Mutex<Voter>>,
    pub(crate) grantor: Arc<Mutex<Grantor>>,
    pub(crate) plane: LeasePlane,
    pub(crate) datagrams: mpsc::Receiver<Datagram>,
    pub(crate) director: Option<Director>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) inputs: mpsc::Receiver<LaneInput>,
    pub(crate) outputs: mpsc::Sender<(LaneOutput, Option<Flight>)>,
    pub(crate) flights: Flights,
    pub(crate) status: Arc<Mutex<LaneStatus>>,
    pub(crate) heartbeat: Duration,
    /// When the next look is due.
    pub(crate) look: Moment,
    /// When the grantor wants to know of the sessions, if that is before the next look.
    pub(crate) due: Option<Moment>,
    /// The members that the rest of the node is connected to.
    pub(crate) mesh: watch::Receiver<BTreeMap<NodeId, Reach>>,
    pub(crate) silence: Silence,
    pub(crate) watchdog: Option<Watchdog>,
}

impl Lane {
    /// Runs until told to stop, or until the rest of the node is gone.
    pub(crate) async fn run(mut self) {
        self.applied().await;
        loop {
            let (director, pause) = (self.director.is_some(), self.pause());
            tokio::select! {
                biased;
                heard = self.datagrams.recv() => match heard {
                    Some(heard) => self.heard(heard.from, &heard.via, &heard.bytes).await,
                    None => return,
                },
                changed = self.view.changed() => match changed {
                    Ok(()) => self.applied().await,
                    Err(_) => return,
                },
                changed = self.standing.changed() => match changed {
                    Ok(()) => self.stands().await,
                    Err(_) => return,
                },
                input = self.inputs.recv() => match input {
                    Some(input) => self.told(input).await,
                    None => return,
                },
                // Before what hosts on the LAN can make happen all the time.
                () = sleep(pause) => self.woken().await,
                () = Director::happens(&mut self.director), if director => self.director_work().await,
            }
        }
    }

    async fn heard(&mut self, from: NodeId, via: &Via, body: &[u8]) {
        if self.silence.is_kept()
            && let Some(director) = &mut self.director
        {
            // It is said again, and answered when nothing is served without a lease any more.
            director.alone(false).await;
            return self.director_work().await;
        }
        let Ok(message) = codec::decode::<Message>(body, DATAGRAM_LIMIT) else {
            tracing::debug!(%from, "undecodable datagram on the lease plane");
            return;
        };
        match message {
            Message::Renew(_) | Message::Ask(_) => {
                if let Some(answer) = answer(&self.voter, from, &message) {
                    self.sent(self.plane.reply(via, Bytes::from(codec::encode(&answer))));
                }
            }
            Message::Ack(ack) => self.holder(holder::Event::Heard(from, ack)).await,
            Message::Tell(tell) => self.grantor(grantor::Event::Told(from, tell)),
        }
    }

    async fn applied(&mut self) {
        let View { state, applied, membership, effective } = self.view.borrow_and_update().clone();
        self.plane.set_peers(super::service::peers(&state));
        self.grantor(grantor::Event::Applied(state.clone(), membership));
        self.holder(holder::Event::Applied(applied, state, effective)).await;
    }

    async fn stands(&mut self) {
        let standing = self.standing.borrow_and_update().clone();
        // A leadership stands on what it has applied: the state that it was told with comes first.
        if self.view.has_changed().unwrap_or(false) {
            self.applied().await;
        }
        self.grantor(grantor::Event::Leads(standing.leading));
        let recently = |at: Option<std::time::Instant>| at.is_some_and(|at| at.elapsed() < self.heartbeat * 4);
        let mut replicating: BTreeSet<NodeId> =
            standing.followers.iter().filter(|(_, p)| recently(p.heard)).map(|(node, _)| *node).collect();
        replicating.insert(self.me);
        self.grantor(grantor::Event::Replicating(replicating));
    }

    async fn told(&mut self, input: LaneInput) {
        match input {
            LaneInput::Move(group, token, to) => self.holder(holder::Event::Move(group, token, to)).await,
            LaneInput::Neighbours(neighbours) => {
                self.grantor(grantor::Event::Hears(neighbours.hearing()));
                if let Some(director) = &mut self.director {
                    director.neighbours(neighbours);
                    self.director_work().await;
                }
            }
            LaneInput::Reload(fresh) => match &self.director {
                Some(director) => director.prepare(fresh),
                None => drop(fresh.answer.send(Ok(()))),
            },
            LaneInput::Short(group, short) => {
                if let Some(director) = &mut self.director {
                    director.short(&group, short);
                    self.director_work().await;
                }
            }
            LaneInput::Weigh(group, effect) => {
                if let Some(director) = &mut self.director {
                    director.weigh(&group, effect);
                    self.director_work().await;
                }
            }
            LaneInput::Watch(watchdog) => self.watchdog = Some(watchdog),
            LaneInput::Stop => {
                // What is left of a stop needs no reset, unless an address is left answering.
                if !self.is_stuck()
                    && let Some(Err(error)) = self.watchdog.take().map(Watchdog::disarm)
                {
                    tracing::error!(%error, "the watchdog goes on: it will reset this machine");
                }
                match &self.director {
                    Some(_) => self.holder(holder::Event::Stop).await,
                    None => self.say(LaneOutput::Stopped),
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        let now = Moment::now();
        let due = self.due.map(|due| now.wait(due));
        due.into_iter().fold(now.wait(self.look), Duration::min)
    }

    async fn woken(&mut self) {
        let now = Moment::now();
        if now.wait(self.look).is_zero() {
            self.look_around(now).await;
        } else {
            self.grantor(grantor::Event::Known(self.own(now)));
        }
    }

    async fn look_around(&mut self, now: Moment) {
        // Metrics of followers change without a wake-up of their own.
        self.stands().await;
        self.grantor(grantor::Event::Tick(self.own(now)));
        let alone = self.is_alone();
        if let Some(director) = &mut self.director {
            director.look_around();
            director.alone(alone).await;
        }
        self.director_work().await;
        let fresh = match &self.director {
            Some(director) => director.status(),
            None => LaneStatus::default(),
        };
        let groups = u32::try_from(fresh.groups.len()).unwrap_or(u32::MAX);
        self.look = now + if alone { LOOK_ALONE } else { LOOK.max(LOOK_PER_GROUP.saturating_mul(groups)) };
        *lock(&self.status) = fresh;
        if !self.is_stuck()
            && let Some(watchdog) = &mut self.watchdog
        {
            watchdog.feed(Moment::now());
        }
    }

    /// What this node's voter knows of the sessions.
    fn own(&self, now: Moment) -> BTreeMap<Sid, Known> {
        let voter = lock(&self.voter);
        voter.sessions().filter_map(|sid| Some((sid, voter.known(now, sid)?))).collect()
    }

    /// Whether a lease is over and its gate could not be shut: what only a reset helps against.
    fn is_stuck(&self) -> bool {
        self.director.as_ref().is_some_and(Director::is_stuck)
    }

    /// Whether no member is connected in any way.
    fn is_alone(&self) -> bool {
        let linked = |reach: &Reach| reach.outgoing.is_some() || reach.incoming.is_some();
        let nobody = |members: &BTreeMap<NodeId, Reach>| !members.values().any(linked);
        self.standing.borrow().leading.is_none()
            && nobody(&self.mesh.borrow())
            && nobody(&self.plane.reachable().borrow())
    }

    async fn holder(&mut self, event: holder::Event) {
        if let Some(director) = &mut self.director {
            director.lease(event);
            self.director_work().await;
        }
    }

    /// Performs what the director's minds have ordered, and sends what came of it.
    async fn director_work(&mut self) {
        let Some(director) = &mut self.director else { return };
        director.settle().await;
        let mut renewals = VecDeque::new();
        let mut outputs = Vec::new();
        director.drain(&mut renewals, &mut outputs);
        for output in outputs {
            self.say(output);
        }
        let mut acks: Vec<Ack> = Vec::new();
        for (voters, renew) in renewals {
            let message = Message::Renew(renew);
            let body = Bytes::from(codec::encode(&message));
            for node in voters {
                if node != self.me {
                    self.sent(self.plane.send(node, body.clone()));
                } else if let Some(Message::Ack(ack)) = answer(&self.voter, self.me, &message) {
                    acks.push(ack);
                }
            }
        }
        for ack in acks {
            Box::pin(self.holder(holder::Event::Heard(self.me, ack))).await;
        }
        if let Some(director) = &mut self.director {
            director.tidy().await;
        }
    }

    fn grantor(&mut self, event: grantor::Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = lock(&self.grantor).handle(Moment::now(), event);
            for action in actions {
                match action {
                    grantor::Action::Propose(leadership, command) => {
                        self.say(LaneOutput::ProposeUnder(leadership, command));
                    }
                    grantor::Action::Move(node, group, token, to) => {
                        self.say(LaneOutput::AskToMove(node, group, token, to));
                    }
                    grantor::Action::Ask(voters, ask) => {
                        let message = Message::Ask(ask);
                        let body = Bytes::from(codec::encode(&message));
                        for node in voters {
                            if node != self.me {
                                self.sent(self.plane.send(node, body.clone()));
                            } else if let Some(Message::Tell(tell)) = answer(&self.voter, self.me, &message) {
                                events.push_back(grantor::Event::Told(self.me, tell));
                            }
                        }
                    }
                }
            }
        }
        let now = Moment::now();
        let leads = self.standing.borrow().leading.is_some();
        let pause = leads.then(|| lock(&self.grantor).pause(now, &self.own(now))).flatten();
        self.due = pause.map(|pause| now + pause);
    }

    /// A datagram that was not sent is like one that was lost: there will be a next one.
    fn sent(&self, result: Result<(), SendError>) {
        match result {
            Ok(()) | Err(SendError::NotConnected) => {}
            Err(error @ SendError::TooLong) => tracing::error!(%error, "lease datagram"),
        }
    }

    /// What does not fit is said again by the mind that wanted it, and what is under way is not said.
    fn say(&self, output: LaneOutput) {
        let flight = match &output {
            LaneOutput::Propose(command) => Some(self.flights.begin(None, command)),
            LaneOutput::ProposeUnder(leadership, command) => Some(self.flights.begin(Some(*leadership), command)),
            LaneOutput::AskToMove(..)
            | LaneOutput::Fact(..)
            | LaneOutput::Notice(_)
            | LaneOutput::Retract(_)
            | LaneOutput::Stopped => None,
        };
        if let Some(None) = flight {
            return;
        }
        if let Err(error) = self.outputs.try_send((output, flight.flatten())) {
            tracing::warn!(%error, "the node's queue is full");
        }
    }
}

/// The voter's answer. The clock is read under the lock, after the message was received (H9).
fn answer(voter: &Mutex<Voter>, from: NodeId, message: &Message) -> Option<Message> {
    let mut voter = lock(voter);
    let actions = voter.handle(Moment::now(), voter::Event::Heard(from, message));
    actions.into_iter().map(|voter::Action::Answer(answer)| answer).next()
}
