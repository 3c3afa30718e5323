//! Routes and policy rules that move with VIPs. What is ours is marked with [`PROTOCOL`], and nothing else is ever taken away.

use super::link::Links;
use super::{KernelError, answer, request};
use futures_util::TryStreamExt;
use hamesh_raft::command::Family;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::IpVersion;
use std::fmt;
use std::io;
use std::net::IpAddr;

/// `proto 112` of `ip route` and `ip rule`: VRRP's own number.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(112);
/// `main`.
pub const MAIN: u32 = 254;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Bits beyond the length are zero.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub length: u8,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They go their way: of a rule, by its table.
    Forward,
    /// They vanish.
    Blackhole,
    /// Their sender is told that nobody is there.
    Unreachable,
    /// Their sender is told that it is forbidden.
    Prohibit,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of packets.
    pub fate: Fate,
    /// Where to; of length 0, the default route.
    pub to: Prefix,
    /// By this router, of the same family.
    pub via: Option<IpAddr>,
    /// By this interface.
    pub device: Option<String>,
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
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of the packets it is about.
    pub family: Family,
    /// Packets that all the rest does not fit.
    pub not: bool,
    /// Packets from there.
    pub from: Option<Prefix>,
    /// Packets to there.
    pub to: Option<Prefix>,
    /// Packets with this mark, in the bits of the mask.
    pub mark: Option<(u32, u32)>,
    /// Packets that come in here.
    pub iif: Option<String>,
    /// Packets of sockets that are bound here.
    pub oif: Option<String>,
    /// What becomes of them.
    pub fate: Fate,
    /// The table to look into, of [`Fate::Forward`].
    pub table: u32,
    /// Its place among the rules; the kernel has 0, 32766 and 32767.
    pub priority: u32,
}

/// Both, of one VIP group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// In the order in which they are added.
    pub routes: Vec<Route>,
    /// As well.
    pub rules: Vec<Rule>,
}

impl Routing {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.rules.is_empty()
    }

    /// What of it is not in `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let routes = self.routes.iter().filter(|route| !others.routes.contains(route));
        let rules = self.rules.iter().filter(|rule| !others.rules.contains(rule));
        Self { routes: routes.cloned().collect(), rules: rules.cloned().collect() }
    }
}

/// Adds and removes both.
#[derive(Clone, Debug)]
pub struct Routes(Links);

impl Routes {
    /// Works through the connection of `links`.
    pub fn new(links: Links) -> Self {
        Self(links)
    }

    /// Adds what is not there. A route of somebody else's to the same network, in the same table and of the same metric, stays:
    /// of IPv4 behind ours; of IPv6, where the kernel would share packets out between both, it is an error.
    ///
    /// # Errors
    /// The first refusal, after all have been tried.
    pub async fn set(&self, routing: &Routing) -> Result<(), KernelError> {
        let mut result = Ok(());
        for route in &routing.routes {
            result = result.and(self.add(route).await);
        }
        for rule in &routing.rules {
            let message = RouteNetlinkMessage::NewRule(rule.message());
            let added = request(self.0.handle(), message, NLM_F_CREATE | NLM_F_EXCL, format!("add the rule {rule}"));
            // The same rule, with our mark.
            result = result.and(added.await.or_else(|error| ignore(error, &[libc::EEXIST])));
        }
        result
    }

    /// Removes it. What is not there is removed already.
    ///
    /// # Errors
    /// The first refusal, after all have been tried.
    pub async fn remove(&self, routing: &Routing) -> Result<(), KernelError> {
        const GONE: [i32; 3] = [libc::ESRCH, libc::ENOENT, libc::ENODEV];
        let mut result = Ok(());
        for rule in &routing.rules {
            let message = RouteNetlinkMessage::DelRule(rule.message());
            let removed = request(self.0.handle(), message, 0, format!("remove the rule {rule}")).await;
            result = result.and(removed.or_else(|error| ignore(error, &GONE)));
        }
        for route in routing.routes.iter().rev() {
            let what = format!("remove the route {route}");
            let removed = match self.message(route, &what).await {
                Ok(mut message) => {
                    // Of whatever scope the kernel has given it.
                    message.header.scope = RouteScope::NoWhere;
                    request(self.0.handle(), RouteNetlinkMessage::DelRoute(message), 0, what).await
                }
                Err(error) => Err(error),
            };
            result = result.and(removed.or_else(|error| ignore(error, &GONE)));
        }
        result
    }

