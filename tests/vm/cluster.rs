//! Two directors and a witness before the servers, formed and used as a person would.

use crate::stage::{DIRECTOR, MORE, PATIENCE, SERVERS, Stage, VIP, sh};
use anyhow::{Context, Result, bail, ensure};
use hamesh::ipvs::{Scope, ServiceKey, Table};
use hamesh::kernel::ipvs::Ipvs;
use hamesh::lab::host::{Host, Process};
use hamesh_raft::command::Family;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for an emulated machine.
pub const LEASE: Duration = Duration::from_secs(6);
/// For one connection.
pub const SHORTLY: Duration = Duration::from_secs(5);
/// How long a server that is drained keeps its connections.
pub const DRAIN: Duration = Duration::from_secs(8);
/// The witness, which is the sorry server too.
pub const WITNESS: usize = 2;
/// The sorry server's name.
pub const SORRY: &str = "sorry";
/// Of a service whose servers are the directors themselves.
pub const HERE: &str = "10.5.0.104";
/// Of a service that the firewall marks.
pub const MARK: NonZeroU32 = NonZeroU32::new(7).expect("not 0");

const HAMESH: &str = env!("CARGO_BIN_EXE_hamesh");
const NODES: [(&str, [&str; 2]); 3] =
    [("lb1", DIRECTOR), ("lb2", ["10.5.0.2", "fd05::2"]), ("w", ["10.5.0.14", "fd05::14"])];

struct Node {
    host: Host,
    process: Option<Process>,
    /// Its kernel's table.
    table: Ipvs,
}

/// The machines and their daemons; `lb1`, number 0, is the one that holds where nothing else is said.
pub struct Cluster {
    pub stage: Stage,
    nodes: Vec<Node>,
    _sorry: Arc<AtomicBool>,
}

fn cluster_toml() -> String {
    let mut text = format!(
        "[lease]\nttl = \"{}s\"\n[ipvs]\nsync = {{ interface = \"eth0\", vip = \"web\", id = 51 }}\n\
         timeouts = {{ tcp = \"800s\", tcp_fin = \"60s\", udp = \"200s\" }}\n",
        LEASE.as_secs()
    );
    for (family, name) in ["web", "web6"].into_iter().enumerate() {
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address of this file"), 80);
        let servers: Vec<String> = SERVERS.iter().map(|s| format!("{{ address = \"{}\" }}", at(s[family]))).collect();
        text += &format!(
            "[vip.{name}]\ninterface = \"eth0\"\nvrid = {}\naddresses = [\"{}/{}\"]\npriority = {{ lb1 = 200, lb2 = 100 }}\n\
             [service.{name}]\nvip = \"{name}\"\nlisten = \"{}\"\nscheduler = \"rr\"\nforwarding = \"direct\"\n\
             server = [{}]\nsorry_server = \"{}\"\ndrain = \"{}s\"\n\
             check = {{ tcp = {{}}, interval = \"2s\", timeout = \"2s\", fall = 2, rise = 1 }}\n",
            51 + family,
            VIP[family],
            [24, 64][family],
            at(VIP[family]),
            servers.join(", "),
            at(NODES[WITNESS].1[family]),
            DRAIN.as_secs(),
        );
    }
    text + &format!(
        "[vip.here]\ninterface = \"eth0\"\nvrid = 54\naddresses = [\"{HERE}/24\"]\npriority = {{ lb1 = 200, lb2 = 100 }}\n\
         localnode = true\n[service.here]\nvip = \"here\"\nlisten = \"{HERE}:80\"\nscheduler = \"rr\"\n\
         forwarding = \"direct\"\nserver = [{{ address = \"{}:80\" }}, {{ address = \"{}:80\" }}]\n\
         [service.signal]\nvip = \"web\"\nlisten = \"{}:9899\"\nprotocol = \"sctp\"\nforwarding = \"nat\"\n\
         server = [{{ address = \"{}:9899\", upper = 100, lower = 10 }}]\n",
        NODES[0].1[0], NODES[1].1[0], VIP[0], SERVERS[0][0]
    )
}

/// A group of virtual servers, and marked packets.
fn keepalived_conf(number: usize) -> String {
    let addresses: Vec<String> = MORE.iter().map(|ip| format!("{ip}/24")).collect();
    let servers: Vec<String> =
        SERVERS.iter().map(|server| format!("real_server {} 80 {{\n weight 1\n }}", server[0])).collect();
    format!(
        "vrrp_instance more {{\n interface eth0\n virtual_router_id 61\n priority {}\n virtual_ipaddress {{\n {}\n }}\n}}\n\
         virtual_server_group pool {{\n {}-102 80\n fwmark {MARK}\n}}\n\
         virtual_server group pool {{\n protocol TCP\n lvs_sched rr\n lvs_method DR\n {}\n}}\n",
        [200, 100][number],
        addresses.join("\n "),
        MORE[0],
        servers.join("\n ")
    )
}

