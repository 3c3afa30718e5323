//! Where a laboratory runs: namespaces of its own, so that it needs no privilege that matters, touches no
//! interface of the machine, and leaves nothing behind.
//!
//! The program starts itself again as process 1 of a new PID namespace. When that process ends, however it ends, the
//! kernel kills every process of the laboratory and drops every network namespace with it.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, getegid, geteuid};
use std::fs;
use std::process::{Child, Command, ExitCode, ExitStatus};

/// How deep inside the sandbox a process is: absent outside, then [`INIT`], then [`MAIN`].
const STAGE: &str = "HAMESH_LAB_STAGE";
const INIT: &str = "init";
const MAIN: &str = "main";

/// Enters the sandbox: `None` inside of it, elsewhere the exit code of the same program having run inside.
///
/// Call it first in `main`: making a user namespace needs a process with one thread.
///
/// # Errors
/// Namespaces are not permitted (not root, and unprivileged user namespaces are off), or the program cannot be
/// started again.
pub fn enter() -> Result<Option<ExitCode>> {
    match std::env::var(STAGE).as_deref() {
        Ok(MAIN) => Ok(None),
        Ok(INIT) => init().map(Some),
        Ok(_) | Err(_) => outside().map(Some),
    }
}

fn outside() -> Result<ExitCode> {
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    if let Err(error) = unshare(flags) {
        let why =
            if user.is_root() { "root without CAP_SYS_ADMIN" } else { "unprivileged user namespaces are not allowed" };
        bail!("the laboratory needs root here: {why} ({error})");
    }
    if !user.is_root() {
        fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("gid_map")?;
    }
    Ok(code(again(INIT)?.wait().context("waiting for the sandbox")?))
}

fn again(stage: &str) -> Result<Child> {
    let program = std::env::current_exe().context("own path")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(STAGE, stage);
    command.spawn().context("starting again inside the namespaces")
}

fn code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Process 1. It dies with its parent (so Ctrl-C needs no handler: the parent has none and ends), makes the mounts
/// its own, shows the new PID namespace in /proc, and then buries orphans: a daemon refuses to start while its
/// killed forerunner is a zombie.
fn init() -> Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("PR_SET_PDEATHSIG")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("making mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, nothing)
        .context("mounting /proc for the new PID namespace")?;
    let main = Pid::from_raw(i32::try_from(again(MAIN)?.id()).context("a process id")?);
    loop {
        let ended = wait().context("waiting for the laboratory")?;
        if ended.pid() != Some(main) {
            continue; // an orphan
        }
        return Ok(if let WaitStatus::Exited(_, status) = ended {
            u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
        } else {
            ExitCode::FAILURE
        });
    }
}
