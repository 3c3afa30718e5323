//! Before a director joins in: the gate of this network namespace, and what an earlier run has left.
//!
//! A killed predecessor is resumed when its may-act record and the gate found here belong together, and the times and the
//! recorded groups are still the configured ones. Otherwise the gate is shut first, then the addresses go, and the next `Open` supersedes
//! its session at once, because it names the gate that was found and shut.

use super::balance::{Balance, Orders};
use super::claim::{Hands, Outlet, Served};
use super::director::{Director, Occurred};
use super::interfaces::Interfaces;
use crate::config::{Config, VipGroup};
use crate::ipvs::Scope;
use crate::kernel::address::{Addresses, Interface, Vip};
use crate::kernel::link::{self, Link, Links};
use crate::kernel::sysctl::{answer_for_own_addresses, promote_secondaries};
use crate::net::arp::Mac;
use crate::net::authority::random;
use crate::net::neighbour::NeighbourSocket;
use crate::net::vrrp::{Carries, VrrpSocket};
use crate::vrrp::advert::Header;
use crate::vrrp::hearing::Ear;
use crate::vrrp::router::Router;
use anyhow::Context;
use hamesh_fencing::clock::{LATENESS, Moment, promise_for};
use hamesh_fencing::gate::{Devices, Gate, GateError, Keeper};
use hamesh_fencing::holder::{Holder, Identity, Terms};
use hamesh_fencing::record::{MayAct, RecordFile};
use hamesh_raft::command::{Definition, Family, GateId, GroupName, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Packets that wait for the lane; what comes beyond is dropped, as a full socket would.
const QUEUE: usize = 256;
/// The largest packet.
const LARGEST: usize = 65_535;
/// A socket of an interface that is down says so at every read.
const DEAF_PAUSE: Duration = Duration::from_millis(200);
/// Switches the gate off, for the experiment that shows what it is for.
const NO_GATE: &str = "HAMESH_UNSAFE_NO_GATE";

/// Leaves IPVS alone, for laboratories whose kernel has none.
const NO_IPVS: &str = "HAMESH_UNSAFE_NO_IPVS";

/// A director that has put its house in order.
pub(super) struct Prepared {
    hands: Hands,
    gate: GateId,
    terms: Terms,
    resumed: Option<MayAct>,
    groups: BTreeMap<GroupName, Served>,
    occurrences: mpsc::Receiver<Occurred>,
}

impl Prepared {
    /// # Errors
    /// What is wrong with the gate, an interface, or the record.
    pub(super) async fn new(config: &Config, balance: Balance, orders: Orders) -> anyhow::Result<Self> {
        let served = config.groups.iter().filter_map(|(name, group)| Some((name, group, group.priority?)));
        let served: Vec<_> = served.collect();
        let definitions: Vec<Definition> = config.groups.values().map(VipGroup::definition).collect();
        let interfaces: BTreeSet<String> = config.groups.values().map(|group| group.interface.clone()).collect();
        let all: BTreeSet<IpAddr> = definitions.iter().flat_map(|group| group.addresses.clone()).collect();
        let all: Vec<IpAddr> = all.into_iter().collect();
        let directory = config.admin.socket.parent().context("the admin socket is in no directory")?;
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let record_file = RecordFile::in_directory(directory);
        let record = record_file.read().context("cannot read the may-act record")?;
        let (links, addresses) = link::connect()?;
        let mut found = BTreeMap::new();
        for interface in &interfaces {
            found.insert(interface.clone(), links.get(interface, &all).await?);
            promote_secondaries(interface)?;
        }
        let names: Vec<String> = interfaces.into_iter().collect();
        let made = make_devices(&links, &served, &found).await?;
        let virtual_macs = made.iter().map(|(group, device)| (config.groups[group].definition(), device.name.clone()));
        let devices = Devices { vrrp: names.clone(), virtual_macs: virtual_macs.collect() };
        let (gate, resumed) = take_gate(config, record, &definitions, &devices, &addresses, &links).await?;
        // Not before the gate guards them: what they said first would teach switches the virtual MAC.
        for device in made.values() {
            links.raise(device).await?;
        }
        let id = match &gate {
            Some(gate) => gate.id(),
            None => GateId(u128::from_be_bytes(random()?)),
        };
        let lateness = gate.as_ref().map_or(LATENESS, Gate::lateness);
        let ttl = config.lease.ttl;
        let terms = Terms { ttl, promise: promise_for(ttl, lateness), renew: config.lease.renew };
        if resumed.is_none() {
            record_file.write(None).context("cannot remove the may-act record")?;
        }
        let balanced = |name: &str| config.services.values().any(|service| service.vip == name);
        if !config.services.is_empty() {
            clean_balance(config, orders, resumed.as_ref())?;
        }
        let keeps = |name: &str| resumed.iter().flat_map(|record| &record.pairs).any(|(group, _)| group == name);
        for (name, group) in config.groups.iter().filter(|(name, _)| !keeps(name)) {
            let places = found.get(&group.interface).map(|link| &link.interface).into_iter().chain(made.get(name));
            for place in places {
                remove_leftovers(&addresses, name, group, place).await?;
            }
        }
        let (tell, occurrences) = mpsc::channel(QUEUE);
        if let Some(gate) = &gate {
            watch_wall_clock(gate, tell.clone())?;
        }
        let mut sockets = BTreeMap::new();
        let lans: BTreeSet<(&String, Family)> =
            config.groups.values().map(|group| (&group.interface, group.family)).collect();
        for (interface, family) in lans {
            let link = found.get(interface).context("an interface that was looked up")?;
            let vrrp = VrrpSocket::open(&link.interface, family, Carries::Vrrp);
            let vrrp = Arc::new(vrrp.with_context(|| format!("cannot speak VRRP on {interface}"))?);
            let (neighbours, what) = (NeighbourSocket::open(interface, family), announces(family));
            let neighbours = Arc::new(neighbours.with_context(|| format!("cannot speak {what} on {interface}"))?);
            listen(interface, &vrrp, &neighbours, &tell);
            sockets.insert((interface, family), (link, vrrp, neighbours));
        }
        let now = Moment::now();
        let mut groups = BTreeMap::new();
        for (name, group, priority) in served {
            let Some((link, vrrp, neighbours)) = sockets.get(&(&group.interface, group.family)) else { continue };
            // Without one the link counts as down; what comes later is told with it.
            let none = match group.family {
                Family::V4 => IpAddr::from([0; 4]),
                Family::V6 => IpAddr::from([0; 16]),
            };
            let source = link.address(group.family).unwrap_or(none);
            let Some(parameters) = group.parameters(source) else { continue };
            let outlet = match (made.get(name), group.virtual_mac()) {
                (Some(device), Some((_, mac))) => Some(outlet(device, mac, group.family)?),
                (None, _) | (_, None) => None,
            };
            groups.insert(
                name.clone(),
                Served {
                    name: name.clone(),
                    config: group.clone(),
                    definition: group.definition(),
                    balanced: balanced(name),
                    weighed: priority,
                    // Until all of it was looked at; what goes on is not interrupted.
                    fault: !group.track.is_empty() && !keeps(name),
                    short: false,
                    format: group.format(),
                    router: Router::new(parameters),
                    ear: Ear::new(now, group.interval),
                    link: (*link).clone(),
                    vips: vips(group),
                    outlet,
                    vrrp: vrrp.clone(),
                    neighbours: neighbours.clone(),
                    discarded: BTreeMap::new(),
                    other_lists: BTreeSet::new(),
                },
            );
        }
        let interfaces = Interfaces::start(names, all, tell).await?;
        let made = made.into_values().map(|device| device.name).collect();
        let hands = Hands::new(gate, balance, interfaces, made, record_file, ttl);
        Ok(Self { hands, gate: id, terms, resumed, groups, occurrences })
    }

    /// The director, under its name in the cluster.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn begin(self, node: NodeId, incarnation: u64) -> anyhow::Result<Director> {
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
        Ok(Director::new(node, holder, self.groups, self.hands, self.occurrences, &resumed))
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
) -> anyhow::Result<(Option<Gate>, Option<MayAct>)> {
    if std::env::var(NO_GATE).is_ok_and(|value| value == "1") {
        tracing::error!("{NO_GATE} is set: THE GATE IS OFF, nothing keeps a frozen node from answering");
        return Ok((None, None));
    }
    let mut keeper = acquire().await?;
    let found = keeper.found();
    // What has left the configuration goes while the predecessor's gate still guards it.
    let strays = keeper.strays(definitions)?;
    if !strays.is_empty() {
        tracing::info!(?strays, "removing addresses that are not configured any more");
        addresses.remove_everywhere(&strays).await.context("cannot remove addresses of an earlier configuration")?;
    }
    for device in keeper.stray_devices(devices)? {
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
            Ok(gate) => return Ok((Some(gate), Some(record))),
            Err(error) => {
                tracing::warn!(%error, "the predecessor's gate was not adopted; it is shut");
                let gate = acquire().await?.install(record.gate, definitions, devices)?;
                return Ok((Some(gate), None));
            }
        }
    }
    // The same id, where there is one: the session behind it is superseded by the next Open.
    let id = match found {
        Some(id) => id,
        None => GateId(u128::from_be_bytes(random()?)),
    };
    Ok((Some(keeper.install(id, definitions, devices)?), None))
}

