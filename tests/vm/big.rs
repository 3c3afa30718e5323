//! 2,277 services with 37,205 real servers out of one keepalived.conf: hamesh's and keepalived's time in the same machine, one
//! after the other. What counts is the kernel's table, read back and compared as a whole.

use crate::stage::{PATIENCE, sh};
use anyhow::{Context, Result, bail, ensure};
use hamesh::ipvs::{Endpoint, Forwarding, Protocol, Scope, Server, Service, ServiceKey, Settings, Table};
use hamesh::kernel::ipvs::Ipvs;
use hamesh::lab::host::{Host, Process};
use hamesh::lab::legacy;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SERVICES: u16 = 2_277;
const SERVERS: u32 = 37_205;
/// The services are spread over so many VIPs.
const VIPS: u8 = 20;
/// Of one program, for one thing.
const LONGEST: Duration = Duration::from_secs(400);
/// Whoever has not removed his services by then leaves them.
const STOPPED: Duration = Duration::from_secs(60);
/// Changes of one line that are measured.
const LINES: u32 = 3;
const HAMESH: &str = env!("CARGO_BIN_EXE_hamesh");

/// The weights in the file: of all servers, and of the first server of the service in the middle.
#[derive(Clone, Copy)]
struct Weights {
    all: u32,
    one: u32,
}

fn vip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 1 + number)
}

/// Where the services listen, in the order in which IPVS's table has them, which both programs take.
fn listen() -> Vec<Endpoint> {
    let each = SERVICES.div_ceil(VIPS.into());
    let at = |n: u16| {
        let number = u8::try_from(n / each).expect("fewer than VIPS");
        Endpoint { ip: IpAddr::V4(vip(number)), port: 1000 + n % each }
    };
    (0..SERVICES).map(at).collect()
}

/// Every service and its servers, all of which are different machines.
fn wanted(weights: Weights) -> Table {
    let mut table = Table::new();
    let mut next = Ipv4Addr::new(10, 32, 0, 1).to_bits();
    for (n, at) in (0..).zip(listen()) {
        let count = SERVERS / u32::from(SERVICES) + u32::from(n < SERVERS % u32::from(SERVICES));
        let server = |k: u32| {
            let end = Endpoint { ip: Ipv4Addr::from_bits(next + k).into(), port: 80 };
            let weight = if n == u32::from(SERVICES / 2) && k == 0 { weights.one } else { weights.all };
            (end, Server::new(Forwarding::Nat, weight))
        };
        let service = Service { settings: Settings::new("wrr"), servers: (0..count).map(server).collect() };
        next += count;
        table.insert(ServiceKey::Address(Protocol::Tcp, at), service);
    }
    table
}

/// The same as a keepalived.conf.
fn keepalived_conf(weights: Weights) -> Result<String> {
    let mut text = "vrrp_instance big {\n  interface eth0\n  virtual_router_id 51\n  priority 255\n  advert_int 1\n  \
                    virtual_ipaddress {\n"
        .to_owned();
    (0..VIPS).try_for_each(|number| writeln!(text, "    {}/32", vip(number)))?;
    text += "  }\n}\n";
    for (key, service) in wanted(weights) {
        let ServiceKey::Address(_, at) = key else { continue };
        writeln!(text, "virtual_server {} {} {{\n  lvs_sched wrr\n  lvs_method NAT\n  protocol TCP", at.ip, at.port)?;
        for (end, server) in service.servers {
            writeln!(text, "  real_server {} {} {{\n    weight {}\n  }}", end.ip, end.port, server.weight)?;
        }
        text += "}\n";
    }
    Ok(text)
}

/// A director under one of the programs.
struct Director {
    host: Host,
    ipvs: Ipvs,
    scope: Scope,
}

/// What a program took.
struct Figures {
    /// From its start, and from its first service.
    first: [Duration; 2],
    line: Duration,
    full: Duration,
    gone: Duration,
    /// Processor time for the start, the changes of one line and the change of all.
    cpu: [Duration; 3],
    resident: u64,
}

