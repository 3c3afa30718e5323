//! The few nf_tables expressions that the rules are made of. They work on register 1, and once on the one beside it.

use hamesh_raft::command::Family;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::*;

/// Of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    Inside,
    Outside,
}

/// `RTN_LOCAL`, as [`source_type`] gives it.
pub(super) const LOCAL: [u8; 4] = 2u32.to_ne_bytes();

fn payload(base: u32, offset: u32, length: u32) -> Expressions {
    payload_into(Register::Reg1, base, offset, length)
}

fn payload_into(register: Register, base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

/// Of Ethernet: who has sent it on this link.
pub(super) fn link_source() -> Expressions {
    payload(0, 6, 6)
}

fn network(offset: u32, length: u32) -> Expressions {
    payload(1, offset, length)
}

/// Bytes behind the IP header, whatever its length.
pub(super) fn transport(offset: u32, length: u32) -> Expressions {
    payload(2, offset, length)
}

/// The same into register 2, which continues the 16 bytes of register 1.
pub(super) fn transport_beside(offset: u32, length: u32) -> Expressions {
    payload_into(Register::Reg2, 2, offset, length)
}

/// Of ARP over Ethernet for IPv4 (RFC 826).
pub(super) fn arp_operation() -> Expressions {
    network(6, 2)
}

pub(super) fn arp_sender() -> Expressions {
    network(14, 4)
}

pub(super) fn arp_target() -> Expressions {
    network(24, 4)
}

/// Matches one family in a table that carries both.
pub(super) fn is(family: Family) -> Vec<Expressions> {
    const NFPROTO_IPV4: [u8; 1] = [2];
    const NFPROTO_IPV6: [u8; 1] = [10];
    let number = match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    };
    vec![meta(MetaKey::Nfproto), equal(&number)]
}

/// What the IP header carries, behind all extension headers.
pub(super) fn carries(protocol: u8) -> Vec<Expressions> {
    vec![meta(MetaKey::L4Proto), equal(&[protocol])]
}

pub(super) fn ip_source(family: Family) -> Expressions {
    match family {
        Family::V4 => network(12, 4),
        Family::V6 => network(8, 16),
    }
}

pub(super) fn ip_destination(family: Family) -> Expressions {
    match family {
        Family::V4 => network(16, 4),
        Family::V6 => network(24, 16),
    }
}

/// Matches a message of neighbour discovery (RFC 4861 sections 4.3 and 4.4).
pub(super) fn discovery(kind: u8) -> Vec<Expressions> {
    const ICMPV6: u8 = 58;
    [carries(ICMPV6), vec![transport(0, 1), equal(&[kind])]].concat()
}

/// What a solicitation asks for and an advertisement tells of.
pub(super) fn discovery_target() -> Expressions {
    transport(8, 16)
}

pub(super) fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)])
}

/// What the source address is to this host, as a route type.
pub(super) fn source_type() -> Expressions {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const ADDRESS_TYPE: u32 = 3;
    const OF_SOURCE: u32 = 1;
    other(
        "fib",
        &[(NFTA_FIB_DREG, Register::Reg1.into()), (NFTA_FIB_RESULT, ADDRESS_TYPE), (NFTA_FIB_FLAGS, OF_SOURCE)],
    )
}

/// Turns a number from the host's byte order, in which `cmp` cannot say which is less.
pub(super) fn to_network_order(length: u32) -> Expressions {
    const NFTA_BYTEORDER_SREG: u16 = 1;
    const NFTA_BYTEORDER_DREG: u16 = 2;
    const NFTA_BYTEORDER_OP: u16 = 3;
    const NFTA_BYTEORDER_LEN: u16 = 4;
    const NFTA_BYTEORDER_SIZE: u16 = 5;
    const HTON: u32 = 1;
    let register = Register::Reg1.into();
    other(
        "byteorder",
        &[
            (NFTA_BYTEORDER_SREG, register),
            (NFTA_BYTEORDER_DREG, register),
            (NFTA_BYTEORDER_OP, HTON),
            (NFTA_BYTEORDER_LEN, length),
            (NFTA_BYTEORDER_SIZE, length),
        ],
    )
}

/// Puts what is in register 1 and on into a set, or renews it there, for so long.
pub(super) fn update(set: &str, lifetime: std::time::Duration) -> Expressions {
    const NFTA_DYNSET_SET_NAME: u16 = 1;
    const NFTA_DYNSET_OP: u16 = 3;
    const NFTA_DYNSET_SREG_KEY: u16 = 4;
    const NFTA_DYNSET_TIMEOUT: u16 = 6;
    const UPDATE: u32 = 1;
    let milliseconds = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
    let attributes = vec![
        DefaultNla::new(NFTA_DYNSET_SET_NAME, format!("{set}\0").into_bytes()),
        DefaultNla::new(NFTA_DYNSET_OP, UPDATE.to_be_bytes().to_vec()),
        DefaultNla::new(NFTA_DYNSET_SREG_KEY, u32::from(Register::Reg1).to_be_bytes().to_vec()),
        DefaultNla::new(NFTA_DYNSET_TIMEOUT, milliseconds.to_be_bytes().to_vec()),
    ];
    Expressions::Other { expression_type: "dynset".into(), attributes }
}

fn other(name: &str, attributes: &[(u16, u32)]) -> Expressions {
    let attribute = |&(kind, value): &(u16, u32)| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    Expressions::Other { expression_type: name.into(), attributes: attributes.iter().map(attribute).collect() }
}

fn compare(operator: Operator, value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

pub(super) fn equal(value: &[u8]) -> Expressions {
    compare(Operator::Equal, value)
}

pub(super) fn not_equal(value: &[u8]) -> Expressions {
    compare(Operator::NotEqual, value)
}

/// Compares as bytes, so as a number in network order.
pub(super) fn less(value: &[u8]) -> Expressions {
    compare(Operator::LessThan, value)
}

pub(super) fn load(value: &[u8]) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(value.to_vec())),
    ])
}

pub(super) fn lookup(set: &str, membership: Membership) -> Expressions {
    const INVERT: u32 = 1;
    let flags = match membership {
        Membership::Inside => 0,
        Membership::Outside => INVERT,
    };
    Expressions::Lookup(vec![Lookup::Set(set.into()), Lookup::SourceRegister(Register::Reg1), Lookup::Flags(flags)])
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}

pub(super) fn drop_it() -> Expressions {
    const NF_DROP: u32 = 0;
    verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])
}

pub(super) fn accept() -> Expressions {
    const NF_ACCEPT: u32 = 1;
    verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_ACCEPT))])
}

pub(super) fn give_back() -> Expressions {
    verdict(vec![VerdictAttribute::Code(Verdict::Return)])
}

pub(super) fn jump(chain: &str) -> Expressions {
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.into())])
}
