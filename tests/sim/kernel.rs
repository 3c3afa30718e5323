//! A model of the gate in one network namespace: what the kernel keeps when the process is gone.

use crate::clocks::{Clocks, Time};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{GateId, GroupName};
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
    held: BTreeMap<GroupName, Vec<IpAddr>>,
    until: Option<Until>,
}

/// The ends of the session's element.
#[derive(Clone, Copy, Debug)]
struct Until {
    deadline: Moment,
    jiffies: Duration,
    wall: Duration,
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
        Self { id, kind, held: BTreeMap::new(), until: None }
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
        self.until = Some(Until { deadline, jiffies: clocks.jiffies(t) + remainder, wall });
    }

    pub fn disarm(&mut self) {
        self.until = None;
    }

    pub fn hold(&mut self, group: GroupName, addresses: Vec<IpAddr>) {
        self.held.insert(group, addresses);
    }

    pub fn unhold(&mut self, group: &str) {
        self.held.remove(group);
    }

    pub fn shut(&mut self) {
        self.disarm();
        self.held.clear();
    }

    /// What answers now.
    pub fn open(&self, clocks: &Clocks, t: Time) -> impl Iterator<Item = (&GroupName, &Vec<IpAddr>)> {
        let open = !clocks.is_suspended()
            && self.until.is_some_and(|until| match self.kind {
                Kind::Nftables => clocks.jiffies(t) < until.jiffies && clocks.wall(t) < until.wall,
                Kind::Latest(late) => !clocks.read(t).reached(until.deadline + late),
            });
        self.held.iter().filter(move |_| open)
    }
}
