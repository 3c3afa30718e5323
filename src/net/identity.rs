//! Who this node is: what `init` and `join` leave in `data_dir`, and `run` starts from.
//!
//! ```text
//! node.key      the node's private key, 0600; kept between attempts to join, so that a repeated join is the same node
//! node.pem      its certificate        ca.pem   the CA's
//! ca.key        the CA's private key, 0600, on voters only
//! members.toml  the members as the join answer listed them: where to begin until the replicated state is here
//! node.toml     id, name, cluster, lineage. Written last: while it is missing, the node is a member of nothing
//! ```
//! A file is written beside, flushed, renamed, and its directory flushed: it is there whole or not at all.

use super::authority::{
    Authority, AuthorityError, Key, KeyHash, certificate_from_pem, certificate_to_pem, key_hash, node_of, random,
};
use super::hello::Peer;
use hamesh_raft::command::{ClusterId, Lineage, NodeId, Role, WallTime};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// What `node.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Given by the cluster.
    pub id: NodeId,
    /// As in `[node] name`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The cluster's random id.
    pub cluster: ClusterId,
    /// The cluster's name for people.
    pub cluster_name: String,
    /// The line of history that this node's disk is on.
    pub lineage: Lineage,
}

/// A member's identity, complete and checked.
#[derive(Debug)]
pub struct Identity {
    /// Id, name, cluster, lineage.
    pub record: NodeRecord,
    /// The node's private key.
    pub key: Key,
    /// The node's certificate.
    pub certificate: Shown,
    /// The CA's certificate.
    pub ca: CertificateDer<'static>,
    /// The CA's key, on voters.
    pub authority: Option<Arc<Authority>>,
}

/// The certificate that is shown in every handshake from now on. It is renewed while connections go on.
#[derive(Debug)]
pub struct Shown(RwLock<CertificateDer<'static>>);

impl From<CertificateDer<'static>> for Shown {
    fn from(certificate: CertificateDer<'static>) -> Self {
        Self(RwLock::new(certificate))
    }
}

impl Shown {
    /// The certificate of now.
    pub fn get(&self) -> CertificateDer<'static> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, certificate: CertificateDer<'static>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }
}

/// Why there is no identity to use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither `init` nor `join` has finished here.
    #[error("{} has no node.toml, this node is a member of no cluster: run `hamesh init` for a new cluster, or `hamesh join` with a join string from `hamesh token` on a member", .0.display())]
    NotAMember(PathBuf),
    /// `init` or `join` on a node that is a member already.
    #[error("{} belongs to node {node} of the cluster {cluster} already: to make this node another one, move that directory away", .path.display())]
    AlreadyAMember {
        /// The data directory.
        path: PathBuf,
        /// Its node.
        node: NodeId,
        /// Its cluster's name.
        cluster: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read a private key.
    #[error("{} can be read by others (mode {mode:04o}): `chmod 600` it, and if others may have read it, give this node a new identity", .path.display())]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}: restore the file from a backup, or move the directory away and join anew", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Keys or certificates could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl Identity {
    /// Makes a new cluster with this node as its first, and writes it all: `hamesh init`. The node gets id 1.
    ///
    /// # Errors
    /// The directory holds an identity already, or cannot be written.
    pub fn found(
        data_dir: &Path,
        name: &str,
        cluster_name: &str,
        role: Role,
        now: WallTime,
    ) -> Result<Self, IdentityError> {
        refuse_member(data_dir)?;
        let cluster = ClusterId(u128::from_be_bytes(random()?));
        let lineage = Lineage { counter: 1, id: u64::from_be_bytes(random()?) };
        let id = NodeId(1);
        let record = NodeRecord { id, name: name.into(), role, cluster, cluster_name: cluster_name.into(), lineage };
        let authority = Authority::create(cluster, now)?;
        let key = pending_key(data_dir)?;
        let certificate = authority.sign_own(&key, id, now)?;
        write_file(&data_dir.join("ca.key"), authority.key_pem().as_bytes(), 0o600)?;
        install(data_dir, &record, &certificate, authority.certificate(), &BTreeMap::new())?;
        let ca = authority.certificate().clone();
        Ok(Self { record, key, certificate: certificate.into(), ca, authority: Some(Arc::new(authority)) })
    }

    /// Reads the identity that `init` or `join` left.
    ///
    /// # Errors
    /// Not a member yet, or a file that is missing, exposed, damaged or of another node.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let record = read_record(data_dir)?.ok_or_else(|| IdentityError::NotAMember(data_dir.into()))?;
        let key = read_key(data_dir)?;
        let (pem_path, ca_path) = (data_dir.join("node.pem"), data_dir.join("ca.pem"));
        let certificate = certificate_from_pem(&read(&pem_path)?).map_err(damaged(&pem_path))?;
        let ca = certificate_from_pem(&read(&ca_path)?).map_err(damaged(&ca_path))?;
        check_own(&certificate, &record, &key, &pem_path)?;
        let ca_key = data_dir.join("ca.key");
        let authority = match secret(&ca_key) {
            Ok(pem) => Some(Arc::new(Authority::restore(record.cluster, ca.clone(), &pem).map_err(damaged(&ca_key))?)),
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { record, key, certificate: certificate.into(), ca, authority })
    }

    /// Takes up a new certificate of this node, for every handshake from now on and for the next start.
    ///
    /// # Errors
    /// It is another node's or for another key, or cannot be written.
    pub fn renew(&self, data_dir: &Path, certificate: CertificateDer<'static>) -> Result<(), IdentityError> {
        let path = data_dir.join("node.pem");
        check_own(&certificate, &self.record, &self.key, &path)?;
        write_file(&path, certificate_to_pem(&certificate).as_bytes(), 0o644)?;
        self.certificate.set(certificate);
        Ok(())
    }

    /// The CA's pin: what a join string carries.
    ///
    /// # Errors
    /// The CA's certificate is none.
    pub fn pin(&self) -> Result<KeyHash, AuthorityError> {
        key_hash(&self.ca)
    }
}

