//! Who plays the directors: hamesh beside a legacy peer, or keepalived alone.

use crate::lab::cluster::Cluster;
use crate::lab::host::{Host, Process};
use crate::lab::legacy::{self, Dialect};
use crate::lab::scene::Scene;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::Duration;

/// The priority of the legacy peer, below all others.
const LEGACY_PRIORITY: u8 = 50;

pub(super) enum Fleet {
    Hamesh { cluster: Cluster, keepalived: Option<PathBuf>, legacy: Option<Process> },
    Keepalived { program: PathBuf, members: Vec<(Host, u8, Option<Process>)> },
}

impl Fleet {
    pub(super) fn hamesh(cluster: Cluster, keepalived: Option<PathBuf>) -> Self {
        Self::Hamesh { cluster, keepalived, legacy: None }
    }

    pub(super) fn keepalived(scene: &Scene, program: PathBuf) -> Result<Self> {
        let mut members = Vec::new();
        for director in &scene.directors {
            let process = legacy::start(&director.host, &program, Dialect::V3, director.priority, None)?;
            members.push((director.host.clone(), director.priority, Some(process)));
        }
        Ok(Self::Keepalived { program, members })
    }

    pub(super) fn is_hamesh(&self) -> bool {
        matches!(self, Self::Hamesh { .. })
    }

    /// Lets the legacy peer take part, or not. False: there is none.
    pub(super) fn legacy(&mut self, scene: &Scene, takes_part: bool) -> Result<bool> {
        let Self::Hamesh { keepalived: Some(program), legacy, .. } = self else { return Ok(false) };
        match (takes_part, legacy.is_some()) {
            (true, false) => {
                *legacy = Some(legacy::start(&scene.legacy, program, Dialect::V3, LEGACY_PRIORITY, None)?);
            }
            (false, true) => terminate(legacy)?,
            (true, true) | (false, false) => {}
        }
        Ok(takes_part)
    }

    pub(super) fn stop(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Hamesh { cluster, .. } => cluster.stop(node),
            Self::Keepalived { members, .. } => terminate(&mut members[node].2),
        }
    }

    pub(super) fn start(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Hamesh { cluster, .. } => cluster.start(node, &[]),
            Self::Keepalived { program, members } => {
                let (host, priority, process) = &mut members[node];
                *process = Some(legacy::start(host, program, Dialect::V3, *priority, None)?);
                Ok(())
            }
        }
    }

    pub(super) fn kill(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Hamesh { cluster, .. } => cluster.kill(node),
            Self::Keepalived { members, .. } => {
                let process = &mut members[node].2;
                process.as_mut().context("keepalived does not run")?.kill()?;
                *process = None;
                Ok(())
            }
        }
    }

    pub(super) fn freeze(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Hamesh { cluster, .. } => cluster.freeze(node),
            Self::Keepalived { members, .. } => signal(&members[node].2, Signal::SIGSTOP),
        }
    }

    pub(super) fn thaw(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Hamesh { cluster, .. } => cluster.thaw(node),
            Self::Keepalived { members, .. } => signal(&members[node].2, Signal::SIGCONT),
        }
    }
}

fn signal(process: &Option<Process>, signal: Signal) -> Result<()> {
    process.as_ref().context("keepalived does not run")?.signal_all(signal)
}

fn terminate(process: &mut Option<Process>) -> Result<()> {
    let mut running = process.take().context("keepalived does not run")?;
    running.signal(Signal::SIGTERM)?;
    if running.wait(Duration::from_secs(5))?.is_none() {
        bail!("keepalived did not end within 5 s of SIGTERM");
    }
    Ok(())
}
