//! Rewrites of graphs that keep what they compute: recomputation.
//!
//! Recomputation trades arithmetic for memory (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"):
//! a stage keeps only what came from outside and runs the forward nodes that its backward pass needs once more.

use std::collections::BTreeSet;

use super::Node;
use super::cut::StageGraph;
use crate::ids::ValueId;

/// Lets a stage recompute its activations in the backward pass instead of keeping them.
///
/// What is kept shrinks to data inputs and received activations. The backward program becomes the needed forward nodes
/// again, then the backward nodes. Dropout repeats its mask, since that is drawn from a counter. The statistics that a
/// recomputed batch normalisation gives flow into no buffer: updates belong to the forward program alone.
#[must_use]
pub fn recompute(mut stage: StageGraph) -> StageGraph {
    let mut needed: BTreeSet<ValueId> = stage.saved.iter().copied().collect();
    let mut again: Vec<Node> = Vec::new();
    for node in stage.forward.nodes.iter().rev() {
        if node.outputs.iter().any(|v| needed.contains(v)) {
            needed.extend(&node.inputs);
            again.push(node.clone());
        }
    }
    again.reverse();
    again.append(&mut stage.backward.nodes);
    stage.backward.nodes = again;

    let made: BTreeSet<ValueId> =
        stage.forward.nodes.iter().flat_map(|node| &node.outputs).copied().collect();
    let fixed: BTreeSet<ValueId> = stage.parameters.iter().chain(&stage.buffers).copied().collect();
    stage.saved = needed.into_iter().filter(|v| !made.contains(v) && !fixed.contains(v)).collect();

    let sent = stage.sends.iter().map(|(_, edge)| edge.value);
    let results = stage.results.iter().copied().chain(stage.loss);
    let updates = stage.updates.iter().map(|update| update.from);
    let kept: BTreeSet<ValueId> =
        sent.chain(results).chain(updates).chain(stage.saved.iter().copied()).collect();
    stage.forward.outputs = kept.into_iter().collect();
    stage
}
