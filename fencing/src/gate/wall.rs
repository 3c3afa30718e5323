//! The wall clock, which is the one absolute clock that a rule can read, and the moments when somebody sets it.

use super::GateError;
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A timer that never fires and is cancelled when the wall clock steps.
#[derive(Debug)]
pub(super) struct WallClock(OwnedFd);

impl WallClock {
    pub(super) fn watch() -> Result<Self, GateError> {
        let failed = |error: Errno| GateError::Io { what: "watch the wall clock", source: error.into() };
        let timer =
            timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).map_err(failed)?;
        let never = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: i64::MAX, tv_nsec: 0 },
        };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never)
            .map_err(failed)?;
        Ok(Self(timer))
    }

    /// The time since the Unix epoch.
    pub(super) fn now() -> Duration {
        let time = clock_gettime(ClockId::Realtime);
        // A clock before 1970 or beyond its own range arms a gate that does not open.
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// Whether the clock has stepped since the last call.
    pub(super) fn stepped(&self) -> Result<bool, GateError> {
        match rustix::io::read(&self.0, &mut [0; 8]) {
            Err(Errno::CANCELED) => Ok(true),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(GateError::Io { what: "watch the wall clock", source: error.into() }),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
