//! TLS for QUIC with libp2p's certificates, AES-128-GCM first where the processor has instructions for it.
//!
//! libp2p-tls lists ChaCha20 first; where AES is in hardware that costs about a third more CPU a byte. Its verifier is
//! private, so the same policy is written here again: one self-signed certificate with the libp2p extension.

use std::io;
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Returns the server's side.
///
/// *Errors*: no certificate can be made for the key.
pub(super) fn server(key: &Keypair) -> io::Result<QuicServerConfig> {
    let tls = libp2p_tls::make_server_config(key).map_err(io::Error::other)?;
    QuicServerConfig::try_from(tls).map_err(io::Error::other)
}

/// Returns the client's side.
///
/// *Errors*: no certificate can be made for the key.
pub(super) fn client(key: &Keypair) -> io::Result<QuicClientConfig> {
    let mut tls = if has_aes() {
        aes_first(key)?
    } else {
        libp2p_tls::make_client_config(key, None).map_err(io::Error::other)?
    };
    tls.alpn_protocols = vec![b"libp2p".to_vec()];
    QuicClientConfig::try_from(tls).map_err(io::Error::other)
}

/// Returns the peer that the certificate of an established connection names.
///
/// *Errors*: there is no such certificate.
pub(super) fn remote_peer(connection: &quinn::Connection) -> io::Result<PeerId> {
    connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|list| libp2p_tls::certificate::parse(list.first()?).ok().map(|c| c.peer_id()))
        .ok_or_else(|| io::Error::other("the other side has no libp2p certificate"))
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

fn aes_first(key: &Keypair) -> io::Result<rustls::ClientConfig> {
    let (certificate, secret) = libp2p_tls::certificate::generate(key).map_err(io::Error::other)?;
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    };
    let secret = provider.key_provider.load_private_key(secret).map_err(io::Error::other)?;
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], secret));
    let builder = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier))
        .with_client_cert_resolver(Arc::new(Own(certified))))
}

/// Always the same certificate: rustls would refuse it for its critical extension if it were to choose.
#[derive(Debug)]
struct Own(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Own {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The policy of libp2p-tls for servers' certificates.
#[derive(Debug)]
struct Verifier;

fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<libp2p_tls::certificate::P2pCertificate<'a>, Error> {
    libp2p_tls::certificate::parse(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !intermediates.is_empty() {
            return Err(Error::General("libp2p needs exactly one certificate".into()));
        }
        parse(end_entity).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        parse(certificate)?
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ]
    }
}
