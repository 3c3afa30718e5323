//! The rule set: three tables with the same sets, the same `lease` chain, and the ways in and out of the host.
//!
//! ```text
//! base chain:   <what> ∈ vip4, <what> ∉ held4   drop
//!               <what> ∈ vip4                   jump lease
//! lease, armed: meta time < D, 1 ∈ session      return
//!                                               drop
//! lease, shut:                                  drop
//! ```
//!
//! `arp` and `inet` cover the whole host, whatever the interface: a frozen host with two interfaces on one LAN answers
//! through either. `netdev` egress covers what packet sockets send, which passes neither. A later IPv6 adds the sets
//! `vip6`, `held6`, `vrid6`, `vrid6_held` and rules beside those of IPv4; the session and the chains stay.

use super::GateError;
use super::batch::Request;
use super::expression::*;
use hamesh_raft::command::{Definition, GateId};
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The name of our table in each family.
pub(super) const NAME: &str = "hamesh";
/// The regular chain that knows whether the session lives.
pub(super) const LEASE: &str = "lease";
/// The base chain of `netdev`, which is there only while there are interfaces.
pub(super) const EGRESS: &str = "egress";
/// What the id in a table's comment is preceded by. The number is the layout's: another layout is another gate.
const COMMENT: &str = "hamesh gate 1 ";

/// Before IPVS takes what is delivered locally (`NF_IP_PRI_NAT_SRC - 1`), and before everybody else.
const FIRST: i32 = -300;
/// After source NAT (100), which can make a VIP the source of what was none.
const LAST: i32 = 300;

/// A table, which is a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Arp,
    Inet,
    Netdev,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Arp, Self::Inet, Self::Netdev];

    pub(super) fn family(self) -> NetfilterProtoFamily {
        match self {
            Self::Arp => NetfilterProtoFamily::ARP,
            Self::Inet => NetfilterProtoFamily::Inet,
            Self::Netdev => NetfilterProtoFamily::NetDev,
        }
    }
}

/// A set of every table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// The addresses that this gate guards.
    Vip4,
    /// Those that this node holds.
    Held4,
    /// The virtual routers that this gate guards.
    Vrid4,
    /// Those that this node holds.
    Vrid4Held,
    /// Holds one element, with a timeout, while the session lives.
    Session,
}

impl Set {
    const ALL: [Self; 5] = [Self::Vip4, Self::Held4, Self::Vrid4, Self::Vrid4Held, Self::Session];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vip4 => "vip4",
            Self::Held4 => "held4",
            Self::Vrid4 => "vrid4",
            Self::Vrid4Held => "vrid4_held",
            Self::Session => "session",
        }
    }

    /// Number in a transaction, key type in nft's own numbers (only `nft list` reads it), key length in bytes.
    fn shape(self) -> (u32, u32, u32) {
        const IPV4_ADDR: u32 = 7;
        const INTEGER: u32 = 4;
        const MARK: u32 = 19;
        match self {
            Self::Vip4 => (1, IPV4_ADDR, 4),
            Self::Held4 => (2, IPV4_ADDR, 4),
            Self::Vrid4 => (3, INTEGER, 1),
            Self::Vrid4Held => (4, INTEGER, 1),
            Self::Session => (5, MARK, 4),
        }
    }
}

/// What of the newer kernels' abilities a gate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Linux 6.9: nobody else can change the tables, and they outlive us.
    pub(super) persistent: bool,
    /// Linux 5.16: what packet sockets send is seen.
    pub(super) egress: bool,
    /// A kernel with `fib`: the answers that IPVS translates for a VIP are told from foreign traffic on its way through.
    pub(super) fib: bool,
}

/// The addresses and virtual routers of a set of groups, in the order in which the kernel gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) addresses: BTreeSet<Ipv4Addr>,
    pub(super) vrids: BTreeSet<u8>,
}

