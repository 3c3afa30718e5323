#![allow(unsafe_code, reason = "sched_setscheduler has no safe wrapper in the crates we use")]
//! The lane's priority: real time and locked memory, when the machine allows.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// The lane's: above ordinary tasks, below the kernel's own threads.
pub const LANE: i32 = 20;
/// Of what the lane gives orders to.
pub const INTERFACES: i32 = 19;

/// Raises the calling thread. What the machine does not allow is logged: a lease then depends on the ordinary scheduler.
pub fn raise(priority: i32) {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a live, initialised struct; pid 0 is the calling thread.
    let refused =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if refused != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "no real-time priority for leases and adverts (CAP_SYS_NICE or LimitRTPRIO)");
    }
    // With a limit, a later allocation would fail: only where there is none.
    if getrlimit(Resource::Memlock).current.is_none()
        && let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
    {
        tracing::warn!(%error, "memory is not locked");
    }
}
