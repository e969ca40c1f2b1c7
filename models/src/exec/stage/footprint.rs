//! What a stage takes of memory, from the facts of its graph.
//!
//! Counted are tensors; not what kernels need beside them, nor what an allocator rounds up to. The executor compares
//! these figures with the limit of its store before a task runs.

use wattle_protocol::dag::Fact;
use wattle_protocol::dag::bundle::state_bytes;
use wattle_protocol::dag::cut::StageGraph;
use wattle_protocol::ids::ValueId;
use wattle_protocol::swarm::io::StageWork;
use wattle_protocol::units::Bytes;

use super::Stage;
use crate::exec::program::Lifetimes;
use crate::exec::tensor::HostBackend;

/// What the passes of one micro-batch take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Kept from the forward to the backward pass.
    saved: Bytes,
    /// A forward pass at its peak, with the copies that it sends.
    forward: Bytes,
    /// The same of a backward pass, beyond what was saved for it.
    backward: Bytes,
}

impl Footprint {
    /// Works out what the passes of a stage take.
    pub(super) fn of(graph: &StageGraph, forward: &Lifetimes, backward: &Lifetimes) -> Self {
        let size = |id: ValueId| graph.values.get(&id).map_or(Bytes::ZERO, |v| size_of(&v.fact));
        let saved: Bytes = graph.saved.iter().map(|id| size(*id)).sum();
        let received = graph.receives.iter().map(|(_, edge)| edge.value);
        let cotangents = graph.sends.iter().filter_map(|(_, edge)| edge.cotangent);
        let sent = graph.sends.iter().map(|(_, edge)| size_of(&edge.fact)).sum();
        let back = graph.receives.iter().filter(|(_, edge)| edge.cotangent.is_some());
        let sent_back = back.map(|(_, edge)| size_of(&edge.fact)).sum();
        let begins = received.chain(graph.data.iter().copied());
        let there = forward.peak(&graph.forward, begins, size) + sent;
        let begins = cotangents.chain(graph.saved.iter().copied());
        let again = backward.peak(&graph.backward, begins, size) + sent_back;
        let beyond = Bytes::new(again.count().saturating_sub(saved.count()));
        Self { saved, forward: there, backward: beyond }
    }
}

/// Returns the size of a tensor; a stranger's shape may be beyond any number.
fn size_of(fact: &Fact) -> Bytes {
    let lengths = fact.shape.iter().map(|length| *length as u64);
    Bytes::new(lengths.fold(fact.dtype.size() as u64, u64::saturating_mul))
}

/// Returns what loading a stage takes.
pub fn loaded(work: &StageWork) -> Bytes {
    state_bytes(&work.graph, &work.train.optimizer)
}

impl<B: HostBackend> Stage<B> {
    /// Returns what the stage holds: its state, values saved for backward passes, and gradients. A reduced gradient
    /// shares the memory of its parts.
    pub fn held(&self) -> Bytes {
        let sums: usize = self.sums.values().map(|sum| sum.shape().iter().product::<usize>()).sum();
        loaded(&self.work)
            + self.footprint.saved * self.saved.len() as u64
            + Bytes::of_len(sums.saturating_mul(std::mem::size_of::<f32>()))
    }

    /// Returns what a forward pass adds to that, at its peak.
    pub fn forward_adds(&self) -> Bytes {
        self.footprint.forward
    }

    /// Returns what a backward pass adds, at its peak.
    pub fn backward_adds(&self) -> Bytes {
        self.footprint.backward
    }
}
