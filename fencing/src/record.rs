//! The may-act record: what a killed holder's successor on the same machine may go on acting for.
//!
//! It lies on a file system that does not outlive the kernel (`/run`) and is replaced by rename. A pair is written before
//! its claim and removed before its Release is sent; the whole record is removed before `Open` and `Close` (H1).

use hamesh_raft::codec;
use hamesh_raft::command::{GateId, GroupName, Sid, Token};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest record that is read.
const LIMIT: usize = 1 << 20;

/// What a holder may act for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MayAct {
    /// The session.
    pub sid: Sid,
    /// Its L.
    pub ttl: Duration,
    /// Its Lg.
    pub promise: Duration,
    /// The gate it acts behind; only in the same network namespace is it the same gate.
    pub gate: GateId,
    /// The grants it may act for.
    pub pairs: BTreeSet<(GroupName, Token)>,
}

/// Where the record lies.
#[derive(Clone, Debug, Hash)]
pub struct RecordFile {
    path: PathBuf,
}

impl RecordFile {
    /// The record in `directory`.
    pub fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join("may-act") }
    }

    /// The record, if there is a whole one. A damaged one counts as none: the session then ends by its promises.
    pub fn read(&self) -> io::Result<Option<MayAct>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(codec::decode(&bytes, LIMIT).ok()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the record; `None` removes it.
    pub fn write(&self, record: Option<&MayAct>) -> io::Result<()> {
        let Some(record) = record else {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                Ok(()) | Err(_) => Ok(()),
            };
        };
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, codec::encode(record))?;
        fs::rename(&fresh, &self.path)
    }
}