impl Contents {
    /// # Errors
    /// [`GateError::Ipv6`].
    pub(super) fn of(groups: &[Definition]) -> Result<Self, GateError> {
        let mut contents = Self::default();
        for group in groups {
            contents.vrids.insert(group.vrid);
            for address in &group.addresses {
                match address {
                    IpAddr::V4(address) => contents.addresses.insert(*address),
                    IpAddr::V6(_) => return Err(GateError::Ipv6(*address)),
                };
            }
        }
        Ok(contents)
    }

    pub(super) fn without(&self, others: &Self) -> Self {
        Self { addresses: &self.addresses - &others.addresses, vrids: &self.vrids - &others.vrids }
    }

    pub(super) fn contains(&self, others: &Self) -> bool {
        self.addresses.is_superset(&others.addresses) && self.vrids.is_superset(&others.vrids)
    }
}

/// A whole gate with a dead session, where nothing is.
pub(super) fn whole(
    id: GateId,
    abilities: Abilities,
    interfaces: &[String],
    guarded: &Contents,
    held: &Contents,
) -> Vec<Request> {
    let of = |table| {
        let mut requests = vec![self::table(table, id, abilities)];
        requests.extend(skeleton(table));
        requests.extend(fill(table, guarded, held));
        requests.extend(ways(table, abilities, interfaces));
        requests
    };
    Table::ALL.into_iter().flat_map(of).collect()
}

/// A gate that is there, without its egress chain, with other contents: its session and `lease` chain stay.
pub(super) fn taken_over(
    abilities: Abilities,
    interfaces: &[String],
    guarded: &Contents,
    held: &Contents,
) -> Vec<Request> {
    let of = |table| {
        let mut requests = fill(table, guarded, held);
        requests.extend(bases(table).iter().filter(|_| table != Table::Netdev).map(|base| empty_chain(table, base.0)));
        requests.extend(ways(table, abilities, interfaces));
        requests
    };
    Table::ALL.into_iter().flat_map(of).collect()
}

/// Replaces what a table guards and holds.
pub(super) fn fill(table: Table, guarded: &Contents, held: &Contents) -> Vec<Request> {
    let mut requests = [Set::Vip4, Set::Held4, Set::Vrid4, Set::Vrid4Held].map(|set| flush(table, set)).to_vec();
    requests.extend(add(table, Set::Vip4, Set::Vrid4, guarded));
    requests.extend(add(table, Set::Held4, Set::Vrid4Held, held));
    requests
}

/// The base chains of a table and their rules.
pub(super) fn ways(table: Table, abilities: Abilities, interfaces: &[String]) -> Vec<Request> {
    if table == Table::Netdev && (interfaces.is_empty() || !abilities.egress) {
        return Vec::new();
    }
    let mut requests: Vec<_> = bases(table).iter().map(|base| base_chain(table, base, interfaces)).collect();
    requests.extend(rules(table, abilities));
    requests
}

/// Makes a table, or takes over the ownership of one that a process before us left.
pub(super) fn table(table: Table, id: GateId, abilities: Abilities) -> Request {
    let flags = if abilities.persistent { TableFlags::Owner | TableFlags::Persisent } else { TableFlags::empty() };
    let attributes =
        vec![TableAttribute::Name(NAME.into()), TableAttribute::Flags(flags), TableAttribute::UserData(comment(id))];
    request(table, NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE)
}

pub(super) fn delete_table(table: Table) -> Request {
    let attributes = vec![TableAttribute::Name(NAME.into())];
    request(table, NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
}

/// The id as a table comment in libnftnl's coding, so that `nft list tables` shows it: type 0, length, text, NUL.
fn comment(id: GateId) -> Vec<u8> {
    let text = format!("{COMMENT}{id}\0");
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0, length], text.as_bytes()].concat()
}