fn check_own(
    certificate: &CertificateDer<'_>,
    record: &NodeRecord,
    key: &Key,
    path: &Path,
) -> Result<(), IdentityError> {
    let named = node_of(certificate, record.cluster).map_err(damaged(path))?;
    if named == record.id && key_hash(certificate)? == key.hash() {
        return Ok(());
    }
    let what = format!("not the certificate of {} with the key in node.key", record.id);
    Err(IdentityError::Damaged { path: path.to_owned(), what })
}

/// Writes everything a new member needs, `node.toml` last.
///
/// # Errors
/// The directory cannot be written.
pub fn install(
    data_dir: &Path,
    record: &NodeRecord,
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    members: &BTreeMap<NodeId, Peer>,
) -> Result<(), IdentityError> {
    write_file(&data_dir.join("ca.pem"), certificate_to_pem(ca).as_bytes(), 0o644)?;
    write_file(&data_dir.join("node.pem"), certificate_to_pem(certificate).as_bytes(), 0o644)?;
    let list = MembersFile { member: members.iter().map(|(id, peer)| MemberEntry::of(*id, peer)).collect() };
    write_toml(&data_dir.join("members.toml"), &list)?;
    write_record(data_dir, record)
}

/// Writes `node.toml`: at the end of a join, and when forced recovery changes the lineage.
///
/// # Errors
/// The directory cannot be written.
pub fn write_record(data_dir: &Path, record: &NodeRecord) -> Result<(), IdentityError> {
    write_toml(&data_dir.join("node.toml"), &RecordFile::of(record))
}

/// Writes the CA's key on a node that has become a voter, after checking that it belongs to this CA.
///
/// # Errors
/// Not the CA's key, or the directory cannot be written.
pub fn install_authority(data_dir: &Path, identity: &Identity, key_pem: &str) -> Result<Authority, IdentityError> {
    let authority = Authority::restore(identity.record.cluster, identity.ca.clone(), key_pem)?;
    write_file(&data_dir.join("ca.key"), key_pem.as_bytes(), 0o600)?;
    Ok(authority)
}

/// The members to begin with, as the join answer listed them. Empty on the founder.
///
/// # Errors
/// The file is missing or damaged.
pub fn first_members(data_dir: &Path) -> Result<BTreeMap<NodeId, Peer>, IdentityError> {
    let path = data_dir.join("members.toml");
    let file: MembersFile = toml::from_str(&read(&path)?).map_err(damaged(&path))?;
    file.member.iter().map(|entry| entry.parse().map_err(damaged(&path))).collect()
}

/// The key to join with: the one of an earlier attempt, else a new one.
///
/// # Errors
/// It cannot be read or written.
pub fn pending_key(data_dir: &Path) -> Result<Key, IdentityError> {
    match read_key(data_dir) {
        Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = Key::generate()?;
            fs::create_dir_all(data_dir).map_err(file("create", data_dir))?;
            write_file(&data_dir.join("node.key"), key.to_pem().as_bytes(), 0o600)?;
            Ok(key)
        }
        other => other,
    }
}

/// Refuses a directory that is a member's already.
///
/// # Errors
/// It is, or its record cannot be read.
pub fn refuse_member(data_dir: &Path) -> Result<(), IdentityError> {
    match read_record(data_dir)? {
        Some(record) => {
            Err(IdentityError::AlreadyAMember { path: data_dir.into(), node: record.id, cluster: record.cluster_name })
        }
        None => Ok(()),
    }
}

/// Replaces a file: beside, flush, rename, flush the directory.
///
/// # Errors
/// Any of the steps.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        // A file left by a crash would keep its own mode.
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(file("write", path))
}

fn read_key(data_dir: &Path) -> Result<Key, IdentityError> {
    let path = data_dir.join("node.key");
    Key::from_pem(&secret(&path)?).map_err(damaged(&path))
}

