//! A host of the laboratory: a network namespace, the processes in it, and a directory for its files.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rtnetlink::{Handle, LinkUnspec};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::future::Future;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A network namespace, held open by its descriptor: it goes with the last clone and the last process in it.
#[derive(Clone, Debug)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// A new one, with its loopback up.
    ///
    /// # Errors
    /// No privilege for namespaces.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net").context("its descriptor")?.into())
        });
        let netns = Self(Arc::new(joined(made.join())??));
        netns.netlink(|handle| async move {
            let lo = link_index(&handle, "lo").await?;
            handle.link().change(LinkUnspec::new_with_index(lo).up().build()).execute().await?;
            Ok(())
        })?;
        Ok(netns)
    }

    /// Runs `work` in a thread of the namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` returned.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            joined(
                scope
                    .spawn(|| {
                        setns(&*self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                        work()
                    })
                    .join(),
            )?
        })
    }

    /// Asks the namespace's kernel by route netlink.
    ///
    /// # Errors
    /// What the kernel or `ask` answered.
    pub fn netlink<T, F>(&self, ask: impl FnOnce(Handle) -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>>,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("runtime")?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().context("route netlink")?;
                let driver = tokio::spawn(connection);
                let answer = ask(handle).await;
                driver.abort();
                answer
            })
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn joined<T>(result: thread::Result<T>) -> Result<T> {
    result.map_err(|_| anyhow::anyhow!("a thread of the laboratory panicked"))
}

/// The index of a link in the namespace that `handle` speaks to.
///
/// # Errors
/// No such link.
pub async fn link_index(handle: &Handle, name: &str) -> Result<u32> {
    use futures_util::TryStreamExt;
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    let link = found.try_next().await.with_context(|| format!("link {name}"))?;
    Ok(link.with_context(|| format!("no link {name}"))?.header.index)
}

/// A machine of the laboratory.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    netns: Netns,
    dir: PathBuf,
}

impl Host {
    /// A host without interfaces; its files live below `dir`, in a directory of its name.
    ///
    /// # Errors
    /// No privilege, or the directory cannot be made.
    pub fn new(name: &str, dir: &Path) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(dir.join("run")).with_context(|| format!("making {}", dir.display()))?;
        let netns = Netns::new()?;
        // Linux would answer for an address only through what it believes is the way back.
        netns.run(|| {
            for scope in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "0").context("rp_filter")?;
                // An address that nobody else has need not be waited for. No such file: no IPv6.
                fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0").ok();
            }
            Ok(())
        })?;
        Ok(Self { name: name.to_owned(), netns, dir })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Where its files are; `run/` in it is what its processes see as `/run`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives an interface an address and brings it up.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn address(&self, interface: &str, address: impl Into<IpAddr>, prefix: u8) -> Result<()> {
        let address = address.into();
        self.netns.netlink(|handle| async move {
            let index = link_index(&handle, interface).await?;
            handle.address().add(index, address, prefix).execute().await?;
            handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            Ok(())
        })
    }

    /// Removes an address, as an operator does who cleans up after a killed daemon. Whether it was there.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove_address(&self, interface: &str, address: impl Into<IpAddr>) -> Result<bool> {
        use futures_util::TryStreamExt;
        let address = address.into();
        self.netns.netlink(|handle| async move {
            let index = link_index(&handle, interface).await?;
            let query = handle.address().get().set_link_index_filter(index).set_address_filter(address);
            let found: Vec<_> = query.execute().try_collect().await?;
            let there = !found.is_empty();
            for message in found {
                handle.address().del(message).execute().await?;
            }
            Ok(there)
        })
    }

    /// Brings an interface up or down, as an operator does.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_up(&self, interface: &str, up: bool) -> Result<()> {
        self.netns.netlink(|handle| async move {
            let link = LinkUnspec::new_with_index(link_index(&handle, interface).await?);
            handle.link().change(if up { link.up() } else { link.down() }.build()).execute().await?;
            Ok(())
        })
    }

    /// Starts a long-running process on this host, its output appended to `NAME.log` in the host's directory.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        &self,
        name: &str,
        program: &Path,
        args: &[OsString],
        environment: &[(&str, String)],
    ) -> Result<Process> {
        let log = self.dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let child = self.spawn(program, args, environment, out.try_clone()?.into(), out.into())?;
        Ok(Process { child, label: format!("{name} on {}", self.name) })
    }

    /// Runs a program on this host to its end.
    ///
    /// # Errors
    /// It cannot be started, runs longer than `timeout` (then it is killed), or fails: then with what it said on
    /// stderr.
    pub fn output<S: AsRef<OsStr>>(&self, program: &Path, args: &[S], timeout: Duration) -> Result<String> {
        let args: Vec<OsString> = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let child = self.spawn(program, &args, &[], Stdio::piped(), Stdio::piped())?;
        let what = || format!("{}: {} {}", self.name, program.display(), args.join(OsStr::new(" ")).display());
        let done = finish(child, timeout).with_context(what)?;
        if !done.0.success() {
            bail!("{}: {}: {}", what(), done.0, done.2.trim());
        }
        Ok(done.1)
    }

    /// A child inherits the namespaces of the thread that starts it; the thread ends, the child's namespaces stay.
    fn spawn(
        &self,
        program: &Path,
        args: &[OsString],
        environment: &[(&str, String)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Child> {
        self.netns.run(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
            let nothing = None::<&str>;
            mount(Some(&self.dir.join("run")), "/run", nothing, MsFlags::MS_BIND, nothing)
                .context("a /run of its own")?;
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
            command.envs(environment.iter().map(|(key, value)| (key, value)));
            command.spawn().with_context(|| format!("starting {}", program.display()))
        })
    }
}

