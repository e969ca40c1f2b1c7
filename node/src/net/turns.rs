//! Whose bytes go next to a peer: what a step waits for goes one bundle after another, in the order in which it was made;
//! states that are moved, and probes, go between in pieces.
//!
//! quinn shares a connection out among its streams: of three activations on a link each would take three times as long,
//! and the stage behind would get the first when it gets the last. Estimates assume one after another
//! (`schedule/course.rs`), and pipelines need it. So a bundle is handed to quinn a piece at a time, while little of what it
//! has is unsent. Two bundles at most compete for a turn, one of each kind: a state of many megabytes gets half of the
//! link at least, and never all of it.
//!
//! Not here: control frames, which have streams and a priority of their own.

use std::io;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// Bytes that are handed over at a time.
pub(super) const PIECE: usize = 256 << 10;
/// So much may be unsent, and two windows of the congestion control, when the next piece is handed over: what is sent while
/// nobody looks.
const UNSENT: u64 = 64 << 10;
/// Priorities of streams: of pieces between, and of the first bundle of a step, below which there are so many. Control streams
/// have higher ones.
const OTHER: i32 = -1;
const FIRST: i32 = -2;
const BUNDLES: i32 = 1_000_000_000;
/// How often the unsent is looked at while it is too much.
const LOOK: Duration = Duration::from_millis(1);

/// The turns of the bundles for one peer.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many bundles of steps there were before.
    bundle: Mutex<i32>,
    other: Mutex<()>,
    piece: Mutex<Ledger>,
}

/// Who waits for a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// A step: the next one of its kind goes when all of it has been handed over.
    Step,
    /// Whoever is to take part later: others go between its pieces.
    State,
}

/// What has been handed to a connection, and what it had sent when nothing was unsent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    connection: usize,
    handed: u64,
    sent: u64,
}

impl Turns {
    /// Waits until the bundles before have been handed over; the turn ends when what is returned is dropped. Nothing to
    /// wait for, and nothing returned, where others may go between. Also returns the priority of the bundle's stream: what
    /// was handed over first is sent first. Safe to drop midway.
    pub(super) async fn begin(&self, haste: Haste) -> (Option<MutexGuard<'_, i32>>, i32) {
        match haste {
            Haste::Step => {
                let mut before = self.bundle.lock().await;
                let priority = FIRST - *before;
                // Comes round long after the first have arrived.
                *before = if *before < BUNDLES { *before + 1 } else { 0 };
                (Some(before), priority)
            }
            Haste::State => (None, OTHER),
        }
    }

    /// Waits until a piece may be handed over, which the ledger is told then. Safe to drop midway.
    ///
    /// *Errors*: the connection is closed, or sends nothing for so long.
    pub(super) async fn piece(
        &self,
        haste: Haste,
        connection: &quinn::Connection,
        stall: Duration,
    ) -> io::Result<Piece<'_>> {
        let other = match haste {
            Haste::Step => None,
            Haste::State => Some(self.other.lock().await),
        };
        let mut ledger = self.piece.lock().await;
        let (mut least, mut waited) = (u64::MAX, Duration::ZERO);
        loop {
            let (unsent, window) = ledger.unsent(connection);
            if unsent <= UNSENT + 2 * window {
                return Ok(Piece { ledger, _other: other });
            }
            // Whoever has a newer connection to the same peer waits for this turn.
            if let Some(lost) = connection.close_reason() {
                return Err(io::Error::other(lost));
            }
            if unsent < least {
                (least, waited) = (unsent, Duration::ZERO);
            } else if waited > stall {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(LOOK).await;
            waited += LOOK;
        }
    }
}

/// Leave to hand a piece over.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    ledger: MutexGuard<'a, Ledger>,
    _other: Option<MutexGuard<'a, ()>>,
}

impl Piece<'_> {
    /// So many bytes have been handed over.
    pub(super) fn handed(mut self, bytes: u64) {
        self.ledger.handed += bytes;
    }
}

impl Ledger {
    /// Returns what the connection has not sent yet, and the window of its congestion control. Headers, acknowledgements and
    /// what is sent a second time count as sent, so that it is rather less than is unsent, until nothing is.
    fn unsent(&mut self, connection: &quinn::Connection) -> (u64, u64) {
        let stats = connection.stats();
        let (id, all) = (connection.stable_id(), stats.udp_tx.bytes);
        if self.connection != id || all < self.sent {
            *self = Self { connection: id, handed: 0, sent: all };
        }
        let unsent = self.handed.saturating_sub(all - self.sent);
        if unsent == 0 {
            (self.handed, self.sent) = (0, all);
        }
        (unsent, stats.path.cwnd)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex as Log};

    use super::*;
    use crate::net::transport::pair;

    /// Goal: bundles of steps in order, states between their pieces. Method: two of each, six pieces long, that begin at once.
    #[tokio::test]
    async fn pieces_of_states_and_of_bundles_take_turns() {
        let (_ends, [near, _far]) = pair().await;
        let (turns, log) = (Arc::new(Turns::default()), Arc::new(Log::new(String::new())));
        let hand = |turn, name: char| {
            let (near, turns, log) = (near.clone(), turns.clone(), log.clone());
            async move {
                let (_begun, priority) = turns.begin(turn).await;
                for _ in 0..6 {
                    let piece = turns.piece(turn, &near, Duration::from_secs(9)).await.unwrap();
                    log.lock().unwrap().push(name);
                    // As a write does: others come to wait for their turns.
                    tokio::task::yield_now().await;
                    piece.handed(1);
                }
                priority
            }
        };
        let priorities = tokio::join!(
            hand(Haste::State, 's'),
            hand(Haste::Step, 'a'),
            hand(Haste::State, 't'),
            hand(Haste::Step, 'b')
        );
        assert_eq!(priorities, (OTHER, FIRST, OTHER, FIRST - 1));
        let log = log.lock().unwrap().clone();
        let is_step = |name: char| name < 'c';
        let steps: String = log.chars().filter(|name| is_step(*name)).collect();
        assert_eq!(steps, "aaaaaabbbbbb", "{log}");
        let twice = log
            .as_bytes()
            .windows(2)
            .filter(|two| is_step(two[0].into()) == is_step(two[1].into()));
        assert!(twice.count() <= 1, "{log}");
    }

    /// A connection that sends nothing is given up, so that who waits behind it learns of it.
    #[tokio::test]
    async fn who_waits_for_a_connection_that_sends_nothing_gives_up() {
        let (_ends, [near, _far]) = pair().await;
        let turns = Turns::default();
        let stall = Duration::from_millis(50);
        turns.piece(Haste::Step, &near, stall).await.unwrap().handed(1 << 30);
        let given_up = turns.piece(Haste::Step, &near, stall).await.unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
        near.close(0u32.into(), b"");
        let lost = turns.piece(Haste::Step, &near, Duration::from_secs(3600)).await.unwrap_err();
        assert_eq!(lost.kind(), io::ErrorKind::Other);
    }
}
