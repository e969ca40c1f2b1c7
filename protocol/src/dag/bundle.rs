//! What a bundle of tensors holds and how long it is: known before a byte of it arrives, so that a peer can
//! refuse what it does not await.
//!
//! Every bundle is its tensors one after another, each row-major, four little-endian bytes an element.

use super::Dtype;
use super::cut::StageGraph;
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
