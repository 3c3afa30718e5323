//! What is asked of this machine about a server: a program, a file, a process.

use super::Trouble;
use super::script;
use crate::config::track::{Arguments, Process};
use crate::health::Share;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// The longest file that holds a number.
const NUMBER: u64 = 64;
/// What is read of a command line: one argument may be 128 KiB, and all of them megabytes (execve(2)).
const COMMAND: u64 = 128 * 1024;
/// Of a name: the kernel keeps 15 bytes (proc(5)).
const NAME: u64 = 64;
/// The processes that are looked at: a machine that has more is in another kind of trouble, and a look must end.
const PROCESSES: usize = 100_000;

/// 0 is up; where it is `dynamic`, 2 to 255 is up with a weight of so much less 2.
pub(super) async fn script(
    command: &[String],
    user: Option<&str>,
    patience: Duration,
    dynamic: bool,
) -> Result<Share, Trouble> {
    let status = script::status(command, user, patience).await?;
    match status.code() {
        Some(0) => Ok(Share::Configured),
        Some(code @ 2..) if dynamic => Ok(Share::Exactly(u32::try_from(code - 2).unwrap_or(0))),
        Some(_) | None => Err(status.to_string().into()),
    }
}

/// The number in it, times `weight`, is added to the server's; without a weight it must be 0.
pub(super) async fn file(path: &Path, weight: i32) -> Result<Share, Trouble> {
    let path = path.to_owned();
    // Nothing ends a read of a file system that is gone: the next one waits for it, and not on a thread.
    let turn = turn(&path).lock_owned().await;
    let read = spawn_blocking(move || {
        let _turn = turn;
        number(&path)
    });
    let number = read.await.map_err(io::Error::other).flatten();
    let number = number.map_err(|error| Trouble::Here(format!("not read: {error}")))?;
    match (weight, number) {
        (0, 0) => Ok(Share::Configured),
        (0, number) => Err(format!("the file says {number}").into()),
        (weight, number) => Ok(Share::More(number.saturating_mul(weight.into()))),
    }
}

/// Whose it is to read a file: one at a time.
fn turn(path: &Path) -> Arc<Mutex<()>> {
    static TURNS: std::sync::Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = std::sync::Mutex::new(BTreeMap::new());
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that nobody waits for.
    turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    turns.entry(path.to_owned()).or_default().clone()
}

/// 0 without a file, or without a number in it.
fn number(path: &Path) -> io::Result<i64> {
    // A FIFO is not waited for.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let Ok(file) = opened else { return Ok(0) };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("no regular file"));
    }
    let mut text = String::new();
    let read = file.take(NUMBER).read_to_string(&mut text);
    Ok(read.ok().and_then(|_| text.trim().parse::<i32>().ok()).map_or(0, i64::from))
}

/// A process of this name: that of its program's file, or what it calls itself.
pub(super) async fn process(name: &str) -> Result<(), Trouble> {
    let wanted = name.to_owned();
    // A process that hangs in the kernel may hold up whoever reads its files: the next look waits, and not on a thread.
    let turn = turn(format!("/proc/{name}").as_ref()).lock_owned().await;
    let found = spawn_blocking(move || {
        let _turn = turn;
        runs(&wanted)
    });
    match found.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(format!("no process {name} runs").into()),
        Ok(Err(error)) => Err(Trouble::Here(format!("processes cannot be listed: {error}"))),
        Err(error) => Err(Trouble::Here(format!("processes were not listed: {error}"))),
    }
}

/// How many of its processes run.
///
/// # Errors
/// In words: they cannot be listed.
pub(crate) async fn count(process: &Process) -> Result<u32, String> {
    let process = process.clone();
    let turn = turn(format!("/proc/{}", process.command[0]).as_ref()).lock_owned().await;
    let counted = spawn_blocking(move || -> io::Result<u32> {
        let _turn = turn;
        let mut count = 0;
        for command in commands(&process.command[0])? {
            count += u32::from(has_arguments(&process, &command?));
        }
        Ok(count)
    });
    let counted = counted.await.map_err(io::Error::other).flatten();
    counted.map_err(|error| format!("processes cannot be listed: {error}"))
}

/// Whether a command line, program and all, has the arguments that are asked for.
fn has_arguments(process: &Process, command: &[u8]) -> bool {
    let wanted = process.command[1..].iter().map(String::as_bytes);
    let given: Vec<&[u8]> = command.strip_suffix(&[0]).unwrap_or(command).split(|byte| *byte == 0).skip(1).collect();
    let wanted: Vec<&[u8]> = wanted.collect();
    match (process.arguments, wanted.split_last()) {
        (Arguments::Any, _) => true,
        (Arguments::Exact, _) | (Arguments::Initial, None) => given == wanted,
        (Arguments::Partial, _) => given.starts_with(&wanted),
        (Arguments::Initial, Some((last, first))) => {
            given.split_last().is_some_and(|(longer, others)| others == first && longer.starts_with(last))
        }
    }
}

fn runs(name: &str) -> io::Result<bool> {
    commands(name)?.next().transpose().map(|found| found.is_some())
}

/// The command lines of the processes of this name: that of their program's file, with its path or without, or what they
/// call themselves. Of a long one the beginning.
fn commands(name: &str) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    let numbered = |entry: &io::Result<fs::DirEntry>| {
        let number = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        entry.as_ref().map_or(true, number)
    };
    let all = fs::read_dir("/proc")?.filter(numbered).enumerate();
    Ok(all.filter_map(move |(number, entry)| {
        if number >= PROCESSES {
            let why = format!("there are more than {PROCESSES}");
            return (number == PROCESSES).then(|| Err(io::Error::other(why)));
        }
        entry.map(|entry| command_of(&entry.path(), name)).transpose()
    }))
}