fn read_record(data_dir: &Path) -> Result<Option<NodeRecord>, IdentityError> {
    let path = data_dir.join("node.toml");
    match read(&path) {
        Ok(text) => {
            let file: RecordFile = toml::from_str(&text).map_err(damaged(&path))?;
            file.parse().map(Some).map_err(damaged(&path))
        }
        Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn secret(path: &Path) -> Result<String, IdentityError> {
    let mode = fs::metadata(path).map_err(file("read", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.into(), mode });
    }
    read(path)
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(file("read", path))
}

fn write_toml<T: Serialize>(path: &Path, value: &T) -> Result<(), IdentityError> {
    let text = toml::to_string(value).map_err(damaged(path))?;
    write_file(path, text.as_bytes(), 0o644)
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { action, path, source }
}

fn damaged<E: ToString>(path: &Path) -> impl Fn(E) -> IdentityError {
    let path = path.to_owned();
    move |what| IdentityError::Damaged { path: path.clone(), what: what.to_string() }
}

/// `node.toml` as text: TOML's integers have 63 bits, so the random ids are hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    id: u64,
    name: String,
    role: Role,
    cluster: String,
    cluster_name: String,
    lineage: u32,
    lineage_id: String,
}

impl RecordFile {
    fn of(record: &NodeRecord) -> Self {
        Self {
            id: record.id.0,
            name: record.name.clone(),
            role: record.role,
            cluster: record.cluster.to_string(),
            cluster_name: record.cluster_name.clone(),
            lineage: record.lineage.counter,
            lineage_id: format!("{:016x}", record.lineage.id),
        }
    }

    fn parse(self) -> Result<NodeRecord, std::num::ParseIntError> {
        Ok(NodeRecord {
            id: NodeId(self.id),
            name: self.name,
            role: self.role,
            cluster: ClusterId(u128::from_str_radix(&self.cluster, 16)?),
            cluster_name: self.cluster_name,
            lineage: Lineage { counter: self.lineage, id: u64::from_str_radix(&self.lineage_id, 16)? },
        })
    }
}

#[derive(Serialize, Deserialize)]
struct MembersFile {
    #[serde(default)]
    member: Vec<MemberEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberEntry {
    id: u64,
    address: std::net::SocketAddr,
    key: String,
    incarnation: u64,
}

impl MemberEntry {
    fn of(id: NodeId, peer: &Peer) -> Self {
        let key = peer.key.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id: id.0, address: peer.address, key, incarnation: peer.incarnation }
    }

    fn parse(&self) -> Result<(NodeId, Peer), String> {
        let wrong = || format!("the key of member {} is not 64 hexadecimal digits", self.id);
        let mut key = [0; 32];
        if self.key.len() != 64 {
            return Err(wrong());
        }
        for (at, byte) in key.iter_mut().enumerate() {
            let digits = self.key.get(at * 2..at * 2 + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok((NodeId(self.id), Peer { address: self.address, key, incarnation: self.incarnation }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: WallTime = Duration::from_secs(1_800_000_000);

    #[test]
    fn what_init_wrote_loads_as_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::found(dir.path(), "lb1", "edge", Role::Director, NOW).unwrap();
        let read = Identity::load(dir.path()).unwrap();
        assert_eq!(read.record, made.record);
        assert_eq!(read.key.hash(), made.key.hash());
        assert_eq!(read.pin().unwrap(), made.pin().unwrap());
        assert!(read.authority.is_some());
        assert!(first_members(dir.path()).unwrap().is_empty());
        for (name, mode) in [("node.key", 0o600), ("ca.key", 0o600), ("node.toml", 0o644)] {
            assert_eq!(fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::found(dir.path(), "lb1", "edge", Role::Director, NOW).unwrap();
        let error = Identity::found(dir.path(), "lb1", "other", Role::Director, NOW).unwrap_err();
        assert!(error.to_string().contains("belongs to node n1 of the cluster edge"), "{error}");
        assert_eq!(Identity::load(dir.path()).unwrap().record, made.record);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        Identity::found(dir.path(), "lb1", "edge", Role::Director, NOW).unwrap();
        fs::set_permissions(dir.path().join("node.key"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("node.key") && error.contains("0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn the_certificate_of_another_key_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Identity::found(one.path(), "lb1", "edge", Role::Director, NOW).unwrap();
        Identity::found(other.path(), "lb1", "edge", Role::Director, NOW).unwrap();
        fs::copy(other.path().join("node.key"), one.path().join("node.key")).unwrap();
        let error = Identity::load(one.path()).unwrap_err().to_string();
        assert!(error.contains("not the certificate of n1"), "{error}");
    }

    #[test]
    fn an_unfinished_join_is_no_membership_and_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = pending_key(dir.path()).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::NotAMember(_))));
        assert_eq!(pending_key(dir.path()).unwrap().hash(), key.hash());
    }

    #[test]
    fn a_certificate_names_one_node_of_one_cluster() {
        let cluster = ClusterId(0xabcd << 100);
        let authority = Authority::create(cluster, NOW).unwrap();
        let key = Key::generate().unwrap();
        let certificate = authority.sign(&key.request().unwrap(), NodeId(7), NOW).unwrap();
        assert_eq!(node_of(&certificate, cluster).unwrap(), NodeId(7));
        assert_eq!(key_hash(&certificate).unwrap(), key.hash());
        assert!(node_of(&certificate, ClusterId(1)).is_err());
        assert!(node_of(authority.certificate(), cluster).is_err(), "the CA is no node");
    }
}