/// The devices of this node's groups with virtual MACs, by group. New ones are down.
async fn make_devices(
    links: &Links,
    served: &[(&GroupName, &VipGroup, u8)],
    found: &BTreeMap<String, Link>,
) -> anyhow::Result<BTreeMap<GroupName, Interface>> {
    let mut made = BTreeMap::new();
    for (name, group, _) in served {
        if let (Some((device, mac)), Some(parent)) = (group.virtual_mac(), found.get(&group.interface)) {
            answer_for_own_addresses(&group.interface)?;
            made.insert((*name).clone(), links.ensure_macvlan(device, &parent.interface, mac).await?);
        }
    }
    Ok(made)
}

fn outlet(device: &Interface, mac: Mac, family: Family) -> anyhow::Result<Outlet> {
    let what = || format!("cannot speak on {}", device.name);
    let vrrp = VrrpSocket::outward(device, family).with_context(what)?;
    let neighbours = Arc::new(NeighbourSocket::open(&device.name, family).with_context(what)?);
    Ok(Outlet { device: device.clone(), mac, vrrp, neighbours })
}

/// The recorded groups as they are configured now, if this node still serves them all.
fn served_now(config: &Config, record: &MayAct) -> Option<Vec<Definition>> {
    let groups = record.pairs.iter().map(|(group, _)| config.groups.get(group));
    groups.map(|group| group.filter(|group| group.priority.is_some()).map(VipGroup::definition)).collect()
}

