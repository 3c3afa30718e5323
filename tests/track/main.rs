//! What a VIP group tracks, on three real directors: a script, a file, an interface and a BFD session that go bad move the VIP away,
//! and back when they are well again. The wire says who has it.

mod bfd;
mod comes;
mod elsewhere;

use anyhow::{Context, Result, ensure};
use hamesh::lab::cluster::{Cluster, cluster_toml};
use hamesh::lab::legacy::Dialect;
use hamesh::lab::scene::{PRIORITIES, Scene, tell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long the owner must not have changed.
const STEADY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    tell(
        "track",
        "a script, a file, an interface, a hung script, a router, interfaces that come and go, and a VIP on another one",
        |dir| {
            let within = |name: &str| fs::create_dir(dir.join(name)).map(|()| dir.join(name));
            let program = PathBuf::from(env!("CARGO_BIN_EXE_hamesh"));
            let things = story(&within("things")?, &program)? + bfd::story(&within("router")?, &program)?;
            let plain = comes::story(&within("comes")?, &program, Dialect::V3)?;
            let mac = Dialect { mac: true, ..Dialect::V3 };
            let anew = comes::story(&within("mac")?, &program, mac)?;
            Ok(things + plain + anew + elsewhere::story(&within("elsewhere")?, &program)?)
        },
    )
}

/// Shorter than `down_delay`.
const FLAP: Duration = Duration::from_millis(300);
/// lb1 has it by its configuration.
const STILL: &str = "10.88.0.1";
const BEYOND: &str = "10.89.0.0/16";

/// The cable of an interface that nothing but the tracking needs, and its other end.
const CABLE: [&str; 2] = ["uplink", "provider"];

fn ip(scene: &Scene, director: usize, words: &[&str]) -> Result<()> {
    scene.directors[director].host.output(Path::new("/sbin/ip"), words, PATIENCE).map(drop)
}

/// Waits until the VIP is `wanted`'s and stays there.
fn moves_to(scene: &Scene, wanted: &str) -> Result<Duration> {
    let began = Instant::now();
    while scene.settled(STEADY, PATIENCE)? != wanted {
        ensure!(began.elapsed() < PATIENCE, "the VIP does not move to {wanted}");
    }
    Ok(began.elapsed().saturating_sub(STEADY))
}

/// What `status` of lb1 warns of, and its state.
fn status(cluster: &Cluster) -> Result<(String, String)> {
    let warnings = cluster.command(0, &["status"])?;
    let state = cluster.status(0)?.vip().context("no VIP in the status")?.state.clone();
    Ok((warnings, state))
}

