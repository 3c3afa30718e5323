//! A whole cluster that serves: two directors and a witness, the client's connections through whoever holds the lease.

use crate::stage::{NAMES, PATIENCE, SERVERS, Stage, VIP, sh};
use anyhow::{Context, Result, ensure};
use hamesh::ipvs::Scope;
use hamesh::kernel::ipvs::Ipvs;
use hamesh::lab::host::{Host, Process};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for an emulated machine.
const LEASE: Duration = Duration::from_secs(2);
const ADDRESSES: [[&str; 2]; 3] = [["10.5.0.1", "fd05::1"], ["10.5.0.2", "fd05::2"], ["10.5.0.3", "fd05::3"]];
const NODES: [&str; 3] = ["lb1", "lb2", "w1"];
const HAMESH: &str = env!("CARGO_BIN_EXE_hamesh");

struct Cluster {
    stage: Stage,
    hosts: [Host; 3],
    processes: [Option<Process>; 3],
    tables: [Ipvs; 2],
}

fn cluster_toml() -> String {
    let mut text = format!("[lease]\nttl = \"{}s\"\n", LEASE.as_secs());
    for (family, (name, vip)) in ["web", "web6"].into_iter().zip(VIP).enumerate() {
        let length = [24, 64][family];
        let end = |ip: &str| SocketAddr::new(ip.parse().expect("an address of this file"), 80);
        let servers: Vec<String> =
            SERVERS.iter().map(|server| format!("{{ address = \"{}\" }}", end(server[family]))).collect();
        text += &format!(
            "[vip.{name}]\ninterface = \"eth0\"\nvrid = {}\naddresses = [\"{vip}/{length}\"]\nnopreempt = true\n\
             priority = {{ lb1 = 200, lb2 = 150 }}\n\
             [service.{name}]\nvip = \"{name}\"\nlisten = \"{}\"\nscheduler = \"rr\"\nforwarding = \"direct\"\n\
             server = [{}]\n",
            51 + family,
            end(vip),
            servers.join(", ")
        );
    }
    text
}

impl Cluster {
    fn form() -> Result<Self> {
        let stage = Stage::set()?;
        stage.settle()?;
        stage.vips_on_the_servers("lo", "lo")?;
        let host = |name: &str| Host::new(name, Path::new("/tmp/stage"));
        let hosts = [stage.director.clone(), host(NODES[1])?, host(NODES[2])?];
        for (host, addresses) in hosts.iter().zip(ADDRESSES).skip(1) {
            stage.on_the_lan(host, addresses)?;
        }
        let open = |host: &Host| host.netns().run(|| Ok(Ipvs::open()?));
        let tables = [open(&hosts[0])?, open(&hosts[1])?];
        let mut cluster = Self { stage, hosts, processes: [None, None, None], tables };
        for (node, host) in cluster.hosts.iter().enumerate() {
            let (role, dir) = (if node == 2 { "witness" } else { "director" }, host.dir().display());
            let text = format!(
                "[node]\nname = \"{}\"\nrole = \"{role}\"\nlisten = \"{}:7112\"\ndata_dir = \"{dir}/data\"\n\
                 cluster = \"{dir}/cluster.toml\"\n[admin]\nsocket = \"{dir}/hamesh.sock\"\n",
                NODES[node], ADDRESSES[node][0]
            );
            fs::write(cluster.config(node), text)?;
        }
        fs::write(cluster.hosts[0].dir().join("cluster.toml"), cluster_toml())?;
        cluster.command(0, &["init", "--name", "edge"])?;
        cluster.start(0)?;
        cluster.until("a cluster of one", |c| Ok(c.status(0)?["cluster"]["quorum"] == true))?;
        for node in [1, 2] {
            let role = if node == 2 { "witness" } else { "director" };
            let printed = cluster.command(0, &["token", "--role", role])?;
            let invitation = printed.lines().rev().find(|line| line.starts_with("hm1.")).context("no join string")?;
            // On a machine this slow a connection may be lost; the same command goes on where it ended.
            cluster.until("a node that joins", |c| c.command(node, &["join", invitation]).map(|_| true))?;
            cluster.start(node)?;
            cluster.until("the mesh from a new node", |c| Ok(c.status(node)?["cluster"]["quorum"] == true))?;
        }
        cluster.until("three voters", |c| {
            let status = c.status(0)?;
            let nodes = status["nodes"].as_array().context("nodes")?;
            Ok(nodes.len() == 3 && nodes.iter().all(|node| node["voter"] == true))
        })?;
        Ok(cluster)
    }

    fn config(&self, node: usize) -> PathBuf {
        self.hosts[node].dir().join("hamesh.toml")
    }

    fn command(&self, node: usize, words: &[&str]) -> Result<String> {
        let config = self.config(node);
        let config = config.to_str().context("a path in UTF-8")?;
        self.hosts[node].output(Path::new(HAMESH), &[words, &["--config", config]].concat(), PATIENCE)
    }

    fn start(&mut self, node: usize) -> Result<()> {
        let args = ["run".into(), "--config".into(), self.config(node).into_os_string()];
        self.processes[node] = Some(self.hosts[node].start("hamesh", Path::new(HAMESH), &args, &[])?);
        Ok(())
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.processes[node].take().context("it runs")?.kill()
    }

