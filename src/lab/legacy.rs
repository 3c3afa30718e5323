//! A keepalived on a host of the laboratory.

use super::frame::Mac;
use super::host::{Host, Process};
use super::{ADVERT_SECONDS, LAN_NIC, PREFIX, PREFIX6, VIP, VIP6, VRID, scene};
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

/// How a keepalived speaks, over IPv4 by multicast unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// 2 or 3, of VRRP.
    pub version: u8,
    /// Over IPv6.
    pub ipv6: bool,
    /// With the virtual MAC.
    pub mac: bool,
    /// From router to router.
    pub unicast: bool,
    /// Version 2's.
    pub auth: Auth,
}

/// How adverts are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// With a password in clear.
    Pass,
    /// With an authentication header.
    Ah,
}

impl Dialect {
    /// VRRPv3.
    pub const V3: Self = Self { version: 3, ipv6: false, mac: false, unicast: false, auth: Auth::None };
    /// VRRPv2.
    pub const V2: Self = Self { version: 2, ..Self::V3 };

    /// The password, where there is one.
    pub const PASSWORD: &'static str = "k4l1m3ra";

    /// The VIP that it advertises, and its prefix length.
    #[must_use]
    pub fn vip(self) -> (IpAddr, u8) {
        if self.ipv6 { (IpAddr::V6(VIP6), PREFIX6) } else { (IpAddr::V4(VIP), PREFIX) }
    }

    /// The MAC of the virtual router, where it has one of its own (RFC 9568 section 7.3).
    #[must_use]
    pub fn virtual_mac(self) -> Option<Mac> {
        self.mac.then_some([0, 0, 0x5e, 0, if self.ipv6 { 2 } else { 1 }, VRID])
    }
}

/// Starts keepalived as a candidate for the laboratory's VIP, which speaks from `source` if there is one.
///
/// # Errors
/// Its file cannot be written, or it cannot be started.
pub fn start(host: &Host, program: &Path, dialect: Dialect, priority: u8, source: Option<IpAddr>) -> Result<Process> {
    start_every(host, program, dialect, priority, source, &ADVERT_SECONDS.to_string())
}

/// As [`start`], with another interval between two adverts, in seconds as its file has them.
///
/// # Errors
/// As [`start`].
pub fn start_every(
    host: &Host,
    program: &Path,
    dialect: Dialect,
    priority: u8,
    source: Option<IpAddr>,
    interval: &str,
) -> Result<Process> {
    let mut lines = String::new();
    if dialect.unicast {
        let (own, directors) = scene::routers(dialect.ipv6);
        let peers: String = directors.iter().map(|peer| format!("        {peer}\n")).collect();
        lines += &format!("    unicast_src_ip {own}\n    unicast_peer {{\n{peers}    }}\n");
    } else if let Some(source) = source {
        lines += &format!("    mcast_src_ip {source}\n");
    }
    write(host, dialect, priority, interval, ("", &lines))?;
    run(host, program)
}

/// Writes a host's `keepalived.conf`; `more` stands before its instance, and in it.
///
/// # Errors
/// It cannot be written.
pub fn write(host: &Host, dialect: Dialect, priority: u8, interval: &str, more: (&str, &str)) -> Result<()> {
    let (version, (vip, prefix)) = (dialect.version, dialect.vip());
    let (before, mut lines) = (more.0, more.1.to_owned());
    let kind = match dialect.auth {
        Auth::None => None,
        Auth::Pass => Some("PASS"),
        Auth::Ah => Some("AH"),
    };
    if let Some(kind) = kind {
        lines += &format!(
            "    authentication {{\n        auth_type {kind}\n        auth_pass {}\n    }}\n",
            Dialect::PASSWORD
        );
    }
    if dialect.mac {
        lines += "    use_vmac\n";
    }
    let configuration = format!(
        "global_defs {{
    router_id {name}
    vrrp_version {version}
}}
{before}vrrp_instance web {{
    state BACKUP
    interface {LAN_NIC}
    virtual_router_id {VRID}
    priority {priority}
    advert_int {interval}
{lines}    virtual_ipaddress {{
        {vip}/{prefix}
    }}
}}
",
        name = host.name(),
    );
    let file = configuration_of(host);
    fs::write(&file, configuration).with_context(|| file.display().to_string())
}

/// Where that file is.
#[must_use]
pub fn configuration_of(host: &Host) -> PathBuf {
    host.dir().join("keepalived.conf")
}

/// Starts keepalived with it, for VRRP alone.
///
/// # Errors
/// It cannot be started.
pub fn run(host: &Host, program: &Path) -> Result<Process> {
    run_parts(host, program, &["-P"])
}

/// Starts keepalived with it, for VRRP and for what it balances.
///
/// # Errors
/// It cannot be started.
pub fn run_whole(host: &Host, program: &Path) -> Result<Process> {
    run_parts(host, program, &[])
}

fn run_parts(host: &Host, program: &Path, parts: &[&str]) -> Result<Process> {
    let run = |name: &str| host.dir().join("run").join(name).into_os_string();
    let args: [OsString; 10] = [
        "-n".into(),
        "-l".into(),
        "-f".into(),
        configuration_of(host).into_os_string(),
        "-p".into(),
        run("keepalived.pid"),
        "-r".into(),
        run("vrrp.pid"),
        "-c".into(),
        run("checkers.pid"),
    ];
    let args: Vec<OsString> = args.into_iter().chain(parts.iter().map(OsString::from)).collect();
    host.start("keepalived", program, &args, &[])
}
