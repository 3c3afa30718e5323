//! The health mesh of three real directors and four real servers: what fails, whose fault it is, and what follows.
//!
//! This kernel may have no IPVS: what is judged is what each director would serve, and who answers for the VIP on the
//! wire. Balancing itself is judged in the virtual machine (`tests/run vm`).

mod checks;
mod metrics;
mod policy;

use anyhow::{Context, Result, ensure};
use hamesh::health::{Observed, ServiceStatus};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::frame::Kind;
use hamesh::lab::host::Host;
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::{PRIORITIES, Scene, tell};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Leaves IPVS alone.
const NO_IPVS: &str = "HAMESH_UNSAFE_NO_IPVS";
const PATIENCE: Duration = Duration::from_secs(20);
/// `interval` x `fall` + 1 s.
const OUT: Duration = Duration::from_secs(2);
const DIRECTORS: usize = 3;
const PORTS: [u16; 4] = [8001, 8002, 8003, 8004];
const SERVICE: &str = r#"
[service.web]
vip = "web"
listen = "10.77.0.100:80"
forwarding = "nat"
min_up = 1
server = [ { address = "10.77.0.15:8001" }, { address = "10.77.0.15:8002" },
           { address = "10.77.0.15:8003" }, { address = "10.77.0.15:8004" } ]
check = { tcp = {}, interval = "500ms", timeout = "400ms", fall = 2, rise = 1 }

[notify]
fifo = [{ path = "told", about = "services" }]
"#;

fn main() -> ExitCode {
    tell("health", "checks of real servers; a server, a path and a whole pool that fail", story)
}

/// The servers' machine. A listening socket that nobody reads accepts a check's connections all the same.
struct Pool {
    host: Host,
    servers: BTreeMap<u16, TcpListener>,
}

impl Pool {
    fn serve(&mut self, ports: &[u16]) -> Result<()> {
        let bind = |port: &u16| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            let address: SocketAddr = ([10, 77, 0, 15], *port).into();
            socket.bind(&address.into()).with_context(|| format!("port {port}"))?;
            // Nobody takes connections out of the queue, and the story is long.
            socket.listen(4096)?;
            Ok((*port, socket.into()))
        };
        self.servers.extend(self.host.netns().run(|| ports.iter().map(bind).collect::<Result<Vec<_>>>())?);
        Ok(())
    }

    /// A server takes no connections any more.
    fn fail(&mut self, port: u16) {
        self.servers.remove(&port);
    }
}

/// What a director has written into its FIFO since the last look.
fn told(cluster: &Cluster, node: usize) -> Result<String> {
    let path = cluster.cluster_file(node).with_file_name("told");
    let mut fifo = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while let Ok(length @ 1..) = fifo.read(&mut buffer) {
        text += &String::from_utf8_lossy(&buffer[..length]);
    }
    Ok(text)
}

fn service(cluster: &Cluster, node: usize) -> Result<ServiceStatus> {
    show(cluster, node, "web")
}

fn show(cluster: &Cluster, node: usize, name: &str) -> Result<ServiceStatus> {
    let shown = cluster.command(node, &["service", "show", name, "--json"])?;
    serde_json::from_str(&shown).with_context(|| format!("what {} shows: {shown}", cluster.name(node)))
}

/// How long it takes until a director sees so many servers up, and as many as it should down.
fn until(cluster: &Cluster, node: usize, up: usize, patience: Duration) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let service = service(cluster, node)?;
        let state = |state: &str| service.servers.iter().filter(|server| server.state == state).count();
        if state("up") == up && state("down") == PORTS.len() - up {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < patience, "{} after {patience:?}, {up} up wanted: {service:?}", cluster.name(node));
        sleep(Duration::from_millis(20));
    }
}