/// Every service on the addresses of balanced groups is ours. What an earlier run has left there goes, but for the groups whose
/// claims go on.
fn clean_balance(config: &Config, orders: Orders, resumed: Option<&MayAct>) -> anyhow::Result<()> {
    if std::env::var(NO_IPVS).is_ok_and(|value| value == "1") {
        tracing::error!("{NO_IPVS} is set: servers are watched and nothing is balanced");
        return Ok(());
    }
    let balanced: BTreeSet<&GroupName> = config.services.values().map(|service| &service.vip).collect();
    let groups = config.groups.iter().filter(|(name, _)| balanced.contains(name));
    let addresses = groups.flat_map(|(_, group)| group.definition().addresses).collect();
    let held = resumed.iter().flat_map(|record| &record.pairs).map(|(group, _)| group.clone()).collect();
    orders.follow(Scope { addresses, ..Scope::default() }, held)
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

fn vips(group: &VipGroup) -> Vec<Vip> {
    group.addresses.iter().map(|(address, prefix)| Vip { address: *address, prefix: *prefix }).collect()
}

fn announces(family: Family) -> &'static str {
    match family {
        Family::V4 => "ARP",
        Family::V6 => "neighbour discovery",
    }
}

/// One task for adverts and one for neighbours. A broken socket ends its task; the link's watch says why.
fn listen(interface: &str, vrrp: &Arc<VrrpSocket>, neighbours: &Arc<NeighbourSocket>, tell: &mpsc::Sender<Occurred>) {
    let (vrrp, adverts, name) = (vrrp.clone(), tell.clone(), interface.to_owned());
    tokio::spawn(async move {
        let mut buffer = vec![0; LARGEST];
        loop {
            match vrrp.receive(&mut buffer).await {
                Ok(received) => {
                    let header =
                        Header { source: received.source, destination: received.destination, ttl: received.ttl };
                    let packet =
                        Occurred::Packet { interface: name.clone(), header, payload: received.payload.to_vec() };
                    if adverts.try_send(packet).is_err() && adverts.is_closed() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(interface = %name, %error, "no adverts can be heard");
                    sleep(DEAF_PAUSE).await;
                }
            }
        }
    });
    let (neighbours, senders, name) = (neighbours.clone(), tell.clone(), interface.to_owned());
    tokio::spawn(async move {
        loop {
            match neighbours.heard().await {
                Ok(heard) => {
                    let heard = Occurred::Neighbour { interface: name.clone(), sender: heard.ip };
                    if senders.try_send(heard).is_err() && senders.is_closed() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(interface = %name, %error, "no neighbours can be heard");
                    sleep(DEAF_PAUSE).await;
                }
            }
        }
    });
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
