//! A hamesh cluster on the stage, made and used as a person would: `init`, `token`, `join`, `run`, `status --json`.

use super::host::{Host, Process, local_output};
use super::legacy::{Auth, Dialect};
use super::scene::{Scene, routers};
use super::status::Status;
use super::{ADVERT_SECONDS, LAN_NIC, VRID};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The VIP group's name.
pub const GROUP: &str = "web";

/// The mesh endpoints' UDP port.
pub const MESH_PORT: u16 = 7112;

/// A command of the CLI that takes longer has failed.
const COMMAND: Duration = Duration::from_secs(20);

/// So many groups are shown of a status that is not as it should be.
const SHOWN: usize = 4;

#[derive(Debug)]
struct Node {
    host: Host,
    process: Option<Process>,
}

/// Nodes lb1, lb2, lb3 and the witness, numbered 0 to 3.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    nodes: Vec<Node>,
    /// Whether its directors are the guards of keepaliveds.
    guards: bool,
}

/// Beside every node's `cluster.toml`.
const PASS_FILE: &str = "vrrp.pass";

/// The number of the witness.
pub const WITNESS: usize = 3;

/// The `cluster.toml` of the laboratory. `priorities` as in `PRIORITIES`.
#[must_use]
pub fn cluster_toml(dialect: Dialect, priorities: &[u8]) -> String {
    let priority: Vec<String> =
        (1..).zip(priorities).map(|(number, priority)| format!("lb{number} = {priority}")).collect();
    let mut lines = match dialect.auth {
        Auth::None => String::new(),
        Auth::Pass => format!("authentication = {{ pass_file = \"{PASS_FILE}\" }}\n"),
        Auth::Ah => format!("authentication = {{ ah_file = \"{PASS_FILE}\" }}\n"),
    };
    if dialect.mac {
        lines += "virtual_mac = true\n";
    }
    if dialect.unicast {
        let (legacy, directors) = routers(dialect.ipv6);
        let peers: Vec<String> = directors.iter().chain([&legacy]).map(|peer| format!("\"{peer}\"")).collect();
        lines += &format!("unicast = {{ peers = [{}] }}\n", peers.join(", "));
    }
    let (vip, prefix) = dialect.vip();
    format!(
        "[lease]
profile = \"default\"
damping = \"0s\"

[vip.{GROUP}]
interface = \"{LAN_NIC}\"
vrid = {VRID}
version = {version}
advertisement_interval = \"{ADVERT_SECONDS}s\"
addresses = [\"{vip}/{prefix}\"]
priority = {{ {priority} }}
{lines}",
        version = dialect.version,
        priority = priority.join(", "),
    )
}

impl Cluster {
    /// Writes the files of every node and forms the cluster; `said` hears each command before it is run.
    ///
    /// # Errors
    /// A command failed or took too long, with what it said.
    pub fn form(scene: &Scene, program: &Path, cluster_toml: &str, mut said: impl FnMut(&str)) -> Result<Self> {
        let mut cluster = Self::found(scene, program, cluster_toml, &mut said)?;
        cluster.admit_all(&mut said)?;
        Ok(cluster)
    }

    /// Writes the files of every node, and founds a cluster of the first.
    ///
    /// # Errors
    /// As [`Cluster::form`].
    pub fn found(scene: &Scene, program: &Path, cluster_toml: &str, said: &mut impl FnMut(&str)) -> Result<Self> {
        let mut cluster = Self::of(scene, program, false)?;
        // Only the first has a cluster.toml; the others get theirs by joining.
        let file = cluster.cluster_file(0);
        fs::write(&file, cluster_toml).with_context(|| file.display().to_string())?;
        cluster.begin(said)?;
        Ok(cluster)
    }

    /// The nodes of a cluster of guards, on hosts with a `keepalived.conf` each; none is started.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn of_guards(scene: &Scene, program: &Path) -> Result<Self> {
        Self::of(scene, program, true)
    }

    fn of(scene: &Scene, program: &Path, guards: bool) -> Result<Self> {
        let hosts = scene.directors.iter().map(|director| &director.host).chain([&scene.witness]);
        let nodes = hosts.map(|host| Node { host: host.clone(), process: None }).collect();
        let cluster = Self { program: program.to_owned(), nodes, guards };
        for (number, node) in cluster.nodes.iter().enumerate() {
            let file = node.config();
            let text = node_toml(node, guards, &format!("{}:{MESH_PORT}", scene.mesh_address(number)), number);
            fs::write(&file, text).with_context(|| file.display().to_string())?;
            let file = node.host.dir().join(PASS_FILE);
            fs::write(&file, Dialect::PASSWORD).with_context(|| file.display().to_string())?;
        }
        Ok(cluster)
    }

    /// Makes a cluster of the nodes and starts them; `said` hears each command before it is run.
    ///
    /// # Errors
    /// As [`Cluster::form`].
    pub fn gather(&mut self, said: &mut impl FnMut(&str)) -> Result<()> {
        self.begin(said)?;
        self.admit_all(said)
    }

    fn begin(&mut self, said: &mut impl FnMut(&str)) -> Result<()> {
        said("lb1: hamesh init");
        self.command(0, &["init"])?;
        self.start(0, &[])?;
        self.wait(0, "a cluster of one", Duration::from_secs(15), |status| status.cluster.quorum)?;
        Ok(())
    }

    fn admit_all(&mut self, said: &mut impl FnMut(&str)) -> Result<()> {
        (1..self.nodes.len()).try_for_each(|number| self.admit(number, said))?;
        self.whole()
    }

    /// Lets a node join by the first one's invitation, and starts it.
    ///
    /// # Errors
    /// As [`Cluster::form`].
    pub fn admit(&mut self, number: usize, said: &mut impl FnMut(&str)) -> Result<()> {
        let role = if number == WITNESS { "witness" } else { "director" };
        let name = self.nodes[number].host.name().to_owned();
        said(&format!("lb1: hamesh token --role {role}    {name}: hamesh join ..."));
        let printed = self.command(0, &["token", "--role", role])?;
        let invitation = printed.lines().rev().find(|line| !line.trim().is_empty());
        let invitation = invitation.context("hamesh token printed nothing")?.trim().to_owned();
        self.command(number, &["join", &invitation])?;
        self.start(number, &[])?;
        self.wait(number, "the mesh from the new node", Duration::from_secs(15), |status| status.cluster.quorum)?;
        Ok(())
    }

    /// Waits until every node sees every other, and a leader.
    ///
    /// # Errors
    /// It does not come about.
    pub fn whole(&self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|number| self.wait_whole(number, Duration::from_secs(30)))
    }

    /// Runs a command of the CLI on a node's host, with the node's configuration.
    ///
    /// # Errors
    /// It failed or took too long, with what it said.
    pub fn command(&self, node: usize, words: &[&str]) -> Result<String> {
        let node = &self.nodes[node];
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.extend(["--config".into(), node.config().into_os_string()]);
        node.host.output(&self.program, &args, COMMAND)
    }

    /// Starts a node's daemon.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, node: usize, environment: &[(&str, String)]) -> Result<()> {
        let command = if self.guards && node != WITNESS { "guard" } else { "run" };
        let node = &mut self.nodes[node];
        let args: [OsString; 3] = [command.into(), "--config".into(), node.config().into_os_string()];
        node.process = Some(node.host.start("hamesh", &self.program, &args, environment)?);
        Ok(())
    }

    /// The daemon of a node.
    ///
    /// # Errors
    /// It was not started.
    pub fn process(&mut self, node: usize) -> Result<&mut Process> {
        let node = &mut self.nodes[node];
        node.process.as_mut().with_context(|| format!("hamesh does not run on {}", node.host.name()))
    }

    /// The same, to look at.
    ///
    /// # Errors
    /// It was not started.
    pub fn running(&self, node: usize) -> Result<&Process> {
        let node = &self.nodes[node];
        node.process.as_ref().with_context(|| format!("hamesh does not run on {}", node.host.name()))
    }

    /// The planned way: SIGTERM, and its end awaited.
    ///
    /// # Errors
    /// It does not end, or not with exit code 0.
    pub fn stop(&mut self, node: usize) -> Result<()> {
        let process = self.process(node)?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(Duration::from_secs(15))?;
        self.nodes[node].process = None;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("hamesh on {} ended with {status} after SIGTERM", self.name(node)),
            None => bail!("hamesh on {} did not end within 15 s of SIGTERM", self.name(node)),
        }
    }

    /// SIGUSR2, a restart in place, and the next start awaited. Returns how long that took.
    ///
    /// # Errors
    /// It does not come back, or as another process.
    pub fn restart(&mut self, node: usize) -> Result<Duration> {
        let name = self.name(node).to_owned();
        let starts = move |status: &Status| status.nodes.iter().find(|n| n.name == name).map(|n| n.incarnation);
        let before = starts(&self.status(node)?).context("the node is no member")?;
        let begun = Instant::now();
        self.process(node)?.signal(Signal::SIGUSR2)?;
        self.wait(node, "the next start", Duration::from_secs(15), |status| starts(status) > Some(before))?;
        Ok(begun.elapsed())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.process(node)?.kill()?;
        self.nodes[node].process = None;
        Ok(())
    }

    /// SIGSTOP, seen to have stopped it.
    ///
    /// # Errors
    /// It was not running, or does not stop.
    pub fn freeze(&mut self, node: usize) -> Result<()> {
        let process = self.process(node)?;
        process.signal(Signal::SIGSTOP)?;
        // It is said to be stopped when the last of its threads has noticed: on a busy machine that takes its time.
        for _ in 0..1000 {
            if process.state() == Some('T') {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("node {node} is not stopped a second after SIGSTOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It was not running.
    pub fn thaw(&mut self, node: usize) -> Result<()> {
        self.process(node)?.signal(Signal::SIGCONT)
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, node: usize) -> &str {
        self.nodes[node].host.name()
    }

    /// The number of the node with this name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.host.name() == name)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Whether a node's daemon was started and has not ended.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        let state = self.nodes[node].process.as_ref().and_then(Process::state);
        state.is_some_and(|state| state != 'Z')
    }

    /// A node's `cluster.toml`.
    #[must_use]
    pub fn cluster_file(&self, node: usize) -> PathBuf {
        self.nodes[node].host.dir().join("cluster.toml")
    }

    /// Where a node's disk is.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes[node].host.dir().join("data")
    }

    /// What a node's daemons have said.
    #[must_use]
    pub fn log(&self, node: usize) -> PathBuf {
        self.nodes[node].host.dir().join("hamesh.log")
    }

    /// A node's admin socket.
    #[must_use]
    pub fn socket(&self, node: usize) -> PathBuf {
        self.nodes[node].socket()
    }

    /// How to ask a node for its status, from anywhere: its admin socket is a file.
    #[must_use]
    pub fn asker(&self, node: usize) -> Asker {
        Asker { program: self.program.clone(), socket: self.nodes[node].socket(), name: self.name(node).to_owned() }
    }

    /// A node's status.
    ///
    /// # Errors
    /// No answer, or not one that can be read.
    pub fn status(&self, node: usize) -> Result<Status> {
        self.asker(node).status()
    }

    /// The Raft leader, by the word of any running node that sees one.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let running = (0..self.size()).filter(|node| self.runs(*node));
        running.filter_map(|node| self.status(node).ok()).find_map(|status| self.number(&status.cluster.leader?))
    }

    /// Waits for a status to become as wished.
    ///
    /// # Errors
    /// It does not within `timeout`; with the last status seen, or why there was none.
    pub fn wait(&self, node: usize, what: &str, timeout: Duration, wished: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.status(node);
            match status {
                Ok(status) if wished(&status) => return Ok(status),
                Ok(_) | Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                Ok(mut status) => {
                    // Of a thousand groups the first say enough.
                    status.vips.truncate(SHOWN);
                    bail!("waited {timeout:?} on {} for {what}; last: {status:?}", self.name(node));
                }
                Err(error) => {
                    return Err(error.context(format!("waited {timeout:?} on {} for {what}", self.name(node))));
                }
            }
        }
    }

    /// Waits until a node hears all others, sees a leader and as many voters as it should have.
    ///
    /// # Errors
    /// As [`Cluster::wait`].
    pub fn wait_whole(&self, node: usize, timeout: Duration) -> Result<()> {
        let size = self.size();
        // The largest odd number of nodes votes.
        let voters = size - 1 + size % 2;
        self.wait(node, "the whole mesh", timeout, |status| {
            status.cluster.quorum
                && status.cluster.leader.is_some()
                && status.nodes.len() == size
                && status.nodes.iter().all(|node| node.reachable)
                && status.nodes.iter().filter(|node| node.voter).count() == voters
        })?;
        Ok(())
    }
}

