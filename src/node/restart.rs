//! A restart in place: the process replaces itself by the program that is on disk now, and that goes on with the session.
//!
//! Nothing is handed over and nothing is shut. What a restart needs is what a crash leaves (the gate, the may-act record,
//! the addresses), and the same resume takes it up. It is an exec and no end of the process, so that no supervisor's pause
//! is taken from the lease, and the old process keeps renewing it until the last moment.

use std::env::args_os;
use std::ffi::OsString;
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// What the next program is told by.
const IN_PLACE: &str = "HAMESH_RESTARTED_IN_PLACE";
/// A program that takes longer to look at its configuration would not be back within a lease either.
const REHEARSAL: Duration = Duration::from_secs(5);

/// As the shell found it: not `/proc/self/exe`, which is the old one when an upgrade has replaced the file.
fn program() -> OsString {
    args_os().next().unwrap_or_else(|| "hamesh".into())
}

/// Lets the program that would take over look at the configuration: one that does not start would cost the lease.
///
/// # Errors
/// It cannot be run, or what it says of the configuration.
pub(super) async fn rehearse(file: &Path) -> Result<(), String> {
    let mut check = tokio::process::Command::new(program());
    check.args(["config", "check"]).arg(file).kill_on_drop(true);
    let checked = timeout(REHEARSAL, check.output()).await.map_err(|_| format!("not checked within {REHEARSAL:?}"))?;
    let checked = checked.map_err(|error| format!("{} cannot be run: {error}", program().display()))?;
    if checked.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", checked.status, String::from_utf8_lossy(&checked.stderr).trim()))
}

/// A node that is to be replaced: its lane renews the lease for as long as this is there.
#[derive(Debug)]
pub struct Running {
    #[expect(dead_code, reason = "held for its tasks: without them the lane would end")]
    runtime: Runtime,
}

impl Running {
    pub(super) fn of(runtime: Runtime) -> Self {
        Self { runtime }
    }

    /// Runs the same command again in this process. Returns only if that fails.
    pub fn replace(self) -> Error {
        process::Command::new(program()).args(args_os().skip(1)).env(IN_PLACE, "1").exec()
    }
}

/// Whether this process was another run before.
pub(super) fn is_one() -> bool {
    std::env::var_os(IN_PLACE).is_some()
}
