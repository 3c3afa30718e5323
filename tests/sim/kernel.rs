//! A model of the gate in one network namespace: what the kernel keeps when the process is gone.

use crate::clocks::{Clocks, MILLION, Time};
use hamesh_fencing::clock::{LATENESS, Moment};
use hamesh_raft::command::{GateId, GroupName, Token};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Which gate a schedule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As `nf_tables` does it: a relative element timeout and an absolute bound, both armed short.
    Nftables,
    /// The worst gate that keeps the promise made in Lg: shut just this long after the deadline. The real one's margin
    /// would hide what is wrong with the protocol.
    Latest(Duration),
}

/// One gate.
#[derive(Clone, Debug)]
pub struct Gate {
    pub id: GateId,
    kind: Kind,
    /// The token is for the checks: a kernel knows none.
    held: BTreeMap<GroupName, (Token, Vec<IpAddr>)>,
    until: Option<Until>,
    /// S4: when it must be shut if its process does nothing any more.
    at_latest: Time,
}

/// The ends of the session's element.
#[derive(Clone, Copy, Debug)]
struct Until {
    deadline: Moment,
    jiffies: Duration,
    wall: Duration,
    /// How long the machine had slept until then.
    asleep: Duration,
    /// How often its wall clock had been set back.
    set_back: u32,
}

/// An arming between the computation of the remainder and the kernel's having it.
#[derive(Clone, Copy, Debug)]
pub struct Arming {
    pub computed: Time,
    deadline: Moment,
    remainder: Duration,
    wall: Duration,
}

impl Gate {
    pub fn new(id: GateId, kind: Kind) -> Self {
        Self { id, kind, held: BTreeMap::new(), until: None, at_latest: Time::ZERO }
    }

    /// Computes how long the element may live; `None` when nothing is left.
    pub fn compute(clocks: &Clocks, t: Time, deadline: Moment) -> Option<Arming> {
        let left = clocks.read(t).until(deadline) * 89 / 100;
        let remainder = left.checked_sub(Duration::from_millis(20)).filter(|left| !left.is_zero())?;
        Some(Arming { computed: t, deadline, remainder, wall: clocks.wall(t) + remainder })
    }

    /// The kernel has it.
    pub fn arm(&mut self, clocks: &Clocks, t: Time, arming: Arming) {
        let Arming { deadline, remainder, wall, .. } = arming;
        let (jiffies, asleep) = (clocks.jiffies(t) + remainder, clocks.asleep(t));
        self.until = Some(Until { deadline, jiffies, wall, asleep, set_back: clocks.set_back() });
    }

    /// For when it was armed last, if it is: what a process arms again once the wall clock was set.
    pub fn deadline(&self) -> Option<Moment> {
        self.until.map(|until| until.deadline)
    }

    /// Whether the machine has slept since the arming: the element's timeout has not counted that.
    pub fn has_slept(&self, clocks: &Clocks, t: Time) -> bool {
        self.until.is_some_and(|until| until.asleep != clocks.asleep(t))
    }

    /// Whether the wall clock was set back since the arming: the absolute end is later than it should be.
    pub fn was_set_back(&self, clocks: &Clocks) -> bool {
        self.until.is_some_and(|until| until.set_back != clocks.set_back())
    }

    pub fn disarm(&mut self) {
        self.until = None;
    }

    pub fn hold(&mut self, group: GroupName, token: Token, addresses: Vec<IpAddr>) {
        self.held.insert(group, (token, addresses));
    }

    /// How many groups are held.
    pub fn holds(&self) -> usize {
        self.held.len()
    }

    pub fn unhold(&mut self, group: &str) {
        self.held.remove(group);
    }

    pub fn shut(&mut self) {
        self.disarm();
        self.held.clear();
    }

    /// Its process, whose session has this L, runs.
    pub fn served(&mut self, t: Time, ttl: Duration, drift: u32) {
        let late = match self.kind {
            Kind::Nftables => LATENESS,
            Kind::Latest(late) => late,
        };
        self.at_latest = t + (ttl + late) * (MILLION + 2 * drift) / MILLION;
    }

    /// S4: when the gate must be shut if its process does nothing any more.
    pub fn at_latest(&self) -> Time {
        self.at_latest
    }

    /// Whether anything answers now.
    pub fn is_alive(&self, clocks: &Clocks, t: Time) -> bool {
        !self.held.is_empty()
            && !clocks.is_suspended()
            && self.until.is_some_and(|until| match self.kind {
                Kind::Nftables => clocks.jiffies(t) < until.jiffies && clocks.wall(t) < until.wall,
                Kind::Latest(late) => !clocks.read(t).reached(until.deadline + late),
            })
    }

    pub fn is_open(&self, clocks: &Clocks, t: Time, group: &str) -> bool {
        self.held.contains_key(group) && self.is_alive(clocks, t)
    }

    /// What answers now, with the token it was claimed for.
    pub fn open(&self, clocks: &Clocks, t: Time) -> impl Iterator<Item = (&GroupName, &(Token, Vec<IpAddr>))> {
        let open = self.is_alive(clocks, t);
        self.held.iter().filter(move |_| open)
    }
}
