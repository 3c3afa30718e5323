//! Before a director joins in: the gate of this network namespace, and what an earlier run has left.
//!
//! A killed predecessor is resumed when its may-act record and the gate found here belong together, and the times and the
//! recorded groups are still the configured ones. Otherwise the gate is shut first, then the addresses go, and the next `Open` supersedes
//! its session at once, because it names the gate that was found and shut. Without nf_tables there is no gate to find, and
//! nothing is resumed: that session ends by its promises.

use super::balance::Balance;
use super::barrier::{Barrier, needs_rules};
use super::claim::Hands;
use super::director::{Director, Occurred, Silence, Site};
use super::interfaces::Interfaces;
use super::lans;
use super::served::Served;
use super::voice::{make_devices, outlet};
use crate::config::{Config, VipGroup};
use crate::kernel::address::{Addresses, Interface, Vip};
use crate::kernel::link::{self, Links};
use crate::kernel::routing::Routes;
use crate::net::authority::random;
use anyhow::{Context, bail};
use hamesh_fencing::clock::{Moment, promise_for};
use hamesh_fencing::gate::{Devices, Gate, GateError, Keeper, Lifetimes};
use hamesh_fencing::holder::{Holder, Identity, Terms};
use hamesh_fencing::record::{MayAct, RecordFile};
use hamesh_raft::command::{Definition, GateId, GroupName, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Packets that wait for the lane; what comes beyond is dropped, as a full socket would.
const QUEUE: usize = 256;
/// Switches the gate off, for the experiment that shows what it is for.
const NO_GATE: &str = "HAMESH_UNSAFE_NO_GATE";

/// A director that has put its house in order.
pub(super) struct Prepared {
    site: Site,
    gate: GateId,
    terms: Terms,
    resumed: Option<MayAct>,
}

impl Prepared {
    /// # Errors
    /// What is wrong with the gate, an interface, or the record.
    pub(super) async fn new(config: Arc<Config>, balance: Balance) -> anyhow::Result<Self> {
        let definitions = config.definitions();
        let all: Vec<IpAddr> = lans::vips(&config).into_iter().collect();
        let directory = config.admin.socket.parent().context("the admin socket is in no directory")?;
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let record_file = RecordFile::in_directory(directory);
        let record = record_file.read().context("cannot read the may-act record")?;
        let (links, addresses) = link::connect()?;
        // First: an interface may have no other address of its own. What is missing yet is said by who keeps it up.
        super::fixed::put(&config.fixed, &links, &addresses).await;
        super::fixed::write(&config.fixed);
        let mut found = BTreeMap::new();
        for interface in lans::interfaces(&config) {
            // One that is not there may come.
            let link = links.get(&interface, &all).await?;
            found.extend(link.map(|link| (interface, link)));
        }
        let guard = config.node.guard;
        let made = make_devices(&links, &config, &found).await?;
        let devices = devices(&config);
        let (gate, resumed) = take_gate(&config, record, &definitions, &devices, &addresses, &links).await?;
        let local = config.groups.values().filter(|group| group.localnode && group.priority.is_some());
        let local: Vec<IpAddr> = local.flat_map(|group| group.definition().addresses).collect();
        links.local_routes().set(&local).await.context("cannot serve as a real server of other directors")?;
        // Not before the gate guards them: what they said first would teach switches the virtual MAC.
        for device in made.values() {
            links.raise(device).await?;
        }
        let id = match &gate {
            Barrier::Rules(gate) => gate.id(),
            // Of this run only, in which it is shut before the next session is opened.
            Barrier::Lifetimes(..) | Barrier::Off => GateId(u128::from_be_bytes(random()?)),
        };
        let ttl = config.lease.ttl;
        let terms = Terms { ttl, promise: promise_for(ttl, gate.lateness()), renew: config.lease.renew };
        if resumed.is_none() {
            record_file.write(None).context("cannot remove the may-act record")?;
        }
        let pairs = resumed.iter().flat_map(|record| &record.pairs);
        balance.begin(&config, pairs.flat_map(|(lease, _)| config.members(lease)).collect())?;
        let keeps = |name: &str| {
            let lease = config.lease(name);
            resumed.iter().flat_map(|record| &record.pairs).any(|(kept, _)| kept == lease)
        };
        for (name, group) in config.groups.iter().filter(|(name, _)| !guard && !keeps(name)) {
            let interfaces = group.elsewhere().into_iter().chain([&*group.interface]);
            let places = interfaces.filter_map(|name| found.get(name)).map(|link| &link.interface);
            for place in places.chain(made.get(name)) {
                remove_leftovers(&addresses, name, group, place).await?;
            }
        }
        let mut kept = config.fixed.routing.clone();
        for (_, group) in config.groups.iter().filter(|(name, _)| keeps(name)) {
            kept.routes.extend(group.routing.routes.iter().cloned());
            kept.rules.extend(group.routing.rules.iter().cloned());
        }
        Routes::new(links.clone()).clean(&kept).await?;
        let (tell, occurrences) = mpsc::channel(QUEUE);
        if let Barrier::Rules(gate) = &gate {
            watch_wall_clock(gate, tell.clone())?;
        }
        let lans = lans::open(&config, &lans::names(&config), &tell).await?;
        let now = Moment::now();
        let mut groups = BTreeMap::new();
        for (name, group) in &config.groups {
            let outlet = made.get(name).map(|device| outlet(device, group)).transpose()?.flatten();
            let Some(mut served) = Served::new(now, name, &config, &lans, outlet) else { continue };
            // What goes on is not interrupted.
            served.fault &= !keeps(name);
            served.unseen = served.fault;
            groups.insert(name.clone(), served);
        }
        let names = lans::watched(&config).into_iter().collect();
        let interfaces = Interfaces::start(names, all, &config.delays, tell.clone()).await?;
        // Also those that are made later.
        let with_mac = config.groups.values().filter(|group| group.priority.is_some() && !guard);
        let made = with_mac.filter_map(|group| Some(group.virtual_mac()?.0.to_owned())).collect();
        let hands = Hands::new(gate, guard, balance, interfaces, made, record_file, ttl);
        let site = Site { config, groups, lans, hands, tell, occurrences };
        Ok(Self { site, gate: id, terms, resumed })
    }

    /// The director, under its name in the cluster.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn begin(self, node: NodeId, incarnation: u64, silence: Silence) -> anyhow::Result<Director> {
        let process = u64::from_be_bytes(random()?);
        let me = Identity { node, incarnation, process, gate: self.gate };
        let resumed: BTreeSet<GroupName> =
            self.resumed.iter().flat_map(|record| &record.pairs).map(|(group, _)| group.clone()).collect();
        let holder = match self.resumed {
            Some(record) => {
                tracing::info!(sid = %record.sid, groups = ?resumed, "resuming the session of a killed predecessor");
                Holder::resume(Moment::now(), me, self.terms.renew, record)
            }
            None => Holder::new(me, self.terms),
        };
        Ok(Director::new(node, holder, self.site, &resumed, silence))
    }
}

