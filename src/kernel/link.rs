//! Interfaces: what they are, and when they change.

use super::address::{self, Addresses, Interface};
use super::route::LocalRoutes;
use super::{KernelError, answer, routing, sysctl};
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use hamesh_raft::command::Family;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode};
use netlink_packet_route::rule::RuleAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, LinkMacVlan, LinkUnspec, MulticastGroup, new_connection, new_multicast_connection};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An interface, as it was when asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index and name.
    pub interface: Interface,
    /// Its hardware address, if it is of the length that Ethernet has.
    pub mac: Option<[u8; 6]>,
    /// Whether it is up and has carrier.
    pub up: bool,
    /// The first of its IPv4 addresses that is not one of the VIPs.
    pub v4: Option<Ipv4Addr>,
    /// The first of its link-local IPv6 addresses that is not one of the VIPs.
    pub v6: Option<Ipv6Addr>,
    /// All its addresses that are none of the VIPs.
    pub own: Vec<IpAddr>,
    /// Whether it forwards IPv6, so that it announces a router's addresses.
    pub router: bool,
}

impl Link {
    /// One that is not there.
    pub fn absent(name: &str) -> Self {
        let interface = Interface { index: 0, name: name.to_owned() };
        Self { interface, mac: None, up: false, v4: None, v6: None, own: Vec::new(), router: false }
    }

    /// The source of adverts (RFC 9568 sections 5.1.1.1 and 5.1.2.1).
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// Asks for interfaces.
#[derive(Clone, Debug)]
pub struct Links(Handle);

/// Opens a connection for [`Links`] and [`Addresses`], served by a task of the current tokio runtime.
///
/// # Errors
/// The socket's.
pub fn connect() -> io::Result<(Links, Addresses)> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok((Links(handle.clone()), Addresses::new(handle)))
}

impl Links {
    /// The same connection, for routes.
    pub fn local_routes(&self) -> LocalRoutes {
        LocalRoutes::new(self.0.clone())
    }

