//! One director per network namespace: a lock with exactly the gate's scope.
//!
//! A pid file has the scope of a file system, and a file that was removed and made again is two locks. An abstract
//! socket belongs to the network namespace, as the gate does, and ends with the process, however it ends.

use super::GateError;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const NAME: &[u8] = b"hamesh/director";

/// Held for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "the bound socket is the lock")] UnixDatagram);

impl Lock {
    pub(super) fn take() -> Result<Self, GateError> {
        let failed = |source| GateError::Io { what: "take the lock of this network namespace", source };
        let name = SocketAddr::from_abstract_name(NAME).map_err(failed)?;
        UnixDatagram::bind_addr(&name).map(Self).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => GateError::Locked,
            _ => failed(error),
        })
    }
}
