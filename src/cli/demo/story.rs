//! The story: one fault after another on one cluster, each judged from the wire.

use super::fleet::Fleet;
use super::table::{Row, milliseconds};
use crate::lab::cluster::WITNESS;
use crate::lab::frame::Kind;
use crate::lab::observer::NOISE;
use crate::lab::scene::Scene;
use crate::lab::switch::{Fault, Port};
use anyhow::{Context, Result, ensure};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a fault may keep everybody from the VIP, and the cluster from being well again, before the story gives
/// up on it.
const TAKEOVER: Duration = Duration::from_secs(10);
const RECOVERY: Duration = Duration::from_secs(12);

/// How long the VIP must be quiet with one owner between two faults.
const STEADY: Duration = Duration::from_millis(700);

/// What was seen.
pub(super) struct Told {
    pub(super) rows: Vec<Row>,
    pub(super) passed: bool,
    pub(super) verdict: String,
}

/// Tells and keeps the time.
pub(super) struct Story {
    begun: Instant,
}

impl Story {
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    pub(super) fn say(&self, line: &str) {
        println!("{:6.1} s  {line}", self.begun.elapsed().as_secs_f64());
    }

    pub(super) fn tell(&self, scene: &Scene, fleet: Fleet) -> Told {
        let mut act = Act { story: self, scene, fleet, rows: Vec::new(), unrecovered: 0 };
        let start = Instant::now();
        // What was seen until something went wrong is told nevertheless.
        let broken = act.play().err();
        act.end(start, broken)
    }
}

struct Act<'a> {
    story: &'a Story,
    scene: &'a Scene,
    fleet: Fleet,
    rows: Vec<Row>,
    unrecovered: usize,
}

