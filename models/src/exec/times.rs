//! How long operators took, by name: what the arithmetic of a pass is made of.
//!
//! Only in host memory does an operator end when its call returns; on a GPU it is launched then, and nothing is known of its
//! time, so that there is none. A lap also holds finding the operands and freeing what is not needed any more. What laps
//! cost is in docs/reference/performance.md, with the rest of what is not arithmetic.

use std::collections::BTreeMap;
use std::time::Instant;

use wattle_protocol::swarm::io::OpTimes;

/// Measures one operator after another.
#[derive(Debug)]
pub(super) struct OpClock {
    last: Instant,
    nanos: BTreeMap<&'static str, u64>,
}

impl OpClock {
    pub(super) fn start() -> Self {
        Self { last: Instant::now(), nanos: BTreeMap::new() }
    }

    /// Books the time since the last lap to an operator.
    pub(super) fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        let took = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
        self.last = now;
        let sum = self.nanos.entry(name).or_default();
        *sum = sum.saturating_add(took);
    }

    pub(super) fn times(self) -> OpTimes {
        self.nanos.into_iter().collect()
    }
}
