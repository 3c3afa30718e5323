//! A VIP group that a director serves: its virtual router, and what it is spoken and announced through.

use super::elsewhere::Elsewhere;
use super::lans::Lans;
use super::voice::{Outlet, Voice};
use crate::config::{Config, VipGroup};
use crate::kernel::address::{Interface, Vip};
use crate::kernel::link::Link;
use crate::notify::What;
use crate::vrrp::Auth;
use crate::vrrp::advert::{Advert, Discard, Format, Header};
use crate::vrrp::ah::Authentication;
use crate::vrrp::guard::{Election, Guard};
use crate::vrrp::hearing::Ear;
use crate::vrrp::hmac::{Clock, Trailers};
use crate::vrrp::lists::Lists;
use crate::vrrp::router::{Parameters, Router};
use hamesh_fencing::clock::Moment;
use hamesh_raft::command::{Definition, Family, GroupName, Token};
use hamesh_raft::state::Candidate;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Senders of other lists that are logged; anybody on the LAN can invent more.
const MOST_OTHER_LISTS: usize = 16;

/// A VIP group that this director serves.
pub(crate) struct Served {
    pub(crate) name: GroupName,
    /// The lease that it moves with: its own, or its sync group's.
    pub(crate) lease: GroupName,
    pub(crate) config: VipGroup,
    pub(crate) definition: Definition,
    /// Whether there are services behind it.
    pub(crate) balanced: bool,
    /// As configured for this node, and changed by what the group tracks.
    pub(crate) weighed: u8,
    /// What the group tracks forbids it here.
    pub(crate) fault: bool,
    /// What the group tracks was not looked at yet: that it is in FAULT is told to nobody.
    pub(crate) unseen: bool,
    /// Whether it may be claimed here, as its router was told last: all that moves with it is well.
    pub(crate) up: bool,
    /// The token of the last claim.
    pub(crate) token: Option<Token>,
    /// What others were told last.
    pub(crate) told: Option<What>,
    /// It sees much less of the servers than other directors do.
    pub(crate) short: bool,
    pub(crate) format: Format,
    pub(crate) router: Election,
    pub(crate) ear: Ear,
    /// Its interface as it is, or as it was.
    pub(crate) link: Link,
    /// Where its VIPs are, but for those that are elsewhere.
    pub(crate) place: Interface,
    pub(crate) vips: Vec<Vip>,
    pub(crate) elsewhere: Vec<Elsewhere>,
    /// None while its interface, or its device, is not there.
    pub(crate) voice: Option<Voice>,
    /// Of adverts behind an authentication header.
    pub(crate) authentication: Option<Authentication>,
    /// Of adverts with a trailer.
    pub(crate) trailers: Option<Trailers>,
    pub(crate) discarded: BTreeMap<&'static str, u64>,
    /// The last packet for this virtual router that was discarded, and who sent it.
    pub(crate) last_discard: Option<(Moment, IpAddr, Discard)>,
    /// Senders of other lists, of whom that was said.
    pub(crate) other_lists: BTreeSet<IpAddr>,
    /// The list that routers have that are not edited yet, or that were edited before this one.
    pub(crate) lists: Lists,
}

impl Served {
    /// A group on its LAN, if that is open, not started. `None` where it has no priority here.
    pub(super) fn new(
        now: Moment,
        name: &GroupName,
        whole: &Config,
        lans: &Lans,
        outlet: Option<Outlet>,
    ) -> Option<Self> {
        let config = whole.groups.get(name)?;
        let link = Link::absent(&config.interface);
        let parameters = config.parameters(source(config, &link))?;
        let router = if whole.node.guard {
            Election::Keepalived(Guard::new(parameters))
        } else {
            Election::Ours(Router::new(parameters))
        };
        let mut served = Self {
            name: name.clone(),
            lease: config.lease(name).to_owned(),
            up: false,
            definition: config.definition(),
            balanced: whole.is_balanced(name),
            weighed: config.priority?,
            // Until all that it tracks was looked at.
            fault: !config.track.is_empty(),
            unseen: !config.track.is_empty(),
            token: None,
            told: None,
            short: false,
            format: config.format(),
            router,
            ear: Ear::new(now, config.interval),
            place: link.interface.clone(),
            link,
            vips: config.on(&config.interface).collect(),
            elsewhere: Elsewhere::all(config, lans),
            voice: None,
            authentication: match config.auth {
                Auth::Ah(key) => Some(Authentication::new(key, seconds_now())),
                Auth::None | Auth::Pass(_) => None,
            },
            trailers: config.hmac.clone().map(Trailers::new),
            discarded: BTreeMap::new(),
            last_discard: None,
            other_lists: BTreeSet::new(),
            lists: Lists::default(),
            config: config.clone(),
        };
        served.speak(lans, outlet);
        served.up = served.is_well();
        Some(served)
    }

