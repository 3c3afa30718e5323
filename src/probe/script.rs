//! A program that says by its exit status whether something is well. No shell; all that it has started is killed with it when its
//! time is over; and what another user could replace is not run as root.

use crate::config::track::Script;
use nix::unistd::{Gid, Group, Uid, User};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Runs it to its end, or to its timeout.
///
/// # Errors
/// In words for people: it could not be run, took too long, or did not end with 0.
pub async fn run(script: &Script) -> Result<(), String> {
    let status = status(&script.command, script.user.as_deref(), script.timeout).await?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Runs a command to its end, or for so long.
///
/// # Errors
/// In words for people: it could not be run, or took too long.
pub async fn status(command: &[String], user: Option<&str>, patience: Duration) -> Result<ExitStatus, String> {
    status_in(command, user, &[], patience).await
}

/// As [`status`], with these variables beside hamesh's own.
///
/// # Errors
/// As [`status`].
pub async fn status_in(
    command: &[String],
    user: Option<&str>,
    variables: &[(&str, String)],
    patience: Duration,
) -> Result<ExitStatus, String> {
    let mut child = start(command, user, variables, patience).await?;
    let Ok(ended) = timeout(patience, child.wait()).await else {
        kill_group(&child, Signal::KILL);
        // Killed, so it ends; what hangs in the kernel is left to be reaped by tokio.
        timeout(patience, child.wait()).await.ok();
        return Err(format!("killed: it took longer than {patience:?}"));
    };
    ended.map_err(|error| format!("cannot be waited for: {error}"))
}

/// Starts a command. It is killed when the child is dropped.
///
/// # Errors
/// In words for people: it could not be run.
pub async fn start(
    command: &[String],
    user: Option<&str>,
    variables: &[(&str, String)],
    patience: Duration,
) -> Result<Child, String> {
    let (command, user) = (command.to_vec(), user.map(str::to_owned));
    // Names and paths may be looked up on a network.
    let prepared = spawn_blocking(move || prepare(&command, user.as_deref()));
    let ended = timeout(patience, prepared).await;
    let mut command = match ended {
        Ok(Ok(prepared)) => prepared?,
        Ok(Err(error)) => return Err(format!("cannot be prepared: {error}")),
        Err(_) => return Err(format!("its user and path were not found out within {patience:?}")),
    };
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.spawn().map_err(|error| format!("cannot be run: {error}"))
}

/// Signals the child and what it has started. The child leads a group of its own and is not reaped yet, so the number is still its own.
pub fn kill_group(child: &Child, signal: Signal) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, signal)
    {
        tracing::warn!(%error, "a script was not signalled");
    }
}

fn prepare(command: &[String], user: Option<&str>) -> Result<Command, String> {
    let [program, arguments @ ..] = command else { return Err("there is no command".to_owned()) };
    let program = find_program(program)?;
    let user = user.map(find_user).transpose()?;
    let (own, own_group) = (Uid::effective(), Gid::effective());
    let (uid, gid) = user.unwrap_or((own, own_group));
    if uid.is_root() {
        refuse_unsafe(&program)?;
    }
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for variable in ["IFS", "LD_PRELOAD", "LD_LIBRARY_PATH"] {
        command.env_remove(variable);
    }
    if (uid, gid) != (own, own_group) {
        // Supplementary groups are dropped with the user.
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    Ok(command)
}

/// A bare name, as keepalived.conf may have it, is looked for in `PATH`.
fn find_program(name: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file());
    found.ok_or_else(|| format!("{name} is in no directory of PATH"))
}

/// `USER` with the group that it has, or `USER:GROUP`.
pub(crate) fn find_user(text: &str) -> Result<(Uid, Gid), String> {
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("there is no user {name}")),
        Err(error) => return Err(format!("user {name} cannot be looked up: {error}")),
    };
    match group.map(|name| (name, Group::from_name(name))) {
        None => Ok((user.uid, user.gid)),
        Some((_, Ok(Some(group)))) => Ok((user.uid, group.gid)),
        Some((name, Ok(None))) => Err(format!("there is no group {name}")),
        Some((name, Err(error))) => Err(format!("group {name} cannot be looked up: {error}")),
    }
}