/// A director shows what each of them sees of the first server, which is down, and why.
fn everybody_knows_why(cluster: &Cluster, node: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let server = service(cluster, node)?.servers.swap_remove(0);
        let refused = |seen: &&Observed| seen.seen == "down" && seen.why.as_deref() == Some("connection refused");
        let says = server.observations.iter().filter(refused).count();
        if says == DIRECTORS && server.verdict == "this director sees so itself" && server.balanced.is_none() {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{} does not know why it is down: {server:?}", cluster.name(node));
        sleep(Duration::from_millis(20));
    }
}

/// While the first server is down: it is asked another way, the second weighs more, the last is none any more; and back.
fn takes_other_services(cluster: &Cluster, text: &str) -> Result<()> {
    let last = ", { address = \"10.77.0.15:8004\" }";
    let text = text.replace("\n           {", " {");
    let other = text.replace("\"500ms\"", "\"600ms\"").replace("8002\" }", "8002\", weight = 7 }").replace(last, "");
    let other = other.replace("path = \"told\"", "path = \"elsewhere\"");
    for (words, servers, weight) in [(&other, 3, 7), (&text, 4, 1)] {
        for node in 0..DIRECTORS {
            std::fs::write(cluster.cluster_file(node), words)?;
            let before: Vec<String> = service(cluster, node)?.servers.into_iter().map(|server| server.state).collect();
            println!("{}", cluster.command(node, &["reload"])?.trim());
            let shown = service(cluster, node)?;
            let states: Vec<&str> = shown.servers.iter().map(|server| server.state.as_str()).collect();
            ensure!(states.len() == servers && shown.servers[1].weight == weight, "{shown:?}");
            ensure!(states[0] == "down", "before {before:?}, after a reload {states:?}");
        }
    }
    for node in 0..DIRECTORS {
        until(cluster, node, 3, PATIENCE)?;
    }
    Ok(())
}

