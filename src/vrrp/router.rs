//! The virtual router: when we want to be MASTER, and what we then say.
//!
//! The lease decides who *may* be MASTER; two members never are at once, so a member's advert never moves a MASTER.
//! This machine decides when to *want* the lease, and serves routers outside the mesh by the rules of RFC 9568
//! section 6.4: it leaves them the addresses while one of higher priority holds them, and yields to one that claims.
//!
//! Only valid adverts come in here ([`super::advert`] discards the rest), so nothing else can move a timer.

mod weighing;

use super::advert::Advert;
use super::schedule::{Due, Schedule};
use super::timing::Timing;
use super::{LegacyPeers, Version};
use hamesh_fencing::clock::Moment;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use weighing::Input;

/// The longest interval we follow, in our own ones. Version 3 lets a BACKUP adopt the MASTER's interval, so a single
/// forged advert of 40.95 s would keep the addresses dark for two minutes.
const LONGEST_FOLLOWED: u32 = 3;

/// The priority of an owner of the addresses (RFC 9568 section 6.1).
const OWNER: u8 = 255;

/// What a router is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The protocol's version.
    pub version: Version,
    /// 1 to 255.
    pub priority: u8,
    /// Between two of our adverts.
    pub interval: Duration,
    /// False: whoever is MASTER outside the mesh stays it, whatever its priority.
    pub preempt: bool,
    /// Who outside the mesh is obeyed.
    pub legacy_peers: LegacyPeers,
    /// The address our adverts come from, over IPv6 a link-local one; it breaks ties.
    pub source: IpAddr,
    /// Its delays, and its bursts of announcements.
    pub timing: Timing,
}

/// The states of RFC 9568 section 6.3 in keepalived's words, FAULT, and CLAIMING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or stopped.
    Init,
    /// Another is MASTER, or may be.
    Backup {
        /// When silence proves that nobody is.
        down_at: Moment,
        /// What that means for the lease.
        stance: Stance,
    },
    /// It is our turn by VRRP; the lease is not granted yet.
    Claiming,
    /// The lease is ours and the addresses are up.
    Master(Schedule),
    /// The link is down, or something else forbids it here.
    Fault {
        /// It was MASTER, and says that it is none any more as soon as nothing answers here: peers may be heard yet.
        resigns: bool,
    },
}

/// What a BACKUP waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Its startup delay runs: whatever it hears, and whatever it does not.
    Waiting,
    /// It has just started: a router outside the mesh would be heard first. A member that is heard instead shows that
    /// there is none to wait for.
    Listening,
    /// Behind this router outside the mesh, until it is silent, whatever members say. Gossip may tell later that it is
    /// a member too: then it is one that is heard.
    Following(IpAddr),
    /// It wants the lease, to take over from a member the moment the lease is free.
    Candidate,
}

/// What happens to a virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// hamesh starts. A link that is down is told right after.
    Start {
        /// The lease of the last run still lives and its gate was found: go on as if nothing had happened.
        resumed: bool,
    },
    /// [`Router::next_deadline`] has come.
    Tick,
    /// A valid advert for our VRID, not our own.
    Heard {
        /// What it says.
        advert: Advert,
        /// Who says it.
        source: IpAddr,
        /// Whether that is a member of the mesh.
        member: bool,
    },
    /// The lease is held and the claim's kernel steps are done. A grant that comes while [`Status::candidate`] is
    /// false is better given back before any step: here it can only be answered with [`Action::Yield`].
    Granted,
    /// The addresses are unclaimed: the lease ended, moved, or a step failed.
    Revoked,
    /// The interface lost its carrier, its address, or is gone; or something else forbids the router here.
    LinkDown,
    /// Nothing of that is so any more.
    LinkUp,
    /// hamesh ends. Best sent after [`Event::Revoked`].
    Stop,
    /// Hosts may hold an outdated entry: the LAN healed, a silent member is heard again.
    Announce,
    /// The keepalived on this host is MASTER, or is not. It says nothing to a router that elects for itself.
    Elected(bool),
}

/// What to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Be a candidate for the lease from now on. Again, when told again.
    Want,
    /// Be none from now on.
    Refuse,
    /// Unclaim and release the lease, if it is held; answer with [`Event::Revoked`].
    Yield,
    /// Send an advert with our priority.
    SendAdvert,
    /// Send an advert with priority 0: the addresses are free, do not wait for silence.
    Resign,
    /// Send a burst of so many rounds of gratuitous ARP or neighbour advertisements for every address.
    Announce(u8),
}

/// A claim from outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Who.
    pub source: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// False: the configuration does not name it, so it changes nothing.
    pub obeyed: bool,
    /// Its last advert.
    pub heard_at: Moment,
}

