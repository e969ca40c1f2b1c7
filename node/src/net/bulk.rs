//! Tensor bundles on unidirectional QUIC streams: a fixed prefix, a header that is offered to the driver, the payload and
//! its hash.
//!
//! Nothing is read or allocated before the driver takes the header, memory grows only with bytes received, which are hashed
//! and decoded as they come (`intake`), and a receipt goes back on a stream of its own: delivered means checked and handed
//! over. Every wait for the other side has an end, and so has every stream: a peer that stops reading or drips counts as
//! lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use wattle_models::exec::store::Bundle;
use wattle_protocol::ids::PeerId;

use super::desk::{Desk, soon};
use super::intake::{Intake, Take, Wrong};
use super::turns::{Haste, PIECE, Turns};
use super::{BUNDLE_MAX, HEADER_MAX, NetEvent, PROBE_MAX};

const MAGIC: [u8; 4] = *b"WTB2";
/// magic, kind, nonce, header length, payload length.
const PREFIX: usize = 4 + 1 + 8 + 2 + 8;
/// Bytes written at a time: what has to move within `STALL`.
const CHUNK: usize = 64 << 10;
/// Chunks, about one of each packet, that are read at a time.
const READ: usize = 64;
/// Probes of one connection that may be arriving at once: one in work, one whose receipt is on its way.
const PROBES: usize = 2;
/// Why a stream is stopped.
const REFUSED: u32 = 1;
const MALFORMED: u32 = 2;
const CORRUPT: u32 = 3;
const GIVEN_UP: u32 = 4;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bundle for the driver that a step waits for.
    Bundle,
    /// A bundle for the driver that others may overtake.
    State,
    /// Bytes to measure the link with; counted and forgotten.
    Probe,
    /// A bundle or probe has arrived.
    Receipt,
    /// It is not taken: stopping a stream that has been read to its end says nothing.
    Refusal,
}

fn prefix(kind: Kind, nonce: u64, header: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let header_length = u16::try_from(header.len()).map_err(io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.push(match kind {
        Kind::Bundle | Kind::State => 0,
        Kind::Probe => 1,
        Kind::Receipt => 2,
        Kind::Refusal => 3,
    });
    bytes.extend_from_slice(&nonce.to_le_bytes());
    bytes.extend_from_slice(&header_length.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(header);
    Ok(bytes)
}

/// Sends a bundle or a probe and waits for its receipt. Returns whether it was delivered.
/// Safe to drop midway: the receiver sees a reset stream.
pub(super) async fn send(
    (connection, to): (&quinn::Connection, PeerId),
    desk: &Desk,
    kind: Kind,
    header: &[u8],
    payload: Vec<Bytes>,
) -> bool {
    let nonce = desk.nonce();
    let receipt = desk.expect(to, nonce);
    let turns = desk.turns(to);
    let sent = push(connection, (desk, &turns), (kind, nonce, header), payload, receipt).await;
    desk.settle(to, nonce, false);
    match sent {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "a bundle was not delivered");
            false
        }
    }
}

/// Sends bytes of a probe, as many as it may have, until something is known; what has not left by then never does.
///
/// *Errors*: the connection is gone, or it takes nothing more.
pub(super) async fn flood<T>(
    connection: &quinn::Connection,
    desk: &Desk,
    known: impl Future<Output = T>,
) -> io::Result<T> {
    let stall = desk.patience.stall;
    let start = prefix(Kind::Probe, desk.nonce(), &[], PROBE_MAX)?;
    let mut stream = soon(stall, connection.open_uni()).await?;
    stream.set_priority(-1).map_err(io::Error::other)?;
    let written = async {
        soon(stall, stream.write_all(&start)).await?;
        let chunk = Bytes::from(vec![0x5a; CHUNK]);
        for _ in 0..PROBE_MAX / CHUNK as u64 {
            soon(stall, stream.write_chunk(chunk.clone())).await?;
        }
        // All of it is under way: what is known comes.
        std::future::pending::<io::Result<T>>().await
    };
    let found = tokio::select! {
        known = known => Ok(known),
        written = written => written,
        lost = connection.closed() => Err(io::Error::other(lost)),
    };
    stream.reset(GIVEN_UP.into()).unwrap_or_default();
    found
}

