//! FRR's vrrpd on a host of the laboratory.
//!
//! It makes no device of its own: the VIP is on a macvlan with the virtual MAC, made by hand, which FRR takes the carrier from
//! while it is BACKUP.

use super::host::{Host, Process};
use super::legacy::Dialect;
use super::{ADVERT_SECONDS, LAN_NIC, VRID};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::User;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where Debian has its daemons.
const PROGRAMS: &str = "/usr/lib/frr";
/// Whom they run as.
const USER: &str = "frr";
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether it is installed.
#[must_use]
pub fn is_installed() -> bool {
    Path::new(PROGRAMS).join("vrrpd").is_file()
}

/// vrrpd, and zebra, which speaks with the kernel for it.
#[derive(Debug)]
pub struct Frr {
    vrrpd: Process,
    #[expect(dead_code, reason = "held for its drop, after vrrpd's")]
    zebra: Process,
}

impl Frr {
    /// Starts it as a candidate for the laboratory's VIP, without authentication and by multicast: it knows nothing else.
    ///
    /// # Errors
    /// It is not installed, or cannot be started; the kernel has no macvlan that can lose its carrier.
    pub fn start(host: &Host, dialect: Dialect, priority: u8) -> Result<Self> {
        device(host, dialect)?;
        let user = User::from_name(USER)?.with_context(|| format!("there is no user {USER}"))?;
        let run = host.dir().join("run/frr");
        fs::create_dir_all(&run)?;
        let family = if dialect.ipv6 { "ipv6" } else { "ip" };
        let configuration = format!(
            "interface {LAN_NIC}
 vrrp {VRID} version {}
 vrrp {VRID} priority {priority}
 vrrp {VRID} advertisement-interval {}
 vrrp {VRID} {family} {}
",
            dialect.version,
            u32::from(ADVERT_SECONDS) * 1000,
            dialect.vip().0
        );
        for (name, text) in [("vrrpd.conf", configuration.as_str()), ("zebra.conf", "")] {
            fs::write(run.join(name), text)?;
            chown(run.join(name), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        chown(&run, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        let start = |name: &str| {
            let args = ["-f", "-i", "-z", "--vty_socket", "--log"];
            let values =
                [format!("/run/frr/{name}.conf"), format!("/run/frr/{name}.pid"), "/run/frr/zserv.api".to_owned()];
            let values = values.into_iter().chain(["/run/frr".to_owned(), "stdout".to_owned()]);
            let args: Vec<OsString> =
                args.iter().zip(values).flat_map(|(arg, value)| [arg.into(), value.into()]).collect();
            host.start(name, &Path::new(PROGRAMS).join(name), &args, &[])
        };
        let zebra = start("zebra")?;
        let (door, begun) = (run.join("zserv.api"), Instant::now());
        while !door.exists() {
            ensure!(begun.elapsed() < PATIENCE, "zebra does not open {}", door.display());
            sleep(Duration::from_millis(20));
        }
        Ok(Self { vrrpd: start("vrrpd")?, zebra })
    }

    /// SIGTERM, and its end awaited: it gives the VIP up.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<()> {
        self.vrrpd.signal(Signal::SIGTERM)?;
        self.vrrpd.wait(PATIENCE)?.context("vrrpd does not end")?;
        Ok(())
    }
}

/// The macvlan with the VIP, without carrier until FRR wants it.
fn device(host: &Host, dialect: Dialect) -> Result<()> {
    let ip = |words: &[&str]| host.output(&PathBuf::from("/sbin/ip"), words, PATIENCE);
    let (name, family) = if dialect.ipv6 { ("vrrp6", 2) } else { ("vrrp4", 1) };
    if ip(&["link", "show", name]).is_ok() {
        return Ok(());
    }
    host.netns().run(|| {
        // Linux answers for any address by any interface that is not told otherwise.
        fs::write(format!("/proc/sys/net/ipv4/conf/{LAN_NIC}/arp_ignore"), "1").context("arp_ignore")
    })?;
    let mac = format!("00:00:5e:00:{family:02x}:{VRID:02x}");
    ip(&["link", "add", name, "link", LAN_NIC, "address", &mac, "type", "macvlan", "mode", "bridge"])?;
    ip(&["link", "set", name, "protodown", "on"])?;
    let (vip, prefix) = dialect.vip();
    let address = format!("{vip}/{prefix}");
    let nodad: &[&str] = if dialect.ipv6 { &["nodad"] } else { &[] };
    ip(&[&["address", "add", &address, "dev", name], nodad].concat())?;
    ip(&["link", "set", name, "up"])?;
    Ok(())
}