/// The id in a table's user data, if the table is one of ours in this layout.
pub(super) fn gate_id(user_data: &[u8]) -> Option<GateId> {
    let text = str::from_utf8(user_data.get(2..)?).ok()?;
    let digits = text.strip_prefix(COMMENT)?.strip_suffix('\0')?;
    u128::from_str_radix(digits, 16).ok().map(GateId)
}

/// The sets, and the `lease` chain with nothing alive.
fn skeleton(table: Table) -> Vec<Request> {
    let mut requests: Vec<Request> = Set::ALL.into_iter().map(|set| declare(table, set)).collect();
    let attributes = vec![ChainAttribute::Table(NAME.into()), ChainAttribute::Name(LEASE.into())];
    requests.push(request(table, NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE));
    requests.push(rule(table, LEASE, vec![drop_it()]));
    requests
}

fn declare(table: Table, set: Set) -> Request {
    let (number, kind, length) = set.shape();
    let flags = if set == Set::Session { SetFlags::Timeout } else { SetFlags::empty() };
    let attributes = vec![
        SetAttribute::Table(NAME.into()),
        SetAttribute::Name(set.name().into()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(kind),
        SetAttribute::KeyLen(length),
        SetAttribute::Id(number),
    ];
    request(table, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE)
}

/// A base chain: its name, hook number and priority.
type Base = (&'static str, u32, i32);

/// The base chains of a table.
fn bases(table: Table) -> &'static [Base] {
    match table {
        Table::Arp => &[("input", 0, FIRST), ("output", 1, LAST)],
        Table::Inet => &[("input", 1, FIRST), ("postrouting", 4, LAST)],
        Table::Netdev => &[(EGRESS, 1, LAST)],
    }
}

/// Makes a base chain. The interfaces are those that `netdev` looks at; the other families look at all.
fn base_chain(table: Table, &(name, hook, priority): &Base, interfaces: &[String]) -> Request {
    const DEVICE_NAME: u16 = 1;
    const ACCEPT: u32 = 1;
    let mut hooks = vec![Hook::Number(HookNumber::Other(hook)), Hook::Priority(priority.cast_unsigned())];
    if table == Table::Netdev {
        let device = |name: &String| DefaultNla::new(DEVICE_NAME, format!("{name}\0").into_bytes());
        hooks.push(Hook::NetDevices(interfaces.iter().map(device).collect()));
    }
    let attributes = vec![
        ChainAttribute::Table(NAME.into()),
        ChainAttribute::Name(name.into()),
        ChainAttribute::Type("filter".into()),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Hook(hooks),
    ];
    request(table, NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE)
}

pub(super) fn delete_chain(table: Table, name: &str) -> Request {
    let attributes = vec![ChainAttribute::Table(NAME.into()), ChainAttribute::Name(name.into())];
    request(table, NfTablesMessage::DeleteChain(ChainMessage { attributes }), 0)
}

/// Takes all the rules out of a chain.
fn empty_chain(table: Table, chain: &str) -> Request {
    let attributes = vec![RuleAttribute::Table(NAME.into()), RuleAttribute::Chain(chain.into())];
    request(table, NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0)
}

/// The rules of the base chains. A base chain that is not there must not be asked for.
fn rules(table: Table, abilities: Abilities) -> Vec<Request> {
    match table {
        Table::Arp => arp(),
        Table::Inet => inet(abilities.fib),
        Table::Netdev => netdev(),
    }
}

fn arp() -> Vec<Request> {
    const REQUEST: [u8; 2] = [0, 1];
    // A request from a VIP is its holder's announcement: it passes, and our answer to it would stop on its way out.
    let question = vec![arp_operation(), equal(&REQUEST), arp_sender(), lookup(Set::Vip4.name(), Membership::Outside)];
    let asked = gated(Table::Arp, "input", &question, &arp_target(), Set::Vip4, Set::Held4);
    let told = gated(Table::Arp, "output", &[], &arp_sender(), Set::Vip4, Set::Held4);
    [asked, told].concat()
}

fn inet(fib: bool) -> Vec<Request> {
    let ours = [ipv4(), vec![meta(MetaKey::Iif), equal(&0u32.to_ne_bytes())]].concat();
    let mut rules = gated(Table::Inet, "input", &ipv4(), &ip_destination(), Set::Vip4, Set::Held4);
    rules.extend(gated(Table::Inet, "postrouting", &ours, &ip_source(), Set::Vip4, Set::Held4));
    if fib {
        // A packet on its way through whose source is an address of this host got that source here, from NAT or IPVS:
        // the kernel takes none from outside. Others' traffic, on its way through a BACKUP, has a source that is not here.
        let through = [ipv4(), vec![meta(MetaKey::Iif), not_equal(&0u32.to_ne_bytes()), source_type(), equal(&LOCAL)]];
        rules.extend(gated(Table::Inet, "postrouting", &through.concat(), &ip_source(), Set::Vip4, Set::Held4));
    }
    rules.extend(adverts(Table::Inet, "postrouting", &ours));
    rules
}

fn netdev() -> Vec<Request> {
    // What has a socket of this namespace is ours. What is on its way through has none, nor has what comes down from
    // another host's macvlan; and what our kernel itself sends was seen by the other tables.
    let ours = |protocol: u16| {
        let owner = meta(MetaKey::SocketUserId);
        vec![meta(MetaKey::EtherTypeProtocol), equal(&protocol.to_be_bytes()), owner]
    };
    let (arp, ip) = (ours(0x0806), ours(0x0800));
    let mut rules = gated(Table::Netdev, EGRESS, &arp, &arp_sender(), Set::Vip4, Set::Held4);
    rules.extend(gated(Table::Netdev, EGRESS, &ip, &ip_source(), Set::Vip4, Set::Held4));
    rules.extend(adverts(Table::Netdev, EGRESS, &ip));
    rules
}

/// Our adverts with a priority above 0, plain and behind an authentication header (RFC 2402, as VRRPv2 uses it).
fn adverts(table: Table, chain: &'static str, ours: &[Expressions]) -> Vec<Request> {
    const VRRP: [u8; 1] = [112];
    const AH: [u8; 1] = [51];
    /// In 32-bit words less two: 12 bytes of header and the 12 of HMAC-MD5-96.
    const AH_WORDS: [u8; 1] = [4];
    const AH_LENGTH: u32 = 24;
    let plain = vec![ip_protocol(), equal(&VRRP), transport(2, 1), not_equal(&[0])];
    let authentic = vec![
        ip_protocol(),
        equal(&AH),
        transport(0, 1),
        equal(&VRRP),
        transport(1, 1),
        equal(&AH_WORDS),
        transport(AH_LENGTH + 2, 1),
        not_equal(&[0]),
    ];
    let of = |what: Vec<Expressions>, vrid| {
        gated(table, chain, &[ours.to_vec(), what].concat(), &vrid, Set::Vrid4, Set::Vrid4Held)
    };
    [of(plain, transport(1, 1)), of(authentic, transport(AH_LENGTH + 1, 1))].concat()
}

/// The two rules of one way: packets that match `what` and carry in `key` a member of `guarded` pass only while that
/// is in `held` and the session lives.
fn gated(
    table: Table,
    chain: &'static str,
    what: &[Expressions],
    key: &Expressions,
    guarded: Set,
    held: Set,
) -> Vec<Request> {
    let guarded = [what, &[key.clone(), lookup(guarded.name(), Membership::Inside)]].concat();
    let foreign = [&guarded[..], &[lookup(held.name(), Membership::Outside), drop_it()]].concat();
    let asks = [guarded, vec![jump(LEASE)]].concat();
    vec![rule(table, chain, foreign), rule(table, chain, asks)]
}

/// The one element of [`Set::Session`].
const ALIVE: [u8; 4] = 1u32.to_be_bytes();

/// Renews the session: its element lives for `span` from now, and until `wall` on the wall clock at most.
///
/// An element that is there is not extended by adding it again, and one that has just died cannot be deleted: emptying
/// the set first, in the same transaction, is right for both.
pub(super) fn arm(table: Table, span: Duration, wall: Duration) -> Vec<Request> {
    let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let nanoseconds = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
    let alive = vec![
        meta(MetaKey::TimeNs),
        to_network_order(8),
        less(&nanoseconds.to_be_bytes()),
        load(&ALIVE),
        lookup(Set::Session.name(), Membership::Inside),
        give_back(),
    ];
    let key = SetElementAttribute::Key(DataAttribute::Value(ALIVE.to_vec()));
    let element = vec![key, SetElementAttribute::Timeout(milliseconds)];
    vec![
        flush(table, Set::Session),
        request(table, NfTablesMessage::NewSetElement(elements(Set::Session, vec![element])), NLM_F_CREATE),
        empty_chain(table, LEASE),
        rule(table, LEASE, alive),
        rule(table, LEASE, vec![drop_it()]),
    ]
}

/// Ends the session whatever its element says.
pub(super) fn shut(table: Table) -> Vec<Request> {
    vec![flush(table, Set::Session), empty_chain(table, LEASE), rule(table, LEASE, vec![drop_it()])]
}

/// Takes everything out of a set.
pub(super) fn flush(table: Table, set: Set) -> Request {
    let attributes = vec![SetElementList::Table(NAME.into()), SetElementList::Set(set.name().into())];
    request(table, NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }), 0)
}