impl Director {
    fn new(name: &str) -> Result<Self> {
        let host = Host::new(name, Path::new("/tmp/big"))?;
        // Routes, without which the kernel takes no address for a server's.
        sh(
            &host,
            "ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up; \
             ip addr add 10.5.0.1/8 dev eth0",
        )?;
        let ipvs = host.netns().run(|| Ok(Ipvs::open()?))?;
        let scope = Scope { addresses: (0..VIPS).map(|number| vip(number).into()).collect(), ..Scope::default() };
        Ok(Self { host, ipvs, scope })
    }

    fn conf(&self) -> PathBuf {
        legacy::configuration_of(&self.host)
    }

    /// Waits until the servers of a service are what is wanted: to read the whole table takes too long to be done often.
    fn wait(&mut self, wanted: &Table, key: &ServiceKey, program: &Process) -> Result<Instant> {
        let end = Instant::now() + LONGEST;
        let service = wanted.get(key).context("it is wanted")?;
        loop {
            if let Ok(servers) = self.ipvs.servers(key)
                && servers.len() == service.servers.len()
                && servers.iter().all(|(at, server, ..)| service.servers.get(at) == Some(server))
            {
                return Ok(Instant::now());
            }
            if Instant::now() > end || !matches!(program.state(), Some('S' | 'R' | 'D')) {
                let log = fs::read_to_string(self.host.dir().join("hamesh.log"))
                    .or_else(|_| fs::read_to_string(self.host.dir().join("keepalived.log")))?;
                let last: Vec<&str> = log.lines().rev().take(10).collect();
                bail!("{key} is not as it should be\n{}", last.join("\n"));
            }
            sleep(Duration::from_millis(3));
        }
    }

    /// Waits until the table is what is wanted: its last service, then all of it.
    fn whole(&mut self, wanted: &Table, program: &Process) -> Result<Instant> {
        let (last, _) = wanted.last_key_value().context("nothing is wanted")?;
        let end = Instant::now() + LONGEST;
        let mut seen = self.wait(wanted, last, program)?;
        loop {
            let table = self.ipvs.table(&self.scope)?;
            if table == *wanted {
                return Ok(seen);
            }
            ensure!(Instant::now() < end, "{} services, and not what is wanted", table.len());
            seen = Instant::now();
        }
    }

    fn measure(&mut self, start: impl FnOnce(&Host) -> Result<Process>) -> Result<Figures> {
        let mut weights = Weights { all: 1, one: 1 };
        let table = wanted(weights);
        let keys: Vec<ServiceKey> = table.keys().copied().collect();
        let (first, middle) = (keys[0], keys[usize::from(SERVICES / 2)]);
        fs::write(self.conf(), keepalived_conf(weights)?)?;
        let begun = Instant::now();
        let mut program = start(&self.host)?;
        let from = self.wait(&table, &first, &program)?;
        let done = self.whole(&table, &program)?;
        let mut cpu = vec![program.cpu()];

        let mut lines = Vec::new();
        for one in 2..2 + LINES {
            weights.one = one;
            let table = wanted(weights);
            fs::write(self.conf(), keepalived_conf(weights)?)?;
            let asked = Instant::now();
            program.signal(Signal::SIGHUP)?;
            lines.push(self.wait(&table, &middle, &program)? - asked);
            self.whole(&table, &program)?;
        }
        lines.sort_unstable();
        cpu.push(program.cpu());

        weights = Weights { all: 7, one: 7 };
        let table = wanted(weights);
        fs::write(self.conf(), keepalived_conf(weights)?)?;
        let asked = Instant::now();
        program.signal(Signal::SIGHUP)?;
        let full = self.whole(&table, &program)? - asked;
        cpu.push(program.cpu());
        let resident = program.resident();

        let asked = Instant::now();
        program.signal(Signal::SIGTERM)?;
        while !self.ipvs.services()?.is_empty() && asked.elapsed() < STOPPED {
            sleep(Duration::from_millis(3));
        }
        let gone = asked.elapsed();
        if program.wait(PATIENCE)?.is_none() {
            println!("big: it does not end within {:.0?} of SIGTERM, and is killed", asked.elapsed());
            program.kill()?;
        }
        let cpu = [cpu[0], cpu[1].saturating_sub(cpu[0]), cpu[2].saturating_sub(cpu[1])];
        println!("big: first {:.1?}, lines {lines:.1?}, all {full:.1?}, gone {gone:.1?}", done - begun);
        Ok(Figures { first: [done - begun, done - from], line: lines[lines.len() / 2], full, gone, cpu, resident })
    }
}