async fn push(
    connection: &quinn::Connection,
    (desk, turns): (&Desk, &Turns),
    (kind, nonce, header): (Kind, u64, &[u8]),
    payload: Vec<Bytes>,
    receipt: oneshot::Receiver<bool>,
) -> io::Result<()> {
    let patience = desk.patience;
    let length: u64 = payload.iter().map(|p| p.len() as u64).sum();
    let start = prefix(kind, nonce, header, length)?;
    let haste = if kind == Kind::Bundle { Haste::Step } else { Haste::State };
    // Bundles before this one have limits of their own.
    let (begun, priority) = tokio::select! {
        begun = turns.begin(haste) => begun,
        lost = connection.closed() => return Err(io::Error::other(lost)),
    };
    let mut stream = soon(patience.stall, connection.open_uni()).await?;
    stream.set_priority(priority).map_err(io::Error::other)?;
    let pace = Pace { turns, haste, connection, stall: patience.stall };
    let hashed = kind != Kind::Probe;
    let written = async {
        let written = pace.write(&mut stream, &start, payload, hashed).await;
        drop(begun);
        written
    };
    let sent = match timeout(patience.bundle(length), written).await {
        Ok(Ok(())) => received(connection, &stream, patience.receipt, receipt).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    if sent.is_err() {
        // What is buffered goes; a stream that is closed already is closed.
        stream.reset(GIVEN_UP.into()).unwrap_or_default();
    }
    sent
}

/// How a bundle is handed to a connection.
struct Pace<'a> {
    turns: &'a Turns,
    haste: Haste,
    connection: &'a quinn::Connection,
    stall: Duration,
}

impl Pace<'_> {
    async fn write(
        &self,
        stream: &mut quinn::SendStream,
        start: &[u8],
        payload: Vec<Bytes>,
        hashed: bool,
    ) -> io::Result<()> {
        let mut hasher = hashed.then(blake3::Hasher::new);
        soon(self.stall, stream.write_all(start)).await?;
        for mut part in payload {
            while !part.is_empty() {
                let turn = self.turns.piece(self.haste, self.connection, self.stall).await?;
                let mut piece = part.split_to(part.len().min(PIECE));
                let length = piece.len() as u64;
                while !piece.is_empty() {
                    let chunk = piece.split_to(piece.len().min(CHUNK));
                    // While it is in the caches, for whoever encrypts it, and while others are on their way.
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&chunk);
                    }
                    soon(self.stall, stream.write_chunk(chunk)).await?;
                }
                turn.handed(length);
            }
        }
        if let Some(hasher) = hasher {
            soon(self.stall, stream.write_all(hasher.finalize().as_bytes())).await?;
        }
        stream.finish().map_err(io::Error::other)
    }
}

