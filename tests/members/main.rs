//! Who gets in, and what losing the first node stops: nothing. Through the command line, as people would.
//!
//! Every wrong join has its own message and changes nothing; a voter that is not the founder lets new nodes in after the
//! founder is gone for good; a node whose log was lost does not come back under its old name; one that was away finds a leader
//! that came meanwhile; and certificates that are about to end are renewed.

use anyhow::{Context, Result, bail, ensure};
use hamesh::lab::cluster::{Cluster, GROUP, MESH_PORT, WITNESS, cluster_toml};
use hamesh::lab::frame::Kind;
use hamesh::lab::host::Host;
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::{PRIORITIES, Scene, tell};
use hamesh::lab::{MESH_NIC, PREFIX};
use hamesh::net::authority::{LIFETIME, ends_at};
use hamesh::net::hello::wall_now;
use hamesh::net::identity::Identity;
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
/// What is left of a certificate that is about to end.
const SOON: Duration = Duration::from_secs(15);
const NEWCOMER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 15);

fn main() -> ExitCode {
    tell("members", "wrong joins, certificates, a lost founder, a lost log and a long sleep", |dir| {
        Ok(sleep_through(dir)? + story(dir)?)
    })
}

/// A machine that is no member yet.
struct Newcomer {
    host: Host,
    program: PathBuf,
}

impl Newcomer {
    fn is(&self, name: &str, port: u16) -> Result<()> {
        let dir = self.host.dir();
        let text = format!(
            "[node]\nname = \"{name}\"\nrack = \"r4\"\nrole = \"director\"\nlisten = \"{NEWCOMER}:{port}\"\n\
             data_dir = \"{0}/{name}\"\ncluster = \"{0}/cluster.toml\"\n[admin]\nsocket = \"{0}/hamesh.sock\"\n",
            dir.display()
        );
        fs::write(self.file(), text).context("hamesh.toml")
    }

    fn file(&self) -> PathBuf {
        self.host.dir().join("hamesh.toml")
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.extend(["--config".into(), self.file().into_os_string()]);
        self.host.output(&self.program, &args, PATIENCE)
    }

    /// A join under this name that must fail with these words, and leave no identity.
    fn is_refused(&self, name: &str, join: &str, words: &str) -> Result<()> {
        self.is(name, MESH_PORT + 2)?;
        let Err(error) = self.run(&["join", join]) else { bail!("joined, where it should have said: {words}") };
        let said = format!("{error:#}");
        ensure!(said.contains(words), "said `{said}`, without `{words}`");
        ensure!(!self.host.dir().join(name).join("node.toml").exists(), "a refused node has an identity");
        println!("refused as it should be: {words}");
        Ok(())
    }
}

fn token(cluster: &Cluster, node: usize, words: &[&str]) -> Result<String> {
    let printed = cluster.command(node, &[&["token"], words].concat())?;
    Ok(printed.trim().lines().last().context("hamesh token printed nothing")?.to_owned())
}

/// Its state knows two members, and the one that leads is neither of them.
fn sleep_through(dir: &Path) -> Result<u32> {
    let dir = dir.join("sleep");
    fs::create_dir(&dir).context("a directory")?;
    let scene = Scene::set(&dir, 1)?;
    let program = Path::new(env!("CARGO_BIN_EXE_hamesh"));
    let mut said = |command: &str| println!("{command}");
    let mut cluster = Cluster::found(&scene, program, &cluster_toml(Dialect::V3, &PRIORITIES), &mut said)?;
    cluster.admit(1, &mut said)?;
    cluster.kill(1)?;
    cluster.admit(2, &mut said)?;
    cluster.admit(WITNESS, &mut said)?;
    cluster.wait(0, "a leader that lb2 has not heard of", PATIENCE, |status| {
        status.cluster.leader.as_deref().is_some_and(|leader| ["lb3", "witness"].contains(&leader))
    })?;
    cluster.start(1, &[])?;
    cluster.whole().context("with lb2 back, which does not know the leader")?;
    println!("lb2 was away while the leader joined, and is back");
    Ok(1)
}

