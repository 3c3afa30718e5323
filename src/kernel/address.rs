//! VIPs on an interface.
//!
//! They have a lifetime, the second line behind the gate: if nobody refreshes them the kernel removes them, up to half a
//! second late. So they also go when hamesh does.

use super::{KernelError, answer, request};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// `IFA_PROTO` of our addresses, shown by `ip address` as `proto 0x70`: VRRP's own number. Kernels before 5.18 ignore it.
const PROTOCOL: u8 = 112;
/// The same of those that stay while hamesh runs: they may be an interface's own.
const FIXED: u8 = 113;

/// A VIP as it is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network, at most 32 or 128.
    pub prefix: u8,
    /// What a new one is given beside; one that is there keeps what it has, and is the same address.
    pub look: Look,
}

/// What is said of an address beside itself. Whoever asks for what is there is not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Look {
    /// Its name for `ip address`; without one, that of its interface.
    pub label: Option<Label>,
    /// How far it is valid: 0 everywhere, 253 on the link, 254 on the host.
    pub scope: u8,
    /// Where broadcasts of its network go.
    pub broadcast: Option<Ipv4Addr>,
    /// Of [`FLAGS`].
    pub flags: u32,
    /// Whether conversations may start from it. Where it is not said: from an IPv4 address, and from an IPv6 one that is static.
    pub preferred: Option<bool>,
}

/// `IFA_F_*`, in the words of `ip address`.
pub const FLAGS: [(&str, u32); 4] =
    [("home", 0x10), ("mngtmpaddr", 0x100), ("noprefixroute", 0x200), ("autojoin", 0x400)];

/// The name of an address: up to 15 bytes, the rest zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label([u8; 15]);

impl Label {
    /// Nothing, where it is too long or empty, or holds what the kernel ends names with.
    pub fn new(text: &str) -> Option<Self> {
        let mut label = [0; 15];
        label.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        (!text.is_empty() && !text.contains('\0')).then_some(Self(label))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        f.write_str(str::from_utf8(bytes).unwrap_or_default())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({self})")
    }
}

/// In the words of `ip address`, each after a space.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, scope, broadcast, flags, preferred } = self;
        broadcast.iter().try_for_each(|broadcast| write!(f, " brd {broadcast}"))?;
        if *scope > 0 {
            write!(f, " scope {scope}")?;
        }
        label.iter().try_for_each(|label| write!(f, " label {label}"))?;
        FLAGS.iter().filter(|(_, flag)| flags & flag != 0).try_for_each(|(word, _)| write!(f, " {word}"))?;
        let lifetime = |preferred: &bool| if *preferred { "forever" } else { "0" };
        preferred.iter().try_for_each(|preferred| write!(f, " preferred_lft {}", lifetime(preferred)))
    }
}

impl Vip {
    /// One with nothing beside.
    pub fn plain(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix, look: Look::default() }
    }

    /// Whether the two are the same address, whatever is said beside it.
    pub fn is(&self, other: &Self) -> bool {
        (self.address, self.prefix) == (other.address, other.prefix)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address that is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The address.
    pub vip: Vip,
    /// Whether hamesh put it there. Kernels before 5.18 do not tell: false.
    pub ours: bool,
    /// Whether another address of the same network precedes it.
    pub secondary: bool,
    /// Whether packets may come from it: no IPv6 address that may still be a duplicate.
    pub usable: bool,
    /// What the kernel leaves of its life, in whole seconds; nothing if it stays for ever.
    pub lifetime: Option<Duration>,
}

/// The interface's place in the kernel, and its name for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's index.
    pub index: u32,
    /// The interface's name.
    pub name: String,
}

/// Puts addresses on interfaces and takes them off.
#[derive(Clone, Debug)]
pub struct Addresses(Handle);

impl Addresses {
    /// Works through a connection of [`rtnetlink`], which must be running.
    pub fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// Adds `vips`, or refreshes what is there: they live for `ttl`, rounded up to whole seconds, and one second more.
    /// All are sent before the first answer is awaited.
    ///
    /// # Errors
    /// The first refusal, after all have been tried: it names the address and the interface.
    pub async fn set(&self, interface: &Interface, vips: &[Vip], ttl: Duration) -> Result<(), KernelError> {
        let send = |vip: &Vip| {
            let mut message = message(interface.index, *vip);
            message.attributes.extend(life(vip, ttl));
            message.attributes.extend(looks(vip));
            let message = RouteNetlinkMessage::NewAddress(message);
            request(&self.0, message, NLM_F_CREATE | NLM_F_REPLACE, format!("add {vip} to {}", interface.name))
        };
        join_all(vips.iter().map(send)).await.into_iter().collect()
    }

    /// Takes `vips` off. One that is not there is off already.
    ///
    /// # Errors
    /// The first refusal, after all have been tried: it names the address and the interface.
    pub async fn remove(&self, interface: &Interface, vips: &[Vip]) -> Result<(), KernelError> {
        let send = async |vip: &Vip| {
            let message = RouteNetlinkMessage::DelAddress(message(interface.index, *vip));
            let result = request(&self.0, message, 0, format!("remove {vip} from {}", interface.name)).await;
            result.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
        };
        join_all(vips.iter().map(send)).await.into_iter().collect()
    }

