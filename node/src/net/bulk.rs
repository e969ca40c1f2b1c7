//! Tensor bundles on unidirectional QUIC streams: a fixed prefix, a header that is offered to the driver, the payload.
//!
//! Nothing is read or allocated before the driver takes the header, memory grows only with bytes received, a hash is
//! checked at the end, and a receipt goes back on a stream of its own: delivered means checked and handed over.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use wattle_protocol::ids::PeerId;

use super::{BUNDLE_MAX, HEADER_MAX, NetEvent};

const MAGIC: [u8; 4] = *b"WTB1";
/// magic, kind, nonce, header length, payload length, hash.
const PREFIX: usize = 4 + 1 + 8 + 2 + 8 + 32;
/// A stream that brings nothing for so long is given up.
const STALL: Duration = Duration::from_secs(20);
/// A sender waits so long for the receipt of what it has sent.
const RECEIPT: Duration = Duration::from_secs(60);
/// Bytes that may be in the middle of being received, over all peers, in units of `UNIT`.
const BUDGET: usize = 2 << 10;
/// Unit of the budget.
const UNIT: u64 = 1 << 20;
/// Why a stream is stopped.
const REFUSED: u32 = 1;
const MALFORMED: u32 = 2;
const CORRUPT: u32 = 3;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bundle for the driver.
    Bundle,
    /// Bytes to measure the link with; counted and forgotten.
    Probe,
    /// A bundle or probe has arrived.
    Receipt,
}

/// Awaited receipts and the receive budget; shared by all connections.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    next: Arc<AtomicU64>,
    waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>,
    budget: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            next: Arc::default(),
            waiting: Arc::default(),
            budget: Arc::new(Semaphore::new(BUDGET)),
        }
    }

    /// Returns a number for an exchange.
    pub(super) fn nonce(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn expect(&self, nonce: u64) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, tx);
        rx
    }

    fn forget(&self, nonce: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
    }

    fn receipt(&self, nonce: u64) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
        if let Some(waiting) = waiting {
            // The sender may have given up.
            waiting.send(()).unwrap_or_default();
        }
    }
}