/// Adopts the gate that was found if its session can go on, else makes one that is shut.
async fn take_gate(
    config: &Config,
    record: Option<MayAct>,
    definitions: &[Definition],
    devices: &Devices,
    addresses: &Addresses,
    links: &Links,
) -> anyhow::Result<(Barrier, Option<MayAct>)> {
    if std::env::var(NO_GATE).is_ok_and(|value| value == "1") {
        tracing::error!("{NO_GATE} is set: THE GATE IS OFF, nothing keeps a frozen node from answering");
        return Ok((Barrier::Off, None));
    }
    let mut keeper = match acquire().await {
        Err(GateError::NoRules) => return Ok((without_rules(config)?, None)),
        keeper => keeper?,
    };
    let rules = |gate| Barrier::Rules(Box::new(gate));
    let found = keeper.found();
    // What has left the configuration goes while the predecessor's gate still guards it.
    let strays = keeper.strays(definitions)?;
    if !strays.is_empty() && !config.node.guard {
        tracing::info!(?strays, "removing addresses that are not configured any more");
        addresses.remove_everywhere(&strays).await.context("cannot remove addresses of an earlier configuration")?;
    }
    for device in keeper.stray_devices(devices)?.into_iter().filter(|_| !config.node.guard) {
        tracing::info!(device, "removing a virtual MAC that is not configured any more");
        links.remove(&device).await?;
    }
    if let Some(record) = record
        && found == Some(record.gate)
        && record.ttl == config.lease.ttl
        && let Some(recorded) = served_now(config, &record)
        && keeper.holds_only(&recorded, devices)?
    {
        match keeper.adopt(definitions, devices) {
            Ok(gate) => return Ok((rules(gate), Some(record))),
            Err(error) => {
                tracing::warn!(%error, "the predecessor's gate was not adopted; it is shut");
                let gate = acquire().await?.install(record.gate, definitions, devices)?;
                return Ok((rules(gate), None));
            }
        }
    }
    // The same id, where there is one: the session behind it is superseded by the next Open.
    let id = match found {
        Some(id) => id,
        None => GateId(u128::from_be_bytes(random()?)),
    };
    Ok((rules(keeper.install(id, definitions, devices)?), None))
}

