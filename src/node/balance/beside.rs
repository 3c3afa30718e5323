//! What IPVS does beside its services: it tells other directors of connections, and forgets silent ones.

use crate::config::{self, ipvs::Sync};
use crate::kernel::KernelError;
use crate::kernel::ipvs::{Ipvs, SyncDaemon, SyncRole, Timeouts};
use hamesh_raft::command::GroupName;
use std::collections::BTreeSet;

/// What is configured, and what of it runs.
pub(super) struct Beside {
    sync: Option<Sync>,
    timeouts: config::ipvs::Timeouts,
    /// The synchronization daemons as they were left. The kernel tells nobody when somebody stops one.
    syncing: Vec<SyncDaemon>,
}

impl Beside {
    /// Sets the timeouts, and ends what an earlier run has left, perhaps with other settings.
    pub(super) fn begin(ipvs: &mut Ipvs, config: &config::Ipvs) -> Result<Self, KernelError> {
        let beside = Self { sync: config.sync.clone(), timeouts: config.timeouts, syncing: Vec::new() };
        if beside.timeouts != config::ipvs::Timeouts::default() {
            ipvs.set_timeouts(beside.wanted_timeouts())?;
        }
        if beside.sync.is_some() {
            for daemon in ipvs.sync_daemons()? {
                ipvs.stop_sync(daemon.role)?;
            }
        }
        Ok(beside)
    }

    /// Has the kernel do what is configured, and returns how much of it somebody else had changed.
    pub(super) fn settle(&mut self, ipvs: &mut Ipvs, held: &BTreeSet<GroupName>) -> Result<u64, KernelError> {
        let mut changed = 0;
        if self.timeouts != config::ipvs::Timeouts::default() {
            let wanted = self.wanted_timeouts();
            if differ(ipvs.timeouts()?, wanted) {
                ipvs.set_timeouts(wanted)?;
                changed += 1;
            }
        }
        let Some(sync) = &self.sync else { return Ok(changed) };
        let running = ipvs.sync_daemons()?;
        let (stopped, started) = plan(&self.syncing, &running);
        changed += u64::try_from(stopped.len() + started.len()).unwrap_or(u64::MAX);
        let (stop, start) = plan(&running, &wanted(sync, held));
        self.syncing = running.into_iter().filter(|daemon| !stop.contains(&daemon.role)).collect();
        // One that is refused keeps no other from its work.
        let mut refused = None;
        for role in stop {
            refused = ipvs.stop_sync(role).err().or(refused);
        }
        for daemon in start {
            match ipvs.start_sync(&daemon) {
                Ok(()) => self.syncing.push(daemon),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(changed), Err)
    }

    /// Has this done from now on: what is told otherwise, or no more, ends here.
    pub(super) fn adopt(&mut self, ipvs: &mut Ipvs, config: &config::Ipvs) {
        if self.sync != config.sync {
            self.end(ipvs);
        }
        (self.sync, self.timeouts) = (config.sync.clone(), config.timeouts);
    }

    /// Ends it all.
    pub(super) fn end(&mut self, ipvs: &mut Ipvs) {
        for daemon in self.syncing.drain(..) {
            ipvs.stop_sync(daemon.role).ok();
        }
        self.sync = None;
    }

    fn wanted_timeouts(&self) -> Timeouts {
        let config::ipvs::Timeouts { tcp, tcp_fin, udp } = self.timeouts;
        Timeouts { tcp, tcp_fin, udp }
    }
}

/// Whether the kernel has others than those that are wanted; 0 wants none.
fn differ(present: Timeouts, wanted: Timeouts) -> bool {
    let pairs = [(present.tcp, wanted.tcp), (present.tcp_fin, wanted.tcp_fin), (present.udp, wanted.udp)];
    pairs.into_iter().any(|(present, wanted)| !wanted.is_zero() && present != wanted)
}

/// The daemons that are to run where these groups are held.
fn wanted(sync: &Sync, held: &BTreeSet<GroupName>) -> Vec<SyncDaemon> {
    let roles: &[SyncRole] = match &sync.vip {
        None => &[SyncRole::Master, SyncRole::Backup],
        Some(vip) if held.contains(vip) => &[SyncRole::Master],
        Some(_) => &[SyncRole::Backup],
    };
    let daemon = |role: &SyncRole| {
        let Sync { interface, vip: _, id, longest, group, port, ttl } = sync.clone();
        SyncDaemon { role: *role, interface, id, longest, group, port, ttl }
    };
    roles.iter().map(daemon).collect()
}

/// Which to stop and which to start, so that just those that are wanted run.
fn plan(running: &[SyncDaemon], wanted: &[SyncDaemon]) -> (Vec<SyncRole>, Vec<SyncDaemon>) {
    // The kernel bounds the rest, or fills it in.
    let is = |one: &SyncDaemon, other: &SyncDaemon| {
        (one.role, &one.interface, one.id) == (other.role, &other.interface, other.id)
    };
    let without = |these: &[SyncDaemon], others: &[SyncDaemon]| {
        let missing = these.iter().filter(|one| !others.iter().any(|other| is(one, other)));
        missing.cloned().collect::<Vec<_>>()
    };
    (without(running, wanted).iter().map(|daemon| daemon.role).collect(), without(wanted, running))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sync() -> Sync {
        let (interface, vip) = ("bond1".to_owned(), Some("web".to_owned()));
        Sync { interface, vip, id: 7, longest: None, group: None, port: None, ttl: None }
    }

    #[test]
    fn a_daemon_that_somebody_has_stopped_keeps_no_other_from_its_start() {
        let master = wanted(&sync(), &["web".to_owned()].into());
        let backup = wanted(&sync(), &BTreeSet::new());
        assert_eq!((master[0].role, backup[0].role), (SyncRole::Master, SyncRole::Backup));
        assert_eq!(plan(&backup, &master), (vec![SyncRole::Backup], master.clone()));
        assert_eq!(plan(&[], &master), (Vec::new(), master.clone()), "somebody has stopped the backup");
        assert_eq!(plan(&[], &backup), (Vec::new(), backup.clone()), "and is put right");
        assert_eq!(wanted(&Sync { vip: None, ..sync() }, &BTreeSet::new()), [master, backup].concat());
    }

    #[test]
    fn a_daemon_is_the_same_whatever_the_kernel_fills_in_and_another_on_another_lan() {
        let wanted = wanted(&sync(), &BTreeSet::new());
        let filled = SyncDaemon { longest: Some(1472), port: Some(8848), ttl: Some(1), ..wanted[0].clone() };
        assert_eq!(plan(&[filled], &wanted), (Vec::new(), Vec::new()));
        let elsewhere = SyncDaemon { interface: "eth0".to_owned(), ..wanted[0].clone() };
        assert_eq!(plan(&[elsewhere], &wanted), (vec![SyncRole::Backup], wanted.clone()));
    }

    #[test]
    fn timeouts_that_nobody_configured_may_be_anything() {
        let timeouts = |tcp, udp| {
            let [tcp, tcp_fin, udp] = [tcp, 120, udp].map(Duration::from_secs);
            Timeouts { tcp, tcp_fin, udp }
        };
        assert!(!differ(timeouts(900, 300), timeouts(900, 0)));
        assert!(differ(timeouts(900, 300), timeouts(901, 0)));
    }
}
