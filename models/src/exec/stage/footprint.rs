//! What a loaded stage holds and what its tasks add, by the rule of `protocol/src/schedule/footprint.rs`.
//!
//! The executor compares these figures with the limit of its store before a task runs. An update is not among them: it is
//! decided, and to refuse it would lose the stage.

use wattle_protocol::schedule::footprint::Footprint;
use wattle_protocol::swarm::io::StageWork;
use wattle_protocol::units::Bytes;

use super::Stage;
use crate::exec::tensor::HostBackend;

/// Returns what a stage takes on this machine.
pub fn of(work: &StageWork) -> Footprint {
    Footprint::of_stage(&work.graph, &work.train, threads())
}

/// Threads that compute.
pub(super) fn threads() -> u64 {
    rayon::current_num_threads() as u64
}

impl<B: HostBackend> Stage<B> {
    /// Returns what the stage holds: its state, values saved for backward passes, and gradients.
    pub fn held(&self) -> Bytes {
        let f = &self.footprint;
        let reduced = if self.reduced.is_some() { f.reduced } else { Bytes::ZERO };
        f.state + f.saved * self.saved.len() as u64 + f.sums * self.sums.held() + reduced
    }

    /// Returns what the stage and its tasks take.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }
}
