//! What TLS and QUIC may do here: TLS 1.3, the ring provider, no resumption, no early data, no migration.
//!
//! Resumption would skip the check of a certificate that has been refused since; early data can be replayed.

use super::authority::{AuthorityError, Key, KeyHash, key_hash, random};
use super::identity::Identity;
use super::reach::Timing;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Members on the stream plane.
pub(super) const MEMBER: &[u8] = b"hamesh/1";
/// Members on the lease plane.
pub(super) const LEASE: &[u8] = b"hamesh-lease/1";
/// Whoever asks to join: no certificate yet, and one request is all it may do.
pub(super) const JOIN: &[u8] = b"hamesh-join/1";
/// A member that looks whether a joiner can be reached.
pub(super) const BACK: &[u8] = b"hamesh-back/1";

/// Why an endpoint cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key is not what it should be.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// rustls refuses the configuration.
    #[error(transparent)]
    Rustls(#[from] Error),
    /// The CA cannot judge clients.
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The provider lacks QUIC's initial cipher.
    #[error(transparent)]
    Cipher(#[from] NoInitialCipherSuite),
    /// A span that QUIC cannot express.
    #[error("idle timeout out of range: {0}")]
    Idle(#[from] quinn::VarIntBoundsExceeded),
}

/// Who may speak to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    /// Only bearers of a certificate of this cluster.
    Members,
    /// Those, and whoever has none: they are told apart by ALPN after the handshake.
    MembersAndJoiners,
}

/// A member's server side.
pub(super) fn server(
    identity: &Arc<Identity>,
    alpn: &[&[u8]],
    clients: Clients,
    transport: TransportConfig,
) -> Result<quinn::ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(identity)?), provider());
    let verifier = match clients {
        Clients::Members => verifier,
        Clients::MembersAndJoiners => verifier.allow_unauthenticated(),
    };
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.build()?)
        .with_cert_resolver(Chain::of(identity)?);
    quic_server(config, alpn, transport)
}

/// A member's client side: the other end must bear the name that is asked for.
pub(super) fn client(
    identity: &Arc<Identity>,
    alpn: &[u8],
    transport: Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, TlsError> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(identity)?)
        .with_client_cert_resolver(Chain::of(identity)?);
    quic_client(config, alpn, transport)
}

/// The server side of a joiner, which has a key and no certificate yet.
pub(super) fn joiner_server(key: &Key, transport: TransportConfig) -> Result<quinn::ServerConfig, TlsError> {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![key.self_signed()?], key.der())?;
    quic_server(config, &[BACK], transport)
}

/// The client side of somebody who knows nothing but a hash: of the CA's key, or of the other end's own.
pub(super) fn pinned_client(
    pin: Pin,
    alpn: &[u8],
    transport: Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, TlsError> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { pin, provider: provider() }))
        .with_no_client_auth();
    quic_client(config, alpn, transport)
}

/// Spans and bounds of one connection.
pub(super) fn transport(timing: &Timing) -> Result<TransportConfig, TlsError> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(timing.idle)?))
        .keep_alive_interval(Some(timing.keepalive))
        // The default of 333 ms would make the first lost packet cost a second.
        .initial_rtt(Duration::from_millis(10))
        .max_concurrent_bidi_streams(VarInt::from_u32(256))
        .max_concurrent_uni_streams(VarInt::from_u32(256))
        .stream_receive_window(VarInt::from_u32(1 << 20))
        .receive_window(VarInt::from_u32(8 << 20))
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

/// An endpoint that resets the connections of the process before it, so that its peers need not wait until they idle out.
///
/// For that its reset tokens outlive the process, and its connection ids carry no mark of the process: quinn's own do, and
/// a packet for another process's id is dropped without a reset.
pub(super) fn endpoint(key: &Key, label: &str) -> Result<EndpointConfig, TlsError> {
    let run = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &random::<32>()?);
    let mut config = EndpointConfig::new(Arc::new(key.derive(label)));
    config.cid_generator(move || Box::new(PlainIds { run: run.clone(), next: 0 }));
    Ok(config)
}

/// Unpredictable connection ids.
struct PlainIds {
    run: ring::hmac::Key,
    next: u64,
}

/// Bytes of a connection id.
const ID: usize = 8;

impl ConnectionIdGenerator for PlainIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.next = self.next.wrapping_add(1);
        ConnectionId::new(&ring::hmac::sign(&self.run, &self.next.to_be_bytes()).as_ref()[..ID])
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket with room for bursts.
pub(super) fn socket(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    const BUFFER: usize = 1 << 20;
    let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// What a client holds on to when it has no CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pin {
    /// SHA-256 of the CA's key: the other end is any node that this CA has signed.
    Authority(KeyHash),
    /// SHA-256 of the other end's own key.
    Key(KeyHash),
}

#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let stranger = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        match self.pin {
            Pin::Key(hash) => {
                if key_hash(end_entity).map_err(|_| stranger())? != hash {
                    return Err(stranger());
                }
            }
            Pin::Authority(hash) => {
                let ca = intermediates
                    .iter()
                    .find(|certificate| key_hash(certificate).is_ok_and(|found| found == hash))
                    .ok_or_else(stranger)?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone())?;
                verify_server_cert_signed_by_trust_anchor(
                    &ParsedCertificate::try_from(end_entity)?,
                    &roots,
                    intermediates,
                    now,
                    self.provider.signature_verification_algorithms.all,
                )?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(identity: &Identity) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca.clone())?;
    Ok(roots)
}

/// What a member shows: its certificate as it is now, and the CA's, of which a joiner has only the pin.
#[derive(Debug)]
struct Chain {
    identity: Arc<Identity>,
    key: Arc<dyn SigningKey>,
}

impl Chain {
    fn of(identity: &Arc<Identity>) -> Result<Arc<Self>, Error> {
        let key = provider().key_provider.load_private_key(identity.key.der())?;
        Ok(Arc::new(Self { identity: identity.clone(), key }))
    }

    fn now(&self) -> Arc<CertifiedKey> {
        let chain = vec![self.identity.certificate.get(), self.identity.ca.clone()];
        Arc::new(CertifiedKey::new(chain, self.key.clone()))
    }
}

impl ResolvesServerCert for Chain {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Chain {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn quic_server(
    mut config: rustls::ServerConfig,
    alpn: &[&[u8]],
    mut transport: TransportConfig,
) -> Result<quinn::ServerConfig, TlsError> {
    // Who has dialed keeps a connection alive, and is answered.
    transport.keep_alive_interval(None);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let mut quic = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config)?));
    quic.transport_config(Arc::new(transport)).migration(false).max_incoming(64);
    Ok(quic)
}

fn quic_client(
    mut config: rustls::ClientConfig,
    alpn: &[u8],
    transport: Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, TlsError> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    let mut quic = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
    quic.transport_config(transport);
    Ok(quic)
}