/// keepalived's `enable_script_security`: every part of the path, links resolved, belongs to root and can be written by
/// nobody else.
fn refuse_unsafe(program: &Path) -> Result<(), String> {
    let real = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
    for part in real.ancestors().map(PathBuf::from).chain(std::iter::once(program.to_owned())) {
        let found = part.metadata().map_err(|error| format!("{}: {error}", part.display()))?;
        let mode = found.permissions().mode();
        let group_writes = mode & 0o020 != 0 && found.gid() != 0;
        // In a sticky directory nobody can replace what is root's.
        let others_write = mode & 0o002 != 0 && !(found.is_dir() && mode & 0o1000 != 0);
        if found.uid() != 0 || group_writes || others_write {
            return Err(format!(
                "not run as root: {} can be changed by others. Make it root's and writable by nobody else, or set `user`",
                part.display()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn script(command: &[&str]) -> Script {
        Script {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            user: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            rise: 1,
            fall: 1,
            init_fail: false,
        }
    }

    #[tokio::test]
    async fn the_exit_status_counts() {
        assert_eq!(run(&script(&["true"])).await, Ok(()), "found in PATH");
        assert_eq!(run(&script(&["/bin/true"])).await, Ok(()));
        assert_eq!(run(&script(&["/bin/sh", "-c", "exit 3"])).await, Err("exit status: 3".to_owned()));
    }

    #[tokio::test]
    async fn what_cannot_be_run_has_failed() {
        for command in [&["/nowhere/at/all"][..], &["/etc"], &["/etc/passwd"]] {
            run(&script(command)).await.expect_err(command[0]);
        }
        let stranger = Script { user: Some("nobody-of-this-name".to_owned()), ..script(&["/bin/true"]) };
        let why = run(&stranger).await.expect_err("there is no such user");
        assert_eq!(why, "there is no user nobody-of-this-name");
    }

    #[tokio::test]
    async fn a_hung_script_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("child");
        // The child is another process of the group, and its number is written down.
        let line = format!("sleep 600 & echo $! > {}; wait", file.display());
        let hung = Script { timeout: Duration::from_millis(500), ..script(&["/bin/sh", "-c", &line]) };
        let began = Instant::now();
        let why = run(&hung).await.expect_err("it hangs");
        assert!(why.starts_with("killed"), "{why}");
        assert!(began.elapsed() < Duration::from_secs(60));
        let child = std::fs::read_to_string(&file).expect("the child's number");
        let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("the child of a killed script lives");
    }

    /// Needs root. What hangs can be ended too.
    #[tokio::test]
    async fn a_script_runs_as_the_user_and_the_group_that_are_named() {
        let nobody = User::from_name("nobody").expect("looked up").expect("there");
        let daemon = Group::from_name("daemon").expect("looked up").expect("there");
        for (user, group) in [("nobody", nobody.gid), ("nobody:daemon", daemon.gid)] {
            let line = format!("test $(id -u):$(id -G) = {}:{group}", nobody.uid);
            let theirs = Script { user: Some(user.to_owned()), ..script(&["/bin/sh", "-c", &line]) };
            assert_eq!(run(&theirs).await, Ok(()), "{line}");
        }
        let unknown = Script { user: Some("nobody:no-such-group".to_owned()), ..script(&["/bin/true"]) };
        assert_eq!(run(&unknown).await, Err("there is no group no-such-group".to_owned()));
        let hung = Script {
            user: Some("nobody".to_owned()),
            timeout: Duration::from_millis(300),
            ..script(&["/bin/sleep", "60"])
        };
        let began = Instant::now();
        let why = run(&hung).await.expect_err("it hangs");
        assert!(why.starts_with("killed") && began.elapsed() < Duration::from_secs(30), "{why}");
        let sleeps = |stat: &str| stat.contains("(sleep) S") && stat.contains(&format!(") S {} ", std::process::id()));
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let mut stats = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        assert!(!stats.any(|stat| sleeps(&stat)), "it lives on");
    }

    /// Needs root. The unit takes capabilities away, and these are not to be among them.
    #[test]
    fn the_unit_lets_scripts_run_as_others() {
        let unit = include_str!("../../deploy/hamesh.service");
        let kept = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("it says so");
        let kept: Vec<_> = kept.split(' ').map(|name| name.replace("CAP_", "+").to_lowercase()).collect();
        let output = std::process::Command::new("setpriv")
            .arg(format!("--bounding-set=-all,{}", kept.join(",")))
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", "probe::script::tests::a_script_runs_as_the_user_and_the_group_that_are_named"])
            .output()
            .expect("setpriv is in util-linux");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    /// Needs root: whom a script runs as can be chosen by root alone.
    #[tokio::test]
    async fn what_others_can_change_is_not_run_as_root() {
        assert!(Uid::effective().is_root(), "this test needs root");
        let dir = tempfile::tempdir_in("/var").expect("a directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("root's");
        let program = dir.path().join("check");
        std::fs::write(&program, "#!/bin/sh\n[ \"$(id -u)\" = 65534 ]\n").expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o757)).expect("root's");
        let path = program.to_str().expect("a name");
        let why = run(&script(&[path])).await.expect_err("others can write it");
        assert!(why.contains("can be changed by others"), "{why}");
        let nobody = Script { user: Some("nobody".to_owned()), ..script(&[path]) };
        assert_eq!(run(&nobody).await, Ok(()), "as nobody it may run, and is nobody");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("root's");
        let why = run(&script(&[path])).await.expect_err("root is not nobody");
        assert!(why.contains("exit status"), "{why}");
    }
}