    /// Its interface is there: speaks on its LAN, through its device. Without one of them it stays silent.
    pub(super) fn speak(&mut self, lans: &Lans, outlet: Option<Outlet>) {
        let Some(lan) = lans.get(&(self.config.interface.clone(), self.config.family)) else { return };
        if outlet.is_none() && self.has_device() {
            return;
        }
        self.voice = Voice::on(lans, &self.config, outlet);
        self.see(&lan.link);
        let device = self.voice.as_ref().and_then(|voice| voice.outlet.as_ref()).map(|outlet| &outlet.device);
        self.place = device.unwrap_or(&lan.link.interface).clone();
    }

    /// Its interface is so now.
    pub(super) fn see(&mut self, link: &Link) {
        self.link = link.clone();
        if let Some(source) = self.own_address() {
            self.router.speak_from(source);
        }
    }

    /// Whether it has a virtual MAC whose device is made here.
    fn has_device(&self) -> bool {
        match self.router {
            Election::Ours(_) => self.config.virtual_mac.is_some(),
            Election::Keepalived(_) => false,
        }
    }

    /// Serves the same virtual router by other words from now on.
    pub(super) fn adapt(&mut self, config: &VipGroup, lans: &Lans) {
        let Some(parameters) = config.parameters(source(config, &self.link)) else { return };
        self.weighed = parameters.priority;
        // What is tracked is told again.
        (self.fault, self.unseen) = (self.fault && !config.track.is_empty(), self.unseen && !config.track.is_empty());
        self.router.reconfigure(Parameters { priority: self.priority(), ..parameters });
        self.ear.every(config.interval);
        self.other_lists.clear();
        match (&mut self.trailers, &config.hmac) {
            (Some(trailers), Some(settings)) => trailers.reconfigure(settings.clone()),
            (trailers, settings) => *trailers = settings.clone().map(Trailers::new),
        }
        let before = std::mem::replace(&mut self.format, config.format());
        self.lists.edited(Moment::now(), &before.addresses, &self.format.addresses);
        self.definition = config.definition();
        (self.vips, self.elsewhere) = (config.on(&config.interface).collect(), Elsewhere::all(config, lans));
        self.config = config.clone();
    }

    /// The priority that counts now: the least, while most others have a better path to the servers.
    pub(crate) fn priority(&self) -> u8 {
        if self.short { 1 } else { self.weighed }
    }

    /// Whether the interface can carry the group: up, with carrier, and an address of its own to speak from.
    pub(crate) fn link_is_up(&self) -> bool {
        let up = |voice: &Voice| self.link.up && voice.outlet.as_ref().is_none_or(|outlet| outlet.up);
        let carries = |voice: &Voice| up(voice) || !self.config.needs_interface;
        self.voice.as_ref().is_some_and(carries) && self.own_address().is_some()
    }

    /// Whether nothing of its own keeps the group from being claimed here.
    pub(crate) fn is_well(&self) -> bool {
        self.link_is_up() && !self.fault && self.elsewhere.iter().all(Elsewhere::is_well)
    }