/// The command line of a process, if it has this name.
fn command_of(process: &Path, name: &str) -> Option<Vec<u8>> {
    // One that has ended meanwhile has no files any more.
    let read = |file: &str, most: u64| {
        let mut bytes = Vec::new();
        let opened = File::open(process.join(file));
        let read = opened.and_then(|file| file.take(most).read_to_end(&mut bytes));
        if read.is_ok() { bytes } else { Vec::new() }
    };
    let command = read("cmdline", COMMAND);
    let path = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let program = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    // A zombie has no command line, and its own name only.
    let is_it = !command.is_empty()
        && ([path, program].contains(&name.as_bytes()) || read("comm", NAME).trim_ascii_end() == name.as_bytes());
    is_it.then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::track::Delays;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_dynamic_script_says_the_weight() {
        let run = async |code: &str, dynamic| {
            let command = command(&["/bin/sh", "-c", &format!("exit {code}")]);
            script(&command, None, Duration::from_secs(5), dynamic).await.ok()
        };
        assert_eq!(run("0", true).await, Some(Share::Configured));
        assert_eq!(run("1", true).await, None);
        assert_eq!(run("2", true).await, Some(Share::Exactly(0)));
        assert_eq!(run("255", true).await, Some(Share::Exactly(253)));
        assert_eq!(run("2", false).await, None);
    }

    #[tokio::test]
    async fn a_file_adds_to_the_weight_or_takes_the_server_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weight");
        assert_eq!(file(&path, 0).await, Ok(Share::Configured), "no file");
        assert_eq!(file(&path, 2).await, Ok(Share::More(0)));
        fs::write(&path, "-3\n").unwrap();
        assert_eq!(file(&path, 2).await, Ok(Share::More(-6)));
        assert_eq!(file(&path, 0).await, Err(Trouble::There("the file says -3".to_owned())));
        fs::write(&path, [b'9'; 1000]).unwrap();
        assert_eq!(file(&path, 1).await, Ok(Share::More(0)), "no number");
    }

    #[tokio::test]
    async fn what_is_no_file_holds_nobody_up_and_one_read_waits_for_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&*fifo, Path::new("/dev/zero")] {
            assert_eq!(file(path, 0).await, Err(Trouble::Here("not read: no regular file".to_owned())));
        }
        // As long as the last read has not ended, a check begins none.
        let path = dir.path().join("weight");
        let last = turn(&path).lock_owned().await;
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, file(&path, 0)).await.is_err());
        drop(last);
        assert_eq!(file(&path, 0).await, Ok(Share::Configured));
    }

    #[tokio::test]
    async fn processes_are_counted_by_their_arguments() {
        let start = |argument: &str| std::process::Command::new("/bin/sleep").args([argument, "0"]).spawn().unwrap();
        // Longer than anybody else sleeps.
        let mut children = ["98765432", "98765432", "98765433"].map(start);
        for (words, arguments, found) in [
            (&["sleep", "98765432", "0"][..], Arguments::Exact, 2),
            (&["/bin/sleep", "98765432", "0"], Arguments::Exact, 2),
            (&["sleep", "98765432"], Arguments::Exact, 0),
            (&["sleep", "98765432"], Arguments::Partial, 2),
            (&["sleep", "9876543"], Arguments::Partial, 0),
            (&["sleep", "98765433", ""], Arguments::Initial, 1),
            (&["sleep", "9876543"], Arguments::Initial, 0),
            (&["sleep"], Arguments::Initial, 0),
        ] {
            let process =
                Process { command: command(words), arguments, least: 1, most: None, delays: Delays::default() };
            // Until it is what it was started as.
            let mut last = Ok(0);
            for _ in 0..100 {
                last = count(&process).await;
                if last == Ok(found) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(last, Ok(found), "{words:?} {arguments:?}");
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_name() {
        let mut child = std::process::Command::new("/bin/sleep").arg("600").spawn().unwrap();
        assert_eq!(process("sleep").await, Ok(()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process("no-such-program-anywhere").await.is_err());
    }

    /// A tree like that of /proc, with files that have no end.
    #[test]
    fn no_more_of_a_process_is_read_than_there_is_use_for() {
        let dir = tempfile::tempdir().unwrap();
        let process = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let endless = process("1");
        for file in ["cmdline", "comm"] {
            std::os::unix::fs::symlink("/dev/zero", endless.join(file)).unwrap();
        }
        assert_eq!(command_of(&endless, "sleep"), None);
        let long = process("2");
        let line = |length: u64| ["/bin/sleep".to_owned(), "x".repeat(usize::try_from(length).unwrap())].join("\0");
        fs::write(long.join("cmdline"), line(COMMAND * 2)).unwrap();
        let read = command_of(&long, "sleep").map(|command| command.len() as u64);
        assert_eq!(read, Some(COMMAND));
        assert_eq!(command_of(&process("3"), "sleep"), None, "it has ended meanwhile");
    }

    #[tokio::test]
    async fn one_look_at_processes_waits_for_the_last() {
        let last = turn(Path::new("/proc/sleep")).lock_owned().await;
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, process("sleep")).await.is_err());
        drop(last);
        assert!(tokio::time::timeout(Duration::from_secs(60), process("no-such-program")).await.is_ok());
    }
}
