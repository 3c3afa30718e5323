//! What keeps VIPs silent without a lease: the rules of a gate, or what a kernel without nf_tables has in their place.

use super::interfaces::Interfaces;
use super::lane::GateStatus;
use crate::config::{Config, VipGroup};
use crate::ipvs::ServiceKey;
use hamesh_fencing::clock::{LATENESS, Moment};
use hamesh_fencing::gate::{Gate, GateError, Lifetimes};
use hamesh_raft::command::Definition;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// How long an address lives that nobody refreshes, behind a gate that nobody else can take away: a thousand VIPs are not
/// to be refreshed twice a second for a second wall. Otherwise it is the lease's length.
const LIFE: Duration = Duration::from_secs(10);
/// What an address lives for longer than it is set for.
const SECOND: Duration = Duration::from_secs(1);

/// One of them, and it is the same for a whole run.
pub(crate) enum Barrier {
    Rules(Box<Gate>),
    /// A group is shut when its addresses are off. These are all that may be on.
    Lifetimes(Lifetimes, Vec<IpAddr>),
    /// Switched off for a control experiment, see [`super::daemon`].
    Off,
}

impl Barrier {
    /// What only rules can do.
    pub(super) fn rules(&mut self) -> Option<&mut Gate> {
        match self {
            Self::Rules(gate) => Some(gate),
            Self::Lifetimes(..) | Self::Off => None,
        }
    }

    /// What a killed run has left open.
    pub(super) fn held(&self) -> Vec<Definition> {
        match self {
            Self::Rules(gate) => gate.held().to_vec(),
            Self::Lifetimes(..) | Self::Off => Vec::new(),
        }
    }

    /// As [`Gate::lateness`].
    pub(super) fn lateness(&self) -> Duration {
        match self {
            Self::Rules(gate) => gate.lateness(),
            Self::Lifetimes(lifetimes, _) => lifetimes.lateness(),
            Self::Off => LATENESS,
        }
    }

    /// What addresses are to be set for, in a lease of this length.
    pub(super) fn life(&self, ttl: Duration) -> Duration {
        match self {
            Self::Rules(gate) if gate.persistent() => ttl.max(LIFE),
            Self::Rules(_) | Self::Off => ttl,
            Self::Lifetimes(lifetimes, _) => lifetimes.life().saturating_sub(SECOND),
        }
    }

    /// Addresses are about to be set, in a lease that ends at `deadline`.
    pub(super) fn begin(&mut self, deadline: Moment) -> Result<(), GateError> {
        match self {
            Self::Rules(_) | Self::Off => Ok(()),
            Self::Lifetimes(lifetimes, _) => lifetimes.begin(deadline),
        }
    }

    /// As [`Gate::hold`]; the addresses are there.
    pub(super) fn hold(&mut self, groups: &[Definition]) -> Result<(), GateError> {
        self.rules().map_or(Ok(()), |gate| gate.hold(groups))
    }

    /// As [`Gate::drop_hold`]; `kept` is what is held still.
    pub(super) fn drop_hold(
        &mut self,
        groups: &[Definition],
        kept: &[Definition],
        interfaces: &Interfaces,
    ) -> Result<(), GateError> {
        match self {
            Self::Rules(gate) => gate.drop_hold(groups),
            Self::Lifetimes(lifetimes, _) => {
                take_off(addresses(groups), interfaces)?;
                if kept.is_empty() { lifetimes.end() } else { Ok(()) }
            }
            Self::Off => Ok(()),
        }
    }

    /// As [`Gate::shut`].
    pub(super) fn shut(&mut self, interfaces: &Interfaces) -> Result<(), GateError> {
        match self {
            Self::Rules(gate) => gate.shut(),
            Self::Lifetimes(lifetimes, guarded) => {
                take_off(guarded.clone(), interfaces)?;
                lifetimes.end()
            }
            Self::Off => Ok(()),
        }
    }

    /// As [`Gate::arm`].
    pub(super) fn arm(&mut self, deadline: Moment) -> Result<(), GateError> {
        match self {
            Self::Rules(gate) => gate.arm(deadline),
            Self::Lifetimes(lifetimes, _) => lifetimes.arm(deadline),
            Self::Off => Ok(()),
        }
    }

    /// As [`Gate::set_groups`] and [`Gate::set_interfaces`].
    pub(super) fn guard(&mut self, groups: &[Definition], interfaces: &[String]) -> Result<(), GateError> {
        match self {
            Self::Rules(gate) => {
                gate.set_groups(groups)?;
                gate.set_interfaces(interfaces)
            }
            Self::Lifetimes(_, guarded) => {
                *guarded = addresses(groups);
                Ok(())
            }
            Self::Off => Ok(()),
        }
    }

