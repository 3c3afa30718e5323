//! The hands of a holder: they perform its orders one by one, may fail at each, and a kill may fall between any two.

use crate::clocks::Time;
use crate::kernel::{Arming, Gate};
use crate::net::{Due, Net};
use crate::node::Node;
use hamesh::vrrp::router;
use hamesh_fencing::clock::Moment;
use hamesh_fencing::holder::{Action, Event};
use hamesh_raft::command::{GroupName, Token};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// An arming that took longer is undone.
const LATE: Duration = Duration::from_millis(10);

/// One thing that the hands do.
#[derive(Clone, Debug)]
pub enum Step {
    Ordered(Action),
    /// The remainder is computed, the kernel does not have it yet.
    Arm(Arming),
    /// Look whether the arming took too long.
    Check(Arming),
    Hold(GroupName, Token, Vec<IpAddr>),
    Tell(Event),
}

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    Record,
    Claim,
    Unclaim,
}

/// The orders not yet performed.
#[derive(Default)]
pub struct Hands {
    orders: VecDeque<(u64, Step)>,
    list: u64,
    busy: bool,
    /// The list in which something failed that must not, and whether it was the record: what relies on it is void, what
    /// shuts goes on.
    stuck: Option<(u64, Failing)>,
}

impl Hands {
    /// A list of orders.
    pub fn take(&mut self, orders: Vec<Step>) {
        self.list += 1;
        let list = self.list;
        self.orders.extend(orders.into_iter().map(|step| (list, step)));
    }

    /// Before the orders, and after the step that is under way.
    pub fn take_first(&mut self, action: Action) {
        let under_way =
            matches!(self.orders.front(), Some((_, Step::Arm(_) | Step::Check(_) | Step::Hold(..) | Step::Tell(_))));
        self.orders.insert(usize::from(under_way), (0, Step::Ordered(action)));
    }

    /// Nothing is armed any more of what was asked for.
    pub fn forget_arming(&mut self) {
        self.orders.retain(|(_, step)| !matches!(step, Step::Ordered(Action::Arm(_)) | Step::Arm(_) | Step::Check(_)));
    }

    /// Whether an end that was computed is not in the kernel yet.
    fn has_computed(&self) -> bool {
        matches!(self.orders.front(), Some((_, Step::Arm(_))))
    }

    /// Whether a step must be scheduled.
    pub fn begin(&mut self) -> bool {
        let begins = !self.busy && !self.orders.is_empty();
        self.busy |= begins;
        begins
    }
}

impl Node {
    /// The absolute end is wrong since the wall clock was set.
    pub fn arm_again(&mut self, net: &mut Net, now: Moment) {
        let Some(process) = &mut self.process else { return };
        if let Some(deadline) = self.gates[process.gate].deadline().filter(|deadline| !now.reached(*deadline)) {
            process.hands.take_first(Action::Arm(deadline));
            self.hurry(net);
        }
    }

    /// Whether only the element's timeout would be in force, and could be late, if the wall clock were set back now: it is asleep
    /// or has slept since the arming, or an end was computed and the kernel does not have it yet.
    pub fn relies_on_the_wall_clock(&self, t: Time) -> bool {
        let computed = self.process.as_ref().is_some_and(|process| process.hands.has_computed());
        computed || self.clocks.is_suspended() || self.gates.iter().any(|gate| gate.has_slept(&self.clocks, t))
    }