    /// Takes what hamesh has put anywhere of `addresses` off. One that has no end and is not marked as ours stays.
    ///
    /// # Errors
    /// The kernel could not be asked, or its first refusal.
    pub async fn remove_everywhere(&self, addresses: &[IpAddr]) -> Result<(), KernelError> {
        let answers: Result<Vec<_>, _> = self.0.address().get().execute().try_collect().await;
        for message in answers.map_err(|error| KernelError::new("list all addresses", answer(error)))? {
            let index = message.header.index;
            let ours = |found: &Present| found.ours || found.lifetime.is_some();
            if let Some(found) = present(&message).filter(|f| addresses.contains(&f.vip.address) && ours(f)) {
                self.remove(&Interface { index, name: format!("interface {index}") }, &[found.vip]).await?;
            }
        }
        Ok(())
    }

    /// Adds what of `addresses` is not there, without an end.
    ///
    /// # Errors
    /// The first refusal, after all have been tried.
    pub async fn keep(&self, interface: &Interface, addresses: &[Vip]) -> Result<(), KernelError> {
        let present: Vec<Vip> = self.list(interface).await?.into_iter().map(|present| present.vip).collect();
        let mut result = Ok(());
        for vip in addresses.iter().filter(|vip| !present.iter().any(|there| there.is(vip))) {
            let mut message = message(interface.index, *vip);
            message.attributes.extend(looks(vip));
            message.header.flags = AddressHeaderFlags::empty();
            message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(FIXED)));
            if vip.look.flags != 0 {
                message.attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(vip.look.flags)));
            }
            if vip.look.preferred == Some(false) {
                let mut life = CacheInfo::default();
                (life.ifa_valid, life.ifa_preferred) = (u32::MAX, 0);
                message.attributes.push(AddressAttribute::CacheInfo(life));
            }
            let (message, what) =
                (RouteNetlinkMessage::NewAddress(message), format!("add {vip} to {}", interface.name));
            result = result.and(request(&self.0, message, NLM_F_CREATE | NLM_F_EXCL, what).await);
        }
        result
    }

    /// Takes off what [`Addresses::keep`] has added. Kernels before 5.18 do not tell what that is: there it stays.
    ///
    /// # Errors
    /// The kernel could not be asked, or its first refusal.
    pub async fn release(&self, interface: &Interface, addresses: &[Vip]) -> Result<(), KernelError> {
        let answers = self.0.address().get().set_link_index_filter(interface.index).execute();
        let messages: Vec<_> = answers.try_collect().await.map_err(|error| {
            KernelError::new(format_args!("list the addresses of {}", interface.name), answer(error))
        })?;
        let kept = |message: &&AddressMessage| {
            message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(FIXED)))
        };
        let ours = messages.iter().filter(kept).filter_map(present).map(|present| present.vip);
        let asked = ours.filter(|vip| addresses.iter().any(|asked| asked.is(vip)));
        self.remove(interface, &asked.collect::<Vec<_>>()).await
    }

    /// What is on the interface, in the kernel's order.
    ///
    /// # Errors
    /// The kernel could not be asked; it names the interface.
    pub async fn list(&self, interface: &Interface) -> Result<Vec<Present>, KernelError> {
        let answers = self.0.address().get().set_link_index_filter(interface.index).execute();
        let messages: Vec<_> = answers.try_collect().await.map_err(|error| {
            KernelError::new(format_args!("list the addresses of {}", interface.name), answer(error))
        })?;
        Ok(messages.iter().filter_map(present).collect())
    }
}

/// The address is gone, or its interface is and took it along.
fn is_gone(error: &KernelError) -> bool {
    matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV))
}

/// Whether the kernel says that hamesh put it there.
pub(super) fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)))
}

fn message(index: u32, vip: Vip) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match vip.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = vip.prefix;
    message.header.scope = AddressScope::from(vip.look.scope);
    message.header.index = index;
    // Behind a shut gate, duplicate address detection would wait a second and find nothing.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(vip.address), AddressAttribute::Address(vip.address)];
    message
}

/// Only for one that is added: the kernel takes no address off whose name is another.
fn looks(vip: &Vip) -> Vec<AddressAttribute> {
    let label = vip.look.label.map(|label| AddressAttribute::Label(label.to_string()));
    label.into_iter().chain(vip.look.broadcast.map(AddressAttribute::Broadcast)).collect()
}

fn life(vip: &Vip, ttl: Duration) -> [AddressAttribute; 3] {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0) + 1;
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX - 1);
    let mut life = CacheInfo::default();
    life.ifa_valid = seconds;
    // A VIP that moves away is no address to start a conversation from. IPv4 takes the oldest address of a network anyway.
    life.ifa_preferred = if vip.look.preferred.unwrap_or(vip.address.is_ipv4()) { seconds } else { 0 };
    [
        AddressAttribute::CacheInfo(life),
        AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::from_bits_retain(vip.look.flags)),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ]
}

fn present(message: &AddressMessage) -> Option<Present> {
    let (mut local, mut address, mut lifetime) = (None, None, None);
    let unproven = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(is) = attribute {
            local = Some(*is);
        } else if let AddressAttribute::Address(is) = attribute {
            address = Some(*is);
        } else if let AddressAttribute::CacheInfo(life) = attribute {
            lifetime = (life.ifa_valid != u32::MAX).then(|| Duration::from_secs(life.ifa_valid.into()));
        }
    }
    Some(Present {
        // IPv6 has no local address beside the one; a point-to-point link has the peer's in the other.
        vip: Vip::plain(local.or(address)?, message.header.prefix_len),
        ours: is_ours(message),
        secondary: message.header.flags.contains(AddressHeaderFlags::Secondary),
        usable: !message.header.flags.intersects(unproven),
        lifetime,
    })
}
