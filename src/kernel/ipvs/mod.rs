//! IPVS's table in this network namespace, by generic netlink.
//!
//! Every call is done when it returns. A large table takes the kernel long, so this works on a thread that may wait.

mod attribute;
mod codec;
mod genetlink;
#[cfg(test)]
mod tests;

use super::KernelError;
use crate::ipvs::{
    Change, Connections, Count, Counts, Endpoint, Scope, Server, Service, ServiceKey, Settings, Table, Traffic,
};
use attribute::{Attributes, Writer};
use codec::{attribute as attributes, command};
use genetlink::Family;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

/// Changes that [`Ipvs::apply`] is best given at once: enough that the calls do not count, and done within milliseconds.
pub const BATCH: usize = 256;

/// The table of one network namespace: that in which it was opened.
#[derive(Debug)]
pub struct Ipvs(Family);

/// How long the kernel remembers a connection that is silent, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection; 900 s by default.
    pub tcp: Duration,
    /// A TCP connection after its FIN; 120 s by default.
    pub tcp_fin: Duration,
    /// UDP; 300 s by default.
    pub udp: Duration,
}

/// What a connection synchronization daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncRole {
    /// Sends this director's connections.
    Master,
    /// Takes the connections of another.
    Backup,
}

/// A connection synchronization daemon: a kernel thread. A namespace can have one of each role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemon {
    /// Sends or takes.
    pub role: SyncRole,
    /// The LAN between the directors, by the name of the interface.
    pub interface: String,
    /// A backup takes what has its number; with 0 it takes all. At most 255.
    pub id: u8,
    /// The longest message in bytes; `None`: what the interface takes.
    pub longest: Option<u16>,
    /// The multicast group; `None`: 224.0.0.81.
    pub group: Option<IpAddr>,
    /// The UDP port; `None`: 8848.
    pub port: Option<u16>,
    /// Of the packets; `None`: 1.
    pub ttl: Option<u8>,
}

impl Ipvs {
    /// # Errors
    /// This kernel has no IPVS, or this process may not change it.
    pub fn open() -> Result<Self, KernelError> {
        Family::open("IPVS", 1).map(Self).map_err(|error| {
            let absent = error.kind() == ErrorKind::NotFound;
            let advice =
                "open IPVS, which this kernel does not have; `modprobe ip_vs` loads it where there is the module";
            KernelError::new(if absent { advice } else { "open IPVS" }, error)
        })
    }

    /// All services, without their servers.
    ///
    /// # Errors
    /// The kernel's refusal, or an answer that was not understood.
    pub fn services(&mut self) -> Result<Vec<(ServiceKey, Settings, Traffic)>, KernelError> {
        let services = self.0.dump(command::GET_SERVICE, Writer::default());
        let services = services.and_then(|all| all.iter().map(|one| codec::service(&one.attributes)).collect());
        services.map_err(|error| KernelError::new("list IPVS services", error))
    }

    /// The servers of a service.
    ///
    /// # Errors
    /// The kernel's refusal, or an answer that was not understood. A service that is not there has none.
    pub fn servers(&mut self, key: &ServiceKey) -> Result<Vec<(Endpoint, Server, Connections, Traffic)>, KernelError> {
        let servers = self.0.dump(command::GET_DEST, codec::servers_of(key));
        let decode = |one: &genetlink::Message| codec::server(&one.attributes, key.family());
        let servers = servers.and_then(|all| all.iter().map(decode).collect());
        servers.map_err(|error| KernelError::new(format!("list the servers of IPVS service {key}"), error))
    }

    /// The part of the table that `scope` contains.
    ///
    /// # Errors
    /// The kernel's refusal, or an answer that was not understood.
    pub fn table(&mut self, scope: &Scope) -> Result<Table, KernelError> {
        Ok(self.counted(scope, || true)?.map(|(table, _)| table).unwrap_or_default())
    }

