//! hamesh beside a real keepalived, and beside FRR, on one LAN: `interop [--short]`.
//!
//! In VRRPv2 without authentication, with a password and with an authentication header, and in VRRPv3 over IPv4 and IPv6; with
//! and without the virtual MAC, by multicast and by unicast: each side backs up the other, priorities decide, where they are
//! equal addresses do, nothing flaps, and when the other one preempts, both answer for at most one advertisement interval. What is in
//! a sync group moves together. What was said on the LAN is decoded by tshark, which finds nothing wrong in it.

mod hostile;
mod lists;
mod options;
mod sync;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::frame::Kind;
use hamesh::lab::frr::{self, Frr};
use hamesh::lab::host::{Host, Process, local_output};
use hamesh::lab::legacy::{self, Auth, Dialect};
use hamesh::lab::scene::{PRIORITIES, Scene, fresh_dir, last_words, routers};
use hamesh::lab::{ADVERT_SECONDS, LAN_NIC, VRID, sandbox};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// hamesh and keepalived on one LAN, in every dialect.
#[derive(Parser, Debug)]
struct Options {
    /// Watch for flapping for 5 s, and send what is hostile for 10 s, instead of 60 s each
    #[arg(long)]
    short: bool,
    /// Send what is hostile for so long
    #[arg(long)]
    seconds: Option<u64>,
    /// Only this dialect, by its name in the output
    #[arg(long)]
    only: Option<String>,
}

