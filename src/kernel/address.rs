//! VIPs on interfaces.
//!
//! Every VIP carries a lifetime (`valid_lft`): the second line behind the gate. The kernel counts it in whole seconds and
//! may be half a second late.

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use futures_util::TryStreamExt;
use rtnetlink::Handle;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Why an address is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {address}/{prefix} on {interface}: {why}")]
pub struct AddressError {
    what: &'static str,
    address: Ipv4Addr,
    prefix: u8,
    interface: String,
    why: String,
}

/// The addresses of this network namespace.
pub struct Addresses {
    handle: Handle,
}

impl Addresses {
    /// Opens a netlink socket, served by the runtime that this is called in.
    ///
    /// # Errors
    /// No netlink here.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Adds an address, or extends the life of the one that is there.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refused.
    pub async fn put(
        &self,
        interface: &str,
        address: Ipv4Addr,
        prefix: u8,
        lifetime: Duration,
    ) -> Result<(), AddressError> {
        let fail = |why: String| AddressError { what: "add", address, prefix, interface: interface.to_owned(), why };
        let index = index_of(interface).map_err(|error| fail(error.to_string()))?;
        let mut request = self.handle.address().add(index, IpAddr::V4(address), prefix).replace();
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let attributes = &mut request.message_mut().attributes;
        // A broadcast address of its own would be one more thing to keep equal on all directors.
        attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        let mut life = CacheInfo::default();
        (life.ifa_preferred, life.ifa_valid) = (seconds, seconds);
        attributes.push(AddressAttribute::CacheInfo(life));
        request.execute().await.map_err(|error| fail(error.to_string()))
    }

    /// Removes an address. One that is not there, or whose interface is gone, is removed.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn remove(&self, interface: &str, address: Ipv4Addr, prefix: u8) -> Result<(), AddressError> {
        let fail = |why: String| AddressError { what: "remove", address, prefix, interface: interface.to_owned(), why };
        let Ok(index) = index_of(interface) else { return Ok(()) };
        for message in self.list(index).await.map_err(|error| fail(error.to_string()))? {
            if local(&message) == Some(address) && message.header.prefix_len == prefix {
                match self.handle.address().del(message).execute().await {
                    Ok(()) => {}
                    Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EADDRNOTAVAIL => {}
                    Err(error) => return Err(fail(error.to_string())),
                }
            }
        }
        Ok(())
    }

    /// Every IPv4 address of an interface with its prefix length, in the kernel's order.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refused.
    pub async fn on(&self, interface: &str) -> Result<Vec<(Ipv4Addr, u8)>, rtnetlink::Error> {
        let Ok(index) = index_of(interface) else { return Ok(Vec::new()) };
        let messages = self.list(index).await?;
        Ok(messages.iter().filter_map(|m| Some((local(m)?, m.header.prefix_len))).collect())
    }

    async fn list(&self, index: u32) -> Result<Vec<AddressMessage>, rtnetlink::Error> {
        self.handle.address().get().set_link_index_filter(index).execute().try_collect().await
    }
}

/// Lets an address outlive the one that was first in its subnet: without it, removing one group's VIP takes another's
/// along (V11).
///
/// # Errors
/// The file and what is wrong with it.
pub fn keep_secondaries(interface: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/promote_secondaries");
    fs::write(&path, "1").map_err(|error| io::Error::new(error.kind(), format!("cannot set {path} to 1: {error}")))
}

/// The index of an interface of this network namespace.
///
/// # Errors
/// There is none of this name.
pub fn index_of(interface: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(interface)
        .map_err(|_| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}")))
}

fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    let mut found: BTreeMap<u8, Ipv4Addr> = BTreeMap::new();
    for attribute in &message.attributes {
        if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
            found.insert(0, *address);
        } else if let AddressAttribute::Address(IpAddr::V4(address)) = attribute {
            found.insert(1, *address);
        }
    }
    found.into_values().next()
}