    /// Whether the kernel itself keeps adverts back after the deadline.
    pub(super) fn stops_adverts(&self) -> bool {
        !matches!(self, Self::Lifetimes(..))
    }

    /// The same of what packet sockets send.
    pub(super) fn stops_announcements(&self) -> bool {
        match self {
            Self::Rules(gate) => gate.sees_packet_sockets(),
            Self::Lifetimes(..) => false,
            // Nothing is to be kept back.
            Self::Off => true,
        }
    }

    /// As [`Gate::remove`].
    pub(super) fn remove(self) -> Result<(), GateError> {
        match self {
            Self::Rules(gate) => gate.remove(),
            Self::Lifetimes(..) | Self::Off => Ok(()),
        }
    }

    /// For people.
    pub(super) fn status(&self) -> GateStatus {
        match self {
            Self::Rules(gate) => {
                GateStatus::Rules { persistent: gate.persistent(), packet_sockets: gate.sees_packet_sockets() }
            }
            Self::Lifetimes(lifetimes, _) => GateStatus::Lifetimes(lifetimes.lateness()),
            Self::Off => GateStatus::Off,
        }
    }
}

/// No refresh comes after it: the thread that does both keeps their order.
fn take_off(addresses: Vec<IpAddr>, interfaces: &Interfaces) -> Result<(), GateError> {
    interfaces
        .take_off(addresses)
        .map_err(|error| GateError::Io { what: "take the addresses off", source: io::Error::other(error) })
}

fn addresses(groups: &[Definition]) -> Vec<IpAddr> {
    groups.iter().flat_map(|group| group.addresses.iter().copied()).collect()
}

/// What of a configuration needs rules. Without them something else than a local address answers, speaks or is reached for the
/// VIP, or there is no lease that ends.
#[must_use]
pub fn needs_rules(config: &Config) -> Vec<String> {
    let mut needs = Vec::new();
    if config.node.guard {
        needs.push("node.guard: the rules hear what keepalived says, and keep it back".to_owned());
    }
    for (name, group) in config.groups.iter().filter(|(_, group)| group.priority.is_some()) {
        let VipGroup { virtual_mac, localnode, quorum_loss, .. } = group;
        let all = [
            (virtual_mac.is_some(), "virtual_mac: the device has to be silent while another node has its MAC"),
            (!group.accepts(), "accept = false: the address takes packets"),
            (*localnode, "localnode: the address is there all the time"),
            (quorum_loss.is_some(), "quorum_loss = \"vrrp\": others take over before lifetimes end"),
        ];
        needs.extend(all.into_iter().filter(|(is, _)| *is).map(|(_, why)| format!("vip.{name}: {why}")));
    }
    for (name, service) in &config.services {
        if service.listen.iter().any(|key| matches!(key, ServiceKey::Mark(..))) {
            needs.push(format!("service.{name}: what is marked is balanced whether the address is there or not"));
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(cluster: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let node = "[node]\nname = \"lb1\"\nlisten = \"10.0.0.1:7112\"\ncluster = \"cluster.toml\"\n";
        std::fs::write(dir.path().join("hamesh.toml"), node).unwrap();
        std::fs::write(dir.path().join("cluster.toml"), cluster).unwrap();
        crate::config::load(&dir.path().join("hamesh.toml")).unwrap()
    }

    fn group(more: &str) -> String {
        format!(
            "[vip.web]\ninterface = \"eth0\"\nvrid = 51\naddresses = [\"203.0.113.10/24\"]\npriority = 100\n{more}\n\
             [service.web]\nvip = \"web\"\nlisten = \"203.0.113.10:80\"\nforwarding = \"nat\"\nserver = [{{ address = \"10.0.5.11:80\" }}]\n"
        )
    }

    #[test]
    fn what_no_lifetime_ends_needs_rules() {
        assert_eq!(needs_rules(&configured(&group(""))), Vec::<String>::new());
        for more in ["virtual_mac = true", "localnode = true", "quorum_loss = \"vrrp\""] {
            let needs = needs_rules(&configured(&group(more)));
            let key = more.split(' ').next().unwrap();
            assert!(matches!(needs.as_slice(), [one] if one.starts_with(&format!("vip.web: {key}"))), "{needs:?}");
        }
        let marked = group("").replace("listen = \"203.0.113.10:80\"", "mark = 7");
        let needs = needs_rules(&configured(&marked));
        assert!(matches!(needs.as_slice(), [one] if one.starts_with("service.web: ")), "{needs:?}");
        // Somebody else's.
        let other = group("virtual_mac = true").replace("priority = 100", "priority = { lb2 = 100 }");
        let vips = |needs: Vec<String>| needs.into_iter().filter(|need| need.starts_with("vip.")).count();
        assert_eq!(vips(needs_rules(&configured(&other))), 0);
    }
}