    /// Makes `name`, a macvlan of `parent` with this MAC, if it is not there: a way in and out with a MAC of its own, which
    /// gives itself no address. A new one is down, see [`Links::raise`]. One on another parent goes: that had another name once.
    ///
    /// # Errors
    /// There is an interface of that name which is something else; the kernel could not be asked.
    pub async fn ensure_macvlan(&self, name: &str, parent: &Interface, mac: [u8; 6]) -> Result<Interface, KernelError> {
        let failed = |source: io::Error| {
            KernelError::new(format_args!("make the interface {name} for the virtual MAC on {}", parent.name), source)
        };
        let mut there = self.find(name).await.map_err(failed)?;
        let [on_it, with_it] = [LinkAttribute::Link(parent.index), LinkAttribute::Address(mac.to_vec())];
        let is_macvlan = |attribute: &LinkAttribute| {
            let kind = LinkInfo::Kind(InfoKind::MacVlan);
            matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&kind))
        };
        let has_mac =
            |there: &&LinkMessage| there.attributes.contains(&with_it) && there.attributes.iter().any(is_macvlan);
        if there.as_ref().filter(has_mac).is_some_and(|there| !there.attributes.contains(&on_it)) {
            self.remove(name).await?;
            there = None;
        }
        if there.is_none() {
            // A private one would keep from its parent what others multicast from the same MAC: the MASTER's adverts.
            let link = LinkMacVlan::new(name, parent.index, MacVlanMode::Bridge).address(mac.to_vec()).build();
            self.0.link().add(link).execute().await.map_err(|error| failed(answer(error)))?;
        }
        let message = match there {
            Some(there) => there,
            None => self.find(name).await.map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?,
        };
        if !has_mac(&&message) {
            return Err(failed(io::Error::other("there is another interface of that name; give this one another")));
        }
        sysctl::silence(name)?;
        Ok(Interface { index: message.header.index, name: name.to_owned() })
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// The kernel's; it names the interface.
    pub async fn raise(&self, interface: &Interface) -> Result<(), KernelError> {
        let up = LinkUnspec::new_with_index(interface.index).up().build();
        let failed = |error| KernelError::new(format_args!("bring {} up", interface.name), answer(error));
        self.0.link().change(up).execute().await.map_err(failed)
    }

    /// Takes an interface away, and everything on it. One that is not there is away already.
    ///
    /// # Errors
    /// The kernel's; it names the interface.
    pub async fn remove(&self, name: &str) -> Result<(), KernelError> {
        let failed = |error| KernelError::new(format_args!("remove the interface {name}"), error);
        let Some(there) = self.find(name).await.map_err(failed)? else { return Ok(()) };
        match self.0.link().del(there.header.index).execute().await.map_err(answer) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(failed(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.0
    }

    pub(super) async fn find(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut found = self.0.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await.map_err(answer) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            result => result,
        }
    }

    /// Looks an interface up by its name; nothing if it is not there. `vips` are not taken for its own address, wherever
    /// they stand.
    ///
    /// # Errors
    /// The kernel could not be asked: nothing is known of the interface then.
    pub async fn get(&self, name: &str, vips: &[IpAddr]) -> Result<Option<Link>, KernelError> {
        let failed = |source: io::Error| KernelError::new(format_args!("look up interface {name}"), source);
        let Some(message) = self.find(name).await.map_err(failed)? else { return Ok(None) };
        let mac = message.attributes.iter().find_map(|attribute| {
            if let LinkAttribute::Address(mac) = attribute { mac[..].try_into().ok() } else { None }
        });
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let interface = Interface { index: message.header.index, name: name.to_owned() };
        let present = match Addresses::new(self.0.clone()).list(&interface).await {
            // It went in between.
            Err(error) if error.errno() == Some(libc::ENODEV) => return Ok(None),
            present => present?,
        };
        let own = present.iter().filter(|present| !present.ours && present.usable).map(|present| present.vip.address);
        let own: Vec<IpAddr> = own.filter(|address| !vips.contains(address)).collect();
        let v4 = own.iter().find_map(|own| if let IpAddr::V4(own) = own { Some(*own) } else { None });
        let v6 = own.iter().find_map(|own| match own {
            IpAddr::V6(own) if own.is_unicast_link_local() => Some(*own),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        Ok(Some(Link { interface, mac, up, v4, v6, own, router: forwards_ipv6(name) }))
    }
}

/// A kernel without IPv6 forwards none.
fn forwards_ipv6(interface: &str) -> bool {
    let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding"));
    setting.is_ok_and(|text| text.trim() != "0")
}

/// What has changed. It says where to look again, not what is to be seen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The interface with this index came or changed.
    Link(u32),
    /// The interface with this index went. It may be back with the same one.
    Gone(u32),
    /// An address of the interface with this index came or went. That hamesh added or refreshed one is not told, from Linux
    /// 5.18 on.
    Address(u32),
    /// A route or a rule of hamesh's went.
    Routing,
    /// The kernel had more to tell than there was room for: look at everything again.
    Everything,
}

/// Tells of changes to interfaces and addresses, and of routes and rules that are lost.
pub struct Watch {
    messages: futures_util::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
}

impl Watch {
    /// Starts to watch, by a task of the current tokio runtime.
    ///
    /// # Errors
    /// The socket's.
    pub fn start() -> io::Result<Self> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link};
        let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
        let (connection, _, messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok(Self { messages: messages.map(|(message, _)| message).boxed() })
    }

    /// The next change, or nothing when the connection has ended.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let change = match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(message) => change(&message),
                NetlinkPayload::Overrun(_) => Some(Change::Everything),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) | NetlinkPayload::Noop | _ => None,
            };
            if change.is_some() {
                return change;
            }
        }
    }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    if let RouteNetlinkMessage::NewLink(link) = message {
        Some(Change::Link(link.header.index))
    } else if let RouteNetlinkMessage::DelLink(link) = message {
        // One that leaves a bridge says so in the bridge's family, and stays.
        let gone = link.header.interface_family == AddressFamily::Unspec;
        Some(if gone { Change::Gone(link.header.index) } else { Change::Link(link.header.index) })
    } else if let RouteNetlinkMessage::NewAddress(address) = message {
        (!address::is_ours(address)).then_some(Change::Address(address.header.index))
    } else if let RouteNetlinkMessage::DelAddress(address) = message {
        Some(Change::Address(address.header.index))
    } else if let RouteNetlinkMessage::DelRoute(route) = message {
        (route.header.protocol == routing::PROTOCOL).then_some(Change::Routing)
    } else if let RouteNetlinkMessage::DelRule(rule) = message {
        rule.attributes.contains(&RuleAttribute::Protocol(routing::PROTOCOL)).then_some(Change::Routing)
    } else {
        None
    }
}