fn story(dir: &Path, program: &Path) -> Result<u32> {
    let scene = Scene::set(dir, 1)?;
    // The file is the same for all hosts here; what is in it says whom it is about.
    let (sick, hung) = (dir.join("sick"), dir.join("hung"));
    let here = |file: &Path| format!("[ -e {0} ] && ip -o -4 address | grep -qFf {0}", file.display());
    let line = format!("if {}; then sleep 600; fi; if {}; then exit 1; fi", here(&hung), here(&sick));
    let text = cluster_toml(Dialect::V3, &PRIORITIES)
        + &format!(
            "track = [{{ script = \"check\" }}, {{ file = \"burden\" }}, {{ interface = \"{}\", weight = -60 }}]
[track_script.check]
command = [\"/bin/sh\", \"-c\", \"{line}\"]
interval = \"300ms\"
timeout = \"1s\"
fall = 2
rise = 2
",
            CABLE[0]
        )
        + &format!(
            "[static.lb1]\naddresses = [\"{STILL}/24 dev {0}\"]\nroutes = [\"{BEYOND} via 10.88.0.2 dev {0}\"]\n[interface.{0}]\ndown_delay = \"1s\"\nup_delay = \"0s\"\n",
            CABLE[0]
        );
    for director in 0..scene.directors.len() {
        ip(&scene, director, &["link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1]])?;
        ip(&scene, director, &["link", "set", CABLE[0], "up"])?;
        ip(&scene, director, &["link", "set", CABLE[1], "up"])?;
    }
    let mut cluster = Cluster::form(&scene, program, &text, |command| println!("{command}"))?;
    let began = Instant::now();
    moves_to(&scene, "lb1")?;

    fs::write(&sick, "10.77.0.11/\n")?;
    println!("a script that fails moved the VIP after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let (said, state) = status(&cluster)?;
    ensure!(state == "FAULT", "lb1 is in {state}");
    ensure!(said.contains("script check is down (exit status: 1): FAULT here"), "status says why: {said}");
    fs::remove_file(&sick)?;
    println!("and back after {} ms", moves_to(&scene, "lb1")?.as_millis());

    let burden = cluster.cluster_file(0).with_file_name("burden");
    fs::write(&burden, "-60\n")?;
    println!("a file with -60 moved it after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let (said, state) = status(&cluster)?;
    ensure!(state == "BACKUP", "lb1 is in {state}");
    ensure!(said.contains("lb1 140") && said.contains("is -60: -60 here"), "status says why: {said}");
    fs::remove_file(&burden)?;
    moves_to(&scene, "lb1")?;

    let flap = Instant::now();
    ip(&scene, 0, &["link", "set", CABLE[1], "down"])?;
    sleep(FLAP);
    ip(&scene, 0, &["link", "set", CABLE[1], "up"])?;
    sleep(STEADY);
    let moved = scene.observer.first_answer(flap, |name| name != "lb1");
    ensure!(moved.is_none(), "an interface that flaps has moved the VIP");
    ip(&scene, 0, &["link", "set", CABLE[1], "down"])?;
    println!("an interface without carrier moved it after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let (said, _) = status(&cluster)?;
    ensure!(said.contains("interface uplink is down"), "status says why: {said}");
    ip(&scene, 0, &["link", "set", CABLE[1], "up"])?;
    moves_to(&scene, "lb1")?;

    fs::write(&hung, "10.77.0.11/\n")?;
    println!("a hung script moved it after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let (said, _) = status(&cluster)?;
    ensure!(said.contains("killed: it took longer than 1s"), "status says why: {said}");
    fs::remove_file(&hung)?;
    moves_to(&scene, "lb1")?;
    let other =
        text.replace("script = \"check\" }", "script = \"check\", weight = -60 }").replace("\"300ms\"", "\"200ms\"");
    for node in 0..scene.directors.len() {
        fs::write(cluster.cluster_file(node), &other)?;
        println!("{}", cluster.command(node, &["reload"])?.trim());
    }
    ensure!(scene.settled(STEADY, PATIENCE)? == "lb1", "a reload of what is tracked has moved the VIP");
    fs::write(&sick, "10.77.0.11/\n")?;
    println!("with another weight the script moved it after {} ms", moves_to(&scene, "lb2")?.as_millis());
    let (said, state) = status(&cluster)?;
    ensure!(state == "BACKUP" && said.contains("lb1 140"), "lb1 is in {state}: {said}");
    fs::remove_file(&sick)?;
    moves_to(&scene, "lb1")?;
    let two = scene.observer.two_owners(began, Instant::now(), |_| true);
    ensure!(two.is_zero(), "two owners for {two:?}");

    let there = |scene: &Scene| {
        let show = |words: &[&str]| scene.directors[0].host.output(Path::new("/sbin/ip"), words, PATIENCE);
        Ok::<_, anyhow::Error>([show(&["address"])?.contains(STILL), show(&["route"])?.contains(BEYOND)])
    };
    ensure!(there(&scene)? == [true; 2], "what is static is not there");
    ip(&scene, 0, &["route", "del", BEYOND])?;
    ip(&scene, 0, &["address", "flush", "dev", CABLE[0]])?;
    let taken = Instant::now();
    while there(&scene)? != [true; 2] {
        ensure!(taken.elapsed() < PATIENCE, "what is static is not put back: {:?}", there(&scene)?);
        sleep(Duration::from_millis(50));
    }
    println!("what is static was put back after {} ms", taken.elapsed().as_millis());
    cluster.stop(0)?;
    ensure!(there(&scene)? == [false; 2], "a stop has left what is static");
    Ok(6)
}
