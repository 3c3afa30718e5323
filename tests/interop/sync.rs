//! Two virtual routers on two LANs that move together, beside a keepalived with the same sync group: whoever has one has both,
//! and what takes one away takes both.

use super::{ABOVE, ADVERT, BELOW, PATIENCE, end};
use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::host::{Host, Process};
use hamesh::lab::legacy::{self, Dialect};
use hamesh::lab::observer::{Observer, observer};
use hamesh::lab::scene::{Director, PRIORITIES, Scene};
use hamesh::lab::switch::Switch;
use hamesh::lab::{LAN_NIC, PREFIX, VIP, VRID};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const NIC: &str = "inside";
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 100);
/// How long nothing must have changed.
const STEADY: Duration = Duration::from_secs(2);

struct Stage {
    scene: Scene,
    /// Held for its drop.
    _lan: Switch,
    inside: Observer,
}

impl Stage {
    fn set(dir: &Path) -> Result<Self> {
        let scene = Scene::set(dir, 1)?;
        let (inside, tap) = observer(IpAddr::V4(INSIDE));
        let lan = Switch::new("inside", 2, Some(tap)).context("the second LAN")?;
        let routers = scene.directors.iter().map(|director| &director.host).chain([&scene.legacy]);
        for (host, number) in routers.zip([11, 12, 13, 15]) {
            lan.attach(host, NIC, [2, 0, 10, 79, 0, number])?;
            host.address(NIC, Ipv4Addr::new(10, 79, 0, number), PREFIX)?;
        }
        Ok(Self { scene, _lan: lan, inside })
    }

    /// Waits until `name` alone has answered on both LANs for a while.
    fn both_owned_by(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outside = self.scene.settled(STEADY, PATIENCE)?;
            let inside = self.inside.owners();
            if outside == name && inside == [name] {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{outside} owns the one, {inside:?} the other, and not {name} both");
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until exactly these directors have the route and the rule.
    fn routed(&self, wanted: &[bool]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let has = |director: &Director| {
                let ip = |words: &[&str]| director.host.output(Path::new("/sbin/ip"), words, PATIENCE);
                // Of a table that never was, ip says so and fails.
                let route = ip(&["route", "show", "table", "100"]).is_ok_and(|routes| routes.contains("default via"));
                Ok((route, ip(&["rule"])?.contains("from 10.79.0.0/24 lookup 100")))
            };
            let now = self.scene.directors.iter().map(has).collect::<Result<Vec<_>>>()?;
            if now.iter().zip(wanted).all(|(now, wanted)| *now == (*wanted, *wanted)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "route and rule are there: {now:?}, not {wanted:?}");
            sleep(Duration::from_millis(50));
        }
    }

    /// How long two hosts each had one, at most.
    fn apart(&self, from: Instant) -> Result<Duration> {
        let (to, names, other_names) = (Instant::now(), self.scene.observer.hosts(), self.inside.hosts());
        let mut longest = Duration::ZERO;
        for one in self.scene.observer.spans(from, to) {
            for other in self.inside.spans(from, to) {
                if names[one.host] != other_names[other.host] {
                    let together = one.to.min(other.to).saturating_duration_since(one.from.max(other.from));
                    longest = longest.max(together);
                }
            }
        }
        ensure!(longest <= ADVERT * 2, "two hosts had one each for {longest:?}");
        Ok(longest)
    }
}

/// What a host tells by FIFO.
struct Told(File);

impl Told {
    fn new(host: &Host) -> Result<Self> {
        let pipe = host.dir().join("run/pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).context("a FIFO")?;
        Ok(Self(OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&pipe)?))
    }

    /// What it was since the last call, a line each.
    fn lines(&mut self) -> Vec<String> {
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while let Ok(length) = self.0.read(&mut buffer) {
            text += &String::from_utf8_lossy(&buffer[..length]);
        }
        text.lines().map(str::to_owned).collect()
    }

    /// Those lines are of these states, in this order, for the sync group and for each of its instances.
    fn are(&mut self, states: &[&str], priority: u8) -> Result<()> {
        let told = self.states(priority)?;
        ensure!(told == states, "told {told:?}, not {states:?}");
        Ok(())
    }

