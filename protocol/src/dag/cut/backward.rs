//! The backward pass in stages: where cotangent sums are split, and what crosses back.
//!
//! Forward nodes are taken from the last to the first, as in `grad`. For each result that has a cotangent, every other
//! using stage sums its own contributions and ships one partial; the producer's stage sums its own contributions and the
//! partials, each partial at the place of its latest consumer. Then the node's own backward nodes follow.

use std::collections::{BTreeMap, BTreeSet};

use super::Edges;
use crate::dag::grad::{Contribution, GradientPart, Training};
use crate::dag::{Fact, Node, Op, Source, Value};
use crate::ids::{NodeId, StageId, ValueId};

/// The backward passes of all stages.
pub(super) struct Backward {
    /// Nodes of each stage in order.
    pub(super) nodes: Vec<Vec<Node>>,
    /// Gradient parts with the stages that compute them, by parameter and part.
    pub(super) parts: Vec<(StageId, GradientPart)>,
    /// Values that the training Dag does not have.
    pub(super) fresh: BTreeMap<ValueId, Value>,
}

/// Distributes the backward nodes and fills in the edges' cotangents.
pub(super) fn split(
    training: &Training,
    assignment: &[StageId],
    stages: usize,
    edges: &mut Edges,
) -> Backward {
    let mut split = Split {
        training,
        assignment,
        nodes: vec![Vec::new(); stages],
        made: vec![BTreeSet::new(); stages],
        local: BTreeMap::new(),
        shipped: BTreeSet::new(),
        parts: BTreeMap::new(),
        fresh: BTreeMap::new(),
    };
    let own = own_nodes(training);
    let part_uses = part_uses(training);
    for id in (0..training.forward_nodes).rev() {
        let id = NodeId::new(u32::try_from(id).expect("at most NODES_MAX nodes"));
        let result = training.dag.node(id).outputs[0];
        if let Some(&whole) = training.cotangents.get(&result) {
            split.collect(result, whole, edges);
        }
        for node in own.get(&id).into_iter().flatten() {
            split.place(id, node);
        }
        for part in part_uses.get(&id).into_iter().flatten() {
            split.part(id, *part);
        }
    }
    let parts = training.gradients.iter().map(|part| split.parts[&(part.parameter, part.part)]);
    Backward { parts: parts.collect(), nodes: split.nodes, fresh: split.fresh }
}

/// Returns each forward node's backward nodes, without the sums of its result's cotangent.
fn own_nodes(training: &Training) -> BTreeMap<NodeId, Vec<&Node>> {
    let is_sum = |value: &ValueId| training.contributions.get(value).is_some_and(|c| c.len() > 1);
    let sums: BTreeSet<ValueId> = training
        .cotangents
        .iter()
        .filter_map(|(value, whole)| is_sum(value).then_some(*whole))
        .collect();
    let mut own: BTreeMap<NodeId, Vec<&Node>> = BTreeMap::new();
    for (node, origin) in
        training.dag.nodes()[training.forward_nodes..].iter().zip(&training.origin)
    {
        if !(matches!(node.op, Op::AddN) && sums.contains(&node.outputs[0])) {
            own.entry(*origin).or_default().push(node);
        }
    }
    own
}

/// Returns the gradient parts that come from each forward node.
fn part_uses(training: &Training) -> BTreeMap<NodeId, Vec<GradientPart>> {
    let mut uses: BTreeMap<NodeId, Vec<GradientPart>> = BTreeMap::new();
    for part in &training.gradients {
        let consumer = training.contributions[&part.parameter][usize::from(part.part)].consumer;
        uses.entry(consumer).or_default().push(*part);
    }
    uses
}

struct Split<'a> {
    training: &'a Training,
    assignment: &'a [StageId],
    nodes: Vec<Vec<Node>>,
    /// What each stage's backward nodes make.
    made: Vec<BTreeSet<ValueId>>,
    /// For each forward value that has a cotangent: the id that it has in the producer's stage.
    local: BTreeMap<ValueId, ValueId>,
    /// Values that cross an edge already.
    shipped: BTreeSet<ValueId>,
    parts: BTreeMap<(ValueId, u16), (StageId, GradientPart)>,
    fresh: BTreeMap<ValueId, Value>,
}

