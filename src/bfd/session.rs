//! One session, in asynchronous mode (RFC 5880 section 6): packets and time in, packets and a state out.

use super::Settings;
use super::packet::{Diagnostic, Packet, State};
use fastrand::Rng;
use hamesh_fencing::clock::Moment;
use std::time::Duration;

/// A neighbour that was never heard is down after this; both ends of one that lives need a few packets, one a second.
const FIRST: Duration = Duration::from_secs(3);

/// What happens to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A packet for this session came.
    Heard(Packet),
    /// [`Session::next_deadline`] has come.
    Tick,
}

/// A session with one neighbour.
#[derive(Debug)]
pub(super) struct Session {
    settings: Settings,
    rng: Rng,
    /// `bfd.LocalDiscr`: unique among the sessions of this node, not 0.
    pub mine: u32,
    state: State,
    diagnostic: Diagnostic,
    /// What the neighbour said last.
    remote: Remote,
    /// A poll sequence goes on: the neighbour has not confirmed what is sent now.
    polling: bool,
    /// What was sent last, but for a poll and its answer.
    sent: Option<Packet>,
    /// The next one is due one `interval`, less the jitter, after that one.
    next: Moment,
    interval: Duration,
    /// Nothing heard until then is silence. `None` when there is nothing to lose.
    expires: Option<Moment>,
    /// What those who go by it were told, and when at the latest.
    told: Option<bool>,
    first: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Remote {
    /// `bfd.RemoteDiscr`; 0: not known.
    name: u32,
    state: State,
    demand: bool,
    multiplier: u8,
    min_tx: Duration,
    min_rx: Duration,
}

impl Session {
    pub fn new(now: Moment, settings: Settings, mine: u32, seed: u64) -> Self {
        let remote = Remote {
            name: 0,
            state: State::Down,
            demand: false,
            multiplier: 0,
            min_tx: Duration::ZERO,
            // As the RFC has it at the start.
            min_rx: Duration::from_micros(1),
        };
        Self {
            settings,
            rng: Rng::with_seed(seed),
            mine,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote,
            polling: false,
            sent: None,
            next: now,
            interval: Duration::ZERO,
            expires: None,
            told: None,
            first: now + FIRST,
        }
    }

    /// What is to be sent.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Packet> {
        let answers = match event {
            Event::Heard(packet) => {
                self.heard(now, packet);
                packet.poll
            }
            Event::Tick => {
                self.expire(now);
                false
            }
        };
        let interval = self.min_tx().max(self.remote.min_rx);
        let shorter = interval < self.interval;
        // A change is said without delay (section 6.8.7), an answer to a poll too.
        let changed = self.sent.is_some_and(|sent| sent != self.packet(false, false));
        let periodic = self.may_send() && (changed || now.reached(self.next));
        if answers || periodic {
            // Never both (section 6.5).
            let packet = self.packet(self.polling && !answers, answers);
            self.sent = Some(Packet { poll: false, is_final: false, ..packet });
            self.interval = interval;
            self.next = now + self.jittered();
            self.conclude(now);
            return vec![packet];
        }
        if shorter {
            // It counts for the packet that is waiting already (section 6.8.7).
            self.interval = interval;
            self.next = self.next.earlier(now + self.jittered());
        }
        self.conclude(now);
        Vec::new()
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        let first = self.told.is_none().then_some(self.first);
        let next = self.may_send().then_some(self.next);
        [first, next, self.expires].into_iter().flatten().reduce(Moment::earlier)
    }

    /// Up or down for those who go by it; `None` while it is not known.
    pub fn told(&self) -> Option<bool> {
        self.told
    }

    /// The states of both ends, the neighbour's as it said, and why this end went down last.
    pub fn ends(&self) -> (State, State, Diagnostic) {
        (self.state, self.remote.state, self.diagnostic)
    }

    /// So long a silence is one too long; zero while there is no neighbour.
    pub fn detection(&self) -> Duration {
        // Section 6.8.4.
        self.settings.min_rx.max(self.remote.min_tx) * u32::from(self.remote.multiplier)
    }

