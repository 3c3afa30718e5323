//! A whole node that serves under its lease: a cluster of one, which a slow machine can run too.

use crate::stage::{NAMES, PATIENCE, SERVERS, Stage, VIP, sh};
use anyhow::{Context, Result, ensure};
use hamesh::health::ServiceStatus;
use hamesh::ipvs::Scope;
use hamesh::kernel::ipvs::Ipvs;
use hamesh::lab::host::{Host, Process};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for an emulated machine.
const LEASE: Duration = Duration::from_secs(10);
/// For one connection.
const SHORTLY: Duration = Duration::from_secs(5);
const HAMESH: &str = env!("CARGO_BIN_EXE_hamesh");

struct Director {
    stage: Stage,
    process: Option<Process>,
    table: Ipvs,
}

fn cluster_toml() -> String {
    let mut text = format!("[lease]\nttl = \"{}s\"\n", LEASE.as_secs());
    for (family, (name, vip)) in ["web", "web6"].into_iter().zip(VIP).enumerate() {
        let length = [24, 64][family];
        let end = |ip: &str| SocketAddr::new(ip.parse().expect("an address of this file"), 80);
        let servers: Vec<String> =
            SERVERS.iter().map(|server| format!("{{ address = \"{}\" }}", end(server[family]))).collect();
        text += &format!(
            "[vip.{name}]\ninterface = \"eth0\"\nvrid = {}\naddresses = [\"{vip}/{length}\"]\npriority = 100\n\
             [service.{name}]\nvip = \"{name}\"\nlisten = \"{}\"\nscheduler = \"rr\"\nforwarding = \"direct\"\n\
             server = [{}]\n",
            51 + family,
            end(vip),
            servers.join(", ")
        );
    }
    text
}

impl Director {
    fn begin() -> Result<Self> {
        let stage = Stage::set()?;
        stage.vips_on_the_servers()?;
        let table = stage.director.netns().run(|| Ok(Ipvs::open()?))?;
        let mut director = Self { stage, process: None, table };
        let dir = director.host().dir().display();
        let text = format!(
            "[node]\nname = \"lb1\"\nlisten = \"10.5.0.1:7112\"\ndata_dir = \"{dir}/data\"\n\
             cluster = \"{dir}/cluster.toml\"\n[admin]\nsocket = \"{dir}/run/hamesh.sock\"\n"
        );
        fs::write(director.config(), text)?;
        fs::write(director.host().dir().join("cluster.toml"), cluster_toml())?;
        let config = director.config();
        director.host().output(
            Path::new(HAMESH),
            &["init".as_ref(), "--config".as_ref(), config.as_os_str()],
            PATIENCE,
        )?;
        director.start()?;
        Ok(director)
    }

    fn host(&self) -> &Host {
        &self.stage.director
    }

    fn config(&self) -> PathBuf {
        self.host().dir().join("hamesh.toml")
    }

