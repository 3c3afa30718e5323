//! The cluster's own certificate authority.
//!
//! A node's identity is its certificate: one DNS name, `n7.<cluster>.hamesh.internal`, signed by the cluster's CA. The CA
//! may sign nothing else (path length 0, name constraint), and it is known by its pin, the SHA-256 of its public key.

use hamesh_raft::command::{ClusterId, NodeId, WallTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
    date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// SHA-256 of a public key (SubjectPublicKeyInfo, DER).
pub type KeyHash = [u8; 32];

/// How long certificates last; the CA's twice as long. They begin at the epoch: a node whose clock has not been set yet must find
/// its mesh.
pub const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What a certificate, a key or a request is not.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Making or reading a key, request or certificate failed.
    #[error(transparent)]
    Rcgen(#[from] rcgen::Error),
    /// No PEM block of the wanted kind.
    #[error("{0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// Not an X.509 certificate.
    #[error("not a certificate: {0}")]
    Certificate(String),
    /// A certificate that names no node of this cluster.
    #[error("the certificate names {found:?}, not one node of the cluster {cluster}")]
    Name {
        /// Its names.
        found: Vec<String>,
        /// The cluster's part of the name.
        cluster: String,
    },
}

/// A private key of this cluster, a node's or the CA's. Ed25519.
pub struct Key(KeyPair);

impl Key {
    /// Draws a new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, AuthorityError> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ED25519)?))
    }

    /// Reads one.
    ///
    /// # Errors
    /// Not a private key in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, AuthorityError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// PKCS #8 in PEM.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The same key for rustls.
    pub fn der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// SHA-256 of the public half.
    pub fn hash(&self) -> KeyHash {
        sha256(&self.0.subject_public_key_info())
    }

    /// A secret that only the owner of this key can derive, the same in every run.
    pub fn derive(&self, label: &str) -> ring::hmac::Key {
        let base = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.0.serialized_der());
        ring::hmac::Key::new(ring::hmac::HMAC_SHA256, ring::hmac::sign(&base, label.as_bytes()).as_ref())
    }

    /// A request for a certificate. It asks for no name: the cluster gives the node its id.
    ///
    /// # Errors
    /// Signing failed.
    pub fn request(&self) -> Result<Vec<u8>, AuthorityError> {
        Ok(plain("hamesh node")?.serialize_request(&self.0)?.der().to_vec())
    }

    /// A certificate by nobody but itself: a joiner answers with it before the cluster has given it one.
    ///
    /// # Errors
    /// Signing failed.
    pub fn self_signed(&self) -> Result<CertificateDer<'static>, AuthorityError> {
        Ok(plain("hamesh joiner")?.self_signed(&self.0)?.der().clone())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The CA with its key. It lies on every voter, and signs there.
#[derive(Debug)]
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    key: Key,
}

impl Authority {
    /// Makes the CA of a new cluster.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn create(cluster: ClusterId, now: WallTime) -> Result<Self, AuthorityError> {
        let key = Key::generate()?;
        let mut params = plain(&format!("hamesh CA {}", domain(cluster)))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain(cluster))],
            excluded_subtrees: Vec::new(),
        });
        params.not_after = date_time_ymd(1970, 1, 1) + now + LIFETIME * 2;
        Ok(Self { cluster, certificate: params.self_signed(&key.0)?.der().clone(), key })
    }

    /// Puts the CA together again.
    ///
    /// # Errors
    /// The key is not a key, or not the certificate's.
    pub fn restore(
        cluster: ClusterId,
        certificate: CertificateDer<'static>,
        key_pem: &str,
    ) -> Result<Self, AuthorityError> {
        let key = Key::from_pem(key_pem)?;
        if key_hash(&certificate)? != key.hash() {
            return Err(AuthorityError::Certificate("the CA key is not the key of the CA certificate".into()));
        }
        Ok(Self { cluster, certificate, key })
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's key, for a voter's disk or for the way to a promoted voter inside the mesh, nowhere else.
    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// Signs the key in a request (PKCS #10, DER) as that of `node`. Whatever else the request asks for is ignored.
    ///
    /// # Errors
    /// Not a request, or not signed by its own key.
    pub fn sign(&self, request: &[u8], node: NodeId, now: WallTime) -> Result<CertificateDer<'static>, AuthorityError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
        self.issue(&request.public_key, node, now)
    }

    /// Signs a key that lies here.
    ///
    /// # Errors
    /// Signing failed.
    pub fn sign_own(&self, key: &Key, node: NodeId, now: WallTime) -> Result<CertificateDer<'static>, AuthorityError> {
        self.issue(&key.0, node, now)
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        node: NodeId,
        now: WallTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = plain(&node.to_string())?;
        params.subject_alt_names = vec![rcgen::SanType::DnsName(node_name(node, self.cluster).try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_after = date_time_ymd(1970, 1, 1) + now + LIFETIME;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key.0)?;
        Ok(params.signed_by(key, &issuer)?.der().clone())
    }
}

