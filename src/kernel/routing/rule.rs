//! One policy rule, and the kernel's words for it.

use super::{Fate, PROTOCOL, Prefix, of};
use hamesh_raft::command::Family;
use netlink_packet_route::IpProtocol;
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange};
use std::fmt;

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
    /// Packets with this type of service; 0 is any.
    pub tos: u8,
    /// Packets with this mark, in the bits of the mask.
    pub mark: Option<(u32, u32)>,
    /// Packets that come in here.
    pub iif: Option<String>,
    /// Packets of sockets that are bound here.
    pub oif: Option<String>,
    /// Packets of this protocol, by its number.
    pub protocol: Option<u8>,
    /// Packets from these ports, both included.
    pub sports: Option<(u16, u16)>,
    /// Packets to these ports.
    pub dports: Option<(u16, u16)>,
    /// Packets of these users' sockets, both included.
    pub users: Option<(u32, u32)>,
    /// Packets out of this tunnel.
    pub tunnel: Option<u64>,
    /// The table is that of the VRF that the packet belongs to.
    pub l3mdev: bool,
    /// What the table says with a shorter prefix, or this length itself, does not count.
    pub suppress_length: Option<u32>,
    /// What the table says by an interface of this group does not count.
    pub suppress_group: Option<u32>,
    /// What becomes of them.
    pub fate: Fate,
    /// The table to look into, of [`Fate::Forward`].
    pub table: u32,
    /// Its place among the rules; the kernel has 0, 32766 and 32767.
    pub priority: u32,
}

impl Rule {
    /// About every packet of the family, with nothing to come of it yet.
    #[must_use]
    pub fn about_all(family: Family) -> Self {
        Self {
            family,
            not: false,
            from: None,
            to: None,
            tos: 0,
            mark: None,
            iif: None,
            oif: None,
            protocol: None,
            sports: None,
            dports: None,
            users: None,
            tunnel: None,
            l3mdev: false,
            suppress_length: None,
            suppress_group: None,
            fate: Fate::Forward,
            table: 0,
            priority: 0,
        }
    }

    pub(super) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = of(self.family);
        message.header.src_len = self.from.map_or(0, |from| from.length);
        message.header.dst_len = self.to.map_or(0, |to| to.length);
        message.header.tos = self.tos;
        message.header.action = match self.fate {
            Fate::Forward | Fate::Throw => RuleAction::ToTable,
            Fate::Blackhole => RuleAction::Blackhole,
            Fate::Unreachable => RuleAction::Unreachable,
            Fate::Prohibit => RuleAction::Prohibit,
            Fate::Goto(_) => RuleAction::Goto,
            Fate::Nop => RuleAction::Nop,
        };
        if self.not {
            message.header.flags = RuleFlags::Invert;
        }
        let mut attributes = vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(PROTOCOL)];
        if let Fate::Goto(target) = self.fate {
            attributes.push(RuleAttribute::Goto(target));
        }
        if self.fate == Fate::Forward && !self.l3mdev {
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
        attributes.extend(self.protocol.map(|number| RuleAttribute::IpProtocol(IpProtocol::from(number))));
        let ports = |(start, end)| RulePortRange { start, end };
        attributes.extend(self.sports.map(|range| RuleAttribute::SourcePortRange(ports(range))));
        attributes.extend(self.dports.map(|range| RuleAttribute::DestinationPortRange(ports(range))));
        attributes.extend(self.users.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })));
        attributes.extend(self.tunnel.map(RuleAttribute::TunId));
        attributes.extend(self.l3mdev.then_some(RuleAttribute::L3MDev(true)));
        attributes.extend(self.suppress_length.map(RuleAttribute::SuppressPrefixLen));
        attributes.extend(self.suppress_group.map(RuleAttribute::SuppressIfGroup));
        message.attributes = attributes;
        message
    }

    /// Whether the kernel speaks of this one.
    pub(super) fn is(&self, message: &RuleMessage) -> bool {
        let own = self.message();
        let (one, other) = (&own.header, &message.header);
        (one.src_len, one.dst_len, one.tos, one.action) == (other.src_len, other.dst_len, other.tos, other.action)
            && own.attributes.iter().all(|attribute| message.attributes.contains(attribute))
    }
}

/// In the words of `ip rule`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, not, from, to, tos, mark, iif, oif, protocol, sports, dports, users, .. } = self;
        let Self { tunnel, l3mdev, suppress_length, suppress_group, fate, table, priority, .. } = self;
        let all = if *family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
        let from = from.map_or_else(|| all.to_owned(), |from| from.to_string());
        write!(f, "{}from {from}", if *not { "not " } else { "" })?;
        to.iter().try_for_each(|to| write!(f, " to {to}"))?;
        if *tos > 0 {
            write!(f, " tos {tos}")?;
        }
        mark.iter().try_for_each(|(mark, mask)| write!(f, " fwmark {mark:#x}/{mask:#x}"))?;
        iif.iter().try_for_each(|iif| write!(f, " iif {iif}"))?;
        oif.iter().try_for_each(|oif| write!(f, " oif {oif}"))?;
        protocol.iter().try_for_each(|number| write!(f, " ipproto {number}"))?;
        sports.iter().try_for_each(|(first, last)| write!(f, " sport {first}-{last}"))?;
        dports.iter().try_for_each(|(first, last)| write!(f, " dport {first}-{last}"))?;
        users.iter().try_for_each(|(first, last)| write!(f, " uidrange {first}-{last}"))?;
        tunnel.iter().try_for_each(|id| write!(f, " tunnel-id {id}"))?;
        match fate {
            Fate::Forward if *l3mdev => write!(f, " l3mdev")?,
            Fate::Forward => write!(f, " lookup {table}")?,
            Fate::Blackhole | Fate::Unreachable | Fate::Prohibit | Fate::Throw | Fate::Goto(_) | Fate::Nop => {
                write!(f, " {fate}")?;
            }
        }
        suppress_length.iter().try_for_each(|length| write!(f, " suppress_prefixlength {length}"))?;
        suppress_group.iter().try_for_each(|group| write!(f, " suppress_ifgroup {group}"))?;
        write!(f, " priority {priority}")
    }
}