/// Waits for the receipt, or for what makes it impossible.
async fn received(
    connection: &quinn::Connection,
    stream: &quinn::SendStream,
    limit: Duration,
    receipt: oneshot::Receiver<bool>,
) -> io::Result<()> {
    let stopped = async {
        match stream.stopped().await {
            // Everything is acknowledged: the receipt is on its way.
            Ok(None) => std::future::pending().await,
            Ok(Some(code)) => io::Error::other(format!("refused with code {code}")),
            Err(error) => io::Error::other(error),
        }
    };
    tokio::select! {
        received = soon(limit, receipt) => match received? {
            true => Ok(()),
            false => Err(io::Error::other("refused")),
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
    let probes = Arc::new(Semaphore::new(PROBES));
    while let Ok(stream) = connection.accept_uni().await {
        let (connection, desk, events) = (connection.clone(), desk.clone(), events.clone());
        let probes = probes.clone();
        // One task a stream: a slow one holds up nobody; quinn bounds their number.
        tokio::spawn(async move {
            if let Err(error) = receive(stream, (&connection, from), &desk, &probes, &events).await
            {
                tracing::debug!(from = %from, %error, "a stream was not taken");
            }
        });
    }
}

async fn receive(
    mut stream: quinn::RecvStream,
    (connection, from): (&quinn::Connection, PeerId),
    desk: &Desk,
    probes: &Semaphore,
    events: &mpsc::Sender<NetEvent>,
) -> io::Result<()> {
    let mut start = [0; PREFIX];
    soon(desk.patience.stall, stream.read_exact(&mut start)).await?;
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
    soon(desk.patience.stall, stream.read_exact(&mut header)).await?;
    let taken = match start[4] {
        0 => take(&mut stream, from, (header, length), desk, events).await,
        1 => match probes.try_acquire() {
            Ok(_turn) if length <= PROBE_MAX => {
                soon(desk.patience.probe, swallow(&mut stream, length)).await
            }
            Ok(_) => refuse(&mut stream, REFUSED, "a probe is too long"),
            Err(_) => refuse(&mut stream, REFUSED, "too many probes at once"),
        },
        answer @ (2 | 3) => {
            desk.settle(from, nonce, answer == 2);
            return Ok(());
        }
        _ => return refuse(&mut stream, MALFORMED, "an unknown kind"),
    };
    answer(connection, if taken.is_ok() { Kind::Receipt } else { Kind::Refusal }, nonce, desk)
        .await?;
    taken
}

/// Offers a bundle to the driver, and takes it if it is wanted and right.
async fn take(
    stream: &mut quinn::RecvStream,
    from: PeerId,
    (header, length): (Vec<u8>, u64),
    desk: &Desk,
    events: &mpsc::Sender<NetEvent>,
) -> io::Result<()> {
    let (reply, answer) = oneshot::channel();
    let offer = NetEvent::Offer { from, header: header.clone(), length, reply };
    events.send(offer).await.map_err(io::Error::other)?;
    let Some(take) = answer.await.unwrap_or(None) else {
        return refuse(stream, REFUSED, "not awaited");
    };
    let payload = read(stream, (take, length), desk).await?;
    let arrived = NetEvent::Arrived { from, header, length, payload };
    events.send(arrived).await.map_err(io::Error::other)
}

/// Says on a stream of its own how another ended.
async fn answer(
    connection: &quinn::Connection,
    kind: Kind,
    nonce: u64,
    desk: &Desk,
) -> io::Result<()> {
    let stall = desk.patience.stall;
    let mut back = soon(stall, connection.open_uni()).await?;
    back.set_priority(2).map_err(io::Error::other)?;
    soon(stall, back.write_all(&prefix(kind, nonce, &[], 0)?)).await?;
    back.finish().map_err(io::Error::other)
}

fn refuse(stream: &mut quinn::RecvStream, code: u32, why: &'static str) -> io::Result<()> {
    // A stream that is gone already needs no stopping.
    stream.stop(code.into()).unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// Takes a bundle that the driver wants, and checks it.
async fn read(
    stream: &mut quinn::RecvStream,
    (take, length): (Take, u64),
    desk: &Desk,
) -> io::Result<Bundle> {
    let _room = desk.wait_for_room(length).await?;
    let (limit, stall) = (desk.patience.bundle(length), desk.patience.stall);
    let mut intake = Intake::new(take, usize::try_from(length).map_err(io::Error::other)?);
    let mut chunks: [Bytes; READ] = std::array::from_fn(|_| Bytes::new());
    let whole = async {
        while let Some(count) = soon(stall, stream.read_chunks(&mut chunks)).await? {
            for chunk in &mut chunks[..count] {
                let pushed = intake.push(&std::mem::take(chunk));
                pushed.or_else(|wrong| stop(stream, wrong))?;
            }
        }
        io::Result::Ok(())
    };
    timeout(limit, whole).await??;
    match intake.end() {
        Ok(bundle) => Ok(bundle),
        Err(wrong) => stop(stream, wrong),
    }
}

/// Stops a stream that does not bring what was announced.
fn stop<T>(stream: &mut quinn::RecvStream, wrong: Wrong) -> io::Result<T> {
    let code = match wrong {
        Wrong::Long | Wrong::Value(_) => MALFORMED,
        Wrong::Hash => CORRUPT,
        Wrong::Short => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    stream.stop(code.into()).unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::InvalidData, wrong))
}

/// Counts the bytes of a probe as they come; none is kept.
async fn swallow(stream: &mut quinn::RecvStream, length: u64) -> io::Result<()> {
    let mut had = 0;
    let mut chunks: [Bytes; READ] = std::array::from_fn(|_| Bytes::new());
    while let Some(count) = stream.read_chunks(&mut chunks).await? {
        had += chunks[..count].iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        if had > length {
            refuse(stream, MALFORMED, "longer than announced")?;
        }
    }
    if had < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