    /// What of its addresses is to be where, on the interfaces that are there.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Interface, &[Vip])> {
        let elsewhere = self.elsewhere.iter().filter(|other| other.is_there());
        std::iter::once((&self.place, &self.vips[..])).chain(elsewhere.map(Elsewhere::placed))
    }

    /// Where its adverts come from.
    pub(crate) fn own_address(&self) -> Option<IpAddr> {
        own_address(&self.config, &self.link)
    }

    /// Its advert, and a second one with another list where others have one.
    pub(crate) fn adverts(&self, priority: u8, source: IpAddr, to: IpAddr) -> Vec<Vec<u8>> {
        let other = self.lists.other(Moment::now()).filter(|_| !self.config.legacy_peers.is_empty());
        let other = other.map(|list| Format { addresses: list.to_vec(), ..self.format.clone() });
        std::iter::once(&self.format).chain(&other).map(|format| format.encode(priority, source, to)).collect()
    }

    /// Judges a packet for this virtual router; `ip` is the header of one that is authenticated, and empty otherwise.
    pub(crate) fn judge(&mut self, header: &Header, ip: &[u8], payload: &[u8]) -> Result<Advert, Discard> {
        if header.destination.is_multicast() && header.destination != self.config.routers() {
            return Err(Discard::Destination);
        }
        match &mut self.authentication {
            Some(authentication) if !ip.is_empty() => {
                let message = authentication.open(ip, payload, header)?;
                self.format.decode(message, header)
            }
            None if ip.is_empty() => match &mut self.trailers {
                Some(trailers) => self.format.decode(&trailers.open(clock(), payload, header)?, header),
                None => self.format.decode(payload, header),
            },
            Some(_) => Err(Discard::AuthType(0)),
            None => Err(Discard::AuthType(2)),
        }
    }

    /// Counts a packet that is none of this virtual router's adverts. It changes nothing else.
    pub(crate) fn discard(&mut self, now: Moment, source: IpAddr, why: Discard) {
        *self.discarded.entry(why.name()).or_default() += 1;
        self.last_discard = Some((now, source, why));
    }

    /// A list other than ours is logged once a sender, and moves nothing (RFC 9568 section 7.1). A router outside the mesh
    /// that has one and is obeyed is told in its own words who is MASTER.
    pub(crate) fn notice_list(&mut self, advert: &Advert, source: IpAddr, member: bool) {
        if !member && self.config.legacy_peers.obeys(source) {
            self.lists.heard(Moment::now(), &self.format.addresses, &advert.addresses);
        }
        if self.format.lists_the_same(advert) {
            self.other_lists.remove(&source);
        } else if self.other_lists.len() < MOST_OTHER_LISTS && self.other_lists.insert(source) {
            tracing::warn!(group = %self.name, %source, theirs = ?advert.addresses, ours = ?self.format.addresses,
                "an advert lists other addresses");
        }
    }
}

/// This node's wish for a lease, for whose groups it wants it: the priority of the weakest, and preempting where all may. With
/// 0 it asks to be relieved, which the adverts of VRRP have no word for.
pub(crate) fn candidate(served: &[&Served]) -> Option<Candidate> {
    Some(Candidate {
        definition: common(served.iter().map(|served| &served.definition))?,
        priority: served.iter().map(|served| if served.short { 0 } else { served.priority() }).min()?,
        preempt: served.iter().all(|served| served.router.status().preempts),
    })
}

/// The definition of a lease: its first virtual router with the addresses of all.
pub(crate) fn common<'a>(mut definitions: impl Iterator<Item = &'a Definition>) -> Option<Definition> {
    let mut common = definitions.next()?.clone();
    for definition in definitions {
        common.addresses.extend(&definition.addresses);
    }
    common.addresses.sort_unstable();
    Some(common)
}

/// Where the adverts of a group come from: the address that is configured, if the interface has it; the one that is in the
/// list of peers by unicast; else the interface's own.
pub(crate) fn own_address(group: &VipGroup, link: &Link) -> Option<IpAddr> {
    if let Some(source) = group.source {
        return link.own.contains(&source).then_some(source);
    }
    let listed = group.unicast.iter().flat_map(|unicast| &unicast.peers).map(|peer| peer.address);
    listed.into_iter().find(|peer| link.own.contains(peer)).or_else(|| link.address(group.family))
}

/// Where the sequence numbers of authenticated adverts begin, see [`crate::vrrp::ah`].
fn seconds_now() -> u32 {
    u32::try_from(wall_now().as_secs()).unwrap_or_default()
}

/// What trailers count by.
pub(super) fn clock() -> Clock {
    Clock::at(wall_now())
}

fn wall_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Without an address the link counts as down; what comes later is told with it.
fn source(group: &VipGroup, link: &Link) -> IpAddr {
    own_address(group, link).unwrap_or(match group.family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    })
}
