//! Routes and policy rules that move with VIPs. What is ours is marked with [`PROTOCOL`], and nothing else is ever taken away.

mod route;
mod rule;

pub use route::{Hop, METRICS, PREFERENCES, Route};
pub use rule::Rule;

use super::link::Links;
use super::{KernelError, answer, request};
use futures_util::TryStreamExt;
use hamesh_raft::command::Family;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::RuleAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::IpVersion;
use std::fmt;
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
    /// As if this table had nothing for them. Of a route.
    Throw,
    /// They go on with the rule of this priority. Of a rule.
    Goto(u32),
    /// Nothing. Of a rule.
    Nop,
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
            let removed = match route.message(&self.0, &what).await {
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
        let message = RouteNetlinkMessage::NewRoute(route.message(&self.0, &what).await?);
        let family = Family::of(route.to.address);
        let alone = if family == Family::V4 { 0 } else { NLM_F_EXCL };
        match request(self.0.handle(), message, NLM_F_CREATE | alone, what).await {
            // Without `alone` it is this very route.
            Err(error) if error.errno() == Some(libc::EEXIST) && alone == 0 => Ok(()),
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                let ours = self.ours(family).await?;
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
            Self::Throw => "throw",
            Self::Goto(priority) => return write!(f, "goto {priority}"),
            Self::Nop => "nop",
        })
    }
}