    /// Removes all that is marked as ours, but `kept`.
    ///
    /// # Errors
    /// The kernel could not be asked, or its first refusal.
    pub async fn clean(&self, kept: &Routing) -> Result<(), KernelError> {
        let handle = self.0.handle();
        for (version, family) in [(IpVersion::V4, Family::V4), (IpVersion::V6, Family::V6)] {
            let rules: Vec<_> = handle.rule().get(version).execute().try_collect().await.map_err(unread)?;
            for message in rules.into_iter().filter(|rule| rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL)))
            {
                let is_same = |rule: &Rule| rule.family == family && rule.is(&message);
                if !kept.rules.iter().any(is_same) {
                    tracing::info!(?message, "removing a rule that an earlier run left");
                    let what = "remove a rule that an earlier run left".to_owned();
                    request(handle, RouteNetlinkMessage::DelRule(message), 0, what).await?;
                }
            }
            for message in self.ours(family).await? {
                if !kept.routes.iter().any(|route| route.is(&message)) {
                    tracing::info!(?message, "removing a route that an earlier run left");
                    let what = "remove a route that an earlier run left".to_owned();
                    let removed = request(handle, RouteNetlinkMessage::DelRoute(message), 0, what).await;
                    removed.or_else(|error| ignore(error, &[libc::ESRCH]))?;
                }
            }
        }
        Ok(())
    }

    async fn add(&self, route: &Route) -> Result<(), KernelError> {
        let what = format!("add the route {route}");
        let message = RouteNetlinkMessage::NewRoute(self.message(route, &what).await?);
        let family = Family::of(route.to.address);
        let alone = if family == Family::V4 { 0 } else { NLM_F_EXCL };
        match request(self.0.handle(), message, NLM_F_CREATE | alone, what).await {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                // Without `alone` it is this very route.
                let ours = if alone == 0 { return Ok(()) } else { self.ours(family).await? };
                if ours.iter().any(|message| route.is(message)) { Ok(()) } else { Err(error) }
            }
            result => result,
        }
    }

    async fn ours(&self, family: Family) -> Result<Vec<RouteMessage>, KernelError> {
        let mut all = RouteMessage::default();
        all.header.address_family = of(family);
        let routes: Vec<_> = self.0.handle().route().get(all).execute().try_collect().await.map_err(unread)?;
        Ok(routes.into_iter().filter(is_ours).collect())
    }

    async fn message(&self, route: &Route, what: &str) -> Result<RouteMessage, KernelError> {
        let mut message = RouteMessage::default();
        let family = Family::of(route.to.address);
        message.header.address_family = of(family);
        message.header.destination_prefix_length = route.to.length;
        message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = PROTOCOL;
        message.header.kind = match route.fate {
            Fate::Forward => RouteType::Unicast,
            Fate::Blackhole => RouteType::BlackHole,
            Fate::Unreachable => RouteType::Unreachable,
            Fate::Prohibit => RouteType::Prohibit,
        };
        let direct = route.fate == Fate::Forward && route.via.is_none() && family == Family::V4;
        let usual = if direct { RouteScope::Link } else { RouteScope::Universe };
        message.header.scope = route.scope.map_or(usual, RouteScope::from);
        if route.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let address = |address: IpAddr| RouteAddress::from(address);
        let mut attributes = vec![RouteAttribute::Table(route.table)];
        if route.to.length > 0 {
            attributes.push(RouteAttribute::Destination(address(route.to.address)));
        }
        attributes.extend(route.via.map(|via| RouteAttribute::Gateway(address(via))));
        attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
        attributes.extend(route.metric.map(RouteAttribute::Priority));
        if let Some(device) = &route.device {
            let found = self.0.find(device).await.map_err(|error| KernelError::new(what, error))?;
            let found = found.ok_or_else(|| KernelError::new(what, io::Error::from_raw_os_error(libc::ENODEV)))?;
            attributes.push(RouteAttribute::Oif(found.header.index));
        }
        message.attributes = attributes;
        Ok(message)
    }
}

