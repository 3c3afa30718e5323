//! `global_defs`: what instances, scripts and services take their defaults from.

use super::syntax::Statement;
use super::{argument, block, check_leaf, checksum, flag, lvs, notify, timing, track, unknown, version};
use crate::config::Ipvs;
use crate::config::diagnostic::Log;
use crate::vrrp::Version;
use crate::vrrp::checksum::Form;

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
    pub ipvs: Ipvs,
}

impl Default for Globals {
    fn default() -> Self {
        let (timing, notify, ipvs) = (timing::Given::default(), notify::Globals::default(), Ipvs::default());
        Self {
            version: Version::V2,
            checksum: Form::Pseudo,
            script_user: None,
            default_interface: "eth0".to_owned(),
            vmac_prefix: None,
            notify,
            timing,
            check_source: false,
            ipvs,
        }
    }
}

impl Globals {
    pub fn read(&mut self, statement: &Statement, log: &Log) {
        const KNOWN: [&str; 9] = [
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
                "vrrp_check_unicast_src" => self.check_source = flag(line, log),
                keyword if lvs::GLOBAL.contains(&keyword) => lvs::global(line, &mut self.ipvs, log),
                keyword if timing::GLOBAL.contains(&keyword) => self.timing.read(line, log),
                keyword if notify::GLOBAL.contains(&keyword) => {
                    self.notify.read(line, self.script_user.as_deref(), log);
                }
                _ => {
                    let known = [&KNOWN[..], &timing::GLOBAL, &lvs::GLOBAL, &notify::GLOBAL].concat();
                    unknown(&line.keyword, &known, log);
                }
            }
            check_leaf(line, &KNOWN, log);
            check_leaf(line, &timing::GLOBAL, log);
        }
    }
}
