//! Netlink attributes: length, kind, value, padded to four bytes; numbers in the machine's byte order where not said otherwise.

use netlink_packet_core::{NLA_F_NESTED, NLA_HEADER_SIZE, NLA_TYPE_MASK};
use std::collections::BTreeMap;
use std::io;

/// Attributes to be sent.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        // Nothing that is put is longer than a few hundred bytes.
        let length = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    pub(super) fn u16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// In network byte order.
    pub(super) fn be16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// With a closing zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.put(kind, &[value.as_bytes(), &[0]].concat());
    }

    pub(super) fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.put(kind | NLA_F_NESTED, &inner.0);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Attributes that were received. One that is too short for what is asked of it is an error, as a missing one is.
#[derive(Debug)]
pub(super) struct Attributes<'a>(BTreeMap<u16, &'a [u8]>);

impl<'a> Attributes<'a> {
    pub(super) fn parse(mut bytes: &'a [u8]) -> io::Result<Self> {
        let mut attributes = BTreeMap::new();
        while let Some((header, rest)) = bytes.split_first_chunk::<NLA_HEADER_SIZE>() {
            let [l0, l1, k0, k1] = *header;
            let kind = u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK;
            let length = usize::from(u16::from_ne_bytes([l0, l1])).checked_sub(NLA_HEADER_SIZE);
            let value = length.and_then(|length| rest.get(..length)).ok_or_else(|| missing(kind))?;
            attributes.insert(kind, value);
            bytes = rest.get(value.len().next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self(attributes))
    }

    pub(super) fn get(&self, kind: u16) -> io::Result<&'a [u8]> {
        self.0.get(&kind).copied().ok_or_else(|| missing(kind))
    }

    pub(super) fn has(&self, kind: u16) -> bool {
        self.0.contains_key(&kind)
    }

    pub(super) fn array<const N: usize>(&self, kind: u16) -> io::Result<[u8; N]> {
        self.get(kind)?.first_chunk().copied().ok_or_else(|| missing(kind))
    }

    pub(super) fn u8(&self, kind: u16) -> io::Result<u8> {
        Ok(u8::from_ne_bytes(self.array(kind)?))
    }

    pub(super) fn u16(&self, kind: u16) -> io::Result<u16> {
        Ok(u16::from_ne_bytes(self.array(kind)?))
    }

    /// In network byte order.
    pub(super) fn be16(&self, kind: u16) -> io::Result<u16> {
        Ok(u16::from_be_bytes(self.array(kind)?))
    }

    pub(super) fn u32(&self, kind: u16) -> io::Result<u32> {
        Ok(u32::from_ne_bytes(self.array(kind)?))
    }

    pub(super) fn u64(&self, kind: u16) -> io::Result<u64> {
        Ok(u64::from_ne_bytes(self.array(kind)?))
    }

    /// Up to the closing zero.
    pub(super) fn text(&self, kind: u16) -> io::Result<String> {
        let bytes = self.get(kind)?.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn nested(&self, kind: u16) -> io::Result<Self> {
        Self::parse(self.get(kind)?)
    }
}

fn missing(kind: u16) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer has no whole attribute {kind}"))
}
