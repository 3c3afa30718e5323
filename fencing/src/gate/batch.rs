//! One netlink transaction: the kernel takes all of it or nothing, and has said which before `commit` returns.
//!
//! nf_tables works inside `sendmsg`: when the call is back, the generation is switched and every answer lies in the
//! receive queue. So nothing here waits, and an empty queue means that the kernel has said all it will say.

use super::rules::Table;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{GenAttribute, GenMessage, NfTablesMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt;
use std::{fmt, io};

/// `NFNL_SUBSYS_NFTABLES`, which the begin and end of a batch name in `res_id`.
const NFTABLES: u16 = 10;
/// Room for a batch with a hundred thousand addresses, and for as many refusals.
const BUFFER: usize = 8 << 20;
/// A dump during somebody else's commit is asked for again, this often at most.
const DUMP_ATTEMPTS: usize = 16;

/// One message of a batch.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) table: Table,
    pub(super) message: NfTablesMessage,
    /// `NLM_F_CREATE` and its like; `NLM_F_REQUEST` goes without saying.
    pub(super) flags: u16,
}

/// Why a batch changed nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel refused these requests: their places in the batch, and why. A refusal of the commit as a whole has
    /// the place after the last.
    Refused(Vec<(usize, Errno)>),
    /// The kernel was not reached, or its answer not understood. What the kernel did is then unknown.
    Io(io::Error),
}

/// The socket that owns the tables: nobody else can change them while it is open.
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Nothing where the kernel has no nf_tables, nor a module of it to load: nobody speaks this netlink there, or nobody
    /// takes messages of its subsystem.
    pub(super) fn find() -> io::Result<Option<Self>> {
        let mut kernel = match Self::open() {
            Err(error) if is(&error, Errno::PROTONOSUPPORT) => return Ok(None),
            kernel => kernel?,
        };
        match kernel.generation() {
            Err(error) if is(&error, Errno::INVAL) => Ok(None),
            generation => generation.map(|_| Some(kernel)),
        }
    }

    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Answers without a copy of the question, so that the receive queue never overflows.
        socket.set_cap_ack(true)?;
        // Past the machine's limit, where we may: in a user namespace we may not, and the limit is enough for a few VIPs.
        if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
        }
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
        }
        Ok(Self { socket, sequence: 0 })
    }

    /// Whether there is an interface of this name in the namespace of the tables.
    pub(super) fn has_interface(&self, name: &str) -> bool {
        name_to_index(&self.socket, name).is_ok()
    }

    /// Commits `requests` in their order, as one transaction over all tables.
    pub(super) fn commit(&mut self, requests: &[Request]) -> Result<(), Failure> {
        if requests.is_empty() {
            // The kernel answers no empty batch.
            return Ok(());
        }
        let mut bytes = Vec::new();
        let begin = self.put(&mut bytes, NetfilterProtoFamily::Unspec, NFTABLES, ControlMessage::BatchBegin, 0);
        for (place, request) in requests.iter().enumerate() {
            let ack = if place + 1 == requests.len() { NLM_F_ACK } else { 0 };
            self.put(&mut bytes, request.table.family(), 0, request.message.clone(), request.flags | ack);
        }
        let last = self.sequence;
        self.put(&mut bytes, NetfilterProtoFamily::Unspec, NFTABLES, ControlMessage::BatchEnd, 0);
        self.socket.send(&bytes, 0).map_err(Failure::Io)?;

        let mut acknowledged = false;
        let mut refused = Vec::new();
        for answer in self.answers().map_err(Failure::Io)? {
            let NetlinkPayload::Error(error) = answer.payload else { continue };
            let place = answer.header.sequence_number.wrapping_sub(begin);
            match error.code {
                None => acknowledged |= answer.header.sequence_number == last,
                // The kernel reports a failed commit under the number of the begin.
                Some(code) => refused.push((
                    usize::try_from(place).ok().and_then(|p| p.checked_sub(1)).unwrap_or(requests.len()),
                    Errno::from_raw_os_error(-code.get()),
                )),
            }
        }
        match (refused.is_empty(), acknowledged) {
            (true, true) => Ok(()),
            (true, false) => Err(Failure::Io(io::Error::other("the kernel did not answer a batch"))),
            (false, _) => Err(Failure::Refused(refused)),
        }
    }

    /// All the objects that `question` asks for.
    pub(super) fn dump(
        &mut self,
        family: NetfilterProtoFamily,
        question: &NfTablesMessage,
    ) -> io::Result<Vec<NfTablesMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = Vec::new();
            self.put(&mut bytes, family, 0, question.clone(), NLM_F_DUMP);
            self.socket.send(&bytes, 0)?;
            let answers = self.answers()?;
            if !answers.iter().any(|answer| answer.header.flags & NLM_F_DUMP_INTR != 0) {
                return answers.into_iter().filter_map(object).collect();
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    /// The number of the rule set's generation, which every commit in the namespace, whosever, raises by one.
    pub(super) fn generation(&mut self) -> io::Result<u32> {
        let mut bytes = Vec::new();
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        self.put(&mut bytes, NetfilterProtoFamily::Unspec, 0, question, 0);
        self.socket.send(&bytes, 0)?;
        for answer in self.answers()?.into_iter().filter_map(object) {
            if let NfTablesMessage::NewGen(generation) = answer?
                && let Some(GenAttribute::Id(id)) = generation.attributes.first()
            {
                return Ok(*id);
            }
        }
        Err(io::Error::other("the kernel named no generation"))
    }

    /// Appends one message and returns its sequence number.
    fn put<T: Into<NetfilterMessageInner>>(
        &mut self,
        bytes: &mut Vec<u8>,
        family: NetfilterProtoFamily,
        resource: u16,
        inner: T,
        flags: u16,
    ) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
        self.sequence
    }

    /// Everything that lies in the receive queue.
    fn answers(&mut self) -> io::Result<Vec<NetlinkMessage<NetfilterMessage>>> {
        let mut answers = Vec::new();
        loop {
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) => return Err(error),
            };
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(answer.header.length).unwrap_or(rest.len()).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                answers.push(answer);
            }
        }
    }
}

/// What the kernel was asked to do, for an error.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in nftables table {:?} `{}`", self.message.message_type(), self.table, super::rules::NAME)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn object(answer: NetlinkMessage<NetfilterMessage>) -> Option<io::Result<NfTablesMessage>> {
    match answer.payload {
        NetlinkPayload::InnerMessage(NetfilterMessage { inner: NetfilterMessageInner::NfTables(message), .. }) => {
            Some(Ok(message))
        }
        NetlinkPayload::InnerMessage(other) => {
            Some(Err(io::Error::other(format!("not an answer of nf_tables: {other:?}"))))
        }
        NetlinkPayload::Error(error) => error.code.map(|code| Err(io::Error::from_raw_os_error(-code.get()))),
        NetlinkPayload::Overrun(_) => Some(Err(io::Error::other("the kernel lost an answer"))),
        NetlinkPayload::Done(_) | NetlinkPayload::Noop | _ => None,
    }
}