impl Act<'_> {
    fn play(&mut self) -> Result<()> {
        self.steady()?;
        self.planned_stop()?;
        self.crash()?;
        self.freeze()?;
        self.lan_partition()?;
        if self.fleet.is_hamesh() {
            self.mesh_partition()?;
            self.leader_loss()?;
            self.quorum_loss()?;
        }
        Ok(())
    }

    fn steady(&mut self) -> Result<()> {
        let with_legacy = self.fleet.legacy(self.scene, true)?;
        self.chapter("steady", "nothing happens for 4 s", with_legacy, |_| {
            sleep(Duration::from_secs(4));
            Ok(String::new())
        })
    }

    fn planned_stop(&mut self) -> Result<()> {
        let with_legacy = self.fleet.legacy(self.scene, true)?;
        let holder = self.holder()?;
        let line = format!("{}, the MASTER, is stopped (SIGTERM)", self.name(holder));
        self.chapter("planned stop", &line, with_legacy, |act| {
            let at = Instant::now();
            act.fleet.stop(holder)?;
            let note = act.takeover(at, holder)?;
            sleep(Duration::from_secs(1));
            act.fleet.start(holder)?;
            Ok(note)
        })
    }

    fn crash(&mut self) -> Result<()> {
        let with_legacy = self.fleet.legacy(self.scene, true)?;
        let holder = self.holder()?;
        let line = format!("{}, the MASTER, is killed (kill -9)", self.name(holder));
        self.chapter("kill -9", &line, with_legacy, |act| {
            let at = Instant::now();
            act.fleet.kill(holder)?;
            let note = act.takeover(at, holder)?;
            sleep(Duration::from_secs(2));
            act.fleet.start(holder)?;
            Ok(note)
        })
    }

    fn freeze(&mut self) -> Result<()> {
        self.fleet.legacy(self.scene, false)?;
        let holder = self.holder()?;
        let line = format!("{}, the MASTER, is frozen for 7 s (SIGSTOP)", self.name(holder));
        self.chapter("frozen 7 s", &line, false, |act| {
            let at = Instant::now();
            act.fleet.freeze(holder)?;
            let note = act.takeover(at, holder)?;
            sleep(Duration::from_secs(7).saturating_sub(at.elapsed()));
            act.fleet.thaw(holder)?;
            Ok(note)
        })
    }

    fn lan_partition(&mut self) -> Result<()> {
        let holder = self.holder()?;
        let near = [self.scene.directors[holder].lan, self.scene.clients[0].1];
        let line = format!("the LAN splits for 6 s: {} and client1 on one side", self.name(holder));
        self.chapter("LAN partition", &line, false, |act| {
            let far = act.scene.lan_without(holder, &near);
            let cut = act.scene.lan.cut(&near, &far, Kind::Any);
            act.split(cut, holder)
        })
    }

    fn mesh_partition(&mut self) -> Result<()> {
        let holder = self.holder()?;
        let line = format!("{}, the holder, loses the mesh network for 6 s", self.name(holder));
        self.chapter("mesh partition", &line, false, |act| {
            let others: Vec<Port> = act.scene.mesh_without(holder);
            let cut = act.scene.mesh.cut(&[act.scene.mesh_port(holder)], &others, Kind::Any);
            act.split(cut, holder)
        })
    }

    /// Keeps a partition up for 6 s, in which the VIP must come back to the side of client2 and stay there.
    fn split(&mut self, cut: Fault, holder: usize) -> Result<String> {
        let at = Instant::now();
        let note = self.takeover_within(at, holder, Duration::from_secs(5));
        sleep(Duration::from_secs(6).saturating_sub(at.elapsed()));
        ensure!(cut.harmed() > 0, "the cut took no frame");
        let note = format!("{note}, {} frames cut", cut.harmed());
        let end = Instant::now();
        let late = at + Duration::from_secs(4);
        let dark: Duration = self.scene.clients[1].0.outages(late, end).iter().map(|(from, to)| *to - *from).sum();
        if dark <= Duration::from_millis(200) {
            return Ok(note);
        }
        self.unrecovered += 1;
        Ok(format!("{note}; client2 dark again for {} of the last 2 s", milliseconds(dark)))
    }

    fn leader_loss(&mut self) -> Result<()> {
        let Fleet::Hamesh { cluster, .. } = &self.fleet else { return Ok(()) };
        let leader = cluster.leader().context("no node names a Raft leader")?;
        let also = if leader == self.holder()? { ", also the holder" } else { "" };
        let line = format!("{}, the Raft leader{also}, is killed (kill -9)", cluster.name(leader));
        self.chapter("Raft leader lost", &line, false, |act| {
            act.fleet.kill(leader)?;
            sleep(Duration::from_secs(3));
            let new = match &act.fleet {
                Fleet::Hamesh { cluster, .. } => cluster.leader().map(|leader| cluster.name(leader).to_owned()),
                Fleet::Keepalived { .. } => None,
            };
            act.fleet.start(leader)?;
            Ok(new.map_or_else(|| "no new leader within 3 s".to_owned(), |new| format!("{new} leads")))
        })
    }

    fn quorum_loss(&mut self) -> Result<()> {
        let with_legacy = self.fleet.legacy(self.scene, true)?;
        let holder = self.holder()?;
        let others: Vec<usize> = (0..=WITNESS).filter(|node| *node != holder).collect();
        sleep(Duration::from_secs(1)); // the legacy peer must have heard the MASTER
        let line = format!("all nodes but {} are killed: no quorum", self.name(holder));
        let back = if with_legacy { " and the legacy peer answers instead" } else { "" };
        self.open("quorum lost", &line);
        let at = Instant::now();
        for node in &others {
            self.fleet.kill(*node)?;
        }
        sleep(Duration::from_secs(7));
        let lost = Instant::now();
        let owners = self.scene.observer.owners();
        let silent = owners.iter().all(|owner| self.scene.director(owner).is_none());
        let note = format!(
            "{}{}",
            if silent { "hamesh is silent" } else { "hamesh still answers" },
            if owners.is_empty() { "" } else { back }
        );
        if !silent {
            self.unrecovered += 1;
        }
        self.close("quorum lost", at, lost, with_legacy, note);

        self.open("recovery", "the killed nodes start again");
        for node in &others {
            self.fleet.start(*node)?;
        }
        let settled = self.home();
        let ours = self.scene.observer.first_answer(lost, |name| self.scene.director(name).is_some());
        let note = match (&settled, ours) {
            (Ok(_), Some(at)) => format!("hamesh answers again after {}", milliseconds(at - lost)),
            (Ok(_) | Err(_), _) => self.not_well(),
        };
        self.close("recovery", lost, Instant::now(), with_legacy, note);
        Ok(())
    }

    /// One fault: `happen` makes it and ends it, then the cluster must come back to one owner.
    fn chapter(
        &mut self,
        fault: &'static str,
        line: &str,
        with_legacy: bool,
        happen: impl FnOnce(&mut Self) -> Result<String>,
    ) -> Result<()> {
        self.open(fault, line);
        let from = Instant::now();
        let mut note = happen(self).with_context(|| fault.to_owned())?;
        if self.home().is_err() {
            note = format!("{note}{}{}", if note.is_empty() { "" } else { "; " }, self.not_well());
        }
        self.close(fault, from, Instant::now(), with_legacy, note);
        Ok(())
    }

    fn open(&self, fault: &str, line: &str) {
        self.story.say(&format!("{fault}: {line}"));
    }

    fn close(&mut self, fault: &'static str, from: Instant, to: Instant, with_legacy: bool, mut note: String) {
        let scene = self.scene;
        let ours = |name: &str| scene.director(name).is_some();
        let two = scene.observer.two_owners(from, to, ours);
        let all = scene.observer.two_owners(from, to, |_| true);
        // client2 is always on the side that the VIP must be answered on.
        let client = scene.clients[1].0.outage(from, to);
        let gap = scene.observer.longest_gap(from, to).max(client);
        let late = scene.lateness(from, to);
        if late > NOISE {
            note = format!(
                "{note}{}this machine paused for {}",
                if note.is_empty() { "" } else { "; " },
                milliseconds(late)
            );
        }
        let colon = if note.is_empty() { "" } else { ": " };
        self.story.say(&format!(
            "    longest gap {}, two owners {}{colon}{note}",
            milliseconds(gap),
            milliseconds(two)
        ));
        let legacy = with_legacy.then(|| all.saturating_sub(two));
        self.rows.push(Row { fault, gap, two, legacy, note });
    }

    fn end(self, start: Instant, broken: Option<anyhow::Error>) -> Told {
        let ours = |name: &str| self.scene.director(name).is_some();
        let two = self.scene.observer.two_owners(start, Instant::now(), ours);
        let hamesh = self.fleet.is_hamesh();
        let passed = broken.is_none() && (!hamesh || (two.is_zero() && self.unrecovered == 0));
        let who = if hamesh { "hamesh nodes" } else { "keepaliveds" };
        let mut verdict = if two.is_zero() {
            format!("At no time did two {who} answer for the VIP.")
        } else {
            format!("Two {who} answered for the VIP for {} in all.", milliseconds(two))
        };
        if self.unrecovered > 0 {
            verdict += &format!(" {} of the faults had no recovery.", self.unrecovered);
        }
        if let Some(error) = broken {
            verdict += &format!(" The story broke off: {error:#}.");
        }
        if !passed {
            verdict = format!("FAILED: {verdict}");
        }
        Told { rows: self.rows, passed, verdict }
    }

    fn not_well(&mut self) -> String {
        self.unrecovered += 1;
        let dark = self.scene.clients.iter().filter(|(client, _)| client.last_answer().0.elapsed() > TAKEOVER / 20);
        let dark: Vec<&str> = dark.map(|(client, _)| client.name()).collect();
        let owners = self.scene.observer.owners();
        match (owners.as_slice(), dark.is_empty()) {
            ([_], false) => format!("{} still dark {RECOVERY:?} after the heal (stale ARP)", dark.join(" and ")),
            _ => format!("no recovery within {RECOVERY:?}, answering: [{}]", owners.join(", ")),
        }
    }

    fn holder(&self) -> Result<usize> {
        let owner = self.scene.settled(STEADY, TAKEOVER)?;
        self.scene.director(&owner).with_context(|| format!("{owner} answers for the VIP, and is no director"))
    }

    fn name(&self, director: usize) -> &str {
        self.scene.directors[director].host.name()
    }

    /// Waits for another host than `holder` to answer, and says which and when.
    fn takeover(&self, since: Instant, holder: usize) -> Result<String> {
        Ok(self.takeover_within(since, holder, TAKEOVER))
    }

    fn takeover_within(&self, since: Instant, holder: usize, patience: Duration) -> String {
        let holder = self.name(holder);
        while since.elapsed() < patience {
            if let Some(at) = self.scene.observer.first_answer(since, |name| name != holder) {
                let by = self.scene.observer.owners().into_iter().find(|name| name != holder).unwrap_or_default();
                return format!("{by} answers after {}", milliseconds(at.saturating_duration_since(since)));
            }
            sleep(Duration::from_millis(2));
        }
        format!("nobody else answered within {patience:?}")
    }

    /// Waits until all is well: one owner, heard by both clients, and it is the director with the best priority.
    fn home(&self) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let owner = self.scene.settled(STEADY, deadline.saturating_duration_since(Instant::now()))?;
            ensure!(Instant::now() < deadline, "{owner} answers, not the director with the best priority");
            if owner == self.name(0) {
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
    }
}
