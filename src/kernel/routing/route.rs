//! One route, and the kernel's words for it.

use super::{Fate, MAIN, PROTOCOL, Prefix, of};
use crate::kernel::KernelError;
use crate::kernel::link::Links;
use hamesh_raft::command::Family;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RoutePreference, RouteScope, RouteType,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of packets.
    pub fate: Fate,
    /// Where to; of length 0, the default route.
    pub to: Prefix,
    /// Packets with this type of service; 0 is any.
    pub tos: u8,
    /// By this router, of the same family.
    pub via: Option<IpAddr>,
    /// By this interface.
    pub device: Option<String>,
    /// By several ways, in place of one; each has its share.
    pub hops: Vec<Hop>,
    /// The address that packets of our own come from.
    pub source: Option<IpAddr>,
    /// Of the kernel's tables; 254 is `main`.
    pub table: u32,
    /// The less the better; `None`: the kernel's default.
    pub metric: Option<u32>,
    /// `None`: as `ip route` has it.
    pub scope: Option<u8>,
    /// The router is on the link, whatever the addresses say.
    pub onlink: bool,
    /// Of [`METRICS`], by their place there.
    pub metrics: BTreeMap<usize, u32>,
    /// Of IPv6, among equal routers (RFC 4191): 3, 0 and 1 are low, medium and high.
    pub preference: Option<u8>,
}

/// One of several ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// By this router.
    pub via: Option<IpAddr>,
    /// By this interface.
    pub device: Option<String>,
    /// Its share, 1 to 256.
    pub weight: u16,
    /// The router is on the link, whatever the addresses say.
    pub onlink: bool,
}

/// What the kernel has with one of [`METRICS`].
type Metric = fn(u32) -> RouteMetric;

/// What a route says to TCP and IP, in the words of `ip route`; each is a number.
pub const METRICS: [(&str, Metric); 12] = [
    ("mtu", RouteMetric::Mtu),
    ("advmss", RouteMetric::Advmss),
    ("window", RouteMetric::Window),
    ("reordering", RouteMetric::Reordering),
    ("cwnd", RouteMetric::Cwnd),
    ("ssthresh", RouteMetric::SsThresh),
    ("hoplimit", RouteMetric::Hoplimit),
    ("initcwnd", RouteMetric::InitCwnd),
    ("initrwnd", RouteMetric::InitRwnd),
    ("quickack", RouteMetric::QuickAck),
    ("rto_min", RouteMetric::RtoMin),
    ("fastopen_no_cookie", RouteMetric::FastopenNoCookie),
];

/// The words of [`Route::preference`].
pub const PREFERENCES: [(&str, u8); 3] = [("low", 3), ("medium", 0), ("high", 1)];

