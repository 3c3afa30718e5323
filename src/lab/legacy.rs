//! A keepalived on a host of the laboratory.

use super::frame::Mac;
use super::host::{Host, Process};
use super::{ADVERT_SECONDS, LAN_NIC, PREFIX, PREFIX6, VIP, VIP6, VRID};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The installed keepalived, if any.
#[must_use]
pub fn keepalived() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // sbin is not on every user's PATH.
    let usual = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join("keepalived")).find(|file| file.is_file())
}

/// How a keepalived speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// VRRPv3 over IPv4.
    V3,
    /// VRRPv3 over IPv6.
    V3Ipv6,
    /// VRRPv3 over IPv4, with the virtual MAC.
    V3Mac,
    /// VRRPv3 over IPv6, with the virtual MAC.
    V3Ipv6Mac,
    /// VRRPv2 without authentication.
    V2,
    /// VRRPv2 with a password in clear.
    V2Pass,
}

impl Dialect {
    /// The password of [`Dialect::V2Pass`].
    pub const PASSWORD: &'static str = "k4l1m3ra";

    /// 2 or 3.
    #[must_use]
    pub fn version(self) -> u8 {
        match self {
            Self::V3 | Self::V3Ipv6 | Self::V3Mac | Self::V3Ipv6Mac => 3,
            Self::V2 | Self::V2Pass => 2,
        }
    }

    /// The VIP that it advertises, and its prefix length.
    #[must_use]
    pub fn vip(self) -> (IpAddr, u8) {
        match self {
            Self::V3 | Self::V3Mac | Self::V2 | Self::V2Pass => (IpAddr::V4(VIP), PREFIX),
            Self::V3Ipv6 | Self::V3Ipv6Mac => (IpAddr::V6(VIP6), PREFIX6),
        }
    }

    /// The MAC of the virtual router, where it has one of its own (RFC 9568 section 7.3).
    #[must_use]
    pub fn virtual_mac(self) -> Option<Mac> {
        match self {
            Self::V3 | Self::V3Ipv6 | Self::V2 | Self::V2Pass => None,
            Self::V3Mac => Some([0, 0, 0x5e, 0, 1, VRID]),
            Self::V3Ipv6Mac => Some([0, 0, 0x5e, 0, 2, VRID]),
        }
    }
}

/// Starts keepalived as a candidate for the laboratory's VIP.
///
/// # Errors
/// Its file cannot be written, or it cannot be started.
pub fn start(host: &Host, program: &Path, dialect: Dialect, priority: u8) -> Result<Process> {
    start_every(host, program, dialect, priority, &ADVERT_SECONDS.to_string())
}

/// As [`start`], with another interval between two adverts, in seconds as its file has them.
///
/// # Errors
/// As [`start`].
pub fn start_every(host: &Host, program: &Path, dialect: Dialect, priority: u8, interval: &str) -> Result<Process> {
    let authentication = match dialect {
        Dialect::V2Pass => {
            format!("    authentication {{\n        auth_type PASS\n        auth_pass {}\n    }}\n", Dialect::PASSWORD)
        }
        Dialect::V2 | Dialect::V3 | Dialect::V3Ipv6 | Dialect::V3Mac | Dialect::V3Ipv6Mac => String::new(),
    };
    let virtual_mac = dialect.virtual_mac().map_or("", |_| "    use_vmac\n");
    let (version, (vip, prefix)) = (dialect.version(), dialect.vip());
    let configuration = format!(
        "global_defs {{
    router_id {name}
    vrrp_version {version}
}}
vrrp_instance web {{
    state BACKUP
    interface {LAN_NIC}
    virtual_router_id {VRID}
    priority {priority}
    advert_int {interval}
{virtual_mac}{authentication}    virtual_ipaddress {{
        {vip}/{prefix}
    }}
}}
",
        name = host.name(),
    );
    let file = host.dir().join("keepalived.conf");
    fs::write(&file, configuration).with_context(|| file.display().to_string())?;
    let run = |name: &str| host.dir().join("run").join(name).into_os_string();
    let args: [OsString; 11] = [
        "-n".into(),
        "-l".into(),
        "-P".into(),
        "-f".into(),
        file.into_os_string(),
        "-p".into(),
        run("keepalived.pid"),
        "-r".into(),
        run("vrrp.pid"),
        "-c".into(),
        run("checkers.pid"),
    ];
    host.start("keepalived", program, &args, &[])
}
