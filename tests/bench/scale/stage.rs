//! Two directors on four cables, and the files of both programs.

use super::wire::{Heard, Owners};
use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use hamesh::lab::cluster::Cluster;
use hamesh::lab::host::{Host, Process, link_index};
use hamesh::lab::legacy;
use hamesh::lab::scene::Scene;
use rtnetlink::{LinkUnspec, LinkVeth};
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// A VRID has eight bits: more virtual routers need more LANs.
const PER_LAN: u16 = 250;
pub const LANS: u16 = 4;
/// The addresses of a virtual router.
pub const EACH: u8 = 4;
/// With which owners are watched.
pub const SLOWEST: Duration = Duration::from_secs(1);
const PRIORITIES: [u8; 2] = [150, 100];

#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub routers: u16,
    pub interval: Duration,
}

impl Size {
    pub fn addresses(self) -> usize {
        usize::from(self.routers) * usize::from(EACH)
    }

    /// LAN and VRID of each virtual router.
    fn all(self) -> impl Iterator<Item = (u16, u8)> {
        (0..self.routers).filter_map(|n| Some((n / PER_LAN, u8::try_from(n % PER_LAN + 1).ok()?)))
    }
}

pub fn lan(number: u16) -> String {
    format!("lan{number}")
}

fn address(lan: u16, third: u8, fourth: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 100 + u8::try_from(lan).unwrap_or_default(), third, fourth)
}

fn vips(lan: u16, vrid: u8) -> impl Iterator<Item = Ipv4Addr> {
    (1..=EACH).map(move |number| address(lan, number, vrid))
}

pub struct Stage {
    scene: Scene,
}

impl Stage {
    pub fn set(dir: &Path) -> Result<Self> {
        let stage = Self { scene: Scene::set(dir, 1)? };
        for number in 0..LANS {
            stage.cable(0, 1, number)?;
            // The third is no candidate for anything, but reads the same file. Its cable ends in a witness.
            stage.cable(2, 3, number)?;
        }
        Ok(stage)
    }

    fn cable(&self, one: usize, other: usize, number: u16) -> Result<()> {
        let (one, other) = (self.host(one), self.host(other));
        let target = other.netns().as_raw_fd();
        one.netns().netlink(|handle| async move {
            handle.link().add(LinkVeth::new(&lan(number), "far").build()).execute().await.context("a cable")?;
            let far = LinkUnspec::new_with_index(link_index(&handle, "far").await?);
            let moved = far.name(lan(number)).setns_by_fd(target).build();
            handle.link().change(moved).execute().await.context("its far end")
        })?;
        for (host, fourth) in [(one, 1), (other, 2)] {
            host.set_up(&lan(number), true)?;
            host.address(&lan(number), address(number, 0, fourth), 16)?;
        }
        Ok(())
    }

    fn host(&self, number: usize) -> &Host {
        self.scene.directors.get(number).map_or(&self.scene.witness, |director| &director.host)
    }

    /// How many addresses a director has of those that move.
    pub fn present(&self, number: usize) -> Result<usize> {
        let list = self.host(number).output(Path::new("/sbin/ip"), &["-4", "-o", "addr"], Duration::from_secs(10))?;
        let moves = |line: &&str| line.contains(" lan") && !line.contains(".0.1/") && !line.contains(".0.2/");
        Ok(list.lines().filter(moves).count())
    }

    /// A machine that died comes back without its addresses.
    pub fn clear(&self, number: usize) -> Result<()> {
        self.host(number).netns().netlink(|handle| async move {
            let all: Vec<_> = handle.address().get().execute().try_collect().await?;
            for message in all {
                if message.header.prefix_len == 32 {
                    handle.address().del(message).execute().await?;
                }
            }
            Ok(())
        })
    }

    pub fn cluster(&self, size: Size) -> Result<Cluster> {
        let mut toml = "[lease]\nprofile = \"default\"\n".to_owned();
        for (number, vrid) in size.all() {
            let addresses: Vec<String> = vips(number, vrid).map(|vip| format!("\"{vip}/32\"")).collect();
            write!(
                toml,
                "[vip.v{number}-{vrid}]\ninterface = \"{}\"\nvrid = {vrid}\nadvertisement_interval = \"{}ms\"\n\
                 addresses = [{}]\npriority = {{ lb1 = {}, lb2 = {} }}\n",
                lan(number),
                size.interval.as_millis(),
                addresses.join(", "),
                PRIORITIES[0],
                PRIORITIES[1]
            )?;
        }
        let hamesh = Path::new(env!("CARGO_BIN_EXE_hamesh"));
        Cluster::form(&self.scene, hamesh, &toml, |_| {})
    }

    pub fn keepalived(&self, number: usize, size: Size) -> Result<Process> {
        let program = legacy::keepalived().context("keepalived is not installed")?;
        let mut text = "global_defs {\n vrrp_version 3\n}\n".to_owned();
        for (on, vrid) in size.all() {
            let addresses: String = vips(on, vrid).map(|vip| format!("  {vip}/32\n")).collect();
            write!(
                text,
                "vrrp_instance v{on}-{vrid} {{\n state BACKUP\n interface {}\n virtual_router_id {vrid}\n priority {}\n \
                 advert_int {}\n virtual_ipaddress {{\n{addresses} }}\n}}\n",
                lan(on),
                PRIORITIES[number],
                size.interval.as_secs_f64()
            )?;
        }
        let host = self.host(number);
        let file = host.dir().join("keepalived.conf");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let words = ["-n", "-l", "-P", "-p", "/run/k.pid", "-r", "/run/v.pid", "-f"].map(OsString::from);
        let args: Vec<OsString> = words.into_iter().chain([file.into_os_string()]).collect();
        host.start("keepalived", &program, &args, &[])
    }

    /// Hears both for a while.
    pub fn listen(&self, watch: Duration, size: Size) -> Result<Heard> {
        Heard::listen(self.host(0), self.host(1), watch, size.interval)
    }

    /// Sees who announces what from now on.
    pub fn watch_owners(&self) -> Result<Owners> {
        Owners::watch([self.host(0), self.host(1)])
    }
}