    /// The states that those lines tell of the sync group, and of each of its instances too.
    fn states(&mut self, priority: u8) -> Result<Vec<String>> {
        let lines = self.lines();
        let of = |kind: &str, priority: u8| {
            let (head, tail) = (format!("{kind} "), format!(" {priority}"));
            let state = |line: &String| Some(line.strip_prefix(&head)?.strip_suffix(&tail)?.to_owned());
            lines.iter().filter_map(state).collect::<Vec<_>>()
        };
        let states = of("GROUP \"edge\"", 0);
        for instance in ["INSTANCE \"web\"", "INSTANCE \"inside\""] {
            ensure!(of(instance, priority) == states, "not all are told the same: {lines:?}");
        }
        ensure!(lines.len() == states.len() * 3, "something else is told: {lines:?}");
        Ok(states)
    }
}

fn keepalived(host: &Host, priority: u8) -> Result<Process> {
    let program = legacy::keepalived().context("keepalived is not installed")?;
    let instance = |name: &str, nic: &str, vrid: u8, vip: Ipv4Addr| {
        format!(
            "vrrp_instance {name} {{\n state BACKUP\n interface {nic}\n virtual_router_id {vrid}\n priority {priority}\n \
             advert_int 1\n virtual_ipaddress {{\n {vip}/{PREFIX}\n }}\n}}\n"
        )
    };
    let text = format!(
        "global_defs {{\n router_id x\n vrrp_version 3\n vrrp_notify_fifo /run/pipe\n}}\n\
         vrrp_sync_group edge {{\n group {{\n web\n inside\n }}\n}}\n{}{}",
        instance("web", LAN_NIC, VRID, VIP),
        instance("inside", NIC, VRID + 1, INSIDE)
    );
    let file = host.dir().join("sync.conf");
    fs::write(&file, text)?;
    let args = ["-n", "-l", "-D", "-P", "-f"].map(OsString::from).into_iter().chain([file.into_os_string()]);
    let pids = ["-p", "/run/k.pid", "-r", "/run/v.pid"].map(OsString::from);
    host.start("keepalived", &program, &args.chain(pids).collect::<Vec<_>>(), &[])
}

pub(super) fn together(dir: &Path) -> Result<String> {
    let stage = Stage::set(dir)?;
    let (scene, hosts) = (&stage.scene, &stage.scene.directors);
    let mut told = hosts.iter().map(|director| Told::new(&director.host)).collect::<Result<Vec<_>>>()?;
    let mut theirs = Told::new(&scene.legacy)?;
    let priorities: Vec<_> =
        (1..).zip(PRIORITIES).map(|(number, priority)| format!("lb{number} = {priority}")).collect();
    let toml = cluster_toml(Dialect::V3, &PRIORITIES)
        + &format!(
            "[vip.inside]\ninterface = \"{NIC}\"\nvrid = {}\naddresses = [\"{INSIDE}/{PREFIX}\"]\npriority = {{ {} }}\n\
             routes = [\"default via 10.79.0.1 table 100\"]\nrules = [\"from 10.79.0.0/24 lookup 100 priority 500\"]\n\
             [sync.edge]\nvips = [\"web\", \"inside\"]\n[notify]\nfifo = [{{ path = \"/run/pipe\" }}]\n",
            VRID + 1,
            priorities.join(", ")
        );
    let hamesh = Path::new(env!("CARGO_BIN_EXE_hamesh"));
    let begun = Instant::now();
    let mut cluster = Cluster::form(scene, hamesh, &toml, |_| {})?;
    stage.both_owned_by("lb1")?;
    let status = cluster.status(0)?;
    let tokens: Vec<_> = status.vips.iter().map(|vip| (vip.name.as_str(), vip.state.as_str(), vip.token)).collect();
    let token = status.vip().context("no VIP")?.token;
    ensure!(
        token.is_some() && tokens == [("inside", "MASTER", token), ("web", "MASTER", token)],
        "one lease: {tokens:?}"
    );

    // One interface goes: both VIPs go, and lb1 is in FAULT with both. It comes back, and both come.
    told.iter_mut().for_each(|told| drop(told.lines()));
    hosts[0].host.set_up(NIC, false)?;
    stage.both_owned_by("lb2").context("with an interface of lb1 down")?;
    told[0].are(&["FAULT"], PRIORITIES[0])?;
    told[1].are(&["MASTER"], PRIORITIES[1])?;
    ensure!(cluster.status(0)?.vips.iter().all(|vip| vip.state == "FAULT"), "lb1 is not in FAULT with both");
    hosts[0].host.set_up(NIC, true)?;
    hosts[0].host.address(NIC, Ipv4Addr::new(10, 79, 0, 11), PREFIX).ok();
    stage.both_owned_by("lb1").context("with the interface back")?;
    told[0].are(&["BACKUP", "MASTER"], PRIORITIES[0])?;
    told[1].are(&["BACKUP"], PRIORITIES[1])?;

    // Routes and rules are where the VIPs are, and are put back.
    stage.routed(&[true, false, false])?;
    hosts[0].host.output(Path::new("/sbin/ip"), &["route", "flush", "table", "100"], PATIENCE)?;
    hosts[0].host.output(Path::new("/sbin/ip"), &["rule", "del", "priority", "500", "protocol", "112"], PATIENCE)?;
    stage.routed(&[true, false, false]).context("after somebody has removed them")?;

    // An order for one is one for both, whichever name is said.
    cluster.command(0, &["vip", "move", "inside", "--to", "lb3"])?;
    stage.both_owned_by("lb3")?;
    stage.routed(&[false, false, true])?;
    cluster.command(0, &["vip", "move", "edge", "--to", "lb1"])?;
    stage.both_owned_by("lb1")?;
    cluster.command(0, &["vip", "unpin", "web"])?;
    let between_us = stage.apart(begun)?;

    // A weaker keepalived backs both up; a stronger one takes both, and gives both back.
    let weak = keepalived(&scene.legacy, BELOW)?;
    sleep(ADVERT * 5);
    theirs.lines();
    for node in 0..PRIORITIES.len() {
        cluster.stop(node)?;
    }
    stage.both_owned_by("legacy").context("with every director stopped")?;
    stage.routed(&[false, false, false])?;
    // While they stop one after the other it may have been MASTER before.
    ensure!(theirs.states(BELOW)?.last().is_some_and(|last| last == "MASTER"), "keepalived is no MASTER");
    for node in 0..PRIORITIES.len() {
        cluster.start(node, &[])?;
    }
    stage.both_owned_by("lb1").context("with the directors back")?;
    end(weak)?;
    let strong = keepalived(&scene.legacy, ABOVE)?;
    stage.both_owned_by("legacy").context("with a stronger keepalived")?;
    end(strong)?;
    stage.both_owned_by("lb1").context("with the stronger keepalived stopped")?;
    let apart = stage.apart(begun)?;
    let two = stage.inside.two_owners(begun, Instant::now(), |host| host.starts_with("lb"));
    ensure!(two.is_zero(), "two directors owned the second VIP for {two:?}");
    Ok(format!(
        "both VIPs with one token; apart for {} ms between directors, {} ms with keepalived",
        between_us.as_millis(),
        apart.as_millis()
    ))
}
