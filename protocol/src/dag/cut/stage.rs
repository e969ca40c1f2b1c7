//! What each stage reads, keeps, sends and receives, from its forward and backward nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::backward::Backward;
use super::{CutEdge, Edges, Program, SharedParameter, StageGraph};
use crate::dag::grad::{GradientPart, Training};
use crate::dag::{Dag, Node, Source, Value};
use crate::ids::{EdgeId, StageId, ValueId};

/// Makes the stages, in order.
pub(super) fn assemble(
    training: &Training,
    assignment: &[StageId],
    backward: Backward,
    edges: &Edges,
) -> Vec<StageGraph> {
    let Backward { nodes, parts, fresh } = backward;
    let count = nodes.len();
    let mut forward: Vec<Vec<Node>> = vec![Vec::new(); count];
    for (node, stage) in training.dag.nodes().iter().zip(assignment) {
        forward[stage.index()].push(node.clone());
    }
    let whole = Whole { training, edges, parts: &parts, fresh: &fresh };
    let mut stages: Vec<StageGraph> = (0..=u16::MAX)
        .zip(forward.into_iter().zip(nodes))
        .map(|(stage, (forward, backward))| whole.stage(StageId::new(stage), forward, backward))
        .collect();
    let total = u16::try_from(count).unwrap_or(u16::MAX);
    let shared = shared(&stages, &parts);
    for stage in &mut stages {
        stage.stages = total;
        stage.shared = shared.iter().filter(|s| s.stages.contains(&stage.stage)).cloned().collect();
    }
    stages
}

struct Whole<'a> {
    training: &'a Training,
    edges: &'a Edges,
    parts: &'a [(StageId, GradientPart)],
    fresh: &'a BTreeMap<ValueId, Value>,
}

impl Whole<'_> {
    fn stage(&self, stage: StageId, forward: Vec<Node>, mut backward: Vec<Node>) -> StageGraph {
        let dag = &self.training.dag;
        let numbered = (0..).map(EdgeId::new).zip(self.edges.values());
        let pick = |at: fn(&CutEdge) -> StageId| -> Vec<(EdgeId, CutEdge)> {
            numbered
                .clone()
                .filter(|(_, e)| at(e) == stage)
                .map(|(id, e)| (id, e.clone()))
                .collect()
        };
        let (receives, sends) = (pick(|e| e.to), pick(|e| e.from));
        let gradients: Vec<GradientPart> =
            self.parts.iter().filter(|(at, _)| *at == stage).map(|(_, part)| *part).collect();
        let back = receives.iter().filter_map(|(_, edge)| edge.cotangent);
        let returned: BTreeSet<ValueId> = gradients.iter().map(|p| p.value).chain(back).collect();
        prune(&mut backward, &returned);

        let made: BTreeSet<ValueId> = results(&forward).collect();
        let saved = self.saved(&backward);
        let updates: Vec<_> =
            dag.updates().iter().filter(|update| made.contains(&update.from)).copied().collect();
        let loss = Some(self.training.loss).filter(|loss| made.contains(loss));
        let named = dag.outputs().iter().copied().filter(|v| made.contains(v));
        let kept = sends.iter().map(|(_, edge)| edge.value).chain(saved.iter().copied());
        let kept: BTreeSet<ValueId> =
            kept.chain(named.clone()).chain(updates.iter().map(|update| update.from)).collect();
        let read: BTreeSet<ValueId> = operands(&forward).collect();
        let leaves = |wanted: fn(&Source) -> bool| -> Vec<ValueId> {
            read.iter().copied().filter(|v| wanted(&dag.value(*v).source)).collect()
        };
        let mut buffers = leaves(|s| matches!(s, Source::Buffer { .. }));
        buffers.extend(updates.iter().map(|update| update.buffer));
        buffers.sort_unstable();
        buffers.dedup();
        StageGraph {
            stage,
            stages: 0,
            values: self.values(&forward, &backward, &buffers, &sends),
            data: leaves(|s| matches!(s, Source::Input)),
            parameters: leaves(|s| matches!(s, Source::Parameter { .. })),
            buffers,
            saved: saved.into_iter().collect(),
            gradients,
            updates,
            loss,
            results: unique(named.filter(|v| *v != self.training.loss)),
            receives,
            sends,
            shared: Vec::new(),
            forward: Program { nodes: forward, outputs: kept.into_iter().collect() },
            backward: Program { nodes: backward, outputs: returned.into_iter().collect() },
        }
    }

    /// Returns the forward values that backward nodes read, without parameters and buffers: those do not change
    /// within a step.
    fn saved(&self, backward: &[Node]) -> BTreeSet<ValueId> {
        let forward = self.training.forward_values();
        let dag: &Dag = &self.training.dag;
        let is_saved = |v: &ValueId| {
            v.index() < forward
                && matches!(dag.value(*v).source, Source::Node { .. } | Source::Input)
        };
        operands(backward).filter(is_saved).collect()
    }

    fn values(
        &self,
        forward: &[Node],
        backward: &[Node],
        buffers: &[ValueId],
        sends: &[(EdgeId, CutEdge)],
    ) -> BTreeMap<ValueId, Value> {
        let programs = forward.iter().chain(backward);
        let touched = programs.flat_map(|node| node.inputs.iter().chain(&node.outputs)).copied();
        // A cotangent may arrive that the stage only hands on.
        let arriving = sends.iter().filter_map(|(_, edge)| edge.cotangent);
        let touched: BTreeSet<ValueId> =
            touched.chain(buffers.iter().copied()).chain(arriving).collect();
        let find = |id: ValueId| {
            self.fresh.get(&id).unwrap_or_else(|| self.training.dag.value(id)).clone()
        };
        touched.into_iter().map(|id| (id, find(id))).collect()
    }
}

/// Drops nodes whose results nobody needs.
fn prune(nodes: &mut Vec<Node>, roots: &BTreeSet<ValueId>) {
    let mut needed = roots.clone();
    let mut kept: Vec<Node> = Vec::with_capacity(nodes.len());
    for node in nodes.drain(..).rev() {
        if node.outputs.iter().any(|v| needed.contains(v)) {
            needed.extend(&node.inputs);
            kept.push(node);
        }
    }
    kept.reverse();
    *nodes = kept;
}

fn shared(stages: &[StageGraph], parts: &[(StageId, GradientPart)]) -> Vec<SharedParameter> {
    let mut readers: BTreeMap<ValueId, Vec<StageId>> = BTreeMap::new();
    for stage in stages {
        stage.parameters.iter().for_each(|p| readers.entry(*p).or_default().push(stage.stage));
    }
    let tied = readers.into_iter().filter(|(_, stages)| stages.len() > 1);
    tied.map(|(parameter, stages)| {
        let own = parts.iter().filter(|(_, part)| part.parameter == parameter);
        SharedParameter {
            parameter,
            parts: own.map(|(stage, _)| *stage).collect(),
            home: stages[0],
            stages,
        }
    })
    .collect()
}

fn operands(nodes: &[Node]) -> impl Iterator<Item = ValueId> + '_ {
    nodes.iter().flat_map(|node| &node.inputs).copied()
}

fn results(nodes: &[Node]) -> impl Iterator<Item = ValueId> + '_ {
    nodes.iter().flat_map(|node| &node.outputs).copied()
}

fn unique(ids: impl Iterator<Item = ValueId>) -> Vec<ValueId> {
    let mut seen = BTreeSet::new();
    ids.filter(|id| seen.insert(*id)).collect()
}