impl Split<'_> {
    fn stage(&self, node: NodeId) -> StageId {
        self.assignment[node.index()]
    }

    /// Brings a forward value's cotangent together in its producer's stage.
    fn collect(&mut self, value: ValueId, whole: ValueId, edges: &mut Edges) {
        let training = self.training;
        let Some(contributions) = training.contributions.get(&value) else {
            // The loss: its cotangent is a node of its own.
            self.local.insert(value, whole);
            return;
        };
        let home = training.dag.producer(value).expect("only nodes' results have cotangents");
        let home = self.stage(home);
        let mut operands = Vec::new();
        let mut remote = BTreeSet::new();
        for contribution in contributions {
            let stage = self.stage(contribution.consumer);
            if stage == home {
                operands.push(self.resolve(*contribution));
            } else if remote.insert(stage) {
                let partial = self.partial(value, stage, contributions);
                let edge = edges.get_mut(&(value, stage)).expect("a use elsewhere is an edge");
                edge.cotangent = Some(partial);
                operands.push(partial);
            }
        }
        let local = match operands.as_slice() {
            [only] => *only,
            _ => {
                let name = self.training.dag.value(whole).name.clone();
                self.push(
                    home,
                    Node { name, op: Op::AddN, inputs: operands, outputs: vec![whole] },
                );
                whole
            }
        };
        self.local.insert(value, local);
    }

    /// Sums one stage's contributions to a cotangent into a value that only this edge carries.
    fn partial(
        &mut self,
        value: ValueId,
        stage: StageId,
        contributions: &[Contribution],
    ) -> ValueId {
        let own = contributions.iter().filter(|c| self.stage(c.consumer) == stage);
        let operands: Vec<ValueId> = own.map(|c| self.resolve(*c)).collect();
        let partial = match operands.as_slice() {
            [only] if self.made[stage.index()].contains(only) && !self.shipped.contains(only) => {
                *only
            }
            _ => {
                let of = self.training.dag.value(value);
                let (name, fact) = (format!("{}'@{stage}", of.name), of.fact.clone());
                self.sum(stage, name, fact, operands)
            }
        };
        self.shipped.insert(partial);
        partial
    }

    /// Returns the id that a contribution has in its consumer's stage.
    fn resolve(&self, contribution: Contribution) -> ValueId {
        let result = self.training.dag.node(contribution.consumer).outputs[0];
        if self.training.cotangents.get(&result) == Some(&contribution.value) {
            return self.local[&result];
        }
        contribution.value
    }

    /// Puts a backward node into the stage of its forward node.
    fn place(&mut self, origin: NodeId, node: &Node) {
        let result = self.training.dag.node(origin).outputs[0];
        let mut node = node.clone();
        if let Some(whole) = self.training.cotangents.get(&result) {
            let local = self.local[&result];
            node.inputs.iter_mut().filter(|id| *id == whole).for_each(|id| *id = local);
        }
        self.push(self.stage(origin), node);
    }

    /// Notes a gradient part; one that is a received cotangent as it is gets a node that makes it the stage's own.
    fn part(&mut self, consumer: NodeId, part: GradientPart) {
        let stage = self.stage(consumer);
        let mut value = self.resolve(Contribution { consumer, value: part.value });
        if !self.made[stage.index()].contains(&value) {
            let of = self.training.dag.value(part.parameter);
            let name = format!("{}'{}@{stage}", of.name, part.part);
            value = self.sum(stage, name, of.fact.clone(), vec![value]);
        }
        self.parts.insert((part.parameter, part.part), (stage, GradientPart { value, ..part }));
    }

    fn sum(&mut self, stage: StageId, name: String, fact: Fact, inputs: Vec<ValueId>) -> ValueId {
        let offset = |own: usize| u32::try_from(own + self.fresh.len()).expect("values fit in u32");
        let id = ValueId::new(offset(self.training.dag.values().len()));
        let node = NodeId::new(offset(self.training.dag.nodes().len()));
        let source = Source::Node { node, slot: 0 };
        self.fresh.insert(id, Value { name: name.clone(), fact, source });
        self.push(stage, Node { name, op: Op::AddN, inputs, outputs: vec![id] });
        id
    }

    fn push(&mut self, stage: StageId, node: Node) {
        self.made[stage.index()].extend(&node.outputs);
        self.nodes[stage.index()].push(node);
    }
}
