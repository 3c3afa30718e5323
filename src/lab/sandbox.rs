//! Where a laboratory runs: namespaces of its own, so that it needs no privilege that matters, touches no
//! interface of the machine, and leaves nothing behind.
//!
//! The program starts itself again as process 1 of a new PID namespace. When that process ends, however it ends, the
//! kernel kills every process of the laboratory and drops every network namespace with it.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::process::{Command, ExitCode, ExitStatus};

const INSIDE: &str = "HAMESH_LAB_INSIDE";

/// Enters the sandbox: `None` inside of it, outside the exit code of the same program having run inside.
///
/// Call it first in `main`: making a user namespace needs a process with one thread.
///
/// # Errors
/// Namespaces are not permitted (not root, and unprivileged user namespaces are off), or the program cannot be started again.
pub fn enter() -> Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        furnish()?;
        return Ok(None);
    }
    let root = geteuid().is_root();
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if !root {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    if let Err(error) = unshare(flags) {
        bail!(
            "the laboratory needs root here: {}making namespaces failed ({error})",
            if root { "" } else { "unprivileged user namespaces are not allowed, " }
        );
    }
    if !root {
        fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("gid_map")?;
    }
    let program = std::env::current_exe().context("own path")?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .context("starting again inside the namespaces")?;
    Ok(Some(code(status)))
}

fn code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// First steps of process 1: it dies with its parent (so Ctrl-C needs no handler: the parent has none and ends), its mounts
/// are its own, and /proc shows the new PID namespace.
fn furnish() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).context("PR_SET_PDEATHSIG")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("making mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, nothing)
        .context("mounting /proc for the new PID namespace")
}
