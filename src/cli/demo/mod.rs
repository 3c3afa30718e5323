//! `hamesh demo`: every fault of a small cluster, shown on this machine within two minutes.
//!
//! It builds a LAN with three directors, two clients and, if keepalived is installed, a legacy peer, and a mesh
//! network with a witness, all in namespaces of its own; forms the cluster as a person would; and lets an observer
//! on the wire judge.

mod fleet;
mod story;
mod table;

use crate::lab::legacy::{self, Dialect};
use crate::lab::scene::{PRIORITIES, Scene, fresh_dir};
use crate::lab::{cluster, sandbox};
use anyhow::{Context, Result};
use clap::ValueEnum;
use fleet::Fleet;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;
use story::Story;

/// What `hamesh demo` can be told.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Run the same story with three of these instead of hamesh, for comparison
    #[arg(long)]
    versus: Option<Versus>,
    /// Keep configurations, data and logs also after a success
    #[arg(long)]
    keep: bool,
}

/// What hamesh can be compared with.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Versus {
    /// The keepalived that is installed.
    Keepalived,
}

/// Runs the demo. It must be called before the process has started a second thread.
///
/// The exit code is 1 when two hamesh nodes ever owned the VIP at once, or a fault had no recovery.
///
/// # Errors
/// The laboratory cannot be built, or the cluster cannot be formed.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(code) = sandbox::enter()? {
        return Ok(code);
    }
    let dir = fresh_dir("demo")?;
    let passed = play(options, &dir).with_context(|| format!("logs are kept in {}", dir.display()))?;
    if passed && !options.keep {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    } else {
        println!("Logs are kept in {}", dir.display());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(options: &Options, dir: &std::path::Path) -> Result<bool> {
    let keepalived = legacy::keepalived();
    let story = Story::begin();
    story.say("a LAN 10.77.0.0/24, a mesh network 10.78.0.0/24, hosts lb1 lb2 lb3 witness client1 client2");
    let scene = Scene::set(dir, 1)?;
    let fleet = match options.versus {
        Some(Versus::Keepalived) => {
            let program = keepalived.context("keepalived is not installed")?;
            story.say(&format!("{} on lb1, lb2 and lb3, priorities {PRIORITIES:?}", program.display()));
            Fleet::keepalived(&scene, program)?
        }
        None => {
            let program = std::env::current_exe().context("own path")?;
            let toml = cluster::cluster_toml(Dialect::V3, &PRIORITIES);
            let formed = cluster::Cluster::form(&scene, &program, &toml, |command| story.say(command));
            Fleet::hamesh(formed.context("forming the cluster")?, keepalived)
        }
    };
    story.say("waiting for the VIP 10.77.0.100 to be answered");
    scene.settled(Duration::from_millis(700), Duration::from_secs(20))?;
    let told = story.tell(&scene, fleet);
    println!("\n{}", table::render(&told.rows));
    println!("{}", told.verdict);
    Ok(told.passed)
}