/// What to tell a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the machine is.
    pub state: State,
    /// Whether we want the lease, or use it.
    pub candidate: bool,
    /// Whether a living MASTER of lower priority is to make room for us now.
    pub preempts: bool,
    /// Adverts sent, priority 0 included.
    pub sent: u64,
    /// Valid adverts heard.
    pub heard: u64,
    /// Those of them that came from a router nobody told us to obey.
    pub strangers: u64,
    /// The last claim of a router outside the mesh.
    pub foreign: Option<Foreign>,
}

/// A virtual router.
#[derive(Clone, Debug)]
pub struct Router {
    parameters: Parameters,
    state: State,
    /// Nothing but VRRP says who may be MASTER here.
    alone: bool,
    /// The end of the startup delay.
    begins_at: Moment,
    patience: Patience,
    sent: u64,
    heard: u64,
    strangers: u64,
    foreign: Option<Foreign>,
}

/// How long a BACKUP still leaves a MASTER of lower priority alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// There was none yet.
    Unasked,
    /// Its `preempt_delay`, from the first advert on.
    Until(Moment),
    /// No longer.
    Over,
}

impl Router {
    /// A router that has not started.
    pub fn new(parameters: Parameters) -> Self {
        let begins_at = Moment::default();
        let (state, patience) = (State::Init, Patience::Unasked);
        Self { parameters, state, alone: false, begins_at, patience, sent: 0, heard: 0, strangers: 0, foreign: None }
    }

    /// The address our adverts come from has changed.
    pub fn speak_from(&mut self, source: IpAddr) {
        self.parameters.source = source;
    }

    /// Goes by other parameters from now on, in the state that it is in. Timers that run keep their ends.
    pub fn reconfigure(&mut self, parameters: Parameters) {
        self.parameters = parameters;
    }

    /// From now on this is its priority, 1 to 255; what runs is not begun anew.
    pub fn set_priority(&mut self, priority: u8) {
        self.parameters.priority = priority;
    }

    /// From now on nothing but VRRP says who may be MASTER here, or a lease does again. Whoever else is MASTER keeps the
    /// addresses then, whatever its priority and whoever it is: it may have a lease. So it listens first, for as long as it takes
    /// to miss one.
    pub fn stand_alone(&mut self, now: Moment, alone: bool) {
        use Stance::{Candidate, Following, Listening};
        self.alone = alone;
        if alone
            && matches!(
                self.state,
                State::Claiming | State::Backup { stance: Listening | Following(_) | Candidate, .. }
            )
        {
            self.state = self.behind(now, self.parameters.interval, Candidate);
        }
    }

