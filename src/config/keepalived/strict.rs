//! `vrrp_strict` and `strict_mode`: what keepalived bends, and refuses, so that an instance does what the RFC says and no more.

use super::instance::Instance;
use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::config::group::OWNER;
use crate::vrrp::Version;
use std::net::IpAddr;

impl Instance {
    /// Returns the version that it speaks then.
    pub(super) fn be_strict(
        &mut self,
        name: &Located<String>,
        mut version: Version,
        six: bool,
        priority: u8,
        log: &Log,
    ) -> Version {
        let bent = |message: &str| {
            log.add(Diagnostic::warning(
                &name.place,
                format!("`{}` is strict: {message}, as in keepalived", name.value),
            ));
        };
        if six && version == Version::V2 {
            bent("over IPv6 it speaks version 3");
            version = Version::V3;
        }
        if self.stated && self.master != (priority == OWNER) {
            bent("its `state` is that of its priority");
        }
        self.master = priority == OWNER;
        if self.auth.take().is_some() {
            bent("its `authentication` is ignored");
        }
        if let Some(Located { value: hmac, place }) = &mut self.hmac {
            hmac.enforce(place, log);
        }
        if self.unicast.is_unicast() {
            let error = Diagnostic::error(&name.place, format!("`{}` is strict, and has peers by unicast", name.value));
            log.add(error.help("keepalived does not start such an instance: take one of the two out"));
        }
        let first = self.addresses.first().map(|first| first.value.0);
        if matches!(first, Some(IpAddr::V6(first)) if !first.is_unicast_link_local()) {
            bent("its first address should be link-local");
        }
        if std::mem::take(&mut self.bare) && self.addresses.is_empty() {
            log.add(Diagnostic::error(
                &name.place,
                format!("`{}` is strict, and needs `virtual_ipaddress`", name.value),
            ));
        }
        if self.plain_adverts.take().is_some() {
            bent("its adverts come from the virtual MAC");
        }
        if self.accept == Some(true) && priority != OWNER && version == Version::V2 {
            bent("with version 2 what is sent to its addresses is dropped");
            self.accept = None;
        }
        self.timing.strict(log);
        version
    }
}
