//! Adverts by unicast: to a list of routers in place of the multicast group, where a network carries no multicast.
//!
//! The RFC knows only multicast; this is keepalived's way. What a router forwards has a TTL below 255, so there is no proof
//! any more that a packet comes from the LAN: the list of peers is what there is.

use super::TTL;
use super::advert::{Discard, Header};
use std::net::IpAddr;

/// Whom a virtual router speaks to and hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unicast {
    /// The other routers. The list may hold the router itself, so that all may have the same.
    pub peers: Vec<Peer>,
    /// Whether nobody else is heard.
    pub check_source: bool,
    /// The TTL or hop limit of what is sent.
    pub ttl: u8,
}

/// A router that is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its adverts come from, and ours go.
    pub address: IpAddr,
    /// What the TTL or hop limit of its adverts is at least: 255 for one on the same LAN.
    pub min_ttl: u8,
    /// And at most.
    pub max_ttl: u8,
}

impl From<IpAddr> for Peer {
    /// At whatever distance.
    fn from(address: IpAddr) -> Self {
        Self { address, min_ttl: 0, max_ttl: u8::MAX }
    }
}

impl Unicast {
    /// To these.
    pub fn to(peers: impl IntoIterator<Item = Peer>) -> Self {
        Self { peers: peers.into_iter().collect(), check_source: true, ttl: TTL }
    }

    /// Whom a router with the address `own` speaks to.
    pub fn others(&self, own: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.peers.iter().map(|peer| peer.address).filter(move |peer| *peer != own)
    }

    /// Whether a packet with this header may be one of a peer's.
    ///
    /// # Errors
    /// Why it is not.
    pub fn judge(&self, header: &Header) -> Result<(), Discard> {
        if header.destination.is_multicast() {
            return Err(Discard::Destination);
        }
        match self.peers.iter().find(|peer| peer.address == header.source) {
            None if self.check_source => Err(Discard::Source),
            Some(peer) if !(peer.min_ttl..=peer.max_ttl).contains(&header.ttl) => Err(Discard::Ttl(header.ttl)),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(last: u8, ttl: u8) -> Header {
        Header { source: [10, 0, 0, last].into(), destination: [10, 0, 0, 1].into(), ttl }
    }

    #[test]
    fn only_peers_are_heard_and_only_at_their_distance() {
        let near = Peer { min_ttl: 255, ..Peer::from(IpAddr::from([10, 0, 0, 2])) };
        let far = Peer { min_ttl: 250, max_ttl: 253, ..Peer::from(IpAddr::from([10, 0, 0, 3])) };
        let mut unicast = Unicast::to([near, far, Peer::from(IpAddr::from([10, 0, 0, 4]))]);
        for (host, ttl, expected) in [
            (2, 255, Ok(())),
            (2, 254, Err(Discard::Ttl(254))),
            (3, 254, Err(Discard::Ttl(254))),
            (3, 250, Ok(())),
            (3, 249, Err(Discard::Ttl(249))),
            (4, 1, Ok(())),
            (5, 255, Err(Discard::Source)),
        ] {
            assert_eq!(unicast.judge(&header(host, ttl)), expected, "10.0.0.{host} with TTL {ttl}");
        }
        let group = Header { destination: [224, 0, 0, 18].into(), ..header(2, 255) };
        assert_eq!(unicast.judge(&group), Err(Discard::Destination));
        unicast.check_source = false;
        assert_eq!(unicast.judge(&header(5, 1)), Ok(()), "as keepalived without check_unicast_src");
        assert_eq!(unicast.judge(&header(2, 1)), Err(Discard::Ttl(1)));
    }

    #[test]
    fn all_routers_may_have_the_same_list() {
        let unicast = Unicast::to([2, 3].map(|last| Peer::from(IpAddr::from([10, 0, 0, last]))));
        assert_eq!(unicast.others([10, 0, 0, 2].into()).collect::<Vec<_>>(), [IpAddr::from([10, 0, 0, 3])]);
    }
}
