//! Who is told of a takeover, on real directors and by a real keepalived: the same scripts with the same arguments, and the same lines
//! in a FIFO. A script that hangs and a FIFO that nobody reads hold up neither the lease nor a stop.

use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::host::Host;
use hamesh::lab::legacy::{self, Dialect};
use hamesh::lab::scene::{PRIORITIES, Scene, tell};
use hamesh::lab::{LAN_NIC, PREFIX, VIP, VRID};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the owner must not have changed.
const STEADY: Duration = Duration::from_secs(2);
/// The cable of an interface that only the priority depends on, and its other end.
const CABLE: [&str; 2] = ["uplink", "provider"];

fn main() -> ExitCode {
    tell("notify", "keepalived's scripts, arguments and FIFO lines, tokens, and what hangs", story)
}

/// What one host was told.
struct Told {
    host: Host,
    fifo: File,
    lines: String,
}

impl Told {
    fn new(host: &Host) -> Result<Self> {
        let pipe = host.dir().join("run/pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).context("a FIFO")?;
        let fifo = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&pipe)?;
        Ok(Self { host: host.clone(), fifo, lines: String::new() })
    }

    fn file(&self) -> PathBuf {
        self.host.dir().join("run/told")
    }

    /// What scripts wrote down: `<argument>... token`, a line each and one write each, because two scripts run at once.
    fn scripts(&self) -> String {
        fs::read_to_string(self.file()).unwrap_or_default()
    }

    /// Those of keepalived's `notify`, or the others: among themselves they have an order.
    fn arguments(&self, any: bool) -> Vec<String> {
        let scripts = self.scripts();
        let lines = scripts.lines().filter(|line| line.starts_with("<any>") == any);
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    }

    /// The tokens that MASTER was told with.
    fn tokens(&self) -> Vec<u64> {
        let scripts = self.scripts();
        let masters = scripts.lines().filter(|line| line.starts_with("<master>"));
        masters.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect()
    }

    fn fifo(&mut self) -> &str {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.fifo.read(&mut buffer) {
            self.lines += &String::from_utf8_lossy(&buffer[..length]);
        }
        &self.lines
    }

