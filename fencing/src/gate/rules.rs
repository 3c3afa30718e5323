//! The rule set: three tables with the same sets, the same `lease` chain, and the ways in and out of the host.
//!
//! ```text
//! base chain:   <what> ∈ vip, <what> ∉ held     drop
//!               <what> ∈ vip                    jump lease
//! lease, armed: meta time < D, 1 ∈ session      return
//!                                               drop
//! lease, shut:                                  drop
//! ```
//!
//! `arp` and `inet` cover the whole host, whatever the interface: a frozen host with two interfaces on one LAN answers
//! through either. `netdev` egress covers what packet sockets send, which passes neither. Each family has its own sets and
//! rules; the session and the chains are one. A device with a virtual MAC is shut as a whole, in and out: what left it would
//! teach switches where that MAC is.

use super::batch::Request;
use super::claims::{self, AH, VRRP};
use super::expression::*;
use super::sets::{Contents, Pair, Set, declare, elements, fill, flush};
use super::{deaf, local, said};
use hamesh_raft::command::{Family, GateId};
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::*;
use std::time::Duration;

/// The name of our table in each family.
pub(super) const NAME: &str = "hamesh";
/// The regular chain that knows whether the session lives.
pub(super) const LEASE: &str = "lease";
/// The base chain of `netdev`, which is there only while there are interfaces.
pub(super) const EGRESS: &str = "egress";
/// What the id in a table's comment is preceded by. The number is the layout's: another layout is another gate.
const COMMENT: &str = "hamesh gate 7 ";

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

    /// The families of addresses that it sees.
    pub(super) fn families(self) -> &'static [Family] {
        match self {
            Self::Arp => &[Family::V4],
            Self::Inet | Self::Netdev => &Family::ALL,
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
    /// Linux 6.16: an interface need not be there yet, and is gated from the moment on in which it comes.
    pub(super) absent: bool,
    /// A kernel with `fib`: the answers that IPVS translates for a VIP are told from foreign traffic on its way through.
    pub(super) fib: bool,
}

