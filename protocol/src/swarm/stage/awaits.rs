//! Which tensors a stage awaits, from whom, and how long they are: asked before a byte of one is read.

use super::Stage;
use crate::dag::bundle::{shared_bytes, start_bytes};
use crate::dag::cut::CutEdge;
use crate::ids::{EdgeId, MicroBatch, PeerId};
use crate::swarm::io::{TensorKey, TensorName};
use crate::units::Bytes;

impl Stage {
    /// Says whether a tensor from another stage is awaited: names the edge's size, or None.
    pub(in crate::swarm) fn awaits(&self, from: PeerId, key: &TensorKey) -> Option<Bytes> {
        let near = key.step == self.applied || key.step == self.applied.next();
        if !near || self.arrived.contains(&(key.step, key.name)) {
            return None;
        }
        let graph = &self.work.graph;
        let starts = || self.awaits_start(from, key).then(|| start_bytes(graph));
        let valid = |m: MicroBatch| m.index() < self.work.train.micro_batches;
        let find = |list: &[(EdgeId, CutEdge)], id: EdgeId| {
            list.iter().find(|(e, _)| *e == id).map(|(_, edge)| edge.clone())
        };
        match key.name {
            TensorName::Activation { edge, micro_batch } if valid(micro_batch) => {
                let edge = find(&graph.receives, edge)?;
                (self.plan.owner(edge.from) == Some(from)).then(|| edge.fact.bytes())
            }
            TensorName::Cotangent { edge, micro_batch } if valid(micro_batch) => {
                let edge = find(&graph.sends, edge)?;
                let due = self.plan.owner(edge.to) == Some(from) && edge.cotangent.is_some();
                due.then(|| edge.fact.bytes())
            }
            TensorName::SharedGradient { stage, to } => {
                let due = to == self.id
                    && self.sharers().contains(&stage)
                    && self.plan.owner(stage) == Some(from);
                due.then(|| shared_bytes(graph, stage, to))
            }
            TensorName::StageStart { .. } => starts(),
            TensorName::Activation { .. }
            | TensorName::Cotangent { .. }
            | TensorName::StageGradient { .. }
            | TensorName::StageState { .. } => None,
        }
    }
}
