//! What of the kernel is changed and watched by netlink and sysctl: addresses, links, routes, settings, IPVS; and the lane's
//! priority.

pub mod address;
pub mod ipvs;
pub mod link;
pub mod realtime;
pub mod route;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod tests;

use netlink_packet_core::ErrorMessage;
use std::{fmt, io};

/// What an error concerns, and what was tried: in the words of `ip`.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct KernelError {
    what: String,
    source: io::Error,
}

impl KernelError {
    fn new(what: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        Self { what: what.to_string(), source: source.into() }
    }

    /// The kernel's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// The kernel's answer in rtnetlink's error, as far as it is one.
fn answer(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) = error {
        io::Error::from_raw_os_error(-code.get())
    } else {
        io::Error::other(error)
    }
}