    fn start(&mut self) -> Result<()> {
        let args = ["run".into(), "--config".into(), self.config().into_os_string()];
        self.process = Some(self.host().start("hamesh", Path::new(HAMESH), &args, &[])?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("it runs")?.signal(signal)
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
                let log = fs::read_to_string(self.host().dir().join("hamesh.log")).unwrap_or_default();
                let log =
                    log.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
                anyhow::bail!("{what}: not after {PATIENCE:?}{trouble}\n{log}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// The services and servers that the kernel has.
    fn programmed(&mut self) -> Result<(usize, usize)> {
        let addresses = VIP.map(|ip| ip.parse::<IpAddr>().expect("an address of this file")).into();
        let table = self.table.table(&Scope { addresses, ..Scope::default() })?;
        Ok((table.len(), table.values().map(|service| service.servers.len()).sum()))
    }

    /// The client is answered by both servers, in both families.
    fn served(&self) -> Result<bool> {
        for vip in VIP {
            let vip = SocketAddr::new(vip.parse()?, 80);
            let mut answers = [self.stage.ask(vip, SHORTLY)?, self.stage.ask(vip, SHORTLY)?];
            answers.sort();
            ensure!(answers == NAMES, "{vip} was answered by {answers:?}");
        }
        Ok(true)
    }

    /// The connections that it shows, of a service and of the servers it has.
    fn counted(&self) -> Result<(u64, u64)> {
        let dir = self.host().dir().join("run/hamesh.sock");
        let args = ["service", "show", "web", "--json", "--socket"].map(OsStr::new);
        let shown = self.host().output(Path::new(HAMESH), &[&args[..], &[dir.as_os_str()]].concat(), PATIENCE)?;
        let shown: ServiceStatus = serde_json::from_str(&shown).with_context(|| shown.clone())?;
        let of_servers = shown.servers.iter().filter_map(|server| server.traffic).map(|traffic| traffic.connections);
        Ok((shown.traffic.unwrap_or_default().connections, of_servers.sum()))
    }

    /// Whether it answers for the VIP to somebody who goes to it past ARP.
    fn answers_by_mac(&self) -> Result<bool> {
        let mac = sh(self.host(), r"ip -o link show eth0 | sed -n 's|.*link/ether \([^ ]*\).*|\1|p'")?;
        sh(&self.stage.router, &format!("ip neigh replace {} lladdr {} dev br0 nud permanent", VIP[0], mac.trim()))?;
        let answer = self.stage.ask(SocketAddr::new(VIP[0].parse()?, 80), SHORTLY);
        sh(&self.stage.router, &format!("ip neigh del {} dev br0", VIP[0]))?;
        Ok(answer.is_ok())
    }
}

pub fn serves_under_the_lease_and_only_then(_: &mut ()) -> Result<String> {
    let mut director = Director::begin()?;
    let (all, none) = ((2, 4), (0, 0));
    director.until("the first service", |d| d.served())?;
    ensure!(director.programmed()? == all, "the holder has {:?}", director.programmed()?);
    // One by each server.
    director.until("two connections that are shown", |d| Ok(d.counted()? == (2, 2)))?;

    // What somebody else does to it is put right.
    sh(director.host(), "ipvsadm -C")?;
    let repaired = director.until("a table that is put right", |d| Ok(d.programmed()? == all))?;
    sh(director.host(), &format!("ipvsadm -a -t {}:80 -r 10.5.0.99:80 -g", VIP[0]))?;
    director.until("a strange server that goes", |d| Ok(d.programmed()? == all))?;
    director.until("service after that", |d| d.served())?;

    // Killed: its services stay, behind a shut gate, and the next start removes them first.
    director.process.take().context("it runs")?.kill()?;
    sleep(LEASE + Duration::from_secs(2));
    ensure!(director.programmed()? == all, "a killed director's services are gone, and nobody removed them");
    ensure!(!director.answers_by_mac()?, "a killed director answers without a lease");
    // Without its record it cannot go on with its session; with it, its services would rightly stay.
    fs::remove_file(director.host().dir().join("run/may-act"))?;
    director.start()?;
    director.until("services of a killed run that go", |d| Ok(d.programmed()? == none))?;
    director.until("service after a restart", |d| d.served())?;

    // Frozen beyond its lease: the gate is shut, and once it wakes the services go.
    director.signal(Signal::SIGSTOP)?;
    sleep(LEASE + Duration::from_secs(2));
    ensure!(!director.answers_by_mac()?, "a frozen director answers without a lease");
    director.signal(Signal::SIGCONT)?;
    let lost = director.until("services of a lost lease that go", |d| Ok(d.programmed()? == none))?;
    director.until("service after the freeze", |d| d.served())?;

    // A stop leaves nothing.
    director.signal(Signal::SIGTERM)?;
    let status = director.process.as_mut().context("it runs")?.wait(PATIENCE)?.context("it does not end")?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(director.programmed()? == none, "a director that was stopped left {:?}", director.programmed()?);
    Ok(format!(
        "ipvsadm -C put right after {} ms, services gone {} ms after a freeze beyond the lease",
        repaired.as_millis(),
        lost.as_millis()
    ))
}
