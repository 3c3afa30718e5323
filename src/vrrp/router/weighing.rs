//! What an event means to a router: whose advert it is, and whether its sender may be MASTER beside us.

use super::super::advert::Advert;
use super::{Event, Foreign, Parameters, Router, State};
use hamesh_fencing::clock::Moment;
use std::net::IpAddr;
use std::time::Duration;

/// An event, with an advert weighed against our own priority and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Start,
    Resume,
    Tick,
    Granted,
    Revoked,
    LinkDown,
    LinkUp,
    Stop,
    Announce,
    /// A member is MASTER, advertises so often, and is heard at this address.
    Member(Duration, IpAddr),
    /// A member was, and advertised so often.
    MemberResigned(Duration, IpAddr),
    /// A router outside the mesh is MASTER by right.
    Higher(Duration, IpAddr),
    /// It is MASTER and would have to give way to us.
    Lower(Duration, IpAddr),
    /// It was MASTER, and advertised so often.
    Resigned(Duration),
    /// Nobody we obey, or our own address.
    Stranger,
}

impl Router {
    pub(super) fn weigh(&mut self, now: Moment, event: Event) -> Input {
        match event {
            Event::Start { resumed: false } => Input::Start,
            Event::Start { resumed: true } => Input::Resume,
            Event::Tick => Input::Tick,
            Event::Granted => Input::Granted,
            Event::Revoked => Input::Revoked,
            Event::LinkDown => Input::LinkDown,
            Event::LinkUp => Input::LinkUp,
            Event::Stop => Input::Stop,
            Event::Announce => Input::Announce,
            Event::Elected(_) => Input::Stranger,
            Event::Heard { advert, source, member } => {
                self.heard += 1;
                let lower = self.is_lower(&advert, source);
                match (member, advert.priority) {
                    _ if self.alone => self.weigh_alone(now, &advert, source, member),
                    (true, 0) => Input::MemberResigned(advert.interval, source),
                    (true, 1..) => {
                        self.meet(now, lower);
                        Input::Member(advert.interval, source)
                    }
                    (false, _) => self.weigh_foreign(now, &advert, source),
                }
            }
        }
    }

    /// A BACKUP leaves whoever has its own priority alone (RFC 9568 section 6.4.2); of two MASTERs the one with the lower
    /// address gives way (section 6.4.3).
    fn is_lower(&self, advert: &Advert, source: IpAddr) -> bool {
        let Parameters { priority, source: own, .. } = self.parameters;
        advert.priority < priority
            || advert.priority == priority && source < own && matches!(self.state, State::Master(_))
    }

    fn weigh_alone(&mut self, now: Moment, advert: &Advert, source: IpAddr, member: bool) -> Input {
        match advert.priority {
            _ if source == self.parameters.source => Input::Stranger,
            0 => Input::Resigned(advert.interval),
            priority => {
                if !member {
                    self.foreign = Some(Foreign { source, priority, obeyed: true, heard_at: now });
                }
                Input::Higher(advert.interval, source)
            }
        }
    }

    fn weigh_foreign(&mut self, now: Moment, advert: &Advert, source: IpAddr) -> Input {
        let obeyed = self.parameters.legacy_peers.obeys(source);
        if advert.priority > 0 {
            self.foreign = Some(Foreign { source, priority: advert.priority, obeyed, heard_at: now });
        }
        // Our own address: an echo or a thief, and nothing to weigh.
        if !obeyed || source == self.parameters.source {
            self.strangers += 1;
            return Input::Stranger;
        }
        if advert.priority == 0 {
            return Input::Resigned(advert.interval);
        }
        let lower = self.is_lower(advert, source);
        self.meet(now, lower);
        if lower { Input::Lower(advert.interval, source) } else { Input::Higher(advert.interval, source) }
    }
}
