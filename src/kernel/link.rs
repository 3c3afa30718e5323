//! Interfaces: whether they work, and the address that adverts come from.

use super::address::index_of;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use tokio::sync::mpsc;

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Administratively up, with carrier, and with an address of its own.
    pub up: bool,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its first IPv4 address that is no VIP.
    pub address: Option<Ipv4Addr>,
}

/// Reads interfaces, and watches them.
pub struct Links {
    handle: Handle,
    vips: BTreeSet<Ipv4Addr>,
}

impl Links {
    /// Opens a netlink socket, served by the runtime that this is called in. `vips` are never an interface's own.
    ///
    /// # Errors
    /// No netlink here.
    pub fn open(vips: BTreeSet<Ipv4Addr>) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, vips })
    }

    /// An interface as it is now; one that is not there is down.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub async fn read(&self, name: &str) -> Result<Link, rtnetlink::Error> {
        let mut link = Link { name: name.to_owned(), up: false, mac: [0; 6], address: None };
        let Ok(index) = index_of(name) else { return Ok(link) };
        let Ok(Some(message)) = self.handle.link().get().match_index(index).execute().try_next().await else {
            return Ok(link);
        };
        for attribute in &message.attributes {
            if let LinkAttribute::Address(mac) = attribute {
                link.mac = mac.as_slice().try_into().unwrap_or_default();
            }
        }
        let mut addresses = self.handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = addresses.try_next().await? {
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            if message.header.family == AddressFamily::Inet
                && let Some(own) = own.filter(|own| !self.vips.contains(own))
            {
                link.address = link.address.or(Some(own));
            }
        }
        let flags = message.header.flags;
        link.up = flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp) && link.address.is_some();
        Ok(link)
    }

    /// Says what becomes of `names` until the receiver is gone: each one now, and again after whatever changes.
    ///
    /// # Errors
    /// No netlink here.
    pub fn watch(self, names: BTreeSet<String>, tell: impl Fn(Link) -> bool + Send + 'static) -> io::Result<()> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, _, mut changes) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let (wake, mut woken) = mpsc::channel::<()>(1);
        tokio::spawn(async move {
            // What changed is read anew, so a lost message (an overrun) costs nothing.
            while changes.next().await.is_some() {
                if wake.try_send(()).is_err() && wake.is_closed() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            loop {
                for name in &names {
                    match self.read(name).await {
                        Ok(link) => {
                            if !tell(link) {
                                return;
                            }
                        }
                        Err(error) => tracing::warn!(interface = %name, %error, "interface not read"),
                    }
                }
                if woken.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(())
    }
}