fn plain(common_name: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(1970, 1, 1);
    Ok(params)
}

/// The DNS name of a node: what a dialer asks for, and what a certificate must say.
pub fn node_name(node: NodeId, cluster: ClusterId) -> String {
    format!("{node}.{}", domain(cluster))
}

fn domain(cluster: ClusterId) -> String {
    let hex = cluster.to_string();
    format!("{}.hamesh.internal", hex.get(..16).unwrap_or(&hex))
}

/// The node that a certificate names: exactly one name, and of this cluster.
///
/// # Errors
/// Not a certificate, or it names something else.
pub fn node_of(certificate: &[u8], cluster: ClusterId) -> Result<NodeId, AuthorityError> {
    let (_, parsed) = parse(certificate)?;
    let names: Vec<String> = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().map(name_text).collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    let [name] = names.as_slice() else {
        return Err(AuthorityError::Name { found: names, cluster: domain(cluster) });
    };
    name.strip_prefix('n')
        .and_then(|rest| rest.strip_suffix(&format!(".{}", domain(cluster))))
        .and_then(|id| id.parse().ok())
        .map(NodeId)
        .filter(|node| node_name(*node, cluster) == *name)
        .ok_or_else(|| AuthorityError::Name { found: names.clone(), cluster: domain(cluster) })
}

fn name_text(name: &GeneralName<'_>) -> String {
    if let GeneralName::DNSName(dns) = name { (*dns).to_owned() } else { format!("{name:?}") }
}

/// When a certificate ends.
///
/// # Errors
/// Not a certificate.
pub fn ends_at(certificate: &[u8]) -> Result<WallTime, AuthorityError> {
    let seconds = parse(certificate)?.1.validity().not_after.timestamp();
    Ok(WallTime::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// SHA-256 of a certificate's public key. Of the CA's certificate this is the pin.
///
/// # Errors
/// Not a certificate.
pub fn key_hash(certificate: &[u8]) -> Result<KeyHash, AuthorityError> {
    Ok(sha256(parse(certificate)?.1.public_key().raw))
}

/// SHA-256 of the key in a request (PKCS #10, DER) that its own key has signed.
///
/// # Errors
/// Not a request, or not signed by its own key.
pub fn request_key_hash(request: &[u8]) -> Result<KeyHash, AuthorityError> {
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
    Ok(sha256(&request.public_key.subject_public_key_info()))
}

/// Reads the one certificate of a PEM file.
///
/// # Errors
/// No certificate in it.
pub fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?)
}

/// A certificate in PEM.
pub fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|at| text.get(at..(at + 64).min(text.len()))).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn parse(certificate: &[u8]) -> Result<(&[u8], x509_parser::certificate::X509Certificate<'_>), AuthorityError> {
    parse_x509_certificate(certificate).map_err(|error| AuthorityError::Certificate(error.to_string()))
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}

/// Random bytes that nobody can guess.
///
/// # Errors
/// The system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    let system = ring::rand::SystemRandom::new();
    system.fill(&mut bytes).map_err(|_| AuthorityError::Rcgen(rcgen::Error::RingUnspecified))?;
    Ok(bytes)
}