    /// Waits for the last argument of what came last.
    fn until(&self, state: &str, times: usize) -> Result<()> {
        let begun = Instant::now();
        let wanted = format!(" {state} ").replace(' ', "");
        let count = || self.arguments(true).iter().filter(|line| line.contains(&format!("<{wanted}>"))).count();
        while count() < times {
            ensure!(
                begun.elapsed() < PATIENCE,
                "{} is not told {state} {times} times: {}",
                self.host.name(),
                self.scripts()
            );
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        self.fifo();
        self.lines.clear();
        fs::write(self.file(), "").context("what was told")
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        self.host.output(Path::new("/sbin/ip"), words, PATIENCE).map(drop)
    }

    /// From MASTER: the priority falls and rises, the interface goes and comes.
    fn trouble(&mut self, masters: usize) -> Result<()> {
        for (carrier, priority) in [("down", "180"), ("up", "200")] {
            self.ip(&["link", "set", CABLE[1], carrier])?;
            let line = format!("MASTER_PRIORITY {priority}\n");
            let begun = Instant::now();
            while !self.fifo().ends_with(&line) {
                ensure!(begun.elapsed() < PATIENCE, "{} does not write {line}: {}", self.host.name(), self.lines);
                sleep(Duration::from_millis(20));
            }
        }
        self.ip(&["link", "set", LAN_NIC, "down"])?;
        self.until("FAULT", 1)?;
        self.ip(&["link", "set", LAN_NIC, "up"])?;
        self.until("MASTER", masters + 1)
    }
}

fn with_cable(host: &Host) -> Result<()> {
    let ip = |words: &[&str]| host.output(Path::new("/sbin/ip"), words, PATIENCE);
    ip(&["link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1]])?;
    ip(&["link", "set", CABLE[0], "up"])?;
    ip(&["link", "set", CABLE[1], "up"]).map(drop)
}

fn script(dir: &Path) -> Result<PathBuf> {
    let script = dir.join("tell");
    let text = "#!/bin/sh
if [ -e /run/hang ]; then sleep 600; fi
line=$(printf '<%s>' \"$@\")
echo \"$line ${HAMESH_TOKEN:-none}\" >>/run/told
";
    fs::write(&script, text)?;
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    Ok(script)
}

/// keepalived alone on the LAN, through the same story.
fn keepalived(scene: &Scene, script: &Path) -> Result<Option<Told>> {
    let Some(program) = legacy::keepalived() else { return Ok(None) };
    let mut told = Told::new(&scene.legacy)?;
    with_cable(&scene.legacy)?;
    let tell = script.display();
    let text = format!(
        "global_defs {{\n router_id x\n vrrp_version 3\n script_user root\n enable_script_security\n vrrp_notify_fifo /run/pipe\n \
         vrrp_notify_priority_changes true\n startup_script \"{tell} startup\"\n shutdown_script \"{tell} shutdown 'x y'\"\n}}\n\
         vrrp_instance web {{\n state BACKUP\n interface {LAN_NIC}\n virtual_router_id {VRID}\n priority 200\n advert_int 1\n \
         track_interface {{\n {} weight -20\n }}\n virtual_ipaddress {{\n {VIP}/{PREFIX}\n }}\n \
         notify_master \"{tell} master 'a b'\"\n notify_backup \"{tell} backup\"\n notify_fault \"{tell} fault\"\n \
         notify_stop \"{tell} stop\"\n notify \"{tell} any x\"\n}}\n",
        CABLE[0]
    );
    let file = scene.legacy.dir().join("notify.conf");
    fs::write(&file, text)?;
    let args = ["-n", "-l", "-D", "-P", "-f"].map(OsString::from).into_iter().chain([file.into_os_string()]);
    let pids = ["-p", "/run/k.pid", "-r", "/run/v.pid"].map(OsString::from);
    let mut process = scene.legacy.start("keepalived", &program, &args.chain(pids).collect::<Vec<_>>(), &[])?;
    told.until("MASTER", 1)?;
    told.trouble(1)?;
    process.signal(Signal::SIGTERM)?;
    process.wait(PATIENCE)?.context("keepalived does not end")?;
    told.until("STOP", 1)?;
    told.fifo();
    Ok(Some(told))
}

fn story(dir: &Path) -> Result<u32> {
    let scene = Scene::set(dir, 1)?;
    let script = script(dir)?;
    let theirs = keepalived(&scene, &script)?;
    let tell = |words: &str| format!("{{ command = [\"{}\", {words}] }}", script.display());
    let text = cluster_toml(Dialect::V3, &PRIORITIES)
        + &format!(
            "track = [{{ interface = \"{}\", weight = -20 }}]
notify = {{ master = {}, backup = {}, fault = {}, stop = {}, any = {}, priority_changes = true }}
[notify]
fifo = [{{ path = \"/run/pipe\" }}]
startup = {}
shutdown = {}
",
            CABLE[0],
            tell("\"master\", \"a b\""),
            tell("\"backup\""),
            tell("\"fault\""),
            tell("\"stop\""),
            tell("\"any\", \"x\""),
            tell("\"startup\""),
            tell("\"shutdown\", \"x y\""),
        );
    let mut told = Vec::new();
    for director in &scene.directors {
        with_cable(&director.host)?;
        told.push(Told::new(&director.host)?);
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hamesh"));
    let mut cluster = Cluster::form(&scene, &program, &text, |command| println!("{command}"))?;
    let began = Instant::now();

    // From the start of one director to its stop. Which of the others takes over meanwhile is not this story's.
    cluster.stop(0)?;
    told[0].until("STOP", 1)?;
    told[0].forget()?;
    cluster.start(0, &[])?;
    told[0].until("MASTER", 1)?;
    told[0].trouble(1)?;
    // A script that hangs on whoever is next.
    let hang = |director: usize| scene.directors[director].host.dir().join("run/hang");
    fs::write(hang(1), "")?;
    fs::write(hang(2), "")?;
    cluster.stop(0)?;
    told[0].until("STOP", 1)?;
    let fifo = told[0].fifo().to_owned();
    let any: Vec<_> = ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER", "STOP"]
        .iter()
        .map(|state| format!("<any><x><INSTANCE><web><{state}><200>"))
        .collect();
    ensure!(told[0].arguments(true) == any, "`any` got {:?}", told[0].arguments(true));
    let others =
        ["<startup>", "<backup>", "<master><a b>", "<fault>", "<backup>", "<master><a b>", "<stop>", "<shutdown><x y>"];
    ensure!(told[0].arguments(false) == others, "the others got {:?}", told[0].arguments(false));
    println!("hamesh told in order:\n{fifo}");
    match &theirs {
        Some(theirs) => {
            ensure!(theirs.lines == fifo, "keepalived wrote\n{}and hamesh\n{fifo}", theirs.lines);
            for any in [true, false] {
                let (ours, theirs) = (told[0].arguments(any), theirs.arguments(any));
                ensure!(ours == theirs, "keepalived's scripts got {theirs:?}, hamesh's {ours:?}");
            }
            println!("and keepalived the same, word by word");
        }
        None => println!("keepalived is not installed: NOT COMPARED"),
    }
    let own = told[0].tokens();
    let others: Vec<u64> = told[1..].iter().flat_map(Told::tokens).collect();
    ensure!(own.len() == 2, "tokens {own:?}");
    ensure!(others.iter().any(|token| (own[0]..own[1]).contains(token)), "no token of {others:?} is between {own:?}");

    // Whoever has it now has it while its script hangs.
    let holder = scene.settled(3 * STEADY, PATIENCE)?;
    let holder = scene.director(&holder).context("a director")?;
    ensure!(holder != 0 && cluster.status(holder)?.vip().context("a VIP")?.state == "MASTER");
    for director in [1, 2] {
        fs::remove_file(hang(director))?;
    }
    let stopping = Instant::now();
    cluster.stop(holder)?;
    let took = stopping.elapsed();
    told[holder].until("STOP", 1)?;
    println!("a stop beside a hung script took {} ms", took.as_millis());
    // Two of four nodes may be too few for a quorum.
    cluster.start(0, &[])?;
    let next = scene.settled(STEADY, PATIENCE)?;
    ensure!(next != cluster.name(holder), "the VIP is still {next}'s");
    let startups = || told[0].arguments(false).iter().filter(|line| *line == "<startup>").count();
    ensure!(startups() == 2, "two starts, and {} startups", startups());
    cluster.restart(0)?;
    ensure!(startups() == 2, "a restart in place has run the startup script");
    let two = scene.observer.two_owners(began, Instant::now(), |_| true);
    ensure!(two.is_zero(), "two owners for {two:?}");
    Ok(if theirs.is_some() { 5 } else { 4 })
}