    /// The next step of the hands.
    pub fn step(&mut self, net: &mut Net, now: Moment) {
        if let Some(left) = self.dies_in {
            if left == 0 {
                return self.kill(net, "killed between steps");
            }
            self.dies_in = Some(left - 1);
        }
        let Some(process) = &mut self.process else { return };
        process.hands.busy = false;
        let Some((list, step)) = process.hands.orders.pop_front() else { return };
        let gate = &mut self.gates[process.gate];
        let stuck = process.hands.stuck.filter(|(stuck, _)| *stuck == list).map(|(_, what)| what);
        let mut told = None;
        let mut next = None;
        let mut failed = None;
        let mut routed = None;
        match step {
            Step::Ordered(Action::Arm(_) | Action::Claim(..) | Action::Propose(_)) if stuck.is_some() => {}
            Step::Ordered(Action::Arm(deadline)) => {
                next = Gate::compute(&self.clocks, net.now, deadline).map(Step::Arm);
            }
            Step::Arm(arming) => {
                // One that is open already opens nothing more.
                net.opened |= !gate.is_alive(&self.clocks, net.now);
                gate.arm(&self.clocks, net.now, arming);
                if self.clocks.drift() * 2 >= net.drift {
                    net.count("armed by a clock that drifts");
                }
                if self.clocks.is_slewed() {
                    net.count("armed by a clock that is slewed");
                }
                next = Some(Step::Check(arming));
            }
            Step::Check(arming) => {
                if self.clocks.jiffies(net.now) > self.clocks.jiffies(arming.computed) + LATE {
                    net.count("late arming undone");
                    gate.disarm();
                }
            }
            Step::Ordered(Action::Shut) => {
                gate.shut();
                told = (stuck != Some(Failing::Record)).then_some(Event::Shut);
            }
            Step::Ordered(Action::Record(record)) => {
                if fails(&mut self.failing, Failing::Record, net, "record not written") {
                    failed = Some(Failing::Record);
                    told = Some(Event::Stuck);
                } else {
                    self.run = record;
                }
            }
            Step::Ordered(Action::Claim(group, token, definition)) => {
                if self.broken || fails(&mut self.failing, Failing::Claim, net, "claim failed") {
                    gate.unhold(&group);
                    routed = Some((group.clone(), router::Event::Revoked));
                    told = Some(Event::ClaimFailed(group, token));
                } else {
                    next = Some(Step::Hold(group, token, definition.addresses));
                }
            }
            Step::Hold(group, token, addresses) => {
                gate.hold(group.clone(), token, addresses);
                net.opened = true;
                if gate.holds() > 1 {
                    net.count("several groups in one session");
                }
                routed = Some((group.clone(), router::Event::Granted));
                next = Some(Step::Tell(Event::Claimed(group, token)));
            }
            Step::Ordered(Action::Unclaim(group, token)) => {
                routed = Some((group.clone(), router::Event::Revoked));
                if fails(&mut self.failing, Failing::Unclaim, net, "gate stuck") {
                    failed = Some(Failing::Unclaim);
                    told = Some(Event::Stuck);
                } else {
                    gate.unhold(&group);
                    next = Some(Step::Tell(Event::Unclaimed(group, token)));
                }
            }
            Step::Tell(event) => told = Some(event),
            Step::Ordered(Action::Propose(command)) => self.propose(net, command),
            Step::Ordered(Action::Stopped) => {
                net.count("stopped by SIGTERM");
                net.note(self.id, || "has stopped".to_owned());
                self.process = None;
                return net.at(net.now + Duration::from_millis(300), Due::Start(self.id));
            }
            Step::Ordered(Action::Send(..)) => {}
        }
        let Some(process) = &mut self.process else { return };
        if let Some(what) = failed {
            process.hands.stuck = Some((list, if stuck == Some(Failing::Record) { Failing::Record } else { what }));
        }
        if let Some(step) = next {
            process.hands.orders.push_front((list, step));
        }
        if let Some((group, event)) = routed {
            self.route(net, now, &group, event);
        }
        if let Some(event) = told {
            net.note(self.id, || format!("hands say {event:?}"));
            self.hold(net, now, event);
        }
        self.hurry(net);
    }
}

fn fails(failing: &mut Option<Failing>, this: Failing, net: &mut Net, what: &'static str) -> bool {
    let fails = failing.take_if(|failing| *failing == this).is_some();
    if fails {
        net.count(what);
    }
    fails
}
