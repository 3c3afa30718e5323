//! BFD with keepalived's and FRR's: a router that a director does not hear moves the VIP away from it, and takes its server out there.

use super::{PATIENCE, STEADY, moves_to, status};
use anyhow::{Context, Result, ensure};
use hamesh::health::ServiceStatus;
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::frame::Kind;
use hamesh::lab::host::{Host, Process};
use hamesh::lab::legacy::{Dialect, keepalived};
use hamesh::lab::scene::{PRIORITIES, Scene, routers};
use hamesh::lab::{LAN_NIC, PREFIX6};
use nix::unistd::User;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How the link-local addresses begin that come of the laboratory's MACs.
const LOCAL: &str = "fe80::aff:fe4d:";
const BFDD: &str = "/usr/lib/frr/bfdd";
/// `multiplier` x the interval, and a second for a busy machine.
const NOTICED: Duration = Duration::from_millis(1500);

pub fn story(dir: &Path, program: &Path) -> Result<u32> {
    let scene = Scene::set(dir, 2)?;
    let six = routers(true);
    for (director, own) in scene.directors.iter().zip(six.1) {
        director.host.address(LAN_NIC, own, PREFIX6)?;
    }
    scene.legacy.address(LAN_NIC, six.0, PREFIX6)?;
    let router = keepalived().context("keepalived is not installed")?;
    let mut router = start_keepalived(&scene.legacy, &router)?;
    let (there, directors) = routers(false);
    let sources: Vec<String> = (1..).zip(directors).map(|(number, own)| format!("lb{number} = \"{own}\"")).collect();
    let common = "min_tx = \"100ms\"\nmin_rx = \"100ms\"\nmultiplier = 5\n";
    let text = cluster_toml(Dialect::V3, &PRIORITIES)
        + &format!(
            "track = [{{ bfd = \"router\" }}]
[bfd.router]
neighbour = \"{there}\"
source = {{ {} }}
{common}
[bfd.six]
neighbour = \"{}\"
ttl = 64
{common}
[bfd.lb1]
neighbour = \"{LOCAL}b%{LAN_NIC}\"
{common}
[bfd.lb2]
neighbour = \"{LOCAL}c%{LAN_NIC}\"
{common}
[bfd.far]
neighbour = \"{there}\"
multihop = true
{common}
[service.web]
vip = \"web\"
listen = \"10.77.0.100:80\"
forwarding = \"nat\"
server = [{{ address = \"{there}:80\" }}]
check = {{ bfd = \"router\" }}
",
            sources.join(", "),
            six.0
        );
    let cluster = Cluster::form(&scene, program, &text, |command| println!("{command}"))?;
    let began = Instant::now();
    moves_to(&scene, "lb1")?;
    for node in 0..directors.len() {
        until(&cluster, node, "router", true, PATIENCE)?;
        until(&cluster, node, "six", true, PATIENCE)?;
        until(&cluster, node, "far", false, PATIENCE)?;
        served(&cluster, node, "up")?;
    }
    let log = fs::read_to_string(scene.legacy.dir().join("keepalived.log"))?;
    for session in ["lb1", "lb2", "lb3", "lb1-6"] {
        ensure!(log.contains(&format!("({session}) Entering Up state")), "keepalived's {session} is not up: {log}");
    }
    println!("keepalived's sessions are up, over IPv4 and IPv6");
    // keepalived has no link-local neighbours, and FRR none without zebra.
    until(&cluster, 0, "lb2", true, PATIENCE)?;
    until(&cluster, 1, "lb1", true, PATIENCE)?;
    until(&cluster, 2, "lb1", false, PATIENCE)?;

    let cut_at = Instant::now();
    let cut = scene.lan.cut(&[scene.directors[0].lan], &[scene.legacy_lan], Kind::Any);
    until(&cluster, 0, "router", false, NOTICED)?;
    moves_to(&scene, "lb2")?;
    let after = cut_at.elapsed().saturating_sub(STEADY);
    println!("a cut to the router moved the VIP after {} ms", after.as_millis());
    ensure!(cut.harmed() > 0, "the cut took no frame");
    let (said, state) = status(&cluster)?;
    ensure!(state == "FAULT", "lb1 is in {state}");
    ensure!(
        said.contains("bfd router is down (control detection time expired): FAULT here"),
        "status says why: {said}"
    );
    served(&cluster, 0, "down")?;
    served(&cluster, 1, "up")?;
    drop(cut);
    println!("and back after {} ms", moves_to(&scene, "lb1")?.as_millis());

    router.kill()?;
    let killed = Instant::now();
    for node in 0..directors.len() {
        until(&cluster, node, "router", false, NOTICED)?;
        served(&cluster, node, "down")?;
    }
    while !scene.observer.owners().is_empty() {
        ensure!(killed.elapsed() < PATIENCE, "{:?} has the VIP without the router", scene.observer.owners());
        sleep(Duration::from_millis(20));
    }
    println!("a keepalived that is killed is down everywhere");

    let _frr = start_frr(&scene.legacy, directors)?;
    for node in 0..directors.len() {
        until(&cluster, node, "router", true, PATIENCE)?;
        until(&cluster, node, "far", true, PATIENCE)?;
    }
    moves_to(&scene, "lb1")?;
    println!("FRR in its place is up, over one hop and several, and the VIP back");
    let two = scene.observer.two_owners(began, Instant::now(), |_| true);
    ensure!(two.is_zero(), "two owners for {two:?}");
    Ok(4)
}

/// Waits until a director counts the session as up, or down.
fn until(cluster: &Cluster, node: usize, session: &str, up: bool, patience: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let status = cluster.command(node, &["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let sessions = status["bfd"].as_array().context("no sessions in the status")?;
        let session = sessions.iter().find(|one| one["name"] == session).context("no such session")?;
        if session["up"] == up {
            return Ok(());
        }
        ensure!(began.elapsed() < patience, "{} after {patience:?}: {session}", cluster.name(node));
        sleep(Duration::from_millis(20));
    }
}

/// Waits until the session's server is in this state there.
fn served(cluster: &Cluster, node: usize, state: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let shown = cluster.command(node, &["service", "show", "web", "--json"])?;
        let service: ServiceStatus = serde_json::from_str(&shown)?;
        if service.servers[0].state == state {
            return Ok(());
        }
        ensure!(began.elapsed() < NOTICED, "{} has no server that is {state}: {service:?}", cluster.name(node));
        sleep(Duration::from_millis(20));
    }
}

fn start_keepalived(host: &Host, program: &Path) -> Result<Process> {
    let session = |name: &str, neighbour, source| {
        format!("bfd_instance {name} {{\n neighbor_ip {neighbour}\n source_ip {source}\n min_rx 100\n min_tx 100\n}}\n")
    };
    let (mut text, file) = (String::new(), host.dir().join("keepalived.conf"));
    for (six, suffix) in [(false, ""), (true, "-6")] {
        let (own, directors) = routers(six);
        text.extend((1..).zip(directors).map(|(number, peer)| session(&format!("lb{number}{suffix}"), peer, own)));
    }
    fs::write(&file, text)?;
    let run = |name: &str| host.dir().join("run").join(name).into_os_string();
    let mut args: Vec<OsString> = ["-n", "-l", "-D", "-f"].map(OsString::from).into();
    args.push(file.into_os_string());
    for (option, name) in [("-p", "keepalived.pid"), ("-r", "vrrp.pid"), ("-c", "checkers.pid"), ("-b", "bfd.pid")] {
        args.extend([option.into(), run(name)]);
    }
    host.start("keepalived", program, &args, &[])
}

fn start_frr(host: &Host, directors: [std::net::IpAddr; 3]) -> Result<Process> {
    let user = User::from_name("frr")?.context("FRR is not installed: there is no user frr")?;
    let run: PathBuf = host.dir().join("run/frr");
    fs::create_dir_all(&run)?;
    let own = routers(false).0;
    let mut text = "bfd\n".to_owned();
    for peer in directors {
        for hops in ["", " multihop"] {
            text += &format!(" peer {peer}{hops} local-address {own}\n  no shutdown\n exit\n");
        }
    }
    let file = run.join("bfdd.conf");
    fs::write(&file, text + "exit\n")?;
    for path in [&run, &file] {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    let args = "-f /run/frr/bfdd.conf -i /run/frr/bfdd.pid -z /run/frr/zserv.api --vty_socket /run/frr --bfdctl /run/frr/bfdd.sock --log stdout";
    let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
    host.start("bfdd", Path::new(BFDD), &args, &[])
}
