//! The LANs that a director speaks on: an interface and a family each, with sockets for adverts and for neighbours.

use super::director::Occurred;
use super::voice::{self, Outlet, make_devices};
use crate::config::{Config, VipGroup};
use crate::kernel::KernelError;
use crate::kernel::address::Interface;
use crate::kernel::link::{self, Link};
use crate::kernel::sysctl::{answer_for_own_addresses, ask_for_own_addresses, promote_secondaries};
use crate::net::neighbour::{Heard, NeighbourSocket};
use crate::net::vrrp::{Carries, VrrpSocket};
use crate::vrrp::Auth;
use crate::vrrp::advert::Header;
use anyhow::Context;
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{Family, GroupName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The largest packet.
const LARGEST: usize = 65_535;
/// A socket of an interface that is down says so at every read.
const DEAF_PAUSE: Duration = Duration::from_millis(200);
/// So many packets in twice the pause are a flood: the lane has other things to do, and the kernel drops what does not wait.
const FLOOD: u32 = 256;
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

/// An interface's name, and what is spoken there.
pub(super) type LanName = (String, Family);

/// One LAN. Its ears end with it.
#[derive(Debug)]
pub(super) struct Lan {
    pub(super) link: Link,
    pub(super) vrrp: Arc<VrrpSocket>,
    /// For adverts behind an authentication header, where a group has them.
    pub(super) sealed: Option<Arc<VrrpSocket>>,
    pub(super) neighbours: Arc<NeighbourSocket>,
    #[expect(dead_code, reason = "held for its drop")]
    ears: JoinSet<()>,
}

/// All of them.
pub(super) type Lans = BTreeMap<LanName, Lan>;

/// The LANs of `config`, of groups that are served here or not.
pub(super) fn names(config: &Config) -> BTreeSet<LanName> {
    let of = |group: &VipGroup| {
        let of_address = |(address, _)| (group.interface_of(address).to_owned(), Family::of(address));
        let own = (group.interface.clone(), group.family);
        group.all().map(of_address).chain([own]).collect::<BTreeSet<_>>()
    };
    config.groups.values().flat_map(of).collect()
}

/// Their interfaces.
pub(super) fn interfaces(config: &Config) -> BTreeSet<String> {
    let of = |group: &VipGroup| {
        let elsewhere = group.elsewhere().into_iter().map(str::to_owned);
        elsewhere.chain([group.interface.clone()]).collect::<Vec<_>>()
    };
    config.groups.values().flat_map(of).collect()
}

/// Whatever is to be watched: these, and the devices with virtual MACs that are made on them.
pub(super) fn watched(config: &Config) -> BTreeSet<String> {
    let made = config.groups.values().filter(|group| group.priority.is_some() && !config.node.guard);
    let devices = made.filter_map(|group| Some(group.virtual_mac()?.0.to_owned()));
    devices.chain(interfaces(config)).collect()
}

/// Every VIP of `config`: nobody's own address.
pub(super) fn vips(config: &Config) -> BTreeSet<IpAddr> {
    config.groups.values().flat_map(|group| group.all().map(|(address, _)| address)).collect()
}

/// Opens those of `names` whose interfaces are there. What is heard there goes to `tell`.
///
/// # Errors
/// A socket that is not to be had, or a setting that is refused.
pub(super) async fn open(
    config: &Config,
    names: &BTreeSet<LanName>,
    tell: &mpsc::Sender<Occurred>,
) -> anyhow::Result<Lans> {
    let (links, _) = link::connect()?;
    let vips: Vec<IpAddr> = vips(config).into_iter().collect();
    let mut lans = Lans::new();
    for (interface, family) in names {
        let Some(link) = links.get(interface, &vips).await? else { continue };
        if !config.node.guard {
            set_up(config, interface)?;
        }
        let vrrp = VrrpSocket::open(&link.interface, *family, Carries::Vrrp);
        let vrrp = Arc::new(vrrp.with_context(|| format!("cannot speak VRRP on {interface}"))?);
        let (neighbours, what) = (NeighbourSocket::open(interface, *family), announces(*family));
        let neighbours = Arc::new(neighbours.with_context(|| format!("cannot speak {what} on {interface}"))?);
        let mut ears = listen(interface, &vrrp, &neighbours, tell);
        let sealed = if authenticates(config, interface, *family) {
            let sealed = VrrpSocket::open(&link.interface, *family, Carries::Authenticated);
            let sealed = Arc::new(sealed.with_context(|| format!("cannot speak authenticated VRRP on {interface}"))?);
            hear(&mut ears, interface, &sealed, Carries::Authenticated, tell);
            Some(sealed)
        } else {
            None
        };
        lans.insert((interface.clone(), *family), Lan { link, vrrp, sealed, neighbours, ears });
    }
    join(config, &lans)?;
    Ok(lans)
}

/// Hears on `lans` what the groups of `config` are to hear that do not go by RFC 9568's multicast group.
///
/// # Errors
/// The interface is gone.
pub(super) fn join(config: &Config, lans: &Lans) -> anyhow::Result<()> {
    for group in config.groups.values() {
        let (Some(multicast), Some(lan)) = (group.multicast, lans.get(&(group.interface.clone(), group.family))) else {
            continue;
        };
        for socket in [Some(&lan.vrrp), lan.sealed.as_ref()].into_iter().flatten() {
            let what = || format!("cannot join {multicast} on {}", group.interface);
            socket.join(multicast).with_context(what)?;
        }
    }
    Ok(())
}

/// The settings that the groups of an interface need.
fn set_up(config: &Config, interface: &str) -> Result<(), KernelError> {
    promote_secondaries(interface)?;
    let served = |group: &&VipGroup| group.interface == interface && group.priority.is_some();
    let served = || config.groups.values().filter(served);
    if served().any(|group| group.localnode || group.virtual_mac.is_some()) {
        answer_for_own_addresses(interface)?;
    }
    if served().any(|group| group.localnode) {
        ask_for_own_addresses(interface)?;
    }
    Ok(())
}

/// What was opened on an interface that has come: its LANs that were not open, and the devices of its groups.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) interface: Interface,
    pub(super) lans: Lans,
    pub(super) outlets: BTreeMap<GroupName, Outlet>,
}