fn prefix(
    kind: Kind,
    nonce: u64,
    header: &[u8],
    length: u64,
    hash: &[u8; 32],
) -> io::Result<Vec<u8>> {
    let header_length = u16::try_from(header.len()).map_err(io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.push(match kind {
        Kind::Bundle => 0,
        Kind::Probe => 1,
        Kind::Receipt => 2,
    });
    bytes.extend_from_slice(&nonce.to_le_bytes());
    bytes.extend_from_slice(&header_length.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(hash);
    bytes.extend_from_slice(header);
    Ok(bytes)
}

/// Hashes a payload in parts.
pub(super) fn hash(payload: &[Bytes]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in payload {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Sends a bundle or a probe and waits for its receipt. Returns whether it was delivered.
/// Safe to drop midway: the receiver sees a reset stream.
pub(super) async fn send(
    connection: &quinn::Connection,
    desk: &Desk,
    kind: Kind,
    header: &[u8],
    payload: Vec<Bytes>,
) -> bool {
    let nonce = desk.nonce();
    let receipt = desk.expect(nonce);
    let sent = push(connection, kind, nonce, header, payload, receipt).await;
    desk.forget(nonce);
    match sent {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "a bundle was not delivered");
            false
        }
    }
}

async fn push(
    connection: &quinn::Connection,
    kind: Kind,
    nonce: u64,
    header: &[u8],
    payload: Vec<Bytes>,
    receipt: oneshot::Receiver<()>,
) -> io::Result<()> {
    let mut stream = connection.open_uni().await?;
    stream.set_priority(-1).map_err(io::Error::other)?;
    let length: u64 = payload.iter().map(|p| p.len() as u64).sum();
    let start = prefix(kind, nonce, header, length, &hash(&payload))?;
    stream.write_all(&start).await?;
    for part in payload {
        stream.write_chunk(part).await?;
    }
    stream.finish().map_err(io::Error::other)?;
    tokio::pin!(receipt);
    let stopped = async {
        match stream.stopped().await {
            // Everything is acknowledged: the receipt is on its way.
            Ok(None) => std::future::pending().await,
            Ok(Some(code)) => io::Error::other(format!("refused with code {code}")),
            Err(error) => io::Error::other(error),
        }
    };
    tokio::select! {
        received = timeout(RECEIPT, &mut receipt) => match received {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
        error = stopped => Err(error),
        lost = connection.closed() => Err(io::Error::other(lost)),
    }
}

/// Receives streams of one connection until it ends.
pub(super) async fn serve(
    connection: quinn::Connection,
    from: PeerId,
    desk: Desk,
    events: mpsc::Sender<NetEvent>,
) {
    while let Ok(stream) = connection.accept_uni().await {
        let (connection, desk, events) = (connection.clone(), desk.clone(), events.clone());
        // One task a stream: a slow one holds up nobody; quinn bounds their number.
        tokio::spawn(async move {
            if let Err(error) = receive(stream, &connection, from, &desk, &events).await {
                tracing::debug!(from = %from, %error, "a stream was not taken");
            }
        });
    }
}

async fn receive(
    mut stream: quinn::RecvStream,
    connection: &quinn::Connection,
    from: PeerId,
    desk: &Desk,
    events: &mpsc::Sender<NetEvent>,
) -> io::Result<()> {
    let mut start = [0; PREFIX];
    timeout(STALL, stream.read_exact(&mut start)).await?.map_err(io::Error::other)?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&start[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let header_length = usize::from(u16::from_le_bytes([start[13], start[14]]));
    let (nonce, length) = (word(5), word(15));
    if start[..4] != MAGIC || header_length > HEADER_MAX || length > BUNDLE_MAX {
        return refuse(&mut stream, MALFORMED, "a malformed prefix");
    }
    let mut header = vec![0; header_length];
    timeout(STALL, stream.read_exact(&mut header)).await?.map_err(io::Error::other)?;
    match start[4] {
        0 => {
            let (reply, answer) = oneshot::channel();
            let offer = NetEvent::Offer { from, header: header.clone(), length, reply };
            events.send(offer).await.map_err(io::Error::other)?;
            if !answer.await.unwrap_or(false) {
                return refuse(&mut stream, REFUSED, "not awaited");
            }
            let payload = read(&mut stream, length, desk).await?;
            if blake3::hash(&payload).as_bytes() != &start[23..PREFIX] {
                return refuse(&mut stream, CORRUPT, "the hash does not match");
            }
            let arrived = NetEvent::Arrived { from, header, payload };
            events.send(arrived).await.map_err(io::Error::other)?;
        }
        1 => {
            if length > super::PROBE_MAX {
                return refuse(&mut stream, REFUSED, "a probe is too long");
            }
            read(&mut stream, length, desk).await?;
        }
        2 => {
            desk.receipt(nonce);
            return Ok(());
        }
        _ => return refuse(&mut stream, MALFORMED, "an unknown kind"),
    }
    let mut back = connection.open_uni().await?;
    back.set_priority(2).map_err(io::Error::other)?;
    back.write_all(&prefix(Kind::Receipt, nonce, &[], 0, &[0; 32])?).await?;
    back.finish().map_err(io::Error::other)
}

fn refuse(stream: &mut quinn::RecvStream, code: u32, why: &'static str) -> io::Result<()> {
    // A stream that is gone already needs no stopping.
    stream.stop(code.into()).unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

async fn read(stream: &mut quinn::RecvStream, length: u64, desk: &Desk) -> io::Result<Bytes> {
    let units = u32::try_from(length.div_ceil(UNIT)).map_err(io::Error::other)?;
    let _room = desk.budget.acquire_many(units).await.map_err(io::Error::other)?;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut payload = BytesMut::new();
    while let Some(chunk) = timeout(STALL, stream.read_chunk(1 << 20, true)).await?? {
        if payload.len() + chunk.bytes.len() > length {
            refuse(stream, MALFORMED, "longer than announced")?;
        }
        payload.extend_from_slice(&chunk.bytes);
    }
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(payload.freeze())
}