/// Starts it.
pub fn hamesh(host: &Host) -> Result<Process> {
    let args = ["run".into(), "--config".into(), host.dir().join("hamesh.toml").into_os_string()];
    host.start("hamesh", Path::new(HAMESH), &args, &[])
}

/// Makes a host a cluster of one, by its keepalived.conf, with a lease that no emulated machine is too slow for.
pub fn found(host: &Host) -> Result<()> {
    let dir = host.dir().display();
    let config = host.dir().join("hamesh.toml");
    fs::write(host.dir().join("cluster.toml"), "[lease]\nttl = \"10s\"\n")?;
    let text = format!(
        "[node]\nname = \"lb1\"\nlisten = \"10.5.0.1:7112\"\ndata_dir = \"{dir}/data\"\ncluster = \"{dir}/cluster.toml\"\n\
         keepalived_config = \"{dir}/keepalived.conf\"\n[admin]\nsocket = \"{dir}/run/hamesh.sock\"\n"
    );
    fs::write(&config, text)?;
    let args: [OsString; 3] = ["init".into(), "--config".into(), config.into_os_string()];
    host.output(Path::new(HAMESH), &args, LONGEST)?;
    Ok(())
}

pub fn beside_keepalived(_: &mut ()) -> Result<String> {
    let keepalived = legacy::keepalived().context("keepalived is not installed")?;
    let mut theirs = Director::new("keepalived")?;
    let theirs = theirs.measure(|host| legacy::run_whole(host, &keepalived)).context("keepalived")?;
    let mut ours = Director::new("hamesh")?;
    fs::write(ours.conf(), keepalived_conf(Weights { all: 1, one: 1 })?)?;
    found(&ours.host)?;
    let ours = ours.measure(hamesh).context("hamesh")?;

    let mut text = format!("{SERVICES} services with {SERVERS} servers, the kernel's table compared after each step\n");
    writeln!(text, "{:44} {:>10} {:>10} {:>8}", "", "hamesh", "keepalived", "ratio")?;
    let mut line = |what: &str, ours: Duration, theirs: Duration| {
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64().max(0.001);
        writeln!(text, "{what:44} {:>8.2} s {:>8.2} s {ratio:>8.2}", ours.as_secs_f64(), theirs.as_secs_f64())
    };
    line("from exec to the last server", ours.first[0], theirs.first[0])?;
    line("from the first service to the last server", ours.first[1], theirs.first[1])?;
    line("a change of one line, from SIGHUP", ours.line, theirs.line)?;
    line("a change of every weight, from SIGHUP", ours.full, theirs.full)?;
    line(&format!("from SIGTERM until every service is gone, or {} s", STOPPED.as_secs()), ours.gone, theirs.gone)?;
    line("processor time of the start", ours.cpu[0], theirs.cpu[0])?;
    line(&format!("processor time of {LINES} changes of one line"), ours.cpu[1], theirs.cpu[1])?;
    line("processor time of the change of all", ours.cpu[2], theirs.cpu[2])?;
    write!(text, "memory: {} and {} MiB", ours.resident >> 20, theirs.resident >> 20)?;
    Ok(text)
}
