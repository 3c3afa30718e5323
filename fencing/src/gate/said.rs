//! What VRRP routers on this host say, noted by the kernel before the gate judges it.
//!
//! A guard stands beside a keepalived that it does not start, configure or ask. What that says of itself it says in its
//! adverts: that it is MASTER, with which priority, and that it lives. An address on an interface says less: it outlives a
//! killed keepalived. Packet sockets see no advert that a shut gate drops; here it is noted first, in a set whose elements
//! the kernel makes and renews, one for each device, virtual router and priority.

use super::batch::Kernel;
use super::claims::AH_LENGTH;
use super::expression::*;
use super::sets::{Set, device_name};
use super::{Gate, GateError, unread};
use hamesh_raft::command::Family;
use netlink_packet_netfilter::nftables::{Expressions, MetaKey, SetElementAttribute};
use std::io;
use std::time::Duration;

/// Longer than anybody wants to know; then it is forgotten.
const KEPT: Duration = Duration::from_secs(600);

/// What [`DEVICE`] bytes of name are followed by: virtual router and priority.
const DEVICE: usize = 16;

/// The last time that a virtual router was advertised with a priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Out of which device.
    pub device: String,
    /// Over which family.
    pub family: Family,
    /// The virtual router.
    pub vrid: u8,
    /// 0 says that it stops.
    pub priority: u8,
    /// How long ago.
    pub age: Duration,
}

impl Gate {
    /// What VRRP routers on this host have said in the last minutes, each priority's last time, whether or not it passed.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn said(&mut self) -> Result<Vec<Said>, GateError> {
        let mut said = Vec::new();
        for family in Family::ALL {
            said.extend(self.kernel.said(family).map_err(unread)?);
        }
        Ok(said)
    }
}

impl Kernel {
    fn said(&mut self, family: Family) -> io::Result<Vec<Said>> {
        let parse = |element: &Vec<SetElementAttribute>| {
            let left = element.iter().find_map(|attribute| {
                if let SetElementAttribute::Expiration(left) = attribute {
                    Some(Duration::from_millis(*left))
                } else {
                    None
                }
            });
            let key = super::survey::key(element)?;
            let (device, [vrid, priority, ..]) = key.split_at_checked(DEVICE)? else { return None };
            let age = KEPT.saturating_sub(left?);
            Some(Said { device: device_name(device)?, family, vrid: *vrid, priority: *priority, age })
        };
        Ok(self.elements(Set::Said(family))?.iter().filter_map(parse).collect())
    }
}

/// A chain that notes adverts behind a header of this length. It is one of its own: nft cannot list such a rule behind a
/// match for a protocol that it does not know.
pub(super) struct Note {
    pub(super) chain: &'static str,
    behind: u32,
}

/// Of plain adverts.
pub(super) const PLAIN: Note = Note { chain: "note", behind: 0 };
/// Of those behind an authentication header.
pub(super) const SEALED: Note = Note { chain: "note_ah", behind: AH_LENGTH };

impl Note {
    pub(super) fn rules(&self) -> [Vec<Expressions>; 2] {
        let into = |family| {
            let key = [meta(MetaKey::Oifname), transport_beside(self.behind + 1, 2)];
            [is(family), key.to_vec(), vec![update(Set::Said(family).name(), KEPT)]].concat()
        };
        Family::ALL.map(into)
    }
}
