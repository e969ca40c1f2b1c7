//! Which tensors a worker awaits, from whom, and how long they are: asked before a byte of one is read.

use super::Shift;
use crate::dag::bundle::group_sums_bytes;
use crate::dag::cut::CutEdge;
use crate::ids::{EdgeId, MicroBatch, PeerId};
use crate::swarm::io::{Length, TensorKey, TensorName};

impl Shift {
    /// Says whether a bundle may come for the step in work or the next: it is of neither, or here already, if not.
    pub(in crate::swarm) fn may_come(&self, key: &TensorKey) -> bool {
        let near = key.step == self.step || key.step == self.step.next();
        near && key.epoch == self.plan.epoch && !self.arrived.contains(&(key.step, key.name))
    }

    /// Says whether a tensor of a pass, or sums of another worker, are awaited, and how many bytes they have.
    pub(in crate::swarm) fn awaits(&self, from: PeerId, key: &TensorKey) -> Option<Length> {
        if !self.may_come(key) {
            return None;
        }
        let graph = &self.work.graph;
        let own =
            |m: MicroBatch| m.index() < self.work.train.micro_batches && self.turn(m) == self.place;
        let find = |list: &[(EdgeId, CutEdge)], id: EdgeId| {
            list.iter().find(|(e, _)| *e == id).map(|(_, edge)| edge.clone())
        };
        match key.name {
            TensorName::Activation { edge: id, micro_batch } if own(micro_batch) => {
                let edge = find(&graph.receives, id)?;
                let due = self.plan.worker(edge.from, micro_batch) == Some(from);
                due.then(|| Length::of(self.work.form_there(id), &edge.fact))
            }
            TensorName::Cotangent { edge: id, micro_batch } if own(micro_batch) => {
                let edge = find(&graph.sends, id)?;
                let sender = self.plan.worker(edge.to, micro_batch);
                let due = sender == Some(from) && edge.cotangent.is_some();
                due.then(|| Length::of(self.work.form_back(id), &edge.fact))
            }
            TensorName::GroupSums { stage, worker, chunk } if stage == self.id => {
                let (roles, chunk) = (self.roles()?, self.chunks.get(usize::from(chunk))?);
                let due = roles.source(self.place) == Some(worker)
                    && roles.workers().nth(usize::from(worker)) == Some(from);
                let behind = self.work.groups.before(self.first_group()).count();
                due.then(|| Length::Exactly(group_sums_bytes(graph, chunk, behind)))
            }
            TensorName::Activation { .. }
            | TensorName::Cotangent { .. }
            | TensorName::GroupSums { .. }
            | TensorName::SharedGradient { .. }
            | TensorName::StageGradient { .. }
            | TensorName::StageState { .. }
            | TensorName::StageStart { .. } => None,
        }
    }
}