impl Route {
    /// In the kernel's words. `what` is tried with it.
    ///
    /// # Errors
    /// An interface is not there.
    pub(super) async fn message(&self, links: &Links, what: &str) -> Result<RouteMessage, KernelError> {
        let mut message = RouteMessage::default();
        let family = Family::of(self.to.address);
        message.header.address_family = of(family);
        message.header.destination_prefix_length = self.to.length;
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = PROTOCOL;
        message.header.tos = self.tos;
        message.header.kind = match self.fate {
            Fate::Forward | Fate::Goto(_) | Fate::Nop => RouteType::Unicast,
            Fate::Blackhole => RouteType::BlackHole,
            Fate::Unreachable => RouteType::Unreachable,
            Fate::Prohibit => RouteType::Prohibit,
            Fate::Throw => RouteType::Throw,
        };
        let direct = self.fate == Fate::Forward && self.via.is_none() && self.hops.is_empty() && family == Family::V4;
        let usual = if direct { RouteScope::Link } else { RouteScope::Universe };
        message.header.scope = self.scope.map_or(usual, RouteScope::from);
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let address = |address: IpAddr| RouteAddress::from(address);
        let mut attributes = vec![RouteAttribute::Table(self.table)];
        if self.to.length > 0 {
            attributes.push(RouteAttribute::Destination(address(self.to.address)));
        }
        attributes.extend(self.via.map(|via| RouteAttribute::Gateway(address(via))));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(address(source))));
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        if let Some(device) = &self.device {
            attributes.push(RouteAttribute::Oif(index(links, device, what).await?));
        }
        let mut hops = Vec::new();
        for hop in &self.hops {
            let mut next = RouteNextHop::default();
            next.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
            next.attributes = hop.via.map(|via| RouteAttribute::Gateway(address(via))).into_iter().collect();
            if hop.onlink {
                next.flags = RouteNextHopFlags::Onlink;
            }
            if let Some(device) = &hop.device {
                next.interface_index = index(links, device, what).await?;
            }
            hops.push(next);
        }
        attributes.extend((!hops.is_empty()).then_some(RouteAttribute::MultiPath(hops)));
        let metrics = self.metrics.iter().filter_map(|(at, value)| Some(METRICS.get(*at)?.1(*value)));
        let metrics: Vec<RouteMetric> = metrics.collect();
        attributes.extend((!metrics.is_empty()).then_some(RouteAttribute::Metrics(metrics)));
        attributes.extend(self.preference.map(|word| RouteAttribute::Preference(RoutePreference::from(word))));
        message.attributes = attributes;
        Ok(message)
    }

    /// Whether the kernel speaks of this one: by network, type of service, table and metric there is one at most.
    pub(super) fn is(&self, message: &RouteMessage) -> bool {
        let (mut to, mut table, mut metric) = (None, u32::from(message.header.table), None);
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(address) = attribute {
                to = Some(address.clone());
            } else if let RouteAttribute::Table(id) = attribute {
                table = *id;
            } else if let RouteAttribute::Priority(priority) = attribute {
                metric = Some(*priority);
            }
        }
        let wanted = (self.to.length > 0).then(|| RouteAddress::from(self.to.address));
        message.header.protocol == PROTOCOL
            && message.header.address_family == of(Family::of(self.to.address))
            && (to, message.header.destination_prefix_length) == (wanted, self.to.length)
            && (table, message.header.tos) == (self.table, self.tos)
            && self.metric.is_none_or(|wanted| metric.unwrap_or(0) == wanted)
    }
}

async fn index(links: &Links, device: &str, what: &str) -> Result<u32, KernelError> {
    let found = links.find(device).await.map_err(|error| KernelError::new(what, error))?;
    let found = found.ok_or_else(|| KernelError::new(what, io::Error::from_raw_os_error(libc::ENODEV)))?;
    Ok(found.header.index)
}

/// In the words of `ip route`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fate, to, tos, via, device, hops, source, table, metric, scope, onlink, metrics, preference } = self;
        write!(f, "{fate} {to}")?;
        if *tos > 0 {
            write!(f, " tos {tos}")?;
        }
        via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        device.iter().try_for_each(|device| write!(f, " dev {device}"))?;
        source.iter().try_for_each(|source| write!(f, " src {source}"))?;
        if *table != MAIN {
            write!(f, " table {table}")?;
        }
        metric.iter().try_for_each(|metric| write!(f, " metric {metric}"))?;
        scope.iter().try_for_each(|scope| write!(f, " scope {scope}"))?;
        for (at, value) in metrics {
            METRICS.get(*at).iter().try_for_each(|(word, _)| write!(f, " {word} {value}"))?;
        }
        let word = PREFERENCES.iter().find(|(_, number)| Some(*number) == *preference);
        word.iter().try_for_each(|(word, _)| write!(f, " pref {word}"))?;
        f.write_str(if *onlink { " onlink" } else { "" })?;
        hops.iter().try_for_each(|hop| write!(f, " nexthop{hop}"))
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { via, device, weight, onlink } = self;
        via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        device.iter().try_for_each(|device| write!(f, " dev {device}"))?;
        write!(f, " weight {weight}{}", if *onlink { " onlink" } else { "" })
    }
}