fn finish(mut child: Child, timeout: Duration) -> Result<(ExitStatus, String, String)> {
    fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                // What arrived before a broken pipe is what the program said.
                drop(pipe.read_to_end(&mut bytes));
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, timeout)?;
    let Some(status) = status else {
        child.kill().context("killing it")?;
        child.wait().context("reaping it")?;
        let said = joined(err.join())?;
        bail!("not done after {timeout:?}{}{}", if said.is_empty() { "" } else { ": " }, said.trim());
    };
    Ok((status, joined(out.join())?, joined(err.join())?))
}

fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a process")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a program outside any host, for what needs no network: the admin socket is a file.
///
/// # Errors
/// As [`Host::output`].
pub fn local_output<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    timeout: Duration,
) -> Result<(ExitStatus, String, String)> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().with_context(|| format!("starting {}", program.display()))?, timeout)
}

/// Ticks of processor time a second, as `/proc` counts them (time(7)).
const USER_HZ: u64 = 100;

/// A process on a host, and all that it started. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    label: String,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(pid(self.child.id())?, signal).with_context(|| format!("{signal} to {}", self.label))
    }

    /// Sends a signal to the process and its descendants, the oldest first, as the crash of a machine would.
    ///
    /// # Errors
    /// The process has ended already.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        let family = descendants(self.child.id());
        self.signal(signal)?;
        for id in family {
            // A child that its parent's end took along is what we want.
            if let Err(error) = kill(pid(id)?, signal)
                && error != nix::Error::ESRCH
            {
                return Err(error).with_context(|| format!("{signal} to a child of {}", self.label));
            }
        }
        Ok(())
    }

    /// Waits for its end; `None` when it still runs after `timeout`.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        wait(&mut self.child, timeout)
    }

    /// Its state as in `/proc/PID/stat`: `T` is stopped, `Z` and none are dead.
    #[must_use]
    pub fn state(&self) -> Option<char> {
        Some(stat(self.child.id())?.0)
    }

    /// The processor time of the process and its living descendants, all threads of each, in the kernel too.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let ticks = |id: u32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
            Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
        };
        let sum: u64 = self.family().into_iter().filter_map(ticks).sum();
        Duration::from_millis(sum * 1000 / USER_HZ)
    }

    /// The resident memory of the process and its living descendants, in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let kibibytes = |id: u32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches("kB").trim().parse().ok()
        };
        self.family().into_iter().filter_map(kibibytes).sum::<u64>() << 10
    }

    fn family(&self) -> Vec<u32> {
        let id = self.child.id();
        descendants(id).into_iter().chain([id]).collect()
    }

    /// Kills the process and its descendants and waits for the process.
    ///
    /// # Errors
    /// It does not go.
    pub fn kill(&mut self) -> Result<()> {
        if self.wait(Duration::ZERO)?.is_none() {
            self.signal_all(Signal::SIGKILL)?;
            if self.wait(Duration::from_secs(5))?.is_none() {
                bail!("{} survived SIGKILL for 5 s", self.label);
            }
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("lab: {error:#}");
        }
    }
}

fn pid(id: u32) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(id).context("a process id")?))
}

/// State and parent of a process, from proc_pid_stat(5). The name may hold spaces and parentheses.
fn stat(id: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let listing = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<u32> = listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let parents: Vec<(u32, u32)> = all.into_iter().filter_map(|id| Some((id, stat(id)?.1))).collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&id) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == id).map(|(child, _)| *child));
        next += 1;
    }
    family.split_off(1)
}
