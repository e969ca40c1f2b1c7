//! What a window has come to, for others to read while it works: a probe watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Steady;

/// What a window has come to.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Progress {
    /// Bytes that have arrived in all, as packets.
    pub(in crate::net) delivered: u64,
    /// When the last of them was acknowledged.
    pub(in crate::net) at: Instant,
    /// The line has not been full yet.
    pub(in crate::net) is_starting: bool,
}

/// Lets others read a window's progress while it works; copies share it.
#[derive(Clone, Debug)]
pub(in crate::net) struct Seen(Arc<Mutex<Progress>>);

impl Seen {
    /// Finds the window of a connection.
    pub(in crate::net) fn of(connection: &quinn::Connection) -> Option<Self> {
        let window = connection.congestion_state().into_any().downcast::<Steady>().ok()?;
        Some(window.seen.clone())
    }

    pub(super) fn new(now: Instant) -> Self {
        let progress = Progress { delivered: 0, at: now, is_starting: true };
        Self(Arc::new(Mutex::new(progress)))
    }

    pub(super) fn set(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub(in crate::net) fn now(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