impl Cluster {
    /// # Errors
    /// The cluster does not form, or `lb1` does not serve.
    pub fn form(stage: Stage) -> Result<Self> {
        stage.clear_the_director()?;
        stage.back_by_the_router()?;
        stage.vips_on_the_servers()?;
        let dir = Path::new("/tmp/stage");
        let mut hosts = vec![stage.director.clone()];
        for (name, addresses) in &NODES[1..] {
            let host = Host::new(name, dir)?;
            stage.on_the_lan(&host, *addresses)?;
            sh(&host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
            hosts.push(host);
        }
        stage.vips_on(&hosts[WITNESS])?;
        let sorry = stage.serve(&hosts[WITNESS], SORRY)?;
        let node = |host: Host| {
            let table = host.netns().run(|| Ok(Ipvs::open()?))?;
            Ok(Node { host, process: None, table })
        };
        let nodes = hosts.into_iter().map(node).collect::<Result<_>>()?;
        let mut cluster = Self { stage, nodes, _sorry: sorry };
        fs::write(cluster.dir(0).join("cluster.toml"), cluster_toml())?;
        for number in 0..NODES.len() {
            cluster.configure(number)?;
            if number == 0 {
                cluster.command(0, &["init"])?;
            } else {
                let role = if number == WITNESS { "witness" } else { "director" };
                let invitation = cluster.command(0, &["token", "--role", role])?;
                let invitation = invitation.trim().lines().last().context("no join string")?;
                // A handshake may take longer here than a person would wait.
                cluster.until("a member", |c| c.command(number, &["join", invitation]).map(|_| true))?;
            }
            cluster.start(number)?;
            cluster.until("a quorum", |c| Ok(c.status(number)?["cluster"]["quorum"] == true))?;
        }
        let marks = format!(
            "nft 'add table ip marks; add chain ip marks pre {{ type filter hook prerouting priority mangle; }}; \
             add rule ip marks pre ip daddr {} meta mark set {MARK}'",
            MORE[2]
        );
        (0..WITNESS).try_for_each(|number| sh(cluster.host(number), &marks).map(drop))?;
        cluster.until("three voters", |c| {
            let status = c.status(0)?;
            let voters = status["nodes"].as_array().into_iter().flatten().filter(|node| node["voter"] == true);
            Ok(voters.count() == NODES.len())
        })?;
        Ok(cluster)
    }

    fn configure(&self, number: usize) -> Result<()> {
        let (name, addresses) = NODES[number];
        let dir = self.dir(number);
        let shown = dir.display();
        let role = if number == WITNESS { "witness" } else { "director" };
        let files = if number == WITNESS {
            String::new()
        } else {
            fs::write(dir.join("keepalived.conf"), keepalived_conf(number))?;
            format!("cluster = \"{shown}/cluster.toml\"\nkeepalived_config = \"{shown}/keepalived.conf\"\n")
        };
        let text = format!(
            "[node]\nname = \"{name}\"\nrole = \"{role}\"\nlisten = \"{}:7112\"\ndata_dir = \"{shown}/data\"\n{files}\
             [admin]\nsocket = \"{shown}/run/hamesh.sock\"\nmetrics = \"127.0.0.1:9746\"\n",
            addresses[0]
        );
        Ok(fs::write(dir.join("hamesh.toml"), text)?)
    }

    pub fn host(&self, number: usize) -> &Host {
        &self.nodes[number].host
    }

    fn dir(&self, number: usize) -> PathBuf {
        self.host(number).dir().to_owned()
    }

    /// Runs a command of the CLI.
    pub fn command(&self, number: usize, words: &[&str]) -> Result<String> {
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.extend(["--config".into(), self.dir(number).join("hamesh.toml").into_os_string()]);
        self.host(number).output(Path::new(HAMESH), &args, PATIENCE)
    }

    pub fn start(&mut self, number: usize) -> Result<()> {
        let args = ["run".into(), "--config".into(), self.dir(number).join("hamesh.toml").into_os_string()];
        self.nodes[number].process = Some(self.host(number).start("hamesh", Path::new(HAMESH), &args, &[])?);
        Ok(())
    }

    pub fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        self.nodes[number].process.as_ref().context("it runs")?.signal(signal)
    }

    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.nodes[number].process.take().context("it runs")?.kill()
    }

    /// Asks it to stop, and waits for that.
    pub fn stop(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGTERM)?;
        let mut process = self.nodes[number].process.take().context("it runs")?;
        let status = process.wait(PATIENCE)?.context("it does not end")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// `hamesh status --json`, without the time that a new process takes.
    pub fn status(&self, number: usize) -> Result<Value> {
        let mut stream = UnixStream::connect(self.dir(number).join("run/hamesh.sock"))?;
        stream.set_read_timeout(Some(SHORTLY))?;
        Ok(serde_json::from_str(&get(&mut stream, "/v1/status")?)?)
    }

    /// A number of the metrics page.
    pub fn metric(&self, number: usize, name: &str) -> Result<f64> {
        let page = self.host(number).netns().run(|| {
            let mut stream = TcpStream::connect("127.0.0.1:9746")?;
            stream.set_read_timeout(Some(SHORTLY))?;
            get(&mut stream, "/metrics")
        })?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context(name.to_owned())?;
        Ok(line.parse()?)
    }

    /// Waits until something holds, and returns how long that took.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> Result<bool>) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let trouble = match holds(self) {
                Ok(true) => return Ok(begun.elapsed()),
                Ok(false) => String::new(),
                Err(error) => format!(": {error:#}"),
            };
            if begun.elapsed() > PATIENCE {
                let mut said = String::new();
                for (node, (name, _)) in self.nodes.iter().zip(NODES) {
                    let log = fs::read_to_string(node.host.dir().join("hamesh.log")).unwrap_or_default();
                    let start = log.lines().count().saturating_sub(20);
                    said += &log.lines().skip(start).map(|line| format!("\n{name}: {line}")).collect::<String>();
                }
                bail!("{what}: not after {PATIENCE:?}{trouble}{said}");
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// What a director's kernel has of ours.
    pub fn table(&mut self, number: usize) -> Result<Table> {
        let addresses =
            VIP.iter().chain(&MORE).chain(&[HERE]).map(|ip| ip.parse::<IpAddr>().expect("an address")).collect();
        let scope = Scope { addresses, marks: [(MARK, Family::V4)].into() };
        Ok(self.nodes[number].table.table(&scope)?)
    }

    /// How many services and servers that is.
    pub fn programmed(&mut self, number: usize) -> Result<(usize, usize)> {
        let table = self.table(number)?;
        Ok((table.len(), table.values().map(|service| service.servers.len()).sum()))
    }

    /// The weights of the servers of the first service, in the order of their addresses.
    pub fn weights(&mut self, number: usize) -> Result<Vec<(String, u32)>> {
        let key = ServiceKey::Address(hamesh::ipvs::Protocol::Tcp, vip(0).into());
        let table = self.table(number)?;
        let servers = table.get(&key).context("no such service")?.servers.iter();
        Ok(servers.map(|(at, server)| (at.ip.to_string(), server.weight)).collect())
    }

    /// Whether the first director has its whole table, and the client is answered by just these in both families.
    pub fn serves(&mut self, number: usize, names: [&str; 2]) -> Result<bool> {
        for family in [0, 1] {
            let mut answers = [self.stage.ask(vip(family), SHORTLY)?, self.stage.ask(vip(family), SHORTLY)?];
            answers.sort();
            ensure!(answers == names, "{} was answered by {answers:?}", vip(family));
        }
        ensure!(self.programmed(number)?.0 > 0, "it was somebody else who served");
        Ok(true)
    }

    /// Whether a director answers for the VIP to somebody who goes to it past ARP.
    pub fn answers_by_mac(&self, number: usize, vip: &str) -> Result<bool> {
        // /sys is the machine's, not the host's.
        let mac = sh(self.host(number), "ip -o link show dev eth0 | sed 's/.*ether //; s/ .*//'")?;
        let router = &self.stage.router;
        sh(router, &format!("ip neigh replace {} lladdr {} dev br0 nud permanent", vip, mac.trim()))?;
        // A host without the VIP would forward to whoever has it.
        sh(self.host(number), "sysctl -qw net.ipv4.ip_forward=0")?;
        let answer = self.stage.ask(SocketAddr::new(vip.parse()?, 80), SHORTLY);
        sh(self.host(number), "sysctl -qw net.ipv4.ip_forward=1")?;
        sh(router, &format!("ip neigh del {vip} dev br0"))?;
        Ok(answer.is_ok())
    }
}

/// A service's address.
pub fn vip(family: usize) -> SocketAddr {
    SocketAddr::new(VIP[family].parse().expect("an address of this file"), 80)
}

fn get(stream: &mut (impl Read + Write), path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: hamesh\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}