/// Opens what of `config` is on one interface and not `known`; nothing where that is not there.
///
/// # Errors
/// As [`open`]; a device that cannot be made.
pub(super) async fn open_on(
    interface: &str,
    config: &Config,
    known: &BTreeSet<LanName>,
    tell: &mpsc::Sender<Occurred>,
) -> anyhow::Result<Option<Opened>> {
    let (links, _) = link::connect()?;
    let Some(link) = links.get(interface, &[]).await? else { return Ok(None) };
    let found = BTreeMap::from([(interface.to_owned(), link.clone())]);
    let mut outlets = BTreeMap::new();
    for (name, device) in make_devices(&links, config, &found).await? {
        let Some(group) = config.groups.get(&name) else { continue };
        outlets.extend(voice::outlet(&device, group)?.map(|outlet| (name, outlet)));
    }
    let missing = names(config).into_iter().filter(|name| name.0 == interface && !known.contains(name)).collect();
    let lans = open(config, &missing, tell).await?;
    Ok(Some(Opened { interface: link.interface, lans, outlets }))
}

fn authenticates(config: &Config, interface: &str, family: Family) -> bool {
    let on_it = |group: &&VipGroup| (group.interface.as_str(), group.family) == (interface, family);
    config.groups.values().filter(on_it).any(|group| matches!(group.auth, Auth::Ah(_)))
}

fn announces(family: Family) -> &'static str {
    match family {
        Family::V4 => "ARP",
        Family::V6 => "neighbour discovery",
    }
}

/// One task for adverts and one for neighbours. A broken socket ends its task; the link's watch says why.
fn listen(
    interface: &str,
    vrrp: &Arc<VrrpSocket>,
    neighbours: &Arc<NeighbourSocket>,
    tell: &mpsc::Sender<Occurred>,
) -> JoinSet<()> {
    let mut ears = JoinSet::new();
    hear(&mut ears, interface, vrrp, Carries::Vrrp, tell);
    let (neighbours, senders, name) = (neighbours.clone(), tell.clone(), interface.to_owned());
    ears.spawn(async move {
        loop {
            match neighbours.heard().await {
                Ok(heard) => {
                    let Heard { ip: sender, claimed, mac, answers } = heard;
                    let heard = Occurred::Neighbour { interface: name.clone(), sender, claimed, mac, answers };
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
    ears
}

fn hear(
    ears: &mut JoinSet<()>,
    interface: &str,
    vrrp: &Arc<VrrpSocket>,
    carries: Carries,
    tell: &mpsc::Sender<Occurred>,
) {
    let (vrrp, adverts, name) = (vrrp.clone(), tell.clone(), interface.to_owned());
    ears.spawn(async move {
        let mut buffer = vec![0; LARGEST];
        let (mut since, mut read) = (Moment::now(), 0);
        loop {
            read += 1;
            if read == FLOOD {
                if Moment::now().since(since) < FLOOD_PAUSE * 2 {
                    sleep(FLOOD_PAUSE).await;
                }
                (since, read) = (Moment::now(), 0);
            }
            match vrrp.receive(&mut buffer).await {
                Ok(received) => {
                    let header =
                        Header { source: received.source, destination: received.destination, ttl: received.ttl };
                    let ip = match carries {
                        Carries::Vrrp => Vec::new(),
                        Carries::Authenticated => received.header.to_vec(),
                    };
                    let payload = received.payload.to_vec();
                    let packet = Occurred::Packet { interface: name.clone(), header, ip, payload };
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
}