impl Route {
    /// Whether the kernel speaks of this one: by network, table and metric there is one at most.
    fn is(&self, message: &RouteMessage) -> bool {
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
            && table == self.table
            && self.metric.is_none_or(|wanted| metric.unwrap_or(0) == wanted)
    }
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = of(self.family);
        message.header.src_len = self.from.map_or(0, |from| from.length);
        message.header.dst_len = self.to.map_or(0, |to| to.length);
        message.header.action = match self.fate {
            Fate::Forward => RuleAction::ToTable,
            Fate::Blackhole => RuleAction::Blackhole,
            Fate::Unreachable => RuleAction::Unreachable,
            Fate::Prohibit => RuleAction::Prohibit,
        };
        if self.not {
            message.header.flags = RuleFlags::Invert;
        }
        let mut attributes = vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(PROTOCOL)];
        if self.fate == Fate::Forward {
            message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
            attributes.push(RuleAttribute::Table(self.table));
        }
        attributes.extend(self.from.filter(|p| p.length > 0).map(|from| RuleAttribute::Source(from.address)));
        attributes.extend(self.to.filter(|p| p.length > 0).map(|to| RuleAttribute::Destination(to.address)));
        if let Some((mark, mask)) = self.mark {
            attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
        }
        attributes.extend(self.iif.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.oif.clone().map(RuleAttribute::Oifname));
        message.attributes = attributes;
        message
    }

    /// Whether the kernel speaks of this one.
    fn is(&self, message: &RuleMessage) -> bool {
        let own = self.message();
        let (one, other) = (&own.header, &message.header);
        (one.src_len, one.dst_len, one.action) == (other.src_len, other.dst_len, other.action)
            && own.attributes.iter().all(|attribute| message.attributes.contains(attribute))
    }
}

/// Those of kind local are for the packets that a real server takes.
fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == PROTOCOL && route.header.kind != RouteType::Local
}

fn of(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn unread(error: rtnetlink::Error) -> KernelError {
    KernelError::new("list routes and rules", answer(error))
}

fn ignore(error: KernelError, codes: &[i32]) -> Result<(), KernelError> {
    if error.errno().is_some_and(|code| codes.contains(&code)) { Ok(()) } else { Err(error) }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "unicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        })
    }
}

/// In the words of `ip route`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fate, to, via, device, source, table, metric, scope, onlink } = self;
        write!(f, "{fate} {to}")?;
        via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        device.iter().try_for_each(|device| write!(f, " dev {device}"))?;
        source.iter().try_for_each(|source| write!(f, " src {source}"))?;
        if *table != MAIN {
            write!(f, " table {table}")?;
        }
        metric.iter().try_for_each(|metric| write!(f, " metric {metric}"))?;
        scope.iter().try_for_each(|scope| write!(f, " scope {scope}"))?;
        f.write_str(if *onlink { " onlink" } else { "" })
    }
}

/// In the words of `ip rule`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, not, from, to, mark, iif, oif, fate, table, priority } = self;
        let all = if *family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
        let from = from.map_or_else(|| all.to_owned(), |from| from.to_string());
        write!(f, "{}from {from}", if *not { "not " } else { "" })?;
        to.iter().try_for_each(|to| write!(f, " to {to}"))?;
        mark.iter().try_for_each(|(mark, mask)| write!(f, " fwmark {mark:#x}/{mask:#x}"))?;
        iif.iter().try_for_each(|iif| write!(f, " iif {iif}"))?;
        oif.iter().try_for_each(|oif| write!(f, " oif {oif}"))?;
        match fate {
            Fate::Forward => write!(f, " lookup {table}")?,
            Fate::Blackhole | Fate::Unreachable | Fate::Prohibit => write!(f, " {fate}")?,
        }
        write!(f, " priority {priority}")
    }
}
