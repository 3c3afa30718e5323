//! The one promise that the LAN's sockets owe tokio.
#![allow(unsafe_code, reason = "tokio 1.54 deprecates the safe constructor of AsyncFd")]

use socket2::Socket;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has tokio tell when the socket is readable. The socket must be non-blocking.
///
/// # Errors
/// Outside a tokio runtime, or the kernel's.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `socket2::Socket` owns its descriptor, gives the same one for all its life, and closes it only when it
    // is dropped, which `AsyncFd` does after it has deregistered it.
    Ok(unsafe { AsyncFd::register(socket)? })
}

/// Has tokio tell when a descriptor of another kind is readable.
///
/// # Errors
/// As above.
pub(crate) fn register_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is its descriptor, and closes it only when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? })
}
