//! Plain quinn, tuned as ours is, and nothing else: what `wattle link` is set beside on loopback.
//!
//! ```text
//! plain_quinn serve                     # prints the address; takes streams and forgets what comes
//! plain_quinn send ADDRESS SECONDS      # fills the line with streams of 64 MiB, prints JSON
//! ```
//!
//! Sockets of 4 MiB, windows as large as ours, AES-128-GCM first, quinn's own congestion control (Cubic) and
//! acknowledgements. Bytes are neither hashed nor acknowledged by the receiver's program.

#![expect(clippy::print_stdout, reason = "what it measures is for whoever started it")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cpu_time::ProcessTime;
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use wattle_node::clock::Clock;

const SOCKET: usize = 4 << 20;
const STREAM_WINDOW: u32 = 16 << 20;
const WINDOW: u32 = 32 << 20;
const CHUNK: usize = 64 << 10;
const STREAM: usize = 64 << 20;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    })
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into());
    Arc::new(config)
}

fn endpoint(server: Option<quinn::ServerConfig>) -> anyhow::Result<quinn::Endpoint> {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(SOCKET)?;
    socket.set_send_buffer_size(SOCKET)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let socket: UdpSocket = socket.into();
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok(quinn::Endpoint::new(quinn::EndpointConfig::default(), server, socket, runtime)?)
}

async fn serve() -> anyhow::Result<()> {
    let (certificate, key) = libp2p_tls::certificate::generate(&Keypair::generate_ed25519())?;
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth();
    let key = provider().key_provider.load_private_key(key)?;
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key));
    let tls = tls.with_cert_resolver(Arc::new(Own(certified)));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport = transport();
    let endpoint = endpoint(Some(config))?;
    println!("{}", endpoint.local_addr()?);
    let connection = endpoint.accept().await.context("nobody came")?.await?;
    while let Ok(mut stream) = connection.accept_uni().await {
        tokio::spawn(
            async move { while let Ok(Some(_)) = stream.read_chunk(1 << 20, true).await {} },
        );
    }
    Ok(())
}

async fn send(to: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let connection = endpoint(None)?.connect_with(config, to, "plain")?.await?;
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    let (clock, processor) = (Clock::start(), ProcessTime::now());
    let begun = clock.now();
    let seconds = || clock.now().since(begun).seconds();
    let mut bytes = 0u64;
    while seconds() < time.as_secs_f64() {
        let mut stream = connection.open_uni().await?;
        for _ in 0..STREAM / CHUNK {
            stream.write_chunk(chunk.clone()).await?;
        }
        stream.finish()?;
        // All of it has arrived.
        stream.stopped().await?;
        bytes += STREAM as u64;
    }
    let seconds = seconds();
    let used = processor.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "bytes": bytes,
        "bytes_per_second": bytes as f64 / seconds,
        "processor_seconds_per_gigabyte": used * 1e9 / bytes as f64,
    });
    println!("{line}");
    Ok(())
}

#[derive(Debug)]
struct Own(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Own {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Takes every certificate: bytes are measured, not trusted.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => serve().await,
        ["send", to, seconds] => {
            let seconds = seconds.parse().context("while reading the seconds")?;
            send(to.parse().context("while reading the address")?, Duration::from_secs(seconds))
                .await
        }
        _ => bail!("usage: plain_quinn serve | plain_quinn send ADDRESS SECONDS"),
    }
}
