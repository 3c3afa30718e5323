//! Requests over generic netlink, many in one call.
//!
//! The kernel works inside `sendmsg`: when it is back, everything is done and every answer lies in the receive queue, or,
//! of a dump, comes with the next `recvmsg`. So nothing here waits.

use super::attribute::{Attributes, Writer};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use rustix::net::sockopt;
use std::convert::Infallible;
use std::io;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY` and its attributes: whom to ask what number a family has.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Room for the requests of one call, and for a refusal of each.
const BUFFER: usize = 4 << 20;

/// A request, or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) family: u16,
    pub(super) command: u8,
    pub(super) version: u8,
    pub(super) attributes: Vec<u8>,
}

/// `struct genlmsghdr`.
const HEADER: usize = 4;

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..HEADER].copy_from_slice(&[self.command, self.version, 0, 0]);
        buffer[HEADER..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        let (start, attributes) = payload.split_at(HEADER.min(payload.len()));
        let [command, version] = start.first_chunk().copied().unwrap_or_default();
        Ok(Self { family: header.message_type, command, version, attributes: attributes.to_vec() })
    }
}

/// A family's socket.
#[derive(Debug)]
pub(super) struct Family {
    socket: Socket,
    id: u16,
    version: u8,
    sequence: u32,
}

impl Family {
    /// Asks the kernel for a family; it loads the module that has it, if it can.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub(super) fn open(name: &str, version: u8) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Answers without a copy of the question, so that the receive queue never overflows.
        socket.set_cap_ack(true)?;
        // Past the machine's limit, where we may.
        if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
        }
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
        }
        let mut family = Self { socket, id: CONTROL, version: 1, sequence: 0 };
        let mut writer = Writer::default();
        writer.text(FAMILY_NAME, name);
        let answer = family.ask(GET_FAMILY, writer)?;
        family.id = Attributes::parse(&answer.attributes)?.u16(FAMILY_ID)?;
        family.version = version;
        Ok(family)
    }

    /// Does all of `requests`, each a command and its attributes, in their order, and returns the places of those that the
    /// kernel refused, and why.
    ///
    /// # Errors
    /// The kernel was not reached; what of the requests it has done is then unknown.
    pub(super) fn all(&mut self, requests: Vec<(u8, Writer)>) -> io::Result<Vec<(usize, io::Error)>> {
        let count = requests.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (place, (command, attributes)) in requests.into_iter().enumerate() {
            let ack = if place + 1 == count { NLM_F_ACK } else { 0 };
            self.put(&mut bytes, command, attributes, ack);
        }
        self.socket.send(&bytes, 0)?;
        let (mut refused, mut ended) = (Vec::new(), false);
        for answer in self.answers()? {
            let place = usize::try_from(answer.header.sequence_number.wrapping_sub(first)).unwrap_or(usize::MAX);
            let NetlinkPayload::Error(error) = answer.payload else { continue };
            ended |= place + 1 == count;
            if let Some(code) = error.code {
                refused.push((place, io::Error::from_raw_os_error(-code.get())));
            }
        }
        if ended { Ok(refused) } else { Err(io::Error::other("the kernel did not answer the last of its requests")) }
    }

    /// The one answer to a question.
    ///
    /// # Errors
    /// The kernel refused it, or was not reached.
    pub(super) fn ask(&mut self, command: u8, attributes: Writer) -> io::Result<Message> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, command, attributes, 0);
        self.socket.send(&bytes, 0)?;
        let answers = self.objects()?;
        answers.into_iter().next().ok_or_else(|| io::Error::other("the kernel did not answer"))
    }

    /// All the objects that a question asks for.
    ///
    /// # Errors
    /// The kernel refused it, or was not reached.
    pub(super) fn dump(&mut self, command: u8, attributes: Writer) -> io::Result<Vec<Message>> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, command, attributes, NLM_F_DUMP);
        self.socket.send(&bytes, 0)?;
        self.objects()
    }

    fn objects(&mut self) -> io::Result<Vec<Message>> {
        let object = |answer: NetlinkMessage<Message>| match answer.payload {
            NetlinkPayload::InnerMessage(message) => Some(Ok(message)),
            NetlinkPayload::Error(error) => error.code.map(|code| Err(io::Error::from_raw_os_error(-code.get()))),
            NetlinkPayload::Overrun(_) => Some(Err(io::Error::other("the kernel lost an answer"))),
            NetlinkPayload::Done(_) | NetlinkPayload::Noop | _ => None,
        };
        self.answers()?.into_iter().filter_map(object).collect()
    }

    fn put(&mut self, bytes: &mut Vec<u8>, command: u8, attributes: Writer, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let message = Message { family: self.id, command, version: self.version, attributes: attributes.finish() };
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }

    /// Everything that lies in the receive queue.
    fn answers(&mut self) -> io::Result<Vec<NetlinkMessage<Message>>> {
        let mut answers = Vec::new();
        loop {
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) => return Err(error),
            };
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(answer.header.length).unwrap_or(rest.len()).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                answers.push(answer);
            }
        }
    }
}