    fn stop(&mut self, node: usize) -> Result<()> {
        let mut process = self.processes[node].take().context("it runs")?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(PATIENCE)?.context("it does not end after SIGTERM")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    fn status(&self, node: usize) -> Result<Value> {
        Ok(serde_json::from_str(&self.command(node, &["status", "--json"])?)?)
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> Result<bool>) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let trouble = match holds(self) {
                Ok(true) => return Ok(begun.elapsed()),
                Ok(false) => String::new(),
                Err(error) => format!(": {error:#}"),
            };
            if begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.hosts[0].dir().join("hamesh.log")).unwrap_or_default();
                let log =
                    log.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
                anyhow::bail!("{what}: not after {PATIENCE:?}{trouble}\n{log}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// The services and servers that a director's kernel has.
    fn programmed(&mut self, director: usize) -> Result<(usize, usize)> {
        let addresses = VIP.map(|ip| ip.parse::<IpAddr>().expect("an address of this file")).into();
        let table = self.tables[director].table(&Scope { addresses, ..Scope::default() })?;
        Ok((table.len(), table.values().map(|service| service.servers.len()).sum()))
    }

    /// The client is answered by both servers, in both families.
    fn served(&self) -> Result<bool> {
        for vip in VIP {
            let vip = SocketAddr::new(vip.parse()?, 80);
            let mut answers = [self.stage.ask(vip, LEASE)?, self.stage.ask(vip, LEASE)?];
            answers.sort();
            ensure!(answers == NAMES, "{vip} was answered by {answers:?}");
        }
        Ok(true)
    }

    /// Whether a director answers for the VIP to somebody who goes to it past ARP.
    fn answers_by_mac(&self, director: usize) -> Result<bool> {
        let mac = sh(&self.hosts[director], "cat /sys/class/net/eth0/address")?;
        sh(&self.stage.router, &format!("ip neigh replace {} lladdr {} dev br0 nud permanent", VIP[0], mac.trim()))?;
        let answer = self.stage.ask(SocketAddr::new(VIP[0].parse()?, 80), Duration::from_secs(3));
        sh(&self.stage.router, &format!("ip neigh del {} dev br0", VIP[0]))?;
        Ok(answer.is_ok())
    }
}

pub fn serves_under_the_lease_and_only_there() -> Result<String> {
    let mut cluster = Cluster::form()?;
    let all = (2, 4);
    cluster.until("lb1 serves", |c| c.served())?;
    ensure!(cluster.programmed(0)? == all, "the holder has {:?}", cluster.programmed(0)?);
    ensure!(cluster.programmed(1)? == (0, 0), "the other director has {:?}", cluster.programmed(1)?);
    ensure!(
        cluster.answers_by_mac(0)? && !cluster.answers_by_mac(1)?,
        "the holder answers by its MAC, the other does not"
    );

    // What somebody else does to it is put right.
    sh(&cluster.hosts[0], "ipvsadm -C")?;
    let repaired = cluster.until("a table that is put right", |c| Ok(c.programmed(0)? == all))?;
    sh(&cluster.hosts[0], &format!("ipvsadm -a -t {}:80 -r 10.5.0.99:80 -g", VIP[0]))?;
    cluster.until("a strange server that goes", |c| Ok(c.programmed(0)? == all))?;
    cluster.served()?;

    // Killed: its services stay, behind a shut gate, and the next start removes them.
    cluster.kill(0)?;
    let taken = cluster.until("lb2 serves", |c| Ok(c.programmed(1)? == all && c.served()?))?;
    ensure!(cluster.programmed(0)? == all, "a killed director's services are gone, and nobody removed them");
    ensure!(!cluster.answers_by_mac(0)?, "a killed director answers without a lease");
    cluster.start(0)?;
    cluster.until("services of a killed run that go", |c| Ok(c.programmed(0)? == (0, 0)))?;
    cluster.until("lb1 back", |c| Ok(c.status(0)?["cluster"]["quorum"] == true))?;
    ensure!(cluster.programmed(0)? == (0, 0), "a director without the lease has services");
    cluster.served()?;

    // A stop hands over and leaves nothing.
    cluster.stop(1)?;
    ensure!(cluster.programmed(1)? == (0, 0), "a director that was stopped has services");
    cluster.until("lb1 serves again", |c| c.served())?;
    cluster.start(1)?;
    cluster.until("lb2 back", |c| Ok(c.status(1)?["cluster"]["quorum"] == true))?;

    // The lease is lost with the quorum: the services go.
    cluster.kill(1)?;
    cluster.kill(2)?;
    let lost = cluster.until("services of a lost lease that go", |c| Ok(c.programmed(0)? == (0, 0)))?;
    ensure!(
        lost < LEASE + Duration::from_secs(1),
        "services were left {lost:?} after the quorum, with a lease of {LEASE:?}"
    );
    ensure!(!cluster.answers_by_mac(0)?, "a director answers without a lease");
    Ok(format!(
        "ipvsadm -C put right after {} ms; taken over {} ms after kill -9; services gone {} ms after the quorum, of a lease of {} ms",
        repaired.as_millis(),
        taken.as_millis(),
        lost.as_millis(),
        LEASE.as_millis()
    ))
}