impl Abilities {
    /// All of them; a gate that was found says whether it is persistent.
    pub(super) fn best(persistent: bool) -> Self {
        Self { persistent, egress: true, absent: true, fib: true }
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
    let sets = Pair::Guarded.sets(table).chain(Pair::Held.sets(table)).chain([Set::Session]);
    let said = Family::ALL.map(Set::Said).into_iter().filter(|_| table == Table::Inet);
    let sets = sets.chain(local::sets(table).iter().copied()).chain(deaf::sets(table).iter().copied()).chain(said);
    let mut requests: Vec<Request> = sets.map(|set| declare(table, set)).collect();
    requests.extend([regular_chain(table, LEASE), rule(table, LEASE, vec![drop_it()])]);
    for note in [said::PLAIN, said::SEALED].iter().filter(|_| table == Table::Inet) {
        requests.push(regular_chain(table, note.chain));
        requests.extend(note.rules().map(|noted| rule(table, note.chain, noted)));
    }
    requests.extend(claims::chains(table));
    requests
}

pub(super) fn regular_chain(table: Table, name: &str) -> Request {
    let attributes = vec![ChainAttribute::Table(NAME.into()), ChainAttribute::Name(name.into())];
    request(table, NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE)
}

/// A base chain: its name, hook number and priority.
type Base = (&'static str, u32, i32);

/// The base chains of a table.
fn bases(table: Table) -> &'static [Base] {
    match table {
        Table::Arp => &[("input", 0, FIRST), ("output", 1, LAST)],
        Table::Inet => &[("prerouting", 0, FIRST), ("input", 1, FIRST), ("postrouting", 4, LAST)],
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
    let vips = Addressed::Address(Family::V4);
    // A request from a VIP is its holder's announcement: it passes, and our answer to it would stop on its way out.
    let known = lookup(Set::Vip(Family::V4).name(), Membership::Outside);
    let question = vec![arp_operation(), equal(&REQUEST), arp_sender(), known];
    let asked = gated(Table::Arp, "input", &question, &arp_target(), vips);
    let told = gated(Table::Arp, "output", &[], &arp_sender(), vips);
    let out = gated(Table::Arp, "output", &[], &meta(MetaKey::Oifname), Addressed::Device);
    [out, asked, told].concat()
}

/// Of neighbour discovery (RFC 4861 section 4.3).
const SOLICITATION: u8 = 135;

fn inet(fib: bool) -> Vec<Request> {
    let table = Table::Inet;
    let here = meta(MetaKey::Iif);
    let six = Addressed::Address(Family::V6);
    let asked = [is(Family::V6), discovery(SOLICITATION)].concat();
    let ours = [here.clone(), equal(&[0; 4])];
    let plain = [&ours[..], &carries(VRRP), &[jump(said::PLAIN.chain)]].concat();
    let behind = [transport(0, 1), equal(&[VRRP]), jump(said::SEALED.chain)];
    let sealed = [&ours[..], &carries(AH), &behind].concat();
    let mut rules = vec![rule(table, "postrouting", plain), rule(table, "postrouting", sealed)];
    let (into, devices) = (meta(MetaKey::Iifname), lookup(Set::Device.name(), Membership::Inside));
    for protocol in [VRRP, AH] {
        // A keepalived listens on the device: as BACKUP too it is to hear the MASTER.
        let heard = [carries(protocol), vec![into.clone(), devices.clone(), give_back()]].concat();
        rules.push(rule(table, "prerouting", heard));
    }
    rules.extend(gated(table, "prerouting", &[], &into, Addressed::Device));
    rules.extend(gated(table, "postrouting", &[], &meta(MetaKey::Oifname), Addressed::Device));
    rules.extend(gated(table, "input", &asked, &discovery_target(), six));
    for family in Family::ALL {
        let vips = Addressed::Address(family);
        let (ours, through) = (vec![here.clone(), equal(&[0; 4])], vec![here.clone(), not_equal(&[0; 4])]);
        let (ours, source) = ([is(family), ours].concat(), ip_source(family));
        rules.push(local::forwarded(table, "input", family));
        rules.extend(gated(table, "input", &is(family), &ip_destination(family), vips));
        let said = [&ours[..], &local::not_served(family)].concat();
        rules.extend(gated(table, "postrouting", &said, &source, vips));
        if fib {
            // A packet on its way through whose source is an address of this host got that source here, from NAT or IPVS:
            // the kernel takes none from outside. Others' traffic, on its way through a BACKUP, has a source that is not
            // here.
            let through = [is(family), through, vec![source_type(), equal(&LOCAL)]].concat();
            rules.extend(gated(table, "postrouting", &through, &source, vips));
        }
        rules.extend(claims::gated(table, "postrouting", family, &ours));
    }
    rules.extend(deaf::refused(table, "input"));
    rules
}

fn netdev() -> Vec<Request> {
    // What has a socket of this namespace is ours. What is on its way through has none, nor has what comes down from
    // another host's macvlan; and what our kernel itself sends was seen by the other tables.
    let ours = |protocol: u16| {
        let owner = meta(MetaKey::SocketUserId);
        vec![meta(MetaKey::EtherTypeProtocol), equal(&protocol.to_be_bytes()), owner]
    };
    let arp = ours(0x0806);
    let mut rules = gated(Table::Netdev, EGRESS, &[], &meta(MetaKey::Oifname), Addressed::Device);
    rules.extend(gated(Table::Netdev, EGRESS, &arp, &arp_sender(), Addressed::Address(Family::V4)));
    for (family, ip) in [(Family::V4, ours(0x0800)), (Family::V6, ours(0x86dd))] {
        let said = [&ip[..], &local::not_served(family)].concat();
        rules.extend(gated(Table::Netdev, EGRESS, &said, &ip_source(family), Addressed::Address(family)));
        rules.extend(claims::gated(Table::Netdev, EGRESS, family, &ip));
    }
    rules
}

/// What the key of a rule is looked up as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressed {
    Address(Family),
    Router(Family),
    Device,
}

impl Addressed {
    fn set(self, pair: Pair) -> Set {
        match self {
            Self::Address(family) => pair.addresses(family),
            Self::Router(family) => pair.vrids(family),
            Self::Device => pair.devices(),
        }
    }
}

/// The two rules of one way: packets that match `what` and carry in `key` what is guarded pass only while that is held
/// and the session lives.
pub(super) fn gated(
    table: Table,
    chain: &'static str,
    what: &[Expressions],
    key: &Expressions,
    addressed: Addressed,
) -> Vec<Request> {
    let (guarded, held) = (addressed.set(Pair::Guarded).name(), addressed.set(Pair::Held).name());
    let guarded = [what, &[key.clone(), lookup(guarded, Membership::Inside)]].concat();
    let foreign = [&guarded[..], &[lookup(held, Membership::Outside), drop_it()]].concat();
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

pub(super) fn rule(table: Table, chain: &str, expressions: Vec<Expressions>) -> Request {
    let attributes = vec![
        RuleAttribute::Table(NAME.into()),
        RuleAttribute::Chain(chain.into()),
        RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
    ];
    request(table, NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
}

pub(super) fn request(table: Table, message: NfTablesMessage, flags: u16) -> Request {
    Request { table, message, flags }
}
