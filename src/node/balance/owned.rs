//! What is ours in the kernel, on disk.
//!
//! Services outlive a killed process, and the kernel does not say whose they are. What the next start's configuration has no
//! more, a service, an address, a mark, that start knows from here only. It is written before anything is put in; it need not
//! outlive the kernel, and so is not synced.

use crate::ipvs::{Change, Scope};
use crate::kernel::KernelError;
use crate::kernel::ipvs::Ipvs;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The scope that is ours, and where it is remembered.
pub(super) struct Owned {
    file: PathBuf,
    scope: Scope,
}

impl Owned {
    /// What an earlier run has left in a data directory.
    pub(super) fn open(directory: &Path) -> Self {
        let file = directory.join("ipvs");
        let read = fs::read(&file).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
        let scope = read.unwrap_or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(%error, file = %file.display(), "services of an earlier run may stay in IPVS");
            }
            Scope::default()
        });
        Self { file, scope }
    }

    /// Whether anything is.
    pub(super) fn is_empty(&self) -> bool {
        self.scope == Scope::default()
    }

    /// Has `scope` be ours and nothing else: what was, and is not any more, is taken away. Until it is gone it is remembered.
    pub(super) fn own(&mut self, scope: &Scope, ipvs: &mut Ipvs) -> Result<(), KernelError> {
        let before = self.scope.clone();
        self.remember(before.with(scope));
        let present = ipvs.services()?.into_iter().map(|(key, ..)| key);
        let left = present.filter(|key| before.contains(key) && !scope.contains(key));
        let refused = ipvs.apply(&left.map(Change::RemoveService).collect::<Vec<_>>());
        if let Some(error) = refused.into_iter().next() {
            return Err(error);
        }
        self.remember(scope.clone());
        Ok(())
    }

    fn remember(&mut self, scope: Scope) {
        if scope == self.scope {
            return;
        }
        self.scope = scope;
        if let Err(error) = self.write() {
            tracing::error!(%error, file = %self.file.display(), "a start after a kill may leave services in IPVS");
        }
    }

    fn write(&self) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&self.scope)?)?;
        fs::rename(&fresh, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamesh_raft::command::Family;
    use std::net::IpAddr;
    use std::num::NonZeroU32;

    #[test]
    fn what_was_ours_is_known_to_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut owned = Owned::open(dir.path());
        assert!(owned.is_empty());
        let addresses = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()).into();
        let scope = Scope { addresses, marks: [(NonZeroU32::MIN, Family::V6)].into() };
        owned.remember(scope.clone());
        let mut owned = Owned::open(dir.path());
        assert_eq!(owned.scope, scope);
        owned.remember(Scope::default());
        assert!(Owned::open(dir.path()).is_empty());
        fs::write(dir.path().join("ipvs"), "{").unwrap();
        assert!(Owned::open(dir.path()).is_empty(), "a damaged one keeps nobody from starting");
    }
}
