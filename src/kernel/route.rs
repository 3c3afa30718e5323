//! VIPs that this host takes packets to without having them: it is a real server behind another director.

use super::{KernelError, answer};
use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::Handle;
use std::net::IpAddr;

/// `RTPROT_*` of our routes: VRRP's own number, as of our addresses.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(112);
/// `RT_TABLE_LOCAL`.
const TABLE: u8 = 255;
/// `LOOPBACK_IFINDEX`: that of `lo` in every namespace.
const LOOPBACK: u32 = 1;
/// Behind the route of an address that is there, which is 0.
const METRIC: u32 = 7112;

/// The table `local`, with a connection of [`rtnetlink`], which must be running.
#[derive(Clone, Debug)]
pub struct LocalRoutes(Handle);

impl LocalRoutes {
    /// Works through `handle`.
    pub fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// Has routes of ours for just `addresses`; what an earlier run has left of others goes.
    ///
    /// # Errors
    /// The kernel's refusal, which names the address.
    pub async fn set(&self, addresses: &[IpAddr]) -> Result<(), KernelError> {
        for present in self.present().await? {
            if !destination(&present).is_some_and(|address| addresses.contains(&address)) {
                let gone = self.0.route().del(present).execute().await;
                gone.map_err(|error| KernelError::new("remove a local route to a VIP", answer(error)))?;
            }
        }
        for address in addresses {
            let added = self.0.route().add(message(*address)).replace().execute().await;
            added.map_err(|error| KernelError::new(format_args!("add local {address} dev lo"), answer(error)))?;
        }
        Ok(())
    }

    async fn present(&self) -> Result<Vec<RouteMessage>, KernelError> {
        let mut ours = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let all: Result<Vec<_>, _> = self.0.route().get(question).execute().try_collect().await;
            let all = all.map_err(|error| KernelError::new("list routes", answer(error)))?;
            ours.extend(
                all.into_iter().filter(|route| (route.header.protocol, route.header.table) == (PROTOCOL, TABLE)),
            );
        }
        Ok(ours)
    }
}

fn message(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, length, to) = match address {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message.header.table = TABLE;
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes =
        vec![RouteAttribute::Destination(to), RouteAttribute::Oif(LOOPBACK), RouteAttribute::Priority(METRIC)];
    message
}

fn destination(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute {
            Some(IpAddr::V4(*ip))
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(ip)) = attribute {
            Some(IpAddr::V6(*ip))
        } else {
            None
        }
    })
}
