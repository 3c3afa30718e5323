//! `global_defs`: what instances, scripts and services take their defaults from.

use super::routing::Priorities;
use super::syntax::Statement;
use super::{argument, block, check_leaf, checksum, flag, ipvs, notify, timing, track, unicast, unknown, version};
use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::vrrp::Version;
use crate::vrrp::checksum::Form;
use hamesh_raft::command::Family;
use nix::unistd::User;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What it says, and the defaults.
pub(super) struct Globals {
    pub version: Version,
    pub checksum: Form,
    pub script_user: Option<String>,
    /// Of static addresses without one.
    pub default_interface: String,
    /// Of the names of devices with virtual MACs.
    pub vmac_prefix: Option<String>,
    pub notify: notify::Globals,
    pub timing: timing::Given,
    pub check_source: bool,
    pub strict: bool,
    /// With priority 255 an instance obeys nobody.
    pub owner_ignores: bool,
    /// Of those that speak by multicast, by family.
    pub multicast: BTreeMap<Family, Located<IpAddr>>,
    pub ipvs: ipvs::Globals,
    pub priorities: Priorities,
}

impl Default for Globals {
    fn default() -> Self {
        let (timing, notify, ipvs) = (timing::Given::default(), notify::Globals::default(), ipvs::Globals::default());
        Self {
            version: Version::V2,
            checksum: Form::Pseudo,
            // keepalived's, where there is one.
            script_user: Some("keepalived_script".to_owned())
                .filter(|name| matches!(User::from_name(name), Ok(Some(_)))),
            priorities: Priorities::default(),
            default_interface: "eth0".to_owned(),
            vmac_prefix: None,
            notify,
            timing,
            check_source: false,
            strict: false,
            owner_ignores: false,
            multicast: BTreeMap::new(),
            ipvs,
        }
    }
}

impl Globals {
    pub fn read(&mut self, statement: &Statement, log: &Log) {
        const KNOWN: [&str; 13] = [
            "vrrp_strict",
            "vrrp_owner_ignore_adverts",
            "vrrp_mcast_group4",
            "vrrp_mcast_group6",
            "vmac_prefix",
            "default_interface",
            "dynamic_interfaces",
            "vrrp_check_unicast_src",
            "vrrp_version",
            "v3_checksum_as_v2",
            "vrrp_skip_check_adv_addr",
            "enable_script_security",
            "script_user",
        ];
        for line in block(statement, log) {
            match line.keyword.text.as_str() {
                "vrrp_version" => self.version = version(line, log).unwrap_or(self.version),
                "v3_checksum_as_v2" => self.checksum = checksum(line, log),
                "default_interface" => {
                    self.default_interface = argument(line, log).map_or_else(String::new, |name| name.value);
                }
                "vmac_prefix" => self.vmac_prefix = argument(line, log).map(|name| name.value),
                "script_user" => self.script_user = track::read_user(line, log),
                // What we do anyway: a list other than ours is never dropped, what others can change is never run as
                // root, and an interface that is not there is waited for.
                "vrrp_skip_check_adv_addr" | "enable_script_security" | "dynamic_interfaces" => {}
                "vrrp_mcast_group4" => self.read_multicast(line, Family::V4, log),
                "vrrp_mcast_group6" => self.read_multicast(line, Family::V6, log),
                "vrrp_strict" => self.strict = flag(line, log),
                "vrrp_owner_ignore_adverts" => self.owner_ignores = flag(line, log),
                "vrrp_check_unicast_src" => self.check_source = flag(line, log),
                keyword if ipvs::KNOWN.contains(&keyword) => self.ipvs.read(line, log),
                keyword if timing::GLOBAL.contains(&keyword) => self.timing.read(line, log),
                keyword if notify::GLOBAL.contains(&keyword) => {
                    self.notify.read(line, self.script_user.as_deref(), log);
                }
                _ => {
                    let known = [&KNOWN[..], &timing::GLOBAL, &ipvs::KNOWN, &notify::GLOBAL].concat();
                    unknown(&line.keyword, &known, log);
                }
            }
            check_leaf(line, &KNOWN, log);
            check_leaf(line, &timing::GLOBAL, log);
        }
    }

    fn read_multicast(&mut self, line: &Statement, family: Family, log: &Log) {
        let Some(group) = unicast::address(line, log) else { return };
        if Family::of(group.value) != family {
            let message = format!("`{}` is of the other family", group.value);
            log.add(Diagnostic::error(&group.place, message));
        }
        self.multicast.insert(family, group);
    }
}
