//! The settings of the kernel that VIPs need.

use super::KernelError;
use std::fs;
use std::io;

/// Lets the other addresses of a network stay when its first one is removed: without it, removing one VIP removes every
/// VIP of the same network that was added later.
///
/// # Errors
/// Names the file under `/proc/sys` and what to do by hand.
pub fn promote_secondaries(interface: &str) -> Result<(), KernelError> {
    set(&format!("net/ipv4/conf/{interface}/promote_secondaries"), "1")
}

/// Lets an interface answer ARP for its own addresses only. Without it, the parent of a virtual MAC answers for the VIPs
/// too, with its own MAC.
///
/// # Errors
/// As [`promote_secondaries`].
pub fn answer_for_own_addresses(interface: &str) -> Result<(), KernelError> {
    set(&format!("net/ipv4/conf/{interface}/arp_ignore"), "1")
}

/// Lets an interface ask by ARP in the name of its own addresses only. A host that answers clients from a VIP that is on
/// no interface would ask in the VIP's name, which the gate does not let out.
///
/// # Errors
/// As [`promote_secondaries`].
pub fn ask_for_own_addresses(interface: &str) -> Result<(), KernelError> {
    set(&format!("net/ipv4/conf/{interface}/arp_announce"), "2")
}

/// Prepares the device of a virtual MAC: it gives itself no IPv6 address, takes what comes from a network that is behind its
/// parent, and answers for its own addresses only.
///
/// # Errors
/// As [`promote_secondaries`].
pub fn silence(interface: &str) -> Result<(), KernelError> {
    // Loose: the greater of this and `all` counts, so 0 would not do where `all` is strict.
    set(&format!("net/ipv4/conf/{interface}/rp_filter"), "2")?;
    answer_for_own_addresses(interface)?;
    promote_secondaries(interface)?;
    // A kernel without IPv6 gives itself none.
    if fs::exists(format!("/proc/sys/net/ipv6/conf/{interface}")).unwrap_or(false) {
        set(&format!("net/ipv6/conf/{interface}/addr_gen_mode"), "1")?;
        set(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
    }
    Ok(())
}

/// In a container /proc/sys may be read-only, and the setting right.
fn set(name: &str, value: &str) -> Result<(), KernelError> {
    let path = format!("/proc/sys/{name}");
    let failed = |source: io::Error| {
        KernelError::new(format_args!("set {path} to {value} (as `sysctl -w {name}={value}` does)"), source)
    };
    if fs::read_to_string(&path).map_err(failed)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)
}
