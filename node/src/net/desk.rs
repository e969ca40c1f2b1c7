//! What all connections share while bundles are on their way: numbers, awaited receipts, room, and patience.
//!
//! Both ways of carrying bundles use it: [`super::bulk`] on QUIC streams, [`super::fallback`] without.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use wattle_protocol::ids::PeerId;

use super::turns::Turns;

/// A stream on which nothing moves for so long is given up.
const STALL: Duration = Duration::from_secs(20);
/// A sender waits so long for the receipt of what it has sent.
const RECEIPT: Duration = Duration::from_secs(60);
/// Longest life of a probe's stream: at less than 5 KiB/s nobody asks for the exact rate.
const PROBE: Duration = Duration::from_secs(60);
/// A bundle that is slower than this over its whole length is given up, in bytes per second: below, no step ends.
pub(super) const RATE_MIN: u64 = 16 << 10;
/// Bytes that may be in the middle of being received, over all peers, in units of `UNIT`.
const BUDGET: usize = 2 << 10;
/// Unit of the budget.
const UNIT: u64 = 1 << 20;

/// How long the other side is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For anything to move.
    pub(super) stall: Duration,
    /// For the receipt of what has been sent.
    pub(super) receipt: Duration,
    /// For the whole of a probe.
    pub(super) probe: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: STALL, receipt: RECEIPT, probe: PROBE }
    }
}

impl Patience {
    /// How long a bundle may take as a whole.
    pub(super) fn bundle(&self, length: u64) -> Duration {
        self.stall + Duration::from_secs(length / RATE_MIN)
    }
}

/// Who waits for a receipt, by receiver and number: nobody answers for another.
#[derive(Debug, Default)]
struct Waiting(BTreeMap<(PeerId, u64), oneshot::Sender<bool>>);

/// Awaited receipts, the receive budget and patience; shared by all connections.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) patience: Patience,
    next: Arc<AtomicU64>,
    waiting: Arc<Mutex<Waiting>>,
    /// Turns by receiver; those of whom nobody sends anything to are forgotten.
    turns: Arc<Mutex<BTreeMap<PeerId, Arc<Turns>>>>,
    pub(super) budget: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            next: Arc::default(),
            waiting: Arc::default(),
            turns: Arc::default(),
            budget: Arc::new(Semaphore::new(BUDGET)),
        }
    }

    /// Returns a number for an exchange.
    pub(super) fn nonce(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the turns of bundles for a peer.
    pub(super) fn turns(&self, to: PeerId) -> Arc<Turns> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|peer, turns| *peer == to || Arc::strong_count(turns) > 1);
        turns.entry(to).or_default().clone()
    }

    /// Returns room for a bundle if there is some right away.
    pub(super) fn room(&self, length: u64) -> Option<OwnedSemaphorePermit> {
        self.budget.clone().try_acquire_many_owned(units(length)?).ok()
    }

    pub(super) async fn wait_for_room(&self, length: u64) -> io::Result<OwnedSemaphorePermit> {
        let units = units(length).ok_or(io::ErrorKind::InvalidData)?;
        soon(self.patience.stall, self.budget.clone().acquire_many_owned(units)).await
    }

    pub(super) fn expect(&self, from: PeerId, nonce: u64) -> oneshot::Receiver<bool> {
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).0.insert((from, nonce), tx);
        rx
    }

    /// Tells the one who waits, if there is one, how it went; returns nothing, since the sender may have given up.
    pub(super) fn settle(&self, from: PeerId, nonce: u64, good: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = waiting.0.remove(&(from, nonce)) {
            waiting.send(good).unwrap_or_default();
        }
    }
}

/// What a bundle takes of the budget.
fn units(length: u64) -> Option<u32> {
    u32::try_from(length.div_ceil(UNIT)).ok()
}

/// Waits for something, though not for ever.
pub(super) async fn soon<T, E>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> io::Result<T>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    timeout(limit, work).await?.map_err(io::Error::other)
}
