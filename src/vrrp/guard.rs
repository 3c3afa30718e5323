//! A virtual router whose election is somebody else's: keepalived elects, on this host and untouched, and this machine
//! only says what that means for the lease.
//!
//! While keepalived is MASTER here, this node wants the lease; while it is not, it does not. Two keepaliveds behind shut
//! gates do not hear each other and are both MASTER, so whose priority is higher is for the mesh to decide and to preempt
//! by. Where a gate is open adverts pass, and keepalived's own election settles the rest.
//!
//! It speaks [`router`](super::router)'s grammar and never advertises: that is keepalived's. It announces, because what
//! keepalived announced at its shut gate was dropped.

use super::router::{Action, Event, Foreign, Parameters, Router, Stance, State, Status};
use super::schedule::Schedule;
use hamesh_fencing::clock::Moment;
use std::net::IpAddr;
use std::time::Duration;

/// keepalived has the timers.
const BACKUP: State = State::Backup { down_at: Moment::at(Duration::MAX, Duration::MAX), stance: Stance::Waiting };
/// What is said of a router is said by keepalived.
const FAULT: State = State::Fault { resigns: false };

/// Whose election a virtual router is.
#[derive(Clone, Debug)]
pub enum Election {
    /// Ours.
    Ours(Router),
    /// That of the keepalived on this host.
    Keepalived(Guard),
}

impl Election {
    /// Decides; touches nothing.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        match self {
            Self::Ours(router) => router.handle(now, event),
            Self::Keepalived(guard) => guard.handle(now, event),
        }
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        match self {
            Self::Ours(router) => router.next_deadline(),
            Self::Keepalived(guard) => guard.next_deadline(),
        }
    }

    /// What to tell a person.
    pub fn status(&self) -> Status {
        match self {
            Self::Ours(router) => router.status(),
            Self::Keepalived(guard) => guard.status(),
        }
    }

    /// As [`Router::speak_from`].
    pub fn speak_from(&mut self, source: IpAddr) {
        match self {
            Self::Ours(router) => router.speak_from(source),
            Self::Keepalived(guard) => guard.parameters.source = source,
        }
    }

    /// As [`Router::reconfigure`].
    pub fn reconfigure(&mut self, parameters: Parameters) {
        match self {
            Self::Ours(router) => router.reconfigure(parameters),
            Self::Keepalived(guard) => guard.parameters = parameters,
        }
    }

    /// As [`Router::stand_alone`]; a guard is never asked to.
    pub fn stand_alone(&mut self, now: Moment, alone: bool) {
        match self {
            Self::Ours(router) => router.stand_alone(now, alone),
            Self::Keepalived(_) => {}
        }
    }

    /// As [`Router::set_priority`].
    pub fn set_priority(&mut self, priority: u8) {
        match self {
            Self::Ours(router) => router.set_priority(priority),
            Self::Keepalived(guard) => guard.parameters.priority = priority,
        }
    }
}

/// The guard of one virtual router.
#[derive(Clone, Debug)]
pub struct Guard {
    parameters: Parameters,
    state: State,
    /// What keepalived said last of itself.
    elected: bool,
    heard: u64,
    foreign: Option<Foreign>,
}

