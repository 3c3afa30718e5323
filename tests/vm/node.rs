//! A whole node that serves under its lease: a cluster of one, which a slow machine can run too.

use crate::stage::{NAMES, PATIENCE, SERVERS, Stage, VIP, sh};
use anyhow::{Context, Result, ensure};
use hamesh::health::ServiceStatus;
use hamesh::ipvs::Scope;
use hamesh::kernel::ipvs::Ipvs;
use hamesh::lab::host::{Host, Process};
use hamesh_fencing::gate::{Gate, Lifetimes};
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for an emulated machine.
const LEASE: Duration = Duration::from_secs(10);
/// For one connection.
const SHORTLY: Duration = Duration::from_secs(5);
const HAMESH: &str = env!("CARGO_BIN_EXE_hamesh");

/// The stage with a hamesh on its director.
pub struct Director {
    pub stage: Stage,
    process: Option<Process>,
    table: Ipvs,
}

fn groups() -> String {
    let mut text = format!("[lease]\nttl = \"{}s\"\n", LEASE.as_secs());
    for (family, (name, vip)) in ["web", "web6"].into_iter().zip(VIP).enumerate() {
        text += &format!(
            "[vip.{name}]\ninterface = \"eth0\"\nvrid = {}\naddresses = [\"{vip}/{}\"]\npriority = 100\n",
            51 + family,
            [24, 64][family]
        );
    }
    text
}

fn services() -> String {
    let mut text = String::new();
    for (family, (name, vip)) in ["web", "web6"].into_iter().zip(VIP).enumerate() {
        let end = |ip: &str| SocketAddr::new(ip.parse().expect("an address of this file"), 80);
        let servers: Vec<String> =
            SERVERS.iter().map(|server| format!("{{ address = \"{}\" }}", end(server[family]))).collect();
        text += &format!(
            "[service.{name}]\nvip = \"{name}\"\nlisten = \"{}\"\nscheduler = \"rr\"\nforwarding = \"direct\"\n\
             server = [{}]\n",
            end(vip),
            servers.join(", ")
        );
    }
    text
}

impl Director {
    /// `more`: lines of `[node]`; `cluster`: its cluster.toml.
    pub fn begin(more: &str, cluster: &str) -> Result<Self> {
        let stage = Stage::set()?;
        stage.vips_on_the_servers()?;
        let table = stage.director.netns().run(|| Ok(Ipvs::open()?))?;
        let mut director = Self { stage, process: None, table };
        let dir = director.host().dir().display();
        let text = format!(
            "[node]\nname = \"lb1\"\nlisten = \"10.5.0.1:7112\"\ndata_dir = \"{dir}/data\"\n\
             cluster = \"{dir}/cluster.toml\"\n{more}[admin]\nsocket = \"{dir}/run/hamesh.sock\"\n"
        );
        fs::write(director.config(), text)?;
        fs::write(director.host().dir().join("cluster.toml"), cluster)?;
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
                anyhow::bail!("{what}: not after {PATIENCE:?}{trouble}\n{}", self.log());
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// The end of what hamesh has logged.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.host().dir().join("hamesh.log")).unwrap_or_default();
        log.lines().skip(log.lines().count().saturating_sub(15)).collect::<Vec<_>>().join("\n")
    }

    /// The services and servers that the kernel has.
    pub fn programmed(&mut self) -> Result<(usize, usize)> {
        let addresses = VIP.map(|ip| ip.parse::<IpAddr>().expect("an address of this file")).into();
        let table = self.table.table(&Scope { addresses, ..Scope::default() })?;
        Ok((table.len(), table.values().map(|service| service.servers.len()).sum()))
    }

    /// Each server that the kernel has with its service and weight, as `ipvsadm -Sn` has them.
    fn saved(&self) -> Result<Vec<String>> {
        let saved = sh(self.host(), "ipvsadm -Sn")?;
        Ok(saved.lines().filter(|line| line.starts_with("-a")).map(|line| line.trim_end().to_owned()).collect())
    }

