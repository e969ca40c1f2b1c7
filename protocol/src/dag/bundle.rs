//! What a bundle of tensors holds and how long it is: known before a byte of it arrives, so that a peer can
//! refuse what it does not await.
//!
//! Every bundle is its tensors one after another, each row-major, four little-endian bytes an element.

use std::ops::Range;

use super::Dtype;
use super::cut::StageGraph;
use super::grad::GradientPart;
use crate::ids::{StageId, ValueId};
use crate::job::Optimizer;
use crate::units::Bytes;

/// Returns how many tensors of a parameter's shape an optimizer keeps.
pub const fn optimizer_slots(optimizer: &Optimizer) -> usize {
    match optimizer {
        Optimizer::AdamW { .. } => 2,
        Optimizer::Sgd { momentum, .. } => {
            if *momentum > 0.0 {
                1
            } else {
                0
            }
        }
    }
}

/// Returns the length of a `StageState`: parameters in order, then each optimizer slot of all parameters in order,
/// then buffers in order.
pub fn state_bytes(graph: &StageGraph, optimizer: &Optimizer) -> Bytes {
    let copies = 1 + optimizer_slots(optimizer) as u64;
    size_of(graph, graph.parameters.iter().copied()) * copies
        + size_of(graph, graph.buffers.iter().copied())
}

/// Returns the length of a `StageStart`: parameters in order, then buffers in order.
pub fn start_bytes(graph: &StageGraph) -> Bytes {
    size_of(graph, graph.parameters.iter().chain(&graph.buffers).copied())
}

/// Returns the length of a `StageGradient`: the gradient of each parameter in order, then for each micro-batch the
/// source of each buffer update in order.
pub fn gradient_bytes(graph: &StageGraph, micro_batches: u32) -> Bytes {
    size_of(graph, graph.parameters.iter().copied())
        + size_of(graph, graph.updates.iter().map(|u| u.buffer)) * u64::from(micro_batches)
}

/// Least bytes of a piece in which replicas' sums are gathered: enough that what each piece costs by itself is little.
const CHUNK: Bytes = Bytes::new(4 << 20);
/// Most pieces of a stage's sums.
const CHUNKS_MAX: u64 = 64;

/// Returns in about how many pieces gradients of so many bytes are gathered.
pub fn chunks_in(gradient: Bytes) -> u64 {
    (gradient.count() / CHUNK.count()).clamp(1, CHUNKS_MAX)
}

/// Returns the pieces in which replicas' sums are gathered, as runs of the stage's gradient parts; at least one.
pub fn gather_chunks(graph: &StageGraph) -> Vec<Range<usize>> {
    let size = |part: &GradientPart| size_of(graph, [part.parameter]);
    let total: Bytes = graph.gradients.iter().map(size).sum();
    let least = CHUNK.max(Bytes::new(total.count() / CHUNKS_MAX));
    let (mut chunks, mut start, mut held) = (Vec::new(), 0, Bytes::ZERO);
    for (place, part) in graph.gradients.iter().enumerate() {
        held += size(part);
        if held >= least {
            chunks.push(start..place + 1);
            (start, held) = (place + 1, Bytes::ZERO);
        }
    }
    if start < graph.gradients.len() || chunks.is_empty() {
        chunks.push(start..graph.gradients.len());
    }
    chunks
}

/// Returns the length of a `GroupSums`: the summed gradient parts of its chunk in order; in the first chunk also, for each
/// micro-batch that went into it in order, the source of each buffer update in order.
pub fn group_sums_bytes(graph: &StageGraph, chunk: &Range<usize>, micro_batches: usize) -> Bytes {
    let parts = graph.gradients.get(chunk.clone()).unwrap_or_default();
    let sums = size_of(graph, parts.iter().map(|part| part.parameter));
    let updates = size_of(graph, graph.updates.iter().map(|u| u.buffer));
    if chunk.start == 0 { sums + updates * micro_batches as u64 } else { sums }
}

/// Returns the length of the `SharedGradient` from one stage to another; `graph` is either's.
pub fn shared_bytes(graph: &StageGraph, from: StageId, to: StageId) -> Bytes {
    shared_parts(graph, from, to).map(|(parameter, _)| size_of(graph, [parameter])).sum()
}

/// Lists what a `SharedGradient` holds, in order: for each parameter that both stages read, the parts that `from`
/// computes. Both ends find the same list in their own graph.
pub fn shared_parts(
    graph: &StageGraph,
    from: StageId,
    to: StageId,
) -> impl Iterator<Item = (ValueId, u16)> + '_ {
    let both =
        graph.shared.iter().filter(move |s| s.stages.contains(&from) && s.stages.contains(&to));
    both.flat_map(move |shared| {
        let parts = (0..u16::MAX).zip(&shared.parts);
        parts.filter(move |(_, stage)| **stage == from).map(|(part, _)| (shared.parameter, part))
    })
}

/// Sums sizes; bundles hold single precision whatever the device computes in.
fn size_of(graph: &StageGraph, values: impl IntoIterator<Item = ValueId>) -> Bytes {
    let elements = values
        .into_iter()
        .filter_map(|id| graph.values.get(&id))
        .map(|value| value.fact.elements() as u64);
    Bytes::new(Dtype::F32.size() as u64) * elements.fold(0, u64::saturating_add)
}