impl Guard {
    /// One that has not started.
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters, state: State::Init, elected: false, heard: 0, foreign: None }
    }

    fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        if let Event::Elected(elected) = event {
            self.elected = elected;
        }
        if let Event::Heard { advert, source, member } = &event {
            self.heard += 1;
            if advert.priority > 0 && !member && *source != self.parameters.source {
                let (source, priority) = (*source, advert.priority);
                // keepalived may obey it; no guard is behind it.
                self.foreign = Some(Foreign { source, priority, obeyed: true, heard_at: now });
            }
        }
        let (next, actions) = self.step(now, &event);
        self.state = next;
        actions
    }

    #[rustfmt::skip] // a table: the columns are the point
    fn step(&self, now: Moment, event: &Event) -> (State, Vec<Action>) {
        use {Action::*, Event as E, State::*};
        match (self.state, event) {
            // Claiming, as a router: the lease is known to be ours, and keepalived has not been asked yet.
            (Init, E::Start { resumed: true })                 => (Claiming, vec![Want]),
            (Init, E::Start { resumed: false }) | (Fault { .. }, E::LinkUp)
                                                               => self.begin(),
            (Backup { .. }, E::Elected(true))                  => (Claiming, vec![Want]),
            (Claiming | Master(_), E::Elected(false))          => (BACKUP, vec![Refuse]),
            (Claiming, E::Granted)                             => self.announce(now, Schedule::begin(now, &self.parameters.timing.garp)),
            // The grant and our refusal have crossed.
            (Init | Backup { .. } | Fault { .. }, E::Granted)         => (self.state, vec![Yield]),
            (Master(schedule), E::Tick)                        => self.announce(now, schedule),
            (Master(mut schedule), E::Announce)                => {
                let garp = &self.parameters.timing.garp;
                schedule.announce_soon(now, garp.repeat, garp.delay);
                self.announce(now, schedule)
            }
            // keepalived is MASTER still, behind the shut gate.
            (Master(_), E::Revoked)                            => (Claiming, vec![]),
            (Claiming | Master(_), E::LinkDown)                => (FAULT, vec![Refuse]),
            (Backup { .. }, E::LinkDown)                       => (FAULT, vec![]),
            (Claiming | Master(_), E::Stop)                    => (Init, vec![Refuse]),
            (Backup { .. } | Fault { .. }, E::Stop)                   => (Init, vec![]),

            // Nothing to do.
            (Init, E::Tick | E::Heard { .. } | E::Revoked | E::LinkDown | E::LinkUp | E::Stop | E::Announce | E::Elected(_))
            | (Backup { .. }, E::Start { .. } | E::Tick | E::Heard { .. } | E::Revoked | E::LinkUp | E::Announce | E::Elected(false))
            | (Claiming, E::Start { .. } | E::Tick | E::Heard { .. } | E::Revoked | E::LinkUp | E::Announce | E::Elected(true))
            | (Master(_), E::Start { .. } | E::Heard { .. } | E::Granted | E::LinkUp | E::Elected(true))
            | (Fault { .. }, E::Start { .. } | E::Tick | E::Heard { .. } | E::Revoked | E::LinkDown | E::Announce | E::Elected(_))
                                                               => (self.state, vec![]),
        }
    }

    fn begin(&self) -> (State, Vec<Action>) {
        if self.elected { (State::Claiming, vec![Action::Want]) } else { (BACKUP, vec![]) }
    }

    fn announce(&self, now: Moment, mut schedule: Schedule) -> (State, Vec<Action>) {
        let due = schedule.take(now, self.parameters.interval, &self.parameters.timing.garp);
        (State::Master(schedule), due.burst.map(Action::Announce).into_iter().collect())
    }

    fn next_deadline(&self) -> Option<Moment> {
        match self.state {
            State::Master(schedule) => Some(schedule.next()),
            State::Init | State::Backup { .. } | State::Claiming | State::Fault { .. } => None,
        }
    }

    fn status(&self) -> Status {
        let candidate = matches!(self.state, State::Claiming | State::Master(_));
        let Self { state, heard, foreign, .. } = *self;
        Status { state, candidate, preempts: self.parameters.preempt, sent: 0, heard, strangers: 0, foreign }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::advert::Advert;
    use crate::vrrp::checksum::Form;
    use crate::vrrp::timing::Timing;
    use crate::vrrp::{LegacyPeers, Version};
    use Action::{Announce, Refuse, Want, Yield};

    fn at(millis: u64) -> Moment {
        Moment::default() + Duration::from_millis(millis)
    }

    fn started() -> Election {
        let mut guard = Election::Keepalived(Guard::new(Parameters {
            version: Version::V3,
            priority: 150,
            interval: Duration::from_secs(1),
            preempt: true,
            legacy_peers: LegacyPeers::Any,
            source: IpAddr::from([10, 77, 0, 12]),
            timing: Timing::default(),
        }));
        assert_eq!(guard.handle(at(0), Event::Start { resumed: false }), []);
        guard
    }

    #[test]
    fn the_lease_is_wanted_while_keepalived_is_master_and_no_longer() {
        let mut guard = started();
        assert_eq!(guard.handle(at(0), Event::Elected(false)), []);
        assert_eq!(guard.handle(at(1), Event::Elected(true)), [Want]);
        assert_eq!(guard.handle(at(2), Event::Elected(true)), []);
        assert_eq!(guard.handle(at(3), Event::Granted), [Announce(5)]);
        assert_eq!(guard.handle(at(4), Event::Elected(false)), [Refuse]);
        assert_eq!(guard.handle(at(5), Event::Revoked), []);
        assert_eq!(guard.handle(at(6), Event::Granted), [Yield], "the grant came too late");
        assert_eq!(guard.status().state.to_string(), "BACKUP");
    }

    #[test]
    fn a_master_never_advertises_and_announces_as_a_router_does() {
        let mut guard = started();
        guard.handle(at(0), Event::Elected(true));
        let mut actions: Vec<(u64, Action)> =
            guard.handle(at(0), Event::Granted).into_iter().map(|action| (0, action)).collect();
        for ms in 0..70_000 {
            actions.extend(guard.handle(at(ms), Event::Tick).into_iter().map(|action| (ms, action)));
        }
        assert_eq!(actions, [(0, Announce(5)), (5_000, Announce(5)), (65_000, Announce(1))]);
    }

    #[test]
    fn a_lease_that_moves_leaves_a_candidate_and_a_link_that_was_down_one_again() {
        let mut guard = started();
        guard.handle(at(0), Event::Elected(true));
        guard.handle(at(0), Event::Granted);
        assert_eq!(guard.handle(at(1), Event::Revoked), []);
        assert!(guard.status().candidate);
        assert_eq!(guard.handle(at(2), Event::LinkDown), [Refuse]);
        assert_eq!(guard.handle(at(3), Event::Elected(true)), []);
        assert_eq!(guard.handle(at(4), Event::LinkUp), [Want]);
    }

    #[test]
    fn what_others_advertise_moves_nothing_and_a_stranger_is_shown() {
        let mut guard = started();
        guard.handle(at(0), Event::Elected(true));
        guard.handle(at(0), Event::Granted);
        let before = guard.status().state;
        for member in [true, false] {
            let advert =
                Advert { priority: 255, interval: Duration::from_secs(1), addresses: vec![], checksum: Form::Pseudo };
            let source = IpAddr::from([10, 77, 0, 99]);
            assert_eq!(guard.handle(at(1), Event::Heard { advert, source, member }), []);
            assert_eq!(guard.status().foreign.is_some(), !member);
        }
        assert_eq!(guard.status().state, before);
    }
}
