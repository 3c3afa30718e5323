//! The gate of a kernel without nf_tables: addresses that end, and a process that ends with its lease.
//!
//! A VIP answers because its address is on an interface, and the kernel takes off an address that nobody refreshes. That
//! alone is no gate. The kernel cannot tell a refresh that is late from one in time, and a process that was frozen between its
//! last look at the clock and the system call sends it when it wakes. So a timer of the kernel kills the process a [`GRACE`]
//! after its deadline, frozen or not: from then on it refreshes nothing, puts no address back, and announces and advertises nothing.
//! The last refresh's life runs out after that. Whoever has taken the addresses off in time stops the timer.
//!
//! The end is seconds later than that of rules, by [`Lifetimes::lateness`]. The session's promise has it in it, so the others
//! wait for as much longer, and nothing else is different for anybody.
//!
//! It is less than rules in other ways too. Lifetimes run on jiffies and stop in suspend: a machine that wakes answers for
//! what was left of them. And only what the local address does ends with it: see the refusals of whoever uses this.

use super::lock::Lock;
use super::{GateError, SLEW_PERCENT};
use crate::clock::Moment;
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use std::io;
use std::time::Duration;

/// From the deadline until the process is killed: what one that runs has for taking its addresses off.
const GRACE: Duration = Duration::from_millis(500);
/// After the end of an address's life: the kernel looks a second after its last look, by a timer that may be 80 ms late.
const LOOK: Duration = Duration::from_millis(1100);
/// What the kernel may take to set an address, or to take it off, once it is asked to or wants to; waiting for its
/// route lock included.
const CHANGE: Duration = Duration::from_millis(100);
/// Lifetimes are whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// The right to hold VIPs in this network namespace without rules, and what ends it.
#[derive(Debug)]
pub struct Lifetimes {
    _lock: Lock,
    ttl: Duration,
    killer: Timer,
    begun: bool,
}

impl Lifetimes {
    /// Takes the lock of this network namespace, for sessions of the length `ttl`.
    ///
    /// # Errors
    /// [`GateError::Locked`] if another director runs here; no timer.
    pub fn acquire(ttl: Duration) -> Result<Self, GateError> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let killer = Timer::new(ClockId::CLOCK_BOOTTIME, kill).map_err(refused)?;
        Ok(Self { _lock: Lock::take()?, ttl, killer, begun: false })
    }

    /// For how long addresses are to be set and refreshed: not for less than the lease, or they would be gone within it.
    pub fn life(&self) -> Duration {
        life(self.ttl)
    }

    /// How long after its deadline a VIP may still answer here: q of the session's promise.
    pub fn lateness(&self) -> Duration {
        Self::lateness_for(self.ttl)
    }

    /// The same, of sessions of the length `ttl`. From `t0` on, one after the other: the lease, the grace, the life of an address
    /// that was set in the last moment, the kernel's look. The timer and jiffies may be slewed by NTP, all the time.
    pub fn lateness_for(ttl: Duration) -> Duration {
        let end = (ttl + GRACE + life(ttl) + LOOK) * 100 / SLEW_PERCENT + 2 * CHANGE;
        end - ttl
    }

    /// This process is about to set addresses, until `deadline`. It is killed a little later unless it is armed again, or ends.
    ///
    /// # Errors
    /// [`GateError::Late`]; the kernel's own. Then what was armed before stays armed.
    pub fn begin(&mut self, deadline: Moment) -> Result<(), GateError> {
        // An absolute time, and its clock is read first: a process that is stopped anywhere in here is killed no later for it.
        let now = ClockId::CLOCK_BOOTTIME.now().map_err(refused)?;
        let left = Moment::now().until(deadline);
        if left.is_zero() {
            return Err(GateError::Late);
        }
        let end = Duration::from(now) + left + GRACE;
        self.killer.set(Expiration::OneShot(end.into()), TimerSetTimeFlags::TFD_TIMER_ABSTIME).map_err(refused)?;
        self.begun = true;
        Ok(())
    }

    /// Goes on until `deadline`, if it was begun.
    ///
    /// # Errors
    /// As [`Lifetimes::begin`].
    pub fn arm(&mut self, deadline: Moment) -> Result<(), GateError> {
        if self.begun { self.begin(deadline) } else { Ok(()) }
    }

    /// Every address is off: this process may live on.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn end(&mut self) -> Result<(), GateError> {
        self.killer.set(Expiration::OneShot(Duration::ZERO.into()), TimerSetTimeFlags::empty()).map_err(refused)?;
        self.begun = false;
        Ok(())
    }
}

fn life(ttl: Duration) -> Duration {
    SECOND * u32::try_from(ttl.as_nanos().div_ceil(SECOND.as_nanos())).unwrap_or(u32::MAX)
}

fn refused(errno: nix::Error) -> GateError {
    GateError::Io { what: "set the timer that ends this process", source: io::Error::from(errno) }
}

#[cfg(test)]
mod tests;