impl Node {
    fn config(&self) -> PathBuf {
        self.host.dir().join("hamesh.toml")
    }

    fn socket(&self) -> PathBuf {
        self.host.dir().join("hamesh.sock")
    }
}

fn node_toml(node: &Node, guards: bool, listen: &str, number: usize) -> String {
    let dir = node.host.dir().display();
    let role = if number == WITNESS { "witness" } else { "director" };
    let serves = match (role, guards) {
        ("director", true) => format!("guard = true\nkeepalived_config = \"{dir}/keepalived.conf\"\n"),
        (_, true) => String::new(),
        (_, false) => format!("cluster = \"{dir}/cluster.toml\"\n"),
    };
    format!(
        "[node]
name = \"{name}\"
rack = \"r{rack}\"
role = \"{role}\"
listen = \"{listen}\"
data_dir = \"{dir}/data\"
{serves}
[admin]
socket = \"{socket}\"
metrics = \"127.0.0.1:9746\"
",
        name = node.host.name(),
        rack = number + 1,
        socket = node.socket().display(),
    )
}

/// Asks one node for its status.
#[derive(Clone, Debug)]
pub struct Asker {
    program: PathBuf,
    socket: PathBuf,
    name: String,
}

impl Asker {
    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `hamesh status --json`. Exit code 4, no quorum, comes with a status too.
    ///
    /// # Errors
    /// No answer within 2 s, or not one that can be read.
    pub fn status(&self) -> Result<Status> {
        let args: [OsString; 4] = ["status".into(), "--json".into(), "--socket".into(), (&self.socket).into()];
        let (exit, out, err) = local_output(&self.program, &args, Duration::from_secs(2))?;
        serde_json::from_str(&out).with_context(|| format!("status of {}: {exit}: {} {out}", self.name, err.trim()))
    }
}
