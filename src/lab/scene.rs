//! The stage: who stands on the LAN 10.77.0.0/24, which is fd77::/64 too, and on the mesh network 10.78.0.0/24.

use super::client::{Client, Service};
use super::host::Host;
use super::observer::{Observer, observer};
use super::sandbox;
use super::switch::{Port, Switch};
use super::{LAN_NIC, MESH_NIC, PREFIX, PREFIX6, SECOND_NIC, VIP};
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Lines of a log.
const LAST: usize = 20;

/// The directors' VRRP priorities, of lb1 and on.
pub const PRIORITIES: [u8; 3] = [200, 150, 100];

/// A machine that can hold the VIP, with a service behind it.
#[derive(Debug)]
pub struct Director {
    /// The machine.
    pub host: Host,
    /// Its port in the LAN's switch.
    pub lan: Port,
    /// The port of its second NIC in the LAN's switch, unplugged at first.
    pub second: Port,
    /// Its port in the mesh network's switch.
    pub mesh: Port,
    /// VRRP priority.
    pub priority: u8,
    #[expect(dead_code, reason = "held for its drop")]
    service: Service,
}

/// A LAN with three directors, two clients, an observer and a place for a legacy peer; a mesh network with a witness.
#[derive(Debug)]
pub struct Scene {
    /// Where every host keeps its files.
    pub dir: PathBuf,
    /// The LAN's switch.
    pub lan: Switch,
    /// The mesh network's switch.
    pub mesh: Switch,
    /// lb1 to lb3.
    pub directors: Vec<Director>,
    /// The machine of the witness.
    pub witness: Host,
    /// Its port in the mesh network's switch.
    pub witness_mesh: Port,
    /// The machine of a legacy peer.
    pub legacy: Host,
    /// Its port in the LAN's switch.
    pub legacy_lan: Port,
    /// Two machines that use the VIP, with their ports in the LAN's switch. A LAN partition puts one on each side.
    pub clients: Vec<(Client, Port)>,
    /// The address it is about.
    vip: IpAddr,
    /// The judge.
    pub observer: Observer,
    #[expect(dead_code, reason = "held for its drop")]
    legacy_service: Service,
}

/// The number of a machine: the last byte of its addresses and MACs.
const DIRECTORS: u8 = 11;
const WITNESS: u8 = 14;
const LEGACY: u8 = 15;
const CLIENTS: u8 = 31;
/// Added for a second NIC.
const SECOND: u8 = 100;

fn on_lan(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn on_lan6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())
}

/// The routers' addresses on the LAN: the legacy peer's, and those of the directors.
#[must_use]
pub fn routers(ipv6: bool) -> (IpAddr, [IpAddr; 3]) {
    let on = |number| if ipv6 { IpAddr::V6(on_lan6(number)) } else { IpAddr::V4(on_lan(number)) };
    (on(LEGACY), [DIRECTORS, DIRECTORS + 1, DIRECTORS + 2].map(on))
}

/// Where a machine with this number is on the mesh network.
fn on_mesh(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, number)
}