fn story(dir: &Path) -> Result<u32> {
    let scene = Scene::set(dir, 1)?;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hamesh"));
    let text = cluster_toml(Dialect::V3, &PRIORITIES);
    let mut cluster = Cluster::form(&scene, &program, &text, |command| println!("{command}"))?;
    let port = scene.mesh.attach(&scene.legacy, MESH_NIC, [2, 0, 10, 78, 0, 15])?;
    scene.legacy.address(MESH_NIC, NEWCOMER, PREFIX)?;
    let newcomer = Newcomer { host: scene.legacy.clone(), program: program.clone() };
    let members = cluster.status(0)?.nodes.len();

    let expired = token(&cluster, 0, &["--ttl", "1s"])?;
    sleep(Duration::from_millis(1500));
    newcomer.is_refused("lb4", &expired, "expired")?;
    newcomer.is_refused("lb4", &token(&cluster, 0, &["--role", "witness"])?, "witness")?;
    let good = token(&cluster, 1, &[])?;
    newcomer.is_refused("lb4", &good[..good.len() - 3], "cut off")?;
    newcomer.is_refused("lb2", &good, "lb2")?;
    let cut = scene.mesh.cut(&[port], &scene.mesh_ports(), Kind::Any);
    newcomer.is_refused("lb4", &good, "cannot reach")?;
    drop(cut);
    ensure!(cluster.status(0)?.nodes.len() == members, "a refused join left a member");

    // The key of the CA is on every voter by now, so the founder is not needed.
    for node in 0..cluster.size() {
        let status = cluster.status(node)?;
        let voter = status.nodes.iter().any(|one| one.name == cluster.name(node) && one.voter);
        let key = cluster.cluster_file(node).with_file_name("data").join("ca.key");
        ensure!(key.exists() == voter, "{}: voter {voter}, CA key {}", cluster.name(node), key.exists());
    }
    certificates(&mut cluster)?;
    stand(&cluster, |names| names.len() == PRIORITIES.len())?;
    cluster.kill(0)?;
    cluster.wait(1, "a leader without the founder", PATIENCE, |status| {
        status.cluster.quorum && status.cluster.leader.as_deref() != Some("lb1")
    })?;
    let join = token(&cluster, 1, &[])?;
    newcomer.is("lb4", MESH_PORT)?;
    println!("{}", newcomer.run(&["join", &join])?.trim());
    let args: [OsString; 3] = ["run".into(), "--config".into(), newcomer.file().into_os_string()];
    let _daemon = newcomer.host.start("hamesh", &newcomer.program, &args, &[])?;
    cluster.wait(1, "the newcomer, reachable", PATIENCE, |status| {
        status.nodes.iter().any(|node| node.name == "lb4" && node.reachable)
    })?;
    newcomer.is_refused("lb5", &join, "already used by lb4")?;
    orders(&cluster, &scene)?;
    scene.settled(Duration::from_millis(500), PATIENCE)?;

    fs::remove_file(cluster.cluster_file(0).with_file_name("data").join("raft.redb")).context("losing lb1's log")?;
    let Err(error) = cluster.command(0, &["run"]) else { bail!("lb1 runs on without its log") };
    ensure!(format!("{error:#}").contains("join"), "a node without its log said: {error:#}");
    println!("a node without its log is told to join anew");
    // Nobody is removed who was heard a moment ago.
    cluster.wait(1, "lb1 not reachable", PATIENCE, |status| {
        status.nodes.iter().any(|node| node.name == "lb1" && !node.reachable)
    })?;
    // The founder is gone for good: its name, its address and its vote are free.
    println!("{}", cluster.command(1, &["node", "remove", "lb1"])?.trim());
    let status = cluster.wait(1, "three voters without the founder", PATIENCE, |status| {
        status.nodes.iter().all(|node| node.name != "lb1") && status.nodes.iter().filter(|node| node.voter).count() == 3
    })?;
    ensure!(status.cluster.quorum, "no quorum after the founder was removed");

    // What it was told: its data directory away, and a join.
    fs::rename(cluster.data_dir(0), cluster.data_dir(0).with_extension("damaged")).context("its data away")?;
    let join = token(&cluster, 1, &[])?;
    println!("{}", cluster.command(0, &["join", &join])?.trim());
    cluster.start(0, &[])?;
    cluster.wait(1, "lb1, joined anew", PATIENCE, |status| {
        status.nodes.iter().any(|node| node.name == "lb1" && node.reachable)
    })?;
    stand(&cluster, |names| names.iter().any(|name| name == "lb1"))?;
    println!("a node that has lost its log joins anew, and stands for the VIP");
    Ok(19)
}