    /// Decides; touches nothing.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let before = self.status();
        let input = self.weigh(now, event);
        if input == Input::Start {
            let Timing { startup_delay, delay_after_boot, .. } = self.parameters.timing;
            // The clock that counts suspend counts from the boot on.
            self.begins_at = now + startup_delay.max(delay_after_boot.saturating_sub(now.both().0));
        }
        let (next, mut actions) = self.step(now, input);
        self.state = next;
        if !matches!(self.state, State::Backup { .. }) {
            self.patience = Patience::Unasked;
        } else if matches!(self.patience, Patience::Until(over) if now.reached(over)) {
            self.patience = Patience::Over;
        }
        // A wish that was told before is told with this.
        let after = self.status();
        if before.candidate && after.candidate && before.preempts != after.preempts && !actions.contains(&Action::Want)
        {
            actions.push(Action::Want);
        }
        let adverts = actions.iter().filter(|action| matches!(action, Action::SendAdvert | Action::Resign)).count();
        self.sent += u64::try_from(adverts).unwrap_or(0);
        actions
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.state {
            State::Backup { down_at, .. } => match self.patience {
                Patience::Until(over) => Some(over.earlier(down_at)),
                Patience::Unasked | Patience::Over => Some(down_at),
            },
            State::Master(schedule) => Some(schedule.next()),
            State::Init | State::Claiming | State::Fault { .. } => None,
        }
    }

    /// What to tell a person.
    pub fn status(&self) -> Status {
        let candidate = match self.state {
            State::Backup { stance, .. } => stance == Stance::Candidate,
            State::Claiming | State::Master(_) => true,
            State::Init | State::Fault { .. } => false,
        };
        let Self { state, sent, heard, strangers, foreign, .. } = *self;
        let preempts = self.preempts();
        Status { state, candidate, preempts, sent, heard, strangers, foreign }
    }

    fn preempts(&self) -> bool {
        let waits = self.patience != Patience::Over && !self.parameters.timing.preempt_delay.is_zero();
        // Silence has proved that nobody is MASTER, where it is not BACKUP.
        self.parameters.preempt && !(waits && matches!(self.state, State::Backup { .. }))
    }

    /// What an advert of a MASTER makes of our patience with lower ones.
    fn meet(&mut self, now: Moment, lower: bool) {
        let delay = self.parameters.timing.preempt_delay;
        self.patience = match (lower, self.patience) {
            (false, _) => Patience::Unasked,
            (true, Patience::Unasked) if !delay.is_zero() => Patience::Until(now + delay),
            (true, patience) => patience,
        };
    }

    #[rustfmt::skip] // a table: the columns are the point
    fn step(&self, now: Moment, input: Input) -> (State, Vec<Action>) {
        use {Action::*, Input as I, Stance::*, State::*};
        match (self.state, input) {
            (Init, I::Start) | (Fault { .. }, I::LinkUp)       => self.begin(now),
            // Claiming, not BACKUP: the lease is known to be ours, only the grant has to be heard.
            (Init, I::Resume)                                  => (Claiming, vec![Want]),

            (Backup { down_at, stance: Waiting }, I::Tick) if now.reached(down_at)
                                                               => self.begin(now),
            (Backup { down_at, .. }, I::Tick) if now.reached(down_at)
                                                               => (Claiming, vec![Want]),
            (Backup { stance: Listening, .. }, I::Member(every, _)) => (self.behind(now, every, Candidate), vec![Want]),
            (Backup { stance: Following(whom), .. }, I::Member(every, from)) if whom == from
                                                               => (self.behind(now, every, Candidate), vec![Want]),
            (Backup { stance: Candidate, .. }, I::Member(every, _)) => (self.behind(now, every, Candidate), vec![]),
            (Backup { stance: Listening, .. }, I::MemberResigned(every, _))
                                                               => (self.soon(now, every, Candidate), vec![Want]),
            (Backup { stance: Following(whom), .. }, I::MemberResigned(every, from)) if whom == from
                                                               => (self.soon(now, every, Candidate), vec![Want]),
            (Backup { stance: Candidate, .. }, I::MemberResigned(every, _))
                                                               => (self.soon(now, every, Candidate), vec![]),
            (Backup { stance: Candidate, .. }, I::Higher(every, from))
                                                               => (self.behind(now, every, Following(from)), vec![Refuse]),
            (Backup { stance: Candidate, .. }, I::Lower(every, from)) if !self.preempts()
                                                               => (self.behind(now, every, Following(from)), vec![Refuse]),
            (Backup { stance: Listening | Following(_), .. }, I::Higher(every, from))
                                                               => (self.behind(now, every, Following(from)), vec![]),
            (Backup { stance: Listening | Following(_), .. }, I::Lower(every, from)) if !self.preempts()
                                                               => (self.behind(now, every, Following(from)), vec![]),
            (Backup { stance: stance @ (Listening | Following(_) | Candidate), .. }, I::Resigned(every))
                                                               => (self.soon(now, every, stance), vec![]),

            (Claiming, I::Member(every, _))                    => (self.behind(now, every, Candidate), vec![]),
            (Claiming, I::Higher(every, from))                 => (self.behind(now, every, Following(from)), vec![Refuse]),
            (Claiming, I::Lower(every, from)) if !self.preempts()
                                                               => (self.behind(now, every, Following(from)), vec![Refuse]),
            (Backup { stance: Candidate, .. } | Claiming, I::Granted)
                                                               => self.advance(now, Schedule::begin(now, &self.parameters.timing.garp)),
            // The grant and our refusal have crossed.
            (Init | Fault { .. } | Backup { stance: Waiting | Listening | Following(_), .. }, I::Granted)
                                                               => (self.state, vec![Yield]),

            (Master(schedule), I::Tick)                        => self.advance(now, schedule),
            (Master(schedule), I::Lower(..) | I::Announce | I::Resigned(_))
                                                               => self.answer(now, schedule, input),
            // No priority 0: the one we yield to would have to answer it (keepalived sends none either).
            (Master(_), I::Higher(every, from)) if self.parameters.timing.higher_prio_send_advert
                                                               => (self.behind(now, every, Following(from)), vec![SendAdvert, Refuse, Yield]),
            (Master(_), I::Higher(every, from))                => (self.behind(now, every, Following(from)), vec![Refuse, Yield]),
            (Master(_), I::Revoked)                            => (self.behind(now, self.parameters.interval, Candidate), vec![Resign]),
            (Master(_), I::LinkDown)                           => (Fault { resigns: true }, vec![Refuse, Yield]),
            (Fault { resigns: true }, I::Revoked)              => (Fault { resigns: false }, vec![Resign]),
            // Let go before you tell: a peer may answer for the addresses as soon as it hears the Resign.
            (Master(_), I::Stop)                               => (Init, vec![Refuse, Yield, Resign]),

            (Backup { stance: Candidate, .. } | Claiming, I::LinkDown) => (Fault { resigns: false }, vec![Refuse]),
            (Backup { stance: Candidate, .. } | Claiming, I::Stop)
                                                               => (Init, vec![Refuse]),
            (Backup { stance: Waiting | Listening | Following(_), .. }, I::LinkDown)
                                                               => (Fault { resigns: false }, vec![]),
            (Backup { stance: Waiting | Listening | Following(_), .. } | Fault { .. }, I::Stop)
                                                               => (Init, vec![]),

            // Nothing to do.
            (Init, I::Tick | I::Revoked | I::LinkDown | I::LinkUp | I::Stop | I::Announce | I::Member(..)
                | I::MemberResigned(..) | I::Higher(..) | I::Lower(..) | I::Resigned(_) | I::Stranger)
            | (Backup { .. }, I::Start | I::Resume | I::Tick | I::Revoked | I::LinkUp | I::Announce | I::Lower(..) | I::Stranger)
            | (Backup { stance: Waiting | Following(_), .. }, I::Member(..) | I::MemberResigned(..))
            | (Backup { stance: Waiting, .. }, I::Higher(..) | I::Resigned(_))
            | (Claiming, I::Start | I::Resume | I::Tick | I::Revoked | I::LinkUp | I::Announce | I::MemberResigned(..)
                | I::Lower(..) | I::Resigned(_) | I::Stranger)
            | (Master(_), I::Start | I::Resume | I::Granted | I::LinkUp | I::Member(..) | I::MemberResigned(..) | I::Stranger)
            | (Fault { resigns: false }, I::Revoked) | (Fault { .. }, I::Start | I::Resume | I::Tick | I::LinkDown | I::Announce | I::Member(..)
                | I::MemberResigned(..) | I::Higher(..) | I::Lower(..) | I::Resigned(_) | I::Stranger)
                                                               => (self.state, vec![]),
        }
    }

    /// Listens for a router outside the mesh first, unless nobody there could keep us from being MASTER.
    fn begin(&self, now: Moment) -> (State, Vec<Action>) {
        if !now.reached(self.begins_at) {
            return (State::Backup { down_at: self.begins_at, stance: Stance::Waiting }, vec![]);
        }
        if self.parameters.priority == OWNER || self.parameters.legacy_peers.is_empty() {
            return (State::Claiming, vec![Action::Want]);
        }
        (self.behind(now, self.parameters.interval, Stance::Listening), vec![])
    }

    /// BACKUP of a MASTER that advertises `every` so often.
    fn behind(&self, now: Moment, every: Duration, stance: Stance) -> State {
        let every = every.min(self.parameters.interval * LONGEST_FOLLOWED);
        let silence = every * u32::from(self.parameters.timing.down_timer_adverts);
        State::Backup { down_at: now + silence + self.skew(every), stance }
    }

    /// BACKUP of nobody, after a MASTER that advertised `every` so often: routers of higher priority come first.
    fn soon(&self, now: Moment, every: Duration, stance: Stance) -> State {
        let every = every.min(self.parameters.interval * LONGEST_FOLLOWED);
        State::Backup { down_at: now + self.skew(every), stance }
    }

    /// Skew_Time of RFC 9568 section 6.1; RFC 3768 has a second in place of the interval.
    fn skew(&self, every: Duration) -> Duration {
        let whole = match self.parameters.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => every,
        };
        whole * (256 - u32::from(self.parameters.priority)) / 256
    }

    /// A claim beside ours gets an advert and a burst, one that ends an advert, a LAN that healed both.
    fn answer(&self, now: Moment, mut schedule: Schedule, to: Input) -> (State, Vec<Action>) {
        let Timing { garp, lower_prio_no_advert, .. } = self.parameters.timing;
        let lower = matches!(to, Input::Lower(..));
        if !(lower && lower_prio_no_advert) {
            schedule.advertise_soon(now);
        }
        if lower {
            schedule.announce_soon(now, garp.lower_prio_repeat, garp.lower_prio_delay);
        } else if to == Input::Announce {
            schedule.announce_soon(now, garp.repeat, garp.delay);
        }
        self.advance(now, schedule)
    }

    fn advance(&self, now: Moment, mut schedule: Schedule) -> (State, Vec<Action>) {
        let Due { advert, burst } = schedule.take(now, self.parameters.interval, &self.parameters.timing.garp);
        let actions = advert.then_some(Action::SendAdvert).into_iter().chain(burst.map(Action::Announce));
        (State::Master(schedule), actions.collect())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "INIT",
            Self::Backup { .. } => "BACKUP",
            Self::Claiming => "CLAIMING",
            Self::Master(_) => "MASTER",
            Self::Fault { .. } => "FAULT",
        })
    }
}

#[cfg(test)]
mod tests;