impl Scene {
    /// Sets the stage below `dir`. `seed` decides what lossy cables lose.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set(dir: &Path, seed: u64) -> Result<Self> {
        Self::set_for(dir, seed, IpAddr::V4(VIP))
    }

    /// As [`Scene::set`], about another VIP.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_for(dir: &Path, seed: u64, vip: IpAddr) -> Result<Self> {
        let (observer, tap) = observer(vip);
        let lan = Switch::new("lan", seed, Some(tap)).context("the LAN")?;
        let mesh = Switch::new("mesh", seed.wrapping_add(1), None).context("the mesh network")?;
        let join_lan = |host: &Host, number: u8| -> Result<Port> {
            let port = lan.attach(host, LAN_NIC, [2, 0, 10, 77, 0, number])?;
            host.address(LAN_NIC, on_lan(number), PREFIX)?;
            if vip.is_ipv6() {
                host.address(LAN_NIC, on_lan6(number), PREFIX6)?;
            }
            Ok(port)
        };
        let join_mesh = |host: &Host, number: u8| -> Result<Port> {
            let port = mesh.attach(host, MESH_NIC, [2, 0, 10, 78, 0, number])?;
            host.address(MESH_NIC, on_mesh(number), PREFIX)?;
            Ok(port)
        };
        let mut directors = Vec::new();
        for (number, priority) in (DIRECTORS..).zip(PRIORITIES) {
            let host = Host::new(&format!("lb{}", number - DIRECTORS + 1), dir)?;
            let port = join_lan(&host, number)?;
            let second = lan.attach(&host, SECOND_NIC, [2, 0, 10, 77, 1, number])?;
            // A /32 brings no second route to the LAN, which would make the way out ambiguous.
            host.address(SECOND_NIC, on_lan(number + SECOND), 32)?;
            lan.plug(second, false);
            let mesh = join_mesh(&host, number)?;
            let service = Service::start(&host, vip)?;
            directors.push(Director { host, lan: port, second, mesh, priority, service });
        }
        let witness = Host::new("witness", dir)?;
        let witness_mesh = join_mesh(&witness, WITNESS)?;
        let legacy = Host::new("legacy", dir)?;
        let legacy_lan = join_lan(&legacy, LEGACY)?;
        let legacy_service = Service::start(&legacy, vip)?;
        let mut clients = Vec::new();
        for number in CLIENTS..CLIENTS + 2 {
            let host = Host::new(&format!("client{}", number - CLIENTS + 1), dir)?;
            let port = join_lan(&host, number)?;
            clients.push((Client::start(&host, vip)?, port));
        }
        Ok(Self {
            dir: dir.to_owned(),
            lan,
            mesh,
            directors,
            witness,
            witness_mesh,
            legacy,
            legacy_lan,
            clients,
            vip,
            observer,
            legacy_service,
        })
    }

    /// The members' ports on the mesh network.
    #[must_use]
    pub fn mesh_ports(&self) -> Vec<Port> {
        (0..=self.directors.len()).map(|node| self.mesh_port(node)).collect()
    }

    /// Where the mesh endpoint of a director (0 and on) or of the witness (as many as there are directors) listens.
    #[must_use]
    pub fn mesh_address(&self, node: usize) -> Ipv4Addr {
        let number = u8::try_from(node).map_or(WITNESS, |node| DIRECTORS + node);
        on_mesh(if node < self.directors.len() { number } else { WITNESS })
    }

    /// The director with this name.
    #[must_use]
    pub fn director(&self, name: &str) -> Option<usize> {
        self.directors.iter().position(|director| director.host.name() == name)
    }

    /// Every port of the LAN but those of `director` and of `with`.
    #[must_use]
    pub fn lan_without(&self, director: usize, with: &[Port]) -> Vec<Port> {
        let others = self.directors.iter().enumerate().filter(|(index, _)| *index != director);
        let others = others.flat_map(|(_, other)| [other.lan, other.second]);
        let all = others.chain([self.legacy_lan]).chain(self.clients.iter().map(|(_, port)| *port));
        all.filter(|port| !with.contains(port)).collect()
    }

    /// Every port of the mesh network but that of `node`, counted as in [`Scene::mesh_address`].
    #[must_use]
    pub fn mesh_without(&self, node: usize) -> Vec<Port> {
        let all = (0..=self.directors.len()).filter(|other| *other != node);
        all.map(|other| self.mesh_port(other)).collect()
    }

    /// The port of a node in the mesh network's switch, counted as in [`Scene::mesh_address`].
    #[must_use]
    pub fn mesh_port(&self, node: usize) -> Port {
        self.directors.get(node).map_or(self.witness_mesh, |director| director.mesh)
    }

    /// The laboratory's own worst lateness in `[from, to]`; beyond [`super::observer::NOISE`] its figures are noisy.
    #[must_use]
    pub fn lateness(&self, from: Instant, to: Instant) -> Duration {
        let clients = self.clients.iter().map(|(client, _)| client.lateness(from, to));
        clients.max().unwrap_or_default().max(self.observer.lateness(from, to))
    }

    /// Waits until exactly one host has owned the VIP without a gap for `steady`, and both clients hear it: its name.
    ///
    /// # Errors
    /// That does not come about within `timeout`.
    pub fn settled(&self, steady: Duration, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            let from = now.checked_sub(steady).unwrap_or(now);
            let hosts = self.observer.hosts();
            let spans = self.observer.spans(from, now);
            let clients = self.clients.iter().all(|(client, _)| {
                let (at, by) = client.last_answer();
                now.saturating_duration_since(at) < Duration::from_millis(50) && self.observer.owners().contains(&by)
            });
            // One span that covers the time: one owner, and no gap that would have split it.
            if let [only] = spans.as_slice()
                && only.from <= from
                && now.saturating_duration_since(only.to) < Duration::from_millis(20)
                && clients
            {
                return Ok(hosts[only.host].clone());
            }
            if now >= deadline {
                bail!(
                    "no single owner of {} for {steady:?} within {timeout:?}; answering now: [{}]",
                    self.vip,
                    self.observer.owners().join(", ")
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The whole of a test program that tells one story: in a sandbox, with a directory that stays only after a failure, and a
/// last line with its figure. The story returns how many things it has shown, `about` says what they are.
pub fn tell(name: &str, about: &str, story: impl FnOnce(&Path) -> Result<u32>) -> ExitCode {
    let told = || -> Result<u32> {
        let dir = fresh_dir(name)?;
        let passed = story(&dir)
            .inspect_err(|_| last_words(&dir))
            .with_context(|| format!("logs are kept in {}", dir.display()))?;
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(passed)
    };
    match sandbox::enter() {
        Ok(Some(code)) => return code,
        Ok(None) => {}
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    match told() {
        Ok(passed) => {
            println!("{name}: {about}, {passed} passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{name}: FAILED {error:#}");
            println!("{name}: 0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

/// A new directory for the files of one laboratory.
///
/// # Errors
/// It cannot be made.
pub fn fresh_dir(purpose: &str) -> Result<PathBuf> {
    // The process id is 1 in every sandbox; the clock tells them apart.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let dir = std::env::temp_dir().join(format!("hamesh-{purpose}-{}", now.as_millis()));
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    // Whatever the umask: who runs scripts wants them where nobody else can write.
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// Prints how the log of every host below `dir` ends: where the machine is gone afterwards, a kept log is of no use.
pub fn last_words(dir: &Path) {
    let logs = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|host| fs::read_dir(host.path()))
        .flatten()
        .flatten();
    let mut logs: Vec<PathBuf> =
        logs.map(|file| file.path()).filter(|file| file.extension().is_some_and(|it| it == "log")).collect();
    logs.sort();
    for log in logs {
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        println!("how {} ends:", log.display());
        lines[lines.len().saturating_sub(LAST)..].iter().for_each(|line| println!("    {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::frame::Kind;

    const LOOK: Duration = Duration::from_millis(400);

    fn stage() -> (tempfile::TempDir, Scene) {
        let dir = tempfile::tempdir().expect("a directory");
        let scene = Scene::set(dir.path(), 7).expect("the laboratory needs root");
        (dir, scene)
    }

    fn claim(scene: &Scene, director: usize) {
        scene.directors[director].host.address(LAN_NIC, VIP, 32).expect("an address");
    }

    fn two_owners_now(scene: &Scene) -> Duration {
        thread::sleep(LOOK);
        let now = Instant::now();
        scene.observer.two_owners(now.checked_sub(LOOK).unwrap_or(now), now, |_| true)
    }

    #[test]
    fn two_owners_are_seen_through_a_partition_and_one_is_not_called_two() {
        let (_dir, scene) = stage();
        claim(&scene, 0);
        assert_eq!(two_owners_now(&scene), Duration::ZERO);
        assert_eq!(scene.observer.owners(), ["lb1"]);
        let cut = scene.lan.cut(&[scene.directors[0].lan], &scene.lan_without(0, &[]), Kind::Any);
        claim(&scene, 1);
        assert!(two_owners_now(&scene) > LOOK / 2);
        drop(cut);
        scene.directors[0].host.remove_address(LAN_NIC, VIP).expect("removed");
        thread::sleep(Duration::from_millis(50));
        assert_eq!(two_owners_now(&scene), Duration::ZERO);
        assert_eq!(scene.observer.owners(), ["lb2"]);
    }

    #[test]
    fn a_cut_darkens_the_clients_behind_it_only_and_counts_what_it_took() {
        let (_dir, scene) = stage();
        claim(&scene, 0);
        scene.settled(Duration::from_millis(100), Duration::from_secs(3)).expect("answered");
        let from = Instant::now();
        // One way: the questions arrive, the answers do not.
        let cut = scene.lan.cut_one_way(&[scene.directors[0].lan], &[scene.clients[1].1], Kind::Any);
        thread::sleep(LOOK);
        let to = Instant::now();
        assert!(cut.harmed() > 20, "{} frames", cut.harmed());
        assert!(scene.clients[1].0.outage(from, to) > LOOK / 2);
        assert!(scene.clients[0].0.outage(from, to) < LOOK / 2);
        drop(cut);
        scene.settled(Duration::from_millis(100), Duration::from_secs(3)).expect("answered again");
    }

    #[test]
    fn a_lossy_network_loses_about_what_it_should() {
        let (_dir, scene) = stage();
        claim(&scene, 0);
        scene.settled(Duration::from_millis(100), Duration::from_secs(3)).expect("answered");
        let answered = || scene.clients[0].0.answers().values().sum::<u64>();
        let before = answered();
        let loss = scene.lan.lossy(&[scene.directors[0].lan, scene.clients[0].1], 300);
        thread::sleep(Duration::from_secs(3));
        let answers = answered() - before;
        // Of 600 questions, or what a busy machine asks of them, 0.7 * 0.7 are answered and the others lost on one of the ways:
        // 49 %, with a standard deviation of 2 %.
        let all = answers + loss.harmed();
        assert!(all > 200, "{all} questions in 3 s");
        assert!((all * 39 / 100..all * 59 / 100).contains(&answers), "{answers} answers, {} lost", loss.harmed());
    }

    #[test]
    fn a_pulled_second_cable_is_silent_and_a_plugged_one_answers_for_its_host() {
        let (_dir, scene) = stage();
        claim(&scene, 0);
        let second = &scene.directors[0];
        let others = scene.lan_without(0, &[]);
        let _cut = scene.lan.cut(&[second.lan], &others, Kind::Any);
        thread::sleep(LOOK);
        let heard = |client: usize| scene.clients[client].0.last_answer().0.elapsed() < Duration::from_millis(50);
        assert!(!heard(0));
        scene.lan.plug(second.second, true);
        scene.directors[0].host.remove_address(LAN_NIC, VIP).expect("removed");
        second.host.address(SECOND_NIC, VIP, 32).expect("an address");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !heard(0) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(scene.observer.owners(), ["lb1"], "one host, by whichever NIC");
    }
}