    /// Has hamesh read `text` in the place of its cluster.toml.
    fn reload(&self, text: &str) -> Result<String> {
        fs::write(self.host().dir().join("cluster.toml"), text)?;
        let config = self.config();
        let args = ["reload".as_ref(), "--config".as_ref(), config.as_os_str()];
        self.host().output(Path::new(HAMESH), &args, PATIENCE)
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

    pub fn mac(&self, interface: &str) -> Result<String> {
        let script = format!(r"ip -o link show {interface} | sed -n 's|.*link/ether \([^ ]*\).*|\1|p'");
        Ok(sh(self.host(), &script)?.trim().to_owned())
    }

    /// Whether a server of its own is reached at a VIP of it now.
    fn answers(&self, vip: &str) -> bool {
        vip.parse().is_ok_and(|vip| self.stage.ask(SocketAddr::new(vip, 80), SOON).is_ok())
    }

    /// Whether it answers for the VIP to somebody who goes to it past ARP.
    fn answers_by_mac(&self) -> Result<bool> {
        let mac = self.mac("eth0")?;
        sh(&self.stage.router, &format!("ip neigh replace {} lladdr {mac} dev br0 nud permanent", VIP[0]))?;
        let answer = self.stage.ask(SocketAddr::new(VIP[0].parse()?, 80), SHORTLY);
        sh(&self.stage.router, &format!("ip neigh del {} dev br0", VIP[0]))?;
        Ok(answer.is_ok())
    }
}

/// Services and servers come, go and change while connections of those that stay go on.
fn takes_other_services(director: &mut Director) -> Result<()> {
    let vip = SocketAddr::new(VIP[0].parse()?, 80);
    let mut talks = [director.stage.converse(vip, SHORTLY)?, director.stage.converse(vip, SHORTLY)?];
    talks.sort_by(|a, b| a.with.cmp(&b.with));
    let [first, second] = SERVERS.map(|server| server[0]);
    let section =
        |server: &str, more: &str| format!("vip = \"web\"\nforwarding = \"direct\"\nserver = [{server}]\n{more}");
    let text = groups() + &services();
    let other = format!(
        "{}[service.web]\nlisten = \"{vip}\"\nscheduler = \"wrr\"\n{}[service.more]\nlisten = \"{}:81\"\n{}",
        groups(),
        section(
            &format!("{{ address = \"{first}:80\", weight = 3 }}"),
            "check = { tcp = {}, interval = \"2s\", timeout = \"2s\", fall = 2, rise = 1 }\n"
        ),
        VIP[0],
        section(&format!("{{ address = \"{second}:81\" }}"), "")
    );
    let other = other + "\n[ipvs]\ntimeouts = { tcp = \"500s\" }\n";
    let wrong = director.reload(&other.replace("wrr", "nonesuch"));
    ensure!(wrong.is_err(), "a scheduler that is none was taken: {wrong:?}");
    ensure!(director.programmed()? == (2, 4), "a file that is wrong has changed something");
    director.reload(&other)?;
    let weights = [format!("-a -t {vip} -r {first}:80 -g -w 3"), format!("-a -t {}:81 -r {second}:81 -g -w 1", VIP[0])];
    director.until("other services", |d| {
        let saved = d.saved()?;
        ensure!(saved == weights, "{saved:?}");
        Ok(true)
    })?;
    let times = director.table.timeouts()?;
    ensure!(times.tcp == Duration::from_secs(500), "after a reload silent connections go after {:?}", times.tcp);
    talks[0].goes_on().context("a connection of a server that stays")?;
    ensure!(director.stage.ask(vip, SHORTLY)? == NAMES[0], "it is not the one server that answers");
    director.reload(&text)?;
    director.until("the services as they were", |d| Ok(d.programmed()? == (2, 4)))?;
    director.until("service as it was", |d| d.served())?;
    talks[0].goes_on().context("a connection of a server that stays, after the second reload")
}

pub fn serves_under_the_lease_and_only_then(_: &mut ()) -> Result<String> {
    let mut director = Director::begin("", &(groups() + &services()))?;
    let (all, none) = ((2, 4), (0, 0));
    director.until("the first service", |d| d.served())?;
    ensure!(director.programmed()? == all, "the holder has {:?}", director.programmed()?);
    // One by each server at least: a client that was not answered in time has asked again.
    director.until("connections that are shown", |d| {
        let (all, each) = d.counted()?;
        ensure!(all >= 2 && all == each, "{all} of the service, {each} of its servers");
        Ok(true)
    })?;
    takes_other_services(&mut director)?;

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

    // Killed, and its services are configured no more: the next start removes what is left all the same.
    director.process.take().context("it runs")?.kill()?;
    ensure!(director.programmed()? == all, "a killed director's services are gone, and nobody removed them");
    fs::write(director.host().dir().join("cluster.toml"), groups())?;
    fs::remove_file(director.host().dir().join("run/may-act"))?;
    director.start()?;
    director.until("services that are configured no more", |d| Ok(d.programmed()? == none))?;
    director.until("a director that can be asked", |d| Ok(d.reload(&(groups() + &services())).is_ok()))?;
    director.until("service that a reload brings back", |d| d.served())?;

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

/// Flushes that are measured.
const FLUSHES: usize = 5;
/// In half of them the gate is away for less than this.
const AWAY: Duration = Duration::from_millis(100);

/// Before Linux 6.9 anybody can flush the gate, and a running hamesh puts it back. `nft monitor` is told of both, at the same
/// pace, so the time between is the time that it was away.
pub fn puts_a_flushed_gate_back(_: &mut ()) -> Result<String> {
    let mut director = Director::begin("", &groups())?;
    director.until("a VIP without services", |d| Ok(sh(d.host(), "ip addr show dev eth0")?.contains(VIP[1])))?;
    director.reload(&(groups() + &services()))?;
    director.until("the first service, which came with a reload", |d| d.served())?;
    let log = director.host().dir().join("monitor.log");
    let args = ["-oL", "nft", "monitor"].map(OsString::from);
    let _monitor = director.host().start("monitor", Path::new("/usr/bin/stdbuf"), &args, &[])?;
    let told = |from: usize, word: &str| -> Result<usize> {
        let text = fs::read(&log)?;
        let text = String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned();
        Ok(text.lines().filter(|line| line.starts_with(word) && line.ends_with("hamesh")).count())
    };
    director.until("a monitor that hears", |d| {
        sh(d.host(), "nft 'add table inet probe-hamesh; delete table inet probe-hamesh'")?;
        Ok(told(0, "delete table")? > 0)
    })?;
    let mut away = Vec::new();
    for _ in 0..FLUSHES {
        let from = usize::try_from(fs::metadata(&log)?.len())?;
        sh(director.host(), "nft flush ruleset")?;
        let mut gone = None;
        director.until("a gate that is put back", |_| {
            let (deleted, added) = (told(from, "delete table")?, told(from, "add table")?);
            if fs::metadata(&log)?.len() > u64::try_from(from)? {
                gone.get_or_insert_with(Instant::now);
            }
            Ok(deleted > 0 && added == deleted)
        })?;
        away.push(gone.context("it was seen to go")?.elapsed());
        director.until("service behind it", |d| d.served())?;
    }
    away.sort_unstable();
    let (median, worst) = (away[FLUSHES / 2], away[FLUSHES - 1]);
    ensure!(median < AWAY, "the gate was away for {away:?}");
    director.signal(Signal::SIGSTOP)?;
    sleep(LEASE + Duration::from_secs(2));
    ensure!(!director.answers_by_mac()?, "a gate that was put back stays open");
    director.signal(Signal::SIGCONT)?;
    Ok(format!("{FLUSHES} flushes: away for {} ms in the median, {} ms at most", median.as_millis(), worst.as_millis()))
}

/// The VIPs of [`groups`], on a VLAN of their LAN that comes after hamesh has started.
pub fn holds_vips_on_a_vlan(_: &mut ()) -> Result<String> {
    const VIPS: [&str; 2] = ["10.7.0.100", "fd07::100"];
    let on_it = groups().replace("eth0", "vlan10").replace(VIP[0], VIPS[0]).replace(VIP[1], VIPS[1]);
    let mut director = Director::begin("", &on_it)?;
    for (host, below, [v4, v6]) in [
        (director.host(), "eth0", ["10.7.0.1", "fd07::1"]),
        (&director.stage.router, "br0", ["10.7.0.254", "fd07::fe"]),
    ] {
        sh(
            host,
            &format!(
                "ip link add link {below} name vlan10 type vlan id 10; ip link set vlan10 up; \
                 ip addr add {v4}/24 dev vlan10; ip addr add {v6}/64 dev vlan10 nodad"
            ),
        )?;
    }
    let mac = director.mac("vlan10")?;
    // Whoever asks for it, and whoever knows its MAC still.
    let reached = |d: &Director, vip: &str, way: &str| {
        let ping = format!("ip neigh {way}; busybox ping -c 1 -W 1 {vip}");
        sh(&d.stage.router, &ping).is_ok()
    };
    let ways = VIPS.map(|vip| {
        let known = format!("replace {vip} lladdr {mac} dev vlan10 nud permanent");
        [(vip, format!("del {vip} dev vlan10 || true")), (vip, known)]
    });
    let ways = ways.as_flattened();
    let all = |d: &mut Director| Ok(ways.iter().all(|(vip, way)| reached(d, vip, way)));
    let came = director.until("VIPs on a VLAN", all)?;
    director.signal(Signal::SIGSTOP)?;
    sleep(LEASE + Duration::from_secs(2));
    let open: Vec<_> = ways.iter().filter(|(vip, way)| reached(&director, vip, way)).collect();
    ensure!(open.is_empty(), "a frozen director answers without a lease: {open:?}");
    director.signal(Signal::SIGCONT)?;
    let back = director.until("VIPs after the freeze", all)?;
    Ok(format!("held {} ms after it came, {} ms after a freeze", came.as_millis(), back.as_millis()))
}

/// Much longer than the lease: a machine that is reset is no news to the others. An emulated one starts slowly.
const MARGIN: Duration = Duration::from_secs(60);

/// softdog says in the kernel's log what it would do, instead of doing it.
pub fn feeds_the_watchdog_while_it_turns(_: &mut ()) -> Result<String> {
    let fired = || -> Result<usize> {
        let log = std::process::Command::new("dmesg").output()?;
        Ok(String::from_utf8_lossy(&log.stdout).lines().filter(|line| line.contains("Reboot ignored")).count())
    };
    let load = format!("softdog soft_margin={} soft_noboot=1", MARGIN.as_secs());
    let loaded = std::process::Command::new("modprobe").args(load.split(' ')).status()?;
    ensure!(loaded.success(), "modprobe {load}: {loaded}");
    let mut director = Director::begin("watchdog = \"/dev/watchdog\"\n", &(groups() + &services()))?;
    director.until("the first service", |d| d.served())?;
    let second = fs::OpenOptions::new().write(true).open("/dev/watchdog");
    ensure!(second.is_err(), "nobody has the watchdog");
    let longer = MARGIN + Duration::from_secs(10);
    sleep(longer);
    ensure!(fired()? == 0, "it has fired while hamesh ran");

    // A kill is no clean end, and the next start comes in time.
    director.process.take().context("it runs")?.kill()?;
    sleep(Duration::from_secs(2));
    director.start()?;
    director.until("service after a kill", |d| d.served())?;
    sleep(longer);
    ensure!(fired()? == 0, "it has fired though hamesh came back");

    director.signal(Signal::SIGSTOP)?;
    sleep(longer);
    let frozen = fired()?;
    ensure!(frozen > 0, "it has not fired while hamesh was frozen");
    director.signal(Signal::SIGCONT)?;
    director.until("service after the freeze", |d| d.served())?;

    director.signal(Signal::SIGTERM)?;
    let status = director.process.as_mut().context("it runs")?.wait(PATIENCE)?.context("it does not end")?;
    ensure!(status.success(), "it ended with {status}");
    let before = fired()?;
    sleep(longer);
    ensure!(fired()? == before, "it has fired after a clean stop");
    Ok(format!("fired {frozen} times while frozen, and at no other time"))
}

/// Freezes that are measured.
const FREEZES: u32 = 3;
/// For one question of many.
const SOON: Duration = Duration::from_secs(1);

/// Without nf_tables a frozen holder is killed, and its addresses end: nobody else has to come for that.
pub fn falls_silent_without_nf_tables(_: &mut ()) -> Result<String> {
    ensure!(
        !Gate::is_possible()?,
        "this kernel has nf_tables: the machine is to be started with module_blacklist=nf_tables"
    );
    let mut director = Director::begin("", &groups())?;
    let _serving = director.stage.serve(director.host(), "lb1")?;
    let bound = LEASE + Lifetimes::lateness_for(LEASE);
    let mut last = Vec::new();
    for _ in 0..FREEZES {
        director.until("answers in both families", |d| Ok(VIP.iter().all(|vip| d.answers(vip))))?;
        director.signal(Signal::SIGSTOP)?;
        let begun = Instant::now();
        let mut latest = Duration::ZERO;
        while begun.elapsed() < bound + SOON {
            if VIP.iter().any(|vip| director.answers(vip)) {
                latest = begun.elapsed();
            }
            sleep(Duration::from_millis(20));
        }
        ensure!(latest < bound, "it answered {latest:?} after it was stopped, and others are let in after {bound:?}");
        let ended =
            director.process.as_mut().context("it runs")?.wait(SOON)?.context("what is frozen was not killed")?;
        ensure!(ended.signal() == Some(9), "it ended with {ended}");
        last.push(latest.as_millis());
        director.start()?;
    }
    let config = director.config();
    let checked = director.host().output(
        Path::new(HAMESH),
        &["config".as_ref(), "check".as_ref(), config.as_os_str()],
        PATIENCE,
    )?;
    ensure!(checked.contains("no nf_tables"), "config check says {checked}");
    Ok(format!("the last answer {last:?} ms after it was stopped, others let in after {} ms", bound.as_millis()))
}
