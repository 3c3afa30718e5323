//! How a check speaks TLS: 1.2 or 1.3, and by default with whomever it meets, because a check asks whether a server serves.

use crate::config::diagnostic::{Diagnostic, Located, Log};
use crate::config::reader::{Section, Value};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The TLS of a check.
#[derive(Clone)]
pub struct Tls {
    /// The name that is asked for (SNI) and that a certificate must bear where it is verified; without one none is asked for, and
    /// the certificate must bear the address.
    pub name: Option<String>,
    /// From where it is made.
    pub files: Files,
    client: Arc<ClientConfig>,
}

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Who must have signed the server's certificate; without it nothing is verified.
    pub ca: Option<PathBuf>,
    /// Our own certificate, with the chain behind it, and its key, for servers that ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which one cannot be used, and why.
    pub fn new(name: Option<String>, files: Files) -> Result<Self, String> {
        if let Some(name) = &name {
            ServerName::try_from(name.as_str()).map_err(|_| format!("`{name}` is no name of a server"))?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = match &files.ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        };
        let mut client = match &files.own {
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key);
                let private = private.map_err(|error| format!("no private key in {}: {error}", key.display()))?;
                let client = builder.with_client_auth_cert(chain, private);
                client.map_err(|error| format!("{} with {}: {error}", certificate.display(), key.display()))?
            }
            None => builder.with_no_client_auth(),
        };
        // A check is to see the whole handshake.
        client.resumption = Resumption::disabled();
        Ok(Self { name, files, client: Arc::new(client) })
    }

    /// For the handshake.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| format!("no certificates in {}: {error}", path.display()))?;
    if all.is_empty() { Err(format!("no certificate in {}", path.display())) } else { Ok(all) }
}

/// The part of `https` that is TLS's. By default the site's name is asked for, and with `sni = ""` none is.
pub(super) fn read(section: &Section<'_>, host: Option<&str>, log: &Log) -> Option<Tls> {
    let text = |key| section.get(key).and_then(Value::string);
    let name = match text("sni") {
        Some(name) => Some(name.value).filter(|name| !name.is_empty()),
        None => host.map(|host| host.split(':').next().unwrap_or_default().to_owned()),
    };
    let path = |file: Located<String>| file.place.source.resolve(&file.value);
    let (certificate, key) = (text("certificate"), text("key"));
    if certificate.is_some() != key.is_some() {
        log.add(Diagnostic::error(section.place(), "`certificate` and `key` of a check go together"));
    }
    let files = Files { ca: text("ca").map(path), own: certificate.zip(key).map(|(one, two)| (path(one), path(two))) };
    let tls = Tls::new(name, files);
    if let Err(why) = &tls {
        log.add(Diagnostic::error(section.place(), why.clone()));
    }
    tls.ok()
}

/// Two are equal that were made of the same files.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.files) == (&other.name, &other.files)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Takes every certificate, one that cannot even be read included.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