/// Waits until those who stand for the VIP, as lb2 sees it, are as they should be.
fn stand(cluster: &Cluster, are: impl Fn(&[String]) -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_str(&cluster.command(1, &["status", "--json"])?)?;
        let candidates = status["vips"][0]["candidates"].as_array().context("candidates")?;
        let names: Vec<String> = candidates.iter().filter_map(|one| one["node"].as_str()).map(str::to_owned).collect();
        if are(&names) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{names:?} stand for the VIP");
        sleep(Duration::from_millis(50));
    }
}

/// Certificates that end soon, or have ended: of a voter, which has the CA's key, and of a node that has not.
fn certificates(cluster: &mut Cluster) -> Result<()> {
    let status = cluster.status(0)?;
    let votes = |node: usize| status.nodes.iter().any(|one| one.name == cluster.name(node) && one.voter);
    let voter = (1..cluster.size()).find(|node| votes(*node)).context("a voter beside lb1")?;
    let learner = (1..cluster.size()).find(|node| !votes(*node)).context("a node that does not vote")?;
    let soon = wall_now() + SOON;
    for node in [voter, learner] {
        give_certificate(cluster, voter, node, soon)?;
        let deadline = wall_now() + PATIENCE;
        while ends_at(&Identity::load(&cluster.data_dir(node))?.certificate.get())? < soon + LIFETIME / 2 {
            ensure!(wall_now() < deadline, "{} does not renew its certificate", cluster.name(node));
            sleep(Duration::from_millis(200));
        }
    }
    sleep(soon.saturating_sub(wall_now()) + Duration::from_secs(1));
    // Everybody shakes hands with it again.
    cluster.stop(0)?;
    cluster.start(0, &[])?;
    cluster.whole().context("after the end of the certificates that were renewed")?;
    println!("certificates that ended soon were renewed while they were in use");

    give_certificate(cluster, voter, voter, wall_now() - SOON)?;
    cluster.whole().context("with a voter that was off until its certificate had ended")?;
    println!("a voter whose certificate had ended has signed itself another");

    give_certificate(cluster, voter, learner, wall_now() - SOON)?;
    cluster.wait(learner, "the warning", PATIENCE, |status| {
        let warned = |warning: &String| warning.contains("certificate ended") && warning.contains("join");
        status.warnings.iter().any(warned) && status.nodes.iter().filter(|node| node.reachable).count() <= 1
    })?;
    println!("a node whose certificate has ended is refused, and told what to do");
    give_certificate(cluster, voter, learner, wall_now() + LIFETIME)?;
    cluster.whole()
}

/// Restarts a node with another certificate for its key, signed by the CA's key on the disk of `voter`.
fn give_certificate(cluster: &mut Cluster, voter: usize, node: usize, ends: Duration) -> Result<()> {
    let authority = Identity::load(&cluster.data_dir(voter))?.authority.context("a voter has the CA's key")?;
    cluster.stop(node)?;
    let identity = Identity::load(&cluster.data_dir(node))?;
    let certificate = authority.sign_own(&identity.key, identity.record.id, ends - LIFETIME)?;
    identity.renew(&cluster.data_dir(node), certificate)?;
    cluster.start(node, &[])
}

/// What is ordered is done, or refused in words and with an exit code of its own.
fn orders(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let refused = |words: &[&str], code: &str, said: &str| -> Result<()> {
        let Err(error) = cluster.command(1, words) else { bail!("{words:?} was done") };
        let error = format!("{error:#}");
        ensure!(error.contains(code) && error.contains(said), "{words:?}: `{error}`, without `{code}` or `{said}`");
        println!("refused as it should be: {said}");
        Ok(())
    };
    refused(&["vip", "move", GROUP, "--to", "lb9"], "status: 6", "there is no node `lb9`")?;
    refused(&["vip", "move", "mail", "--to", "lb3"], "status: 6", "there is no VIP group `mail`")?;
    refused(&["vip", "move", GROUP, "--to", "witness"], "status: 7", "witness is no candidate")?;
    refused(&["node", "remove", "lb2"], "status: 7", "lb2 is running")?;
    println!("{}", cluster.command(1, &["node", "drain", "lb2"])?.trim());
    refused(&["vip", "move", GROUP, "--to", "lb2"], "status: 7", "lb2 is drained")?;
    let owner = scene.settled(Duration::from_millis(500), PATIENCE)?;
    ensure!(owner != "lb2", "lb2 is drained and answers");
    println!("{}", cluster.command(3, &["node", "undrain", "lb2"])?.trim());
    Ok(())
}