/// Puts contents into a pair of sets; what is in already stays.
pub(super) fn add(table: Table, addresses: Set, vrids: Set, contents: &Contents) -> Vec<Request> {
    let message = |set, keys| request(table, NfTablesMessage::NewSetElement(elements(set, keys)), NLM_F_CREATE);
    changes(contents, addresses, vrids, &message)
}

/// Takes contents out of a pair of sets. The kernel refuses what is not in.
pub(super) fn remove(table: Table, addresses: Set, vrids: Set, contents: &Contents) -> Vec<Request> {
    let message = |set, keys| request(table, NfTablesMessage::DeleteSetElement(elements(set, keys)), 0);
    changes(contents, addresses, vrids, &message)
}

fn changes(
    contents: &Contents,
    addresses: Set,
    vrids: Set,
    message: &dyn Fn(Set, Vec<Vec<SetElementAttribute>>) -> Request,
) -> Vec<Request> {
    // The length of an attribute is 16 bits wide, and an element takes 20 bytes.
    const PER_MESSAGE: usize = 2048;
    let key = |bytes: Vec<u8>| vec![SetElementAttribute::Key(DataAttribute::Value(bytes))];
    let of_addresses: Vec<_> = contents.addresses.iter().map(|address| key(address.octets().to_vec())).collect();
    let of_vrids: Vec<_> = contents.vrids.iter().map(|vrid| key(vec![*vrid])).collect();
    let of_addresses = of_addresses.chunks(PER_MESSAGE).map(|keys| message(addresses, keys.to_vec()));
    of_addresses.chain(of_vrids.chunks(PER_MESSAGE).map(|keys| message(vrids, keys.to_vec()))).collect()
}

fn elements(set: Set, keys: Vec<Vec<SetElementAttribute>>) -> SetElementMessage {
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(NAME.into()),
            SetElementList::Set(set.name().into()),
            SetElementList::Elements(keys.into_iter().map(ListAttribute::Element).collect()),
        ],
    }
}

fn rule(table: Table, chain: &str, expressions: Vec<Expressions>) -> Request {
    let attributes = vec![
        RuleAttribute::Table(NAME.into()),
        RuleAttribute::Chain(chain.into()),
        RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
    ];
    request(table, NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
}

fn request(table: Table, message: NfTablesMessage, flags: u16) -> Request {
    Request { table, message, flags }
}
