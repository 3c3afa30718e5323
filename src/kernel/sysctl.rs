//! The one setting of the kernel without which VIPs take each other along.

use super::KernelError;
use std::fs;
use std::io;

/// Lets the other addresses of a network stay when its first one is removed: without it, removing one VIP removes every
/// VIP of the same network that was added later.
///
/// # Errors
/// Names the file under `/proc/sys` and what to do by hand.
pub fn promote_secondaries(interface: &str) -> Result<(), KernelError> {
    let name = format!("net/ipv4/conf/{interface}/promote_secondaries");
    let path = format!("/proc/sys/{name}");
    let failed =
        |source: io::Error| KernelError::new(format_args!("set {path} to 1 (as `sysctl -w {name}=1` does)"), source);
    // In a container /proc/sys may be read-only, and the setting right.
    if fs::read_to_string(&path).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    fs::write(&path, "1").map_err(failed)
}
