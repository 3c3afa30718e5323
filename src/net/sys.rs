#![allow(unsafe_code, reason = "a link-layer address and tokio's registration have no safe wrappers")]
//! The two unsafe steps of raw sockets.

use socket2::{SockAddr, Socket};
use std::io;
use std::mem::size_of;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The address of a whole interface for packet sockets of one Ethernet protocol.
///
/// # Errors
/// The index or the protocol do not fit.
pub(super) fn link_address(ifindex: u32, protocol: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: the storage is larger than and aligned for sockaddr_ll, is zeroed, and `len` is set to what was written.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let link = &mut *storage.cast::<libc::sockaddr_ll>();
            link.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
            link.sll_protocol = protocol.to_be();
            link.sll_ifindex = index;
            *len = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Registers a nonblocking socket with the current runtime.
///
/// # Errors
/// There is no room for it.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor for its whole life and never exchanges it.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// Registers a descriptor of another kind with the current runtime.
///
/// # Errors
/// There is no room for it.
pub(crate) fn register_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