fn story(dir: &Path) -> Result<u32> {
    ensure!(std::env::var_os(NO_IPVS).is_some(), "set {NO_IPVS}=1, as `tests/run health` does");
    let checked = checks::against_real_servers(dir)?;
    let scene = Scene::set(dir, 1)?;
    let mut pool = Pool { host: scene.legacy.clone(), servers: BTreeMap::new() };
    pool.serve(&PORTS)?;
    let text = cluster_toml(Dialect::V3, &PRIORITIES) + SERVICE;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hamesh"));
    let mut cluster = Cluster::form(&scene, &program, &text, |command| println!("{command}"))?;
    let owner = scene.settled(Duration::from_secs(2), PATIENCE)?;
    ensure!(owner == "lb1", "{owner} has the VIP");
    for node in 0..DIRECTORS {
        until(&cluster, node, 4, PATIENCE)?;
    }
    println!("all directors see 4 servers up");

    // It says of every server that it is down, and it is the only one.
    let lie = scene.lan.cut(&[scene.directors[2].lan], &[scene.legacy_lan], Kind::Any);
    until(&cluster, 2, 0, PATIENCE)?;
    sleep(OUT);
    for node in 0..2 {
        until(&cluster, node, 4, Duration::ZERO)?;
    }
    ensure!(lie.harmed() > 0, "the cut took no frame");
    ensure!(scene.settled(Duration::from_millis(500), PATIENCE)? == "lb1", "one director's word has moved the VIP");
    drop(lie);
    until(&cluster, 2, 4, PATIENCE)?;
    println!("one director that says that all servers are down changes nothing");

    for (order, shown) in [("drain", Some("drained by order")), ("enable", None)] {
        cluster.command(1, &["service", order, "web", "10.77.0.15:8002"])?;
        let began = Instant::now();
        for node in 0..DIRECTORS {
            while service(&cluster, node)?.servers[1].order.as_deref() != shown {
                ensure!(began.elapsed() < PATIENCE, "{} does not know the order", cluster.name(node));
                sleep(Duration::from_millis(20));
            }
        }
    }
    println!("an order given at one director holds at all");

    pool.fail(PORTS[0]);
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    for node in 0..DIRECTORS {
        until(&cluster, node, 3, PATIENCE)?;
        slowest = slowest.max(began.elapsed());
    }
    ensure!(slowest <= OUT, "a server that failed was out everywhere after {slowest:?}, more than {OUT:?}");
    println!("a server that failed is out everywhere after {} ms", slowest.as_millis());
    let shown = service(&cluster, 0)?;
    let failed = shown.servers.iter().find(|server| server.state == "down").context("none is down")?;
    ensure!(failed.why.as_deref() == Some("connection refused"), "why: {:?}", failed.why);
    for node in 0..DIRECTORS {
        everybody_knows_why(&cluster, node)?;
    }
    for node in 0..2 {
        let told = told(&cluster, node)?;
        ensure!(told == "RS [10.77.0.15]:tcp:8001 [10.77.0.100]:tcp:80 DOWN\n", "{node} has told {told:?}");
    }
    println!("and told, once, in keepalived's words");
    takes_other_services(&cluster, &text)?;
    pool.serve(&PORTS[..1])?;
    for node in 0..DIRECTORS {
        until(&cluster, node, 4, PATIENCE)?;
    }
    ensure!(scene.settled(Duration::from_millis(500), PATIENCE)? == "lb1", "a reload of services has moved the VIP");
    for node in 0..2 {
        let told = told(&cluster, node)?;
        ensure!(told == "RS [10.77.0.15]:tcp:8001 [10.77.0.100]:tcp:80 UP\n", "{node} has told {told:?}");
        let elsewhere = cluster.cluster_file(node).with_file_name("elsewhere");
        ensure!(elsewhere.exists(), "a reload has made no other FIFO");
    }
    println!("other servers, weights and checks by a reload: what is known of a server is kept, and the VIP stays");

    let began = Instant::now();
    let cut = scene.lan.cut(&[scene.directors[0].lan], &[scene.legacy_lan], Kind::Any);
    while scene.observer.first_answer(began, |name| name == "lb2").is_none() {
        ensure!(began.elapsed() < PATIENCE, "the VIP stays with lb1, which alone cannot reach the servers");
        sleep(Duration::from_millis(10));
    }
    println!("the VIP left a director with a bad path after {} ms", began.elapsed().as_millis());
    ensure!(cut.harmed() > 0, "the cut took no frame");
    for (node, up) in [(0, 0), (1, 4), (2, 4)] {
        until(&cluster, node, up, PATIENCE)?;
    }
    println!("its own pool is empty, that of the others whole");
    drop(cut);
    let back = Instant::now();
    while scene.settled(Duration::from_millis(500), PATIENCE)? != "lb1" {
        ensure!(back.elapsed() < PATIENCE, "the VIP does not go back to lb1, whose path is whole again");
    }
    let two = scene.observer.two_owners(began, Instant::now(), |_| true);
    ensure!(two.is_zero(), "two owners for {two:?}");

    PORTS.iter().for_each(|port| pool.fail(*port));
    for node in 0..DIRECTORS {
        until(&cluster, node, 0, PATIENCE)?;
        // What is balanced follows what is seen within a tenth of a second.
        let began = Instant::now();
        loop {
            let shown = service(&cluster, node)?;
            ensure!(shown.quorum, "below min_up there is a quorum: {shown:?}");
            if shown.servers.iter().all(|server| server.balanced == Some(1)) {
                break;
            }
            ensure!(began.elapsed() < OUT, "below min_up all are served, and not {shown:?}");
            sleep(Duration::from_millis(20));
        }
    }
    ensure!(scene.settled(Duration::from_secs(2), PATIENCE)? == "lb1", "the VIP has moved though all see the same");
    println!("a pool that fails as a whole moves no VIP, and is served all the same");
    pool.serve(&PORTS)?;
    let seen = policy::story(&mut cluster, &scene.directors[0].host, &mut pool, &text)?;
    Ok(checked + 9 + seen)
}