/// What takes the gate's place on a kernel without nf_tables, for a configuration that can do with it.
fn without_rules(config: &Config) -> anyhow::Result<Barrier> {
    let needs = needs_rules(config);
    if !needs.is_empty() {
        bail!(
            "this kernel has no nf_tables, and the configuration needs them:\n  {}\nLoad nf_tables, or take that out",
            needs.join("\n  ")
        );
    }
    let lifetimes = Lifetimes::acquire(config.lease.ttl)?;
    tracing::warn!(
        lateness = ?lifetimes.lateness(),
        "NO GATE: this kernel has no nf_tables. The lifetimes of addresses end a claim, later than a gate would, and the others wait for it"
    );
    Ok(Barrier::Lifetimes(lifetimes, lans::vips(config).into_iter().collect()))
}

/// Shuts the gate of this network namespace for what `config` says keepalived may hold here, before that starts: a guard that
/// starts later takes the gate over. Whether there was need for it: a running hamesh has the gate, and it is as it should be.
///
/// # Errors
/// What is wrong with the gate.
pub fn shut_gate(config: &Config) -> anyhow::Result<bool> {
    let keeper = match Gate::acquire() {
        Err(GateError::Locked | GateError::Owned(_)) => return Ok(false),
        keeper => keeper?,
    };
    let id = match keeper.found() {
        Some(id) => id,
        None => GateId(u128::from_be_bytes(random()?)),
    };
    keeper.install(id, &config.definitions(), &devices(config))?;
    Ok(true)
}

/// Takes the gate away that a guard has left.
///
/// # Errors
/// A hamesh that runs has it; what is wrong with it.
pub fn remove_gate() -> anyhow::Result<()> {
    let keeper = Gate::acquire()?;
    let id = keeper.found().unwrap_or(GateId(0));
    Ok(keeper.install(id, &[], &Devices::default())?.remove()?)
}

/// What the gate looks at.
fn devices(config: &Config) -> Devices {
    let with_mac = config.groups.values().filter(|group| group.priority.is_some());
    let with_mac = with_mac.filter_map(|group| Some((group.definition(), group.virtual_mac()?.0.to_owned())));
    Devices {
        vrrp: lans::interfaces(config).into_iter().collect(),
        virtual_macs: with_mac.collect(),
        made_elsewhere: config.node.guard,
    }
}

/// The groups of the recorded leases as they are configured now, if this node still serves them all.
fn served_now(config: &Config, record: &MayAct) -> Option<Vec<Definition>> {
    let leases = record.pairs.iter().map(|(lease, _)| config.members(lease)).collect::<Vec<_>>();
    let groups = leases.iter().all(|groups| !groups.is_empty()).then(|| leases.concat())?;
    let groups = groups.iter().map(|group| config.groups.get(group));
    groups.map(|group| group.filter(|group| group.priority.is_some()).map(VipGroup::definition)).collect()
}

/// A child of a killed predecessor may keep its lock for a moment, between fork and exec.
async fn acquire() -> Result<Keeper, GateError> {
    let mut tries = 0;
    loop {
        match Gate::acquire() {
            Err(GateError::Locked | GateError::Owned(_)) if tries < 20 => tries += 1,
            result => return result,
        }
        sleep(Duration::from_millis(25)).await;
    }
}

async fn remove_leftovers(
    addresses: &Addresses,
    name: &str,
    group: &VipGroup,
    place: &Interface,
) -> anyhow::Result<()> {
    let ours = group.definition().addresses;
    let present = addresses.list(place).await?.into_iter().map(|present| present.vip);
    let left: Vec<Vip> = present.filter(|vip| ours.contains(&vip.address)).collect();
    if !left.is_empty() {
        tracing::info!(group = name, ?left, interface = %place.name, "removing what an earlier run left");
        addresses.remove(place, &left).await?;
    }
    Ok(())
}

fn watch_wall_clock(gate: &Gate, tell: mpsc::Sender<Occurred>) -> anyhow::Result<()> {
    let clock = gate.wall_clock().try_clone_to_owned()?;
    let clock = crate::net::sys::register_descriptor(clock)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = clock.readable().await {
            // The gate reads it; here it only wakes.
            if tell.send(Occurred::WallClock).await.is_err() {
                return;
            }
            ready.clear_ready();
        }
    });
    Ok(())
}
