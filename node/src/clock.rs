//! The machine's clock as the machines of the swarm see it: microseconds, never running backwards.
//!
//! It starts at the wall clock, so that spans of several peers on one machine can be drawn on one axis; no decision
//! compares the clocks of two machines.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant as TokioInstant;
use wattle_protocol::units::Instant;

/// A clock; copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: TokioInstant,
    offset: u64,
}

/// Returns this moment as libraries below the swarm name it.
pub(crate) fn moment() -> std::time::Instant {
    std::time::Instant::now()
}

impl Clock {
    /// Starts a clock.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset = u64::try_from(wall.as_micros()).unwrap_or(0);
        Self { start: TokioInstant::now(), offset }
    }

    /// Returns this moment.
    pub fn now(&self) -> Instant {
        let passed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Instant::from_micros(self.offset.saturating_add(passed))
    }

    /// Returns the runtime's name of a moment.
    pub fn at(&self, moment: Instant) -> TokioInstant {
        let micros = moment.micros().saturating_sub(self.offset);
        self.start + std::time::Duration::from_micros(micros)
    }
}