const DIALECTS: [(&str, Dialect); 12] = [
    ("v3", Dialect::V3),
    ("v3 IPv6", Dialect { ipv6: true, ..Dialect::V3 }),
    ("v3 MAC", Dialect { mac: true, ..Dialect::V3 }),
    ("v3 IPv6 MAC", Dialect { ipv6: true, mac: true, ..Dialect::V3 }),
    ("v3 unicast", Dialect { unicast: true, ..Dialect::V3 }),
    ("v3 IPv6 unicast", Dialect { ipv6: true, unicast: true, ..Dialect::V3 }),
    ("v2", Dialect::V2),
    ("v2 PASS", Dialect { auth: Auth::Pass, ..Dialect::V2 }),
    ("v2 AH", Dialect { auth: Auth::Ah, ..Dialect::V2 }),
    ("v2 MAC", Dialect { mac: true, ..Dialect::V2 }),
    ("v2 unicast", Dialect { unicast: true, ..Dialect::V2 }),
    ("v2 AH unicast", Dialect { unicast: true, auth: Auth::Ah, ..Dialect::V2 }),
];
/// FRR has the virtual MAC always; here it is hamesh that has it or not.
const FRR: [(&str, Dialect); 5] = [
    ("FRR v3", Dialect::V3),
    ("FRR v3 IPv6", Dialect { ipv6: true, ..Dialect::V3 }),
    ("FRR v3 MAC", Dialect { mac: true, ..Dialect::V3 }),
    ("FRR v3 IPv6 MAC", Dialect { ipv6: true, mac: true, ..Dialect::V3 }),
    ("FRR v2", Dialect::V2),
];
const HOSTILE: [(&str, Dialect); 6] = [
    ("v3", Dialect::V3),
    ("v3 IPv6", Dialect { ipv6: true, ..Dialect::V3 }),
    ("v3 MAC", Dialect { mac: true, ..Dialect::V3 }),
    ("v3 unicast", Dialect { unicast: true, ..Dialect::V3 }),
    ("v2 PASS", Dialect { auth: Auth::Pass, ..Dialect::V2 }),
    ("v2 AH", Dialect { auth: Auth::Ah, ..Dialect::V2 }),
];
const EXCLUDED: [&str; 2] = ["10.77.0.101/24", "fd77::101/64"];
const BELOW: u8 = 50;
const ABOVE: u8 = 250;
const ADVERT: Duration = Duration::from_secs(ADVERT_SECONDS as u64);
const CAPTURE: &str = "lan.pcap";
/// What tshark must not find: what it cannot read or complains of, and wrong checksums.
const WRONG: &str = "_ws.malformed || _ws.expert || vrrp.checksum.status == 0 || ip.checksum.status == 0";
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let options = Options::parse();
    match sandbox::enter() {
        Ok(Some(code)) => return code,
        Ok(None) => {}
        Err(error) => {
            eprintln!("interop: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let (watch, seconds) = if options.short { (5, 10) } else { (60, 60) };
    let seconds = options.seconds.unwrap_or(seconds);
    let dialects = DIALECTS.map(|dialect| (Beside::Keepalived, dialect)).into_iter();
    let beside = dialects.chain(FRR.map(|dialect| (Beside::Frr, dialect))).map(|(whom, (name, dialect))| {
        (name.to_owned(), Box::new(move |dir: &Path| play(whom, dialect, Duration::from_secs(watch), dir)) as Act)
    });
    let hostile = HOSTILE.map(|(name, dialect)| {
        (format!("hostile {name}"), Box::new(move |dir: &Path| hostile::judged(dialect, seconds, dir)) as Act)
    });
    let flood = ("hostile lower".to_owned(), Box::new(move |dir: &Path| hostile::not_multiplied(seconds, dir)) as Act);
    let (mut passed, mut failed) = (0, 0);
    let together = ("sync group".to_owned(), Box::new(sync::together) as Act);
    let unsigned = ("hostile unsigned".to_owned(), Box::new(move |dir: &Path| hostile::unsigned(seconds, dir)) as Act);
    let more = [
        ("vmac_xmit_base".to_owned(), Box::new(options::plain_adverts) as Act),
        ("mcast_dst_ip".to_owned(), Box::new(options::multicast) as Act),
        ("mcast_dst_ip IPv6".to_owned(), Box::new(options::multicast_v6) as Act),
        ("no_accept".to_owned(), Box::new(options::no_accept) as Act),
        ("lists".to_owned(), Box::new(|dir: &Path| lists::edited(dir, Dialect::V3)) as Act),
    ];
    // The same comparison there, with the same program: in the long run only.
    let long = ("lists v2".to_owned(), Box::new(|dir: &Path| lists::edited(dir, Dialect::V2)) as Act);
    let long = (!options.short).then_some(long);
    for (name, act) in beside.chain(hostile).chain([flood, unsigned, together]).chain(more).chain(long) {
        if options.only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        match within(act) {
            Ok(figures) => {
                passed += 1;
                println!("{name}: ok, {figures}");
            }
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED {error:#}");
            }
        }
    }
    println!("interop: hamesh beside keepalived, FRR and hostile adverts, {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays in a directory of its own, and returns its figures.
type Act = Box<dyn FnOnce(&Path) -> Result<String>>;

fn within(act: Act) -> Result<String> {
    let dir = fresh_dir("interop")?;
    let done = act(&dir).inspect_err(|_| last_words(&dir));
    if done.is_ok() {
        fs::remove_dir_all(&dir)?;
    }
    done.with_context(|| format!("logs are kept in {}", dir.display()))
}

/// Whom hamesh plays with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Keepalived,
    Frr,
}

/// A router outside the mesh that runs.
enum Peer {
    Keepalived(Process),
    Frr(Frr),
}

impl Beside {
    fn start(self, host: &Host, dialect: Dialect, priority: u8, source: Option<IpAddr>) -> Result<Peer> {
        match self {
            Self::Keepalived => {
                let program = legacy::keepalived().context("keepalived is not installed")?;
                Ok(Peer::Keepalived(legacy::start(host, &program, dialect, priority, source)?))
            }
            Self::Frr => {
                ensure!(frr::is_installed(), "FRR's vrrpd is not installed");
                Ok(Peer::Frr(Frr::start(host, dialect, priority)?))
            }
        }
    }
}

struct Stage {
    cluster: Cluster,
    scene: Scene,
    dialect: Dialect,
}

fn play(beside: Beside, dialect: Dialect, watch: Duration, dir: &Path) -> Result<String> {
    let mut toml = cluster_toml(dialect, &PRIORITIES);
    // keepalived drops an advert whose list is not its own: what is excluded is not in it.
    if dialect == Dialect::V3 {
        let excluded = EXCLUDED.map(|address| format!("\"{address}\""));
        toml += &format!("excluded_addresses = [{}]\n", excluded.join(", "));
    }
    let mut stage = Stage::set(dialect, &toml, dir)?;
    stage.scene.lan.capture(&dir.join(CAPTURE), Kind::Vrrp)?;
    if dialect == Dialect::V3 {
        stage.has_excluded(0, true)?;
    }

    // A weaker one keeps quiet, and serves when there is no hamesh.
    let weak = beside.start(&stage.scene.legacy, dialect, BELOW, None)?;
    stage.no_flapping("lb1", PRIORITIES[0], watch)?;
    let from = Instant::now();
    for node in 0..PRIORITIES.len() {
        stage.cluster.stop(node)?;
    }
    stage.owned_by("legacy").context("with every director stopped")?;
    stage.has_excluded(0, false)?;
    let backed_up = stage.scene.observer.longest_gap(from, Instant::now());

    // hamesh preempts it by priority.
    let from = Instant::now();
    for node in 0..PRIORITIES.len() {
        stage.cluster.start(node, &[])?;
    }
    stage.owned_by("lb1").context("with the directors back")?;
    let to_hamesh = stage.overlap(from, ADVERT)?;
    weak.end()?;

    // A stronger one preempts hamesh, and hamesh backs it up.
    let from = Instant::now();
    let strong = beside.start(&stage.scene.legacy, dialect, ABOVE, None)?;
    stage.owned_by("legacy").context("with a stronger one")?;
    // FRR says so before its macvlan carries anything, and is heard with the advert after that.
    let heard_after = if beside == Beside::Frr { ADVERT * 2 } else { ADVERT };
    let to_legacy = stage.overlap(from, heard_after)?;
    stage.no_flapping("legacy", ABOVE, watch)?;
    let from = Instant::now();
    strong.end()?;
    stage.owned_by("lb1").context("with the stronger one stopped")?;
    let backs_up = stage.scene.observer.longest_gap(from, Instant::now());
    ensure!(stage.overlap(from, ADVERT)?.is_zero(), "two owners after it had released");
    if dialect == Dialect::V3 || beside == Beside::Frr {
        stage.tie(beside)?;
    }
    let decoded = stage.decoded()?;
    Ok(format!(
        "overlap at preempt {} ms by hamesh, {} ms by the other; gap {} ms when it backs up, {} ms when hamesh does; {decoded} \
         adverts decoded",
        to_hamesh.as_millis(),
        to_legacy.as_millis(),
        backed_up.as_millis(),
        backs_up.as_millis()
    ))
}

impl Peer {
    fn end(self) -> Result<()> {
        match self {
            Self::Keepalived(keepalived) => end(keepalived),
            Self::Frr(frr) => frr.stop(),
        }
    }
}

fn end(mut keepalived: Process) -> Result<()> {
    keepalived.signal(Signal::SIGTERM)?;
    keepalived.wait(PATIENCE)?.context("keepalived does not end")?;
    Ok(())
}

impl Stage {
    /// A cluster, and lb1 holding the VIP.
    fn set(dialect: Dialect, toml: &str, dir: &Path) -> Result<Self> {
        let scene = Scene::set_for(dir, 1, dialect.vip().0)?;
        let hamesh = Path::new(env!("CARGO_BIN_EXE_hamesh"));
        let cluster = Cluster::form(&scene, hamesh, toml, |_| {})?;
        let stage = Self { scene, cluster, dialect };
        stage.owned_by("lb1")?;
        Ok(stage)
    }

    /// A BACKUP leaves an equal priority alone (RFC 9568 section 6.4.2); of two MASTERs, after a cut, the one with the higher
    /// address stays (section 6.4.3).
    fn tie(&self, beside: Beside) -> Result<()> {
        let legacy = &self.scene.legacy;
        let below = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 5));
        let (above, directors) = routers(false);
        ensure!(below < directors[0] && directors[0] < above, "the laboratory's addresses have changed");
        let sources = match beside {
            Beside::Keepalived => {
                legacy.address(LAN_NIC, below, 32)?;
                vec![(below, Some("lb1")), (above, Some("legacy"))]
            }
            // It speaks from its interface's own. Over IPv6, from the virtual MAC's, it has been seen to give way to a lower one.
            Beside::Frr => vec![(above, (!self.dialect.ipv6).then_some("legacy"))],
        };
        for (source, winner) in sources {
            let other = beside.start(legacy, self.dialect, PRIORITIES[0], Some(source))?;
            self.no_flapping("lb1", PRIORITIES[0], ADVERT * 5).context("beside an equal priority")?;
            self.scene.lan.plug(self.scene.legacy_lan, false);
            sleep(ADVERT * 6);
            self.scene.lan.plug(self.scene.legacy_lan, true);
            match winner {
                Some(winner) => self.owned_by(winner),
                None => self.scene.settled(ADVERT * 5, PATIENCE).map(drop),
            }
            .with_context(|| format!("after a cut, with equal priorities and a peer at {source}"))?;
            other.end()?;
            self.owned_by("lb1")?;
        }
        Ok(())
    }

    /// What everybody has advertised so far, in tshark's eyes: how much, and nothing wrong in it.
    fn decoded(&self) -> Result<usize> {
        self.scene.lan.captured()?;
        let file = self.scene.dir.join(CAPTURE);
        let read = |filter: &str| -> Result<String> {
            let file = file.display().to_string();
            let args = ["-n", "-r", &file, "-o", "ip.check_checksum:TRUE", "-Y", filter];
            let (status, said, error) = local_output(Path::new("tshark"), &args, PATIENCE * 3)?;
            ensure!(status.success(), "tshark: {error}");
            Ok(said)
        };
        let wrong = read(WRONG)?;
        ensure!(wrong.is_empty(), "tshark does not like what it sees: {wrong}");
        let adverts = read("vrrp")?.lines().count();
        ensure!(adverts > 20, "tshark sees {adverts} adverts in {}", file.display());
        Ok(adverts)
    }

    /// Whether a director has all of the excluded addresses, or none.
    fn has_excluded(&self, director: usize, wanted: bool) -> Result<()> {
        let host = &self.scene.directors[director].host;
        let list = host.output(Path::new("/sbin/ip"), &["addr", "show", "dev", LAN_NIC], PATIENCE)?;
        for address in EXCLUDED {
            ensure!(list.contains(address) == wanted, "of {address} on {}: {list}", host.name());
        }
        Ok(())
    }

    fn owned_by(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let owner = self.scene.settled(Duration::from_secs(1), PATIENCE)?;
            if owner == name {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{owner} owns the VIP, not {name}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Two owners since `from`, of whatever kind.
    fn overlap(&self, from: Instant, most: Duration) -> Result<Duration> {
        let two = self.scene.observer.two_owners(from, Instant::now(), |_| true);
        ensure!(two <= most, "two owners for {} ms, more than {} ms", two.as_millis(), most.as_millis());
        Ok(two)
    }

    /// For a while one owner answers without a gap and is the only one who advertises, in the right dialect.
    fn no_flapping(&self, owner: &str, priority: u8, watch: Duration) -> Result<()> {
        let observer = &self.scene.observer;
        // The other one may have said a word before it heard the MASTER.
        sleep(ADVERT * 2);
        let from = Instant::now();
        sleep(watch);
        let to = Instant::now();
        let hosts = observer.hosts();
        for span in observer.spans(from, to) {
            ensure!(hosts[span.host] == owner, "{} answered while {owner} is MASTER", hosts[span.host]);
        }
        let gap = observer.longest_gap(from, to);
        ensure!(gap < Duration::from_secs(1), "nobody answered for {} ms while {owner} is MASTER", gap.as_millis());
        let adverts = observer.adverts(from, to);
        for advert in &adverts {
            let header = advert.header;
            let right = (header.version, header.vrid, header.priority) == (self.dialect.version, VRID, priority);
            ensure!(advert.host == owner && right, "while {owner} is MASTER, {} said {header:?}", advert.host);
            let mac = self.dialect.virtual_mac().unwrap_or(advert.mac);
            ensure!(advert.mac == mac, "{} advertised from the MAC {:02x?}", advert.host, advert.mac);
        }
        // Intervals of one second, with room for a busy machine.
        let least = watch.as_secs() * 8 / 10;
        ensure!(u64::try_from(adverts.len())? >= least, "{} adverts in {watch:?}", adverts.len());
        Ok(())
    }
}
