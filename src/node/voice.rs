//! What a group is spoken and announced through while its interface is there: the sockets of its LAN, and the device with its
//! virtual MAC, where it has one.

use super::lans::Lans;
use crate::config::{Config, VipGroup};
use crate::kernel::address::Interface;
use crate::kernel::link::{Link, Links};
use crate::net::arp::Mac;
use crate::net::neighbour::NeighbourSocket;
use crate::net::vrrp::VrrpSocket;
use anyhow::Context;
use hamesh_raft::command::{Family, GroupName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The sockets of one group.
#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) vrrp: Arc<VrrpSocket>,
    /// For adverts behind an authentication header.
    pub(crate) sealed: Option<Arc<VrrpSocket>>,
    pub(crate) neighbours: Arc<NeighbourSocket>,
    /// For excluded addresses of the other family.
    pub(crate) beyond_family: Option<Arc<NeighbourSocket>>,
    pub(crate) outlet: Option<Outlet>,
}

/// The device with a group's virtual MAC, and how it is spoken through.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) device: Interface,
    pub(crate) mac: Mac,
    pub(crate) up: bool,
    pub(crate) vrrp: VrrpSocket,
    pub(crate) neighbours: Arc<NeighbourSocket>,
    /// For excluded addresses of the other family.
    pub(crate) beyond_family: Option<Arc<NeighbourSocket>>,
}

impl Voice {
    /// On the LANs that are open; none where that of the group is not.
    pub(super) fn on(lans: &Lans, group: &VipGroup, outlet: Option<Outlet>) -> Option<Self> {
        let lan = lans.get(&(group.interface.clone(), group.family))?;
        Some(Self {
            vrrp: lan.vrrp.clone(),
            sealed: lan.sealed.clone(),
            neighbours: lan.neighbours.clone(),
            beyond_family: beyond_family(lans, group),
            outlet,
        })
    }
}

/// What announces the addresses of the group that are not of its own family, where it has some.
pub(super) fn beyond_family(lans: &Lans, group: &VipGroup) -> Option<Arc<NeighbourSocket>> {
    lans.get(&(group.interface.clone(), other_family(group)?)).map(|lan| lan.neighbours.clone())
}

fn other_family(group: &VipGroup) -> Option<Family> {
    group.on(&group.interface).map(|vip| Family::of(vip.address)).find(|family| *family != group.family)
}

/// The devices of this node's groups with virtual MACs on the interfaces `found`, by group. New ones are down.
pub(super) async fn make_devices(
    links: &Links,
    config: &Config,
    found: &BTreeMap<String, Link>,
) -> anyhow::Result<BTreeMap<GroupName, Interface>> {
    let mut made = BTreeMap::new();
    // Beside a keepalived they are its own.
    for (name, group) in config.groups.iter().filter(|(_, group)| group.priority.is_some() && !config.node.guard) {
        if let (Some((device, mac)), Some(parent)) = (group.virtual_mac(), found.get(&group.interface)) {
            made.insert(name.clone(), links.ensure_macvlan(device, &parent.interface, mac).await?);
        }
    }
    Ok(made)
}

/// Opens the device of a group, if that has a virtual MAC. It is to be raised before it is of use.
pub(super) fn outlet(device: &Interface, group: &VipGroup) -> anyhow::Result<Option<Outlet>> {
    let Some((_, mac)) = group.virtual_mac() else { return Ok(None) };
    let what = || format!("cannot speak on {}", device.name);
    let vrrp = VrrpSocket::outward(device, group.family).with_context(what)?;
    let open = |family| NeighbourSocket::open(&device.name, family).map(Arc::new).with_context(what);
    let (neighbours, beyond_family) = (open(group.family)?, other_family(group).map(open).transpose()?);
    Ok(Some(Outlet { device: device.clone(), mac, up: true, vrrp, neighbours, beyond_family }))
}