    /// Section 6.8.6, from the point on where the session is known.
    fn heard(&mut self, now: Moment, packet: Packet) {
        let was = self.state;
        let Packet { state, demand, multiplier, min_tx, min_rx, .. } = packet;
        self.remote = Remote { name: packet.mine, state, demand, multiplier, min_tx, min_rx };
        self.state = next(was, state);
        match (was, self.state) {
            (State::Init | State::Up, State::Down) => self.diagnostic = Diagnostic::NEIGHBOUR_SAID_SO,
            (_, State::Init | State::Up) => self.diagnostic = Diagnostic::NONE,
            (_, State::AdminDown | State::Down) => {}
        }
        self.polling = match (was, self.state) {
            (State::Up, State::Up) => self.polling && !packet.is_final,
            // What is sent as the least interval changes now (section 6.8.3).
            (_, State::Up) => self.settings.min_tx != self.idle(),
            (..) => false,
        };
        self.expires = Some(now + self.detection());
    }

    /// Nothing was heard for the detection time.
    fn expire(&mut self, now: Moment) {
        if self.expires.is_none_or(|end| !now.reached(end)) {
            return;
        }
        self.expires = None;
        // The neighbour may be another one when it is heard again (section 6.8.1).
        (self.remote.name, self.remote.demand) = (0, false);
        if matches!(self.state, State::Init | State::Up) {
            (self.state, self.diagnostic, self.polling) = (State::Down, Diagnostic::EXPIRED, false);
            self.remote.state = State::Down;
        }
    }

    /// A neighbour that ends its session by order says nothing of the path (RFC 5882 section 3.2): it counts as before.
    fn conclude(&mut self, now: Moment) {
        match (self.state, self.remote.state) {
            (State::Up, _) => self.told = Some(true),
            (State::AdminDown | State::Down, State::AdminDown) if self.told.is_some() => {}
            (State::AdminDown | State::Down | State::Init, _) if self.told.is_some() || now.reached(self.first) => {
                self.told = Some(false);
            }
            (State::AdminDown | State::Down | State::Init, _) => {}
        }
    }

    /// Section 6.8.7: who waits for the other sends nothing to nobody, and who is asked not to send does not.
    fn may_send(&self) -> bool {
        let waits = self.settings.passive && self.remote.name == 0;
        let demanded = self.remote.demand && self.state == State::Up && self.remote.state == State::Up;
        !waits && !self.remote.min_rx.is_zero() && (!demanded || self.polling)
    }

    /// Not below a second until the session is up (section 6.8.3).
    fn min_tx(&self) -> Duration {
        if self.state == State::Up { self.settings.min_tx } else { self.idle() }
    }

    fn idle(&self) -> Duration {
        self.settings.idle_tx.max(self.settings.min_tx)
    }

    /// 75 to 100 percent of the interval, and no more than 90 where one lost packet is one too many (section 6.8.7).
    fn jittered(&mut self) -> Duration {
        let least = if self.settings.multiplier == 1 { 10_000 } else { 0 };
        let off = self.rng.u32(least..=25_000);
        self.interval.saturating_sub(self.interval * off / 100_000)
    }

    fn packet(&self, poll: bool, is_final: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            is_final,
            demand: false,
            multiplier: self.settings.multiplier,
            mine: self.mine,
            yours: self.remote.name,
            min_tx: self.min_tx(),
            min_rx: self.settings.min_rx,
        }
    }
}

/// The state machine of section 6.2, with the rules of section 6.8.6: the state of this end when the other says `remote`.
pub(super) fn next(own: State, remote: State) -> State {
    match (own, remote) {
        (State::AdminDown, State::AdminDown | State::Down | State::Init | State::Up) => State::AdminDown,
        (State::Down, State::Down) => State::Init,
        (State::Down | State::Init, State::Init) | (State::Init, State::Up) => State::Up,
        (State::Down, State::AdminDown | State::Up) => State::Down,
        (State::Init, State::Down) => State::Init,
        (State::Up, State::Init | State::Up) => State::Up,
        (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => State::Down,
    }
}