    /// The same, and what it has done; `None` once `goes_on` does not hold any more: a large table takes long.
    ///
    /// # Errors
    /// Those of [`Self::table`].
    pub fn counted(
        &mut self,
        scope: &Scope,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<Option<(Table, Counts)>, KernelError> {
        let (mut table, mut counts) = (Table::new(), Counts::new());
        for (key, settings, traffic) in self.services()?.into_iter().filter(|(key, ..)| scope.contains(key)) {
            if !goes_on() {
                return Ok(None);
            }
            let mut service = Service { settings, servers: BTreeMap::new() };
            let mut count = Count { traffic, servers: BTreeMap::new() };
            for (at, server, connections, traffic) in self.servers(&key)? {
                service.servers.insert(at, server);
                count.servers.insert(at, (connections, traffic));
            }
            table.insert(key, service);
            counts.insert(key, count);
        }
        Ok(Some((table, counts)))
    }

    /// Makes changes in their order, and returns those that the kernel refused. What comes after a refusal is done all
    /// the same.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<KernelError> {
        let mut refused = Vec::new();
        for batch in changes.chunks(BATCH) {
            match self.0.all(batch.iter().map(codec::change).collect()) {
                Ok(errors) => refused.extend(errors.into_iter().map(|(place, error)| match batch.get(place) {
                    Some(change) => KernelError::new(change, error),
                    None => KernelError::new("change IPVS", error),
                })),
                Err(error) => refused.push(KernelError::new("change IPVS", error)),
            }
        }
        refused
    }

    /// Removes every service of the namespace, whosever it is.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn flush(&mut self) -> Result<(), KernelError> {
        self.order(command::FLUSH, Writer::default(), "flush IPVS")
    }

    /// # Errors
    /// The kernel's refusal, or an answer that was not understood.
    pub fn timeouts(&mut self) -> Result<Timeouts, KernelError> {
        let read = |message: genetlink::Message| {
            let attributes = Attributes::parse(&message.attributes)?;
            let seconds = |kind| Ok::<_, std::io::Error>(Duration::from_secs(attributes.u32(kind)?.into()));
            Ok(Timeouts {
                tcp: seconds(attributes::TIMEOUT_TCP)?,
                tcp_fin: seconds(attributes::TIMEOUT_TCP_FIN)?,
                udp: seconds(attributes::TIMEOUT_UDP)?,
            })
        };
        let answer = self.0.ask(command::GET_CONFIG, Writer::default()).and_then(read);
        answer.map_err(|error| KernelError::new("read IPVS timeouts", error))
    }

    /// # Errors
    /// The kernel's refusal.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), KernelError> {
        let mut writer = Writer::default();
        let all = [
            (attributes::TIMEOUT_TCP, timeouts.tcp),
            (attributes::TIMEOUT_TCP_FIN, timeouts.tcp_fin),
            (attributes::TIMEOUT_UDP, timeouts.udp),
        ];
        for (kind, timeout) in all {
            writer.u32(kind, u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
        }
        self.order(command::SET_CONFIG, writer, "set IPVS timeouts")
    }

    /// The synchronization daemons that run.
    ///
    /// # Errors
    /// The kernel's refusal, or an answer that was not understood.
    pub fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>, KernelError> {
        let daemons = self.0.dump(command::GET_DAEMON, Writer::default());
        let daemons = daemons.and_then(|all| all.iter().map(|one| codec::sync_daemon(&one.attributes)).collect());
        daemons.map_err(|error| KernelError::new("list IPVS synchronization daemons", error))
    }

    /// Starts a synchronization daemon.
    ///
    /// # Errors
    /// The kernel's refusal: `AlreadyExists` where one of the role runs already.
    pub fn start_sync(&mut self, daemon: &SyncDaemon) -> Result<(), KernelError> {
        let what = format!("start the IPVS synchronization {:?} on {}", daemon.role, daemon.interface);
        self.order(command::NEW_DAEMON, codec::put_sync_daemon(daemon), &what)
    }

    /// Stops the synchronization daemon of a role, if there is one.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn stop_sync(&mut self, role: SyncRole) -> Result<(), KernelError> {
        let what = format!("stop the IPVS synchronization {role:?}");
        match self.order(command::DEL_DAEMON, codec::put_sync_role(role), &what) {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
            stopped => stopped,
        }
    }

    fn order(&mut self, command: u8, attributes: Writer, what: &str) -> Result<(), KernelError> {
        match self.0.all(vec![(command, attributes)]) {
            Ok(refused) => refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(KernelError::new(what, error))),
            Err(error) => Err(KernelError::new(what, error)),
        }
    }
}
