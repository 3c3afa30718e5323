//! What a director that is not MASTER hears of the holder on the LAN.
//!
//! A holder that the mesh reaches and the LAN does not keeps its lease and serves nobody. The others notice: no advert, no
//! answer to ARP or neighbour discovery from the holder's own address, while a third host is heard in the same time.
//! Without the third host it is we who are deaf (V10).

use hamesh_fencing::clock::Moment;
use hamesh_fencing::grantor::Hearing;
use std::net::IpAddr;
use std::time::Duration;

/// Between two rounds of probes, at least: who looks around every 50 ms is not to miss every other one.
const PROBE_EVERY: Duration = Duration::from_millis(40);
/// How long the holder may leave probes unanswered: eight rounds, so that loss alone does not condemn it.
const PROBE_FOR: Duration = Duration::from_millis(400);
/// Neighbours probed beside the holder.
const MOST_PROBED: usize = 4;

/// What happens to an ear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A valid advert of the group's MASTER.
    Advert,
    /// Any ARP or neighbour discovery of this sender.
    Neighbour(IpAddr),
    /// Somebody has answered a question of ours, so what we send arrives.
    Answer,
    /// Time has passed; the holder's own address on this LAN, and other members' addresses.
    Tick(Option<IpAddr>, Vec<IpAddr>),
    /// We are MASTER: there is nobody to hear.
    Holding,
}

/// What an ear orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask by ARP or neighbour discovery who has these addresses.
    Probe(Vec<IpAddr>),
}

/// One group's ear.
#[derive(Clone, Debug)]
pub struct Ear {
    patience: Duration,
    holder: Option<IpAddr>,
    /// When the holder was heard last, or became the holder.
    holder_heard: Moment,
    other_heard: Option<Moment>,
    /// What is said until there is something to say of a new holder.
    concluded: Hearing,
    /// We were MASTER, and nobody has answered us since. One that yielded because it was not heard must not take the group
    /// back because it hears its successor.
    mute: bool,
    probing_since: Option<Moment>,
    probed: Option<Moment>,
}

impl Ear {
    /// For adverts that come every `interval`.
    pub fn new(now: Moment, interval: Duration) -> Self {
        Self {
            patience: interval + interval / 4,
            holder: None,
            holder_heard: now,
            other_heard: None,
            concluded: Hearing::Nobody,
            mute: false,
            probing_since: None,
            probed: None,
        }
    }

    /// Adverts come every `interval` from now on.
    pub fn every(&mut self, interval: Duration) {
        self.patience = interval + interval / 4;
    }

    /// What happens now.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        match event {
            Event::Advert => self.heard(now),
            Event::Neighbour(sender) if Some(sender) == self.holder => self.heard(now),
            Event::Holding => {
                (self.holder, self.holder_heard, self.concluded) = (None, now, Hearing::Nobody);
                self.mute = true;
            }
            Event::Answer => self.mute = false,
            Event::Neighbour(_) => self.other_heard = Some(now),
            Event::Tick(holder, others) => return self.tick(now, holder, others),
        }
        Vec::new()
    }

    /// What this director hears, now.
    pub fn hearing(&self, now: Moment) -> Hearing {
        let unanswered = self.probing_since.is_some_and(|since| now.since(since) >= PROBE_FOR);
        let others = self.other_heard.is_some_and(|at| now.since(at) < PROBE_FOR);
        match (unanswered, others) {
            (false, _) if self.mute => Hearing::Nobody,
            (false, _) => self.concluded,
            (true, true) => Hearing::OnlyOthers,
            (true, false) => Hearing::Nobody,
        }
    }

    fn heard(&mut self, now: Moment) {
        (self.holder_heard, self.concluded, self.probing_since) = (now, Hearing::Holder, None);
    }

    fn tick(&mut self, now: Moment, holder: Option<IpAddr>, others: Vec<IpAddr>) -> Vec<Action> {
        if self.holder != holder {
            // A new holder has its time to be heard.
            (self.holder, self.holder_heard) = (holder, now);
        }
        if now.since(self.holder_heard) < self.patience {
            self.probing_since = None;
            if !self.mute {
                return Vec::new();
            }
        } else {
            self.probing_since.get_or_insert(now);
            self.concluded = self.hearing(now);
        }
        if self.probed.is_some_and(|at| now.since(at) < PROBE_EVERY) {
            return Vec::new();
        }
        self.probed = Some(now);
        let probed: Vec<IpAddr> = holder.into_iter().chain(others.into_iter().take(MOST_PROBED)).collect();
        if probed.is_empty() { Vec::new() } else { vec![Action::Probe(probed)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HOLDER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const THIRD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    fn ear() -> Ear {
        Ear::new(at(0), Duration::from_secs(1))
    }

    fn tick(ear: &mut Ear, ms: u64) -> Vec<Action> {
        ear.handle(at(ms), Event::Tick(Some(HOLDER), vec![THIRD]))
    }

    #[test]
    fn a_holder_that_answers_arp_is_heard_without_adverts() {
        let mut ear = ear();
        for ms in (0..5000).step_by(50) {
            tick(&mut ear, ms);
            if ms % 500 == 0 {
                ear.handle(at(ms), Event::Neighbour(HOLDER));
            }
            assert_eq!(ear.hearing(at(ms)), Hearing::Holder, "at {ms} ms");
        }
    }

    #[test]
    fn silence_beside_a_third_host_is_the_holders() {
        let mut ear = ear();
        for ms in (0..3000).step_by(50) {
            tick(&mut ear, ms);
            ear.handle(at(ms), Event::Neighbour(THIRD));
        }
        assert_eq!(ear.hearing(at(3000)), Hearing::OnlyOthers);
    }

    #[test]
    fn a_master_that_yielded_hears_its_successor_only_when_it_does() {
        let mut ear = ear();
        ear.handle(at(0), Event::Holding);
        for ms in (50..5000).step_by(50) {
            tick(&mut ear, ms);
            assert_ne!(ear.hearing(at(ms)), Hearing::Holder, "at {ms} ms");
        }
        ear.handle(at(5000), Event::Advert);
        assert_eq!(ear.hearing(at(5000)), Hearing::Nobody, "it may be one that nobody hears");
        assert_eq!(tick(&mut ear, 5050), [Action::Probe(vec![HOLDER, THIRD])], "which asks until it is answered");
        ear.handle(at(5060), Event::Answer);
        assert_eq!(ear.hearing(at(5060)), Hearing::Holder);
        assert_eq!(tick(&mut ear, 5100), []);
    }

    #[test]
    fn silence_all_around_is_our_own() {
        let mut ear = ear();
        for ms in (0..3000).step_by(50) {
            tick(&mut ear, ms);
        }
        assert_eq!(ear.hearing(at(3000)), Hearing::Nobody);
        ear.handle(at(3010), Event::Advert);
        tick(&mut ear, 3050);
        assert_eq!(ear.hearing(at(3060)), Hearing::Holder);
    }
}
