//! What of the kernel is changed and watched by netlink and sysctl: addresses, links, routes, settings, IPVS; and the lane's
//! priority.

pub mod address;
pub mod ipvs;
pub mod link;
pub mod realtime;
pub mod route;
pub mod routing;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod tests;
pub mod watchdog;

use futures_util::StreamExt;
use netlink_packet_core::{ErrorMessage, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
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

/// Has the kernel do what `message` says, which is `what` in an error.
async fn request(handle: &Handle, message: RouteNetlinkMessage, flags: u16, what: String) -> Result<(), KernelError> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle.clone().request(request).map_err(|error| KernelError::new(&what, answer(error)))?;
    while let Some(message) = answers.next().await {
        if let NetlinkPayload::Error(error) = message.payload
            && let Some(code) = error.code
        {
            return Err(KernelError::new(&what, io::Error::from_raw_os_error(-code.get())));
        }
    }
    Ok(())
}

/// The kernel's answer in rtnetlink's error, as far as it is one.
fn answer(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) = error {
        io::Error::from_raw_os_error(-code.get())
    } else {
        io::Error::other(error)
    }
}
