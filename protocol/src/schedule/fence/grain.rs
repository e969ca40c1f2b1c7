//! A network as a few units of neighbouring operators: what choosing cuts needs to know of each, and what flows between.
//!
//! Up to [`UNITS_MAX`] operators each is a unit of its own, and a placement may cut anywhere, through branches and
//! skips too. Beyond, operators are joined along the order in which least crosses, at the cheapest places.

use std::collections::{BTreeMap, BTreeSet};

use super::super::PlanError;
use super::super::estimate::{adding_up, node_loads};
use super::super::load::Load;
use crate::dag::Source;
use crate::dag::grad::{Training, differentiate};
use crate::ids::{NodeId, StageId, ValueId};
use crate::job::JobSpec;
use crate::units::Bytes;

/// Most units.
pub(super) const UNITS_MAX: usize = 128;

/// Up to so many units several orders are tried.
const ORDERED_MAX: usize = 48;

/// Which of the units that could come next does.
#[derive(Clone, Copy, Debug)]
enum Pick {
    /// The one that became ready last: follows a branch to its end.
    Last,
    /// The one that became ready first.
    First,
    /// By the size of its results.
    Smallest,
    Largest,
}

/// Results that units make and others read, for each pair of a maker and a set of readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) from: usize,
    /// Ascending, each once, `from` not among them.
    pub(super) to: Vec<usize>,
    pub(super) bytes: Bytes,
    /// How much of it has a cotangent.
    pub(super) back: Bytes,
}

/// A network in units.
#[derive(Debug)]
pub(super) struct Grain {
    pub(super) training: Training,
    /// Unit of each forward node.
    pub(super) unit_of: Vec<usize>,
    /// Work of one micro-batch, by unit.
    pub(super) forward: Vec<Load>,
    pub(super) backward: Vec<Load>,
    /// Forward work that recomputation repeats: what saved values are made from.
    pub(super) again: Vec<Load>,
    /// Parameters that only this unit reads, and how many.
    pub(super) parameters: Vec<(Bytes, u64)>,
    /// Parameters that several units read.
    pub(super) ties: Vec<(Bytes, Vec<usize>)>,
    /// Results of each unit's nodes that backward passes read, and inputs of the network that it reads first.
    pub(super) saved: Vec<Bytes>,
    pub(super) inputs: Vec<Bytes>,
    pub(super) flows: Vec<Flow>,
    /// Units whose results each unit reads, and that read its results.
    pub(super) before: Vec<Vec<usize>>,
    pub(super) after: Vec<Vec<usize>>,
    /// Units whose backward passes read each unit's results.
    pub(super) saved_for: Vec<Vec<usize>>,
}

impl Grain {
    /// Differentiates a job's network and joins its operators to units.
    ///
    /// *Errors*: [`PlanError::Network`].
    pub(super) fn of(spec: &JobSpec) -> Result<Self, PlanError> {
        let training = differentiate(spec.dag.clone(), spec.train.micro_batches)
            .map_err(|error| PlanError::Network(error.to_string()))?;
        let count = training.forward_nodes;
        let order = best_order(&training);
        let crossing = crossing_bytes(&training, &order);
        let places = cut_places(&crossing, count);
        let mut unit_of = vec![0; count];
        for (unit, pair) in places.windows(2).enumerate() {
            for node in &order[pair[0]..pair[1]] {
                unit_of[*node] = unit;
            }
        }
        let units = places.len() - 1;
        let (forward, backward) = node_loads(&training);
        let sums = |loads: &[Load]| {
            let mut list = vec![Load::default(); units];
            for (node, load) in loads.iter().enumerate() {
                list[unit_of[node]] = list[unit_of[node]] + *load;
            }
            list
        };
        let again = sums(&repeated(&training, &forward));
        let (forward, backward) = (sums(&forward), sums(&backward));
        let mut grain = Self {
            again,
            forward,
            backward,
            parameters: vec![(Bytes::ZERO, 0); units],
            ties: Vec::new(),
            saved: vec![Bytes::ZERO; units],
            inputs: vec![Bytes::ZERO; units],
            flows: Vec::new(),
            before: vec![Vec::new(); units],
            after: vec![Vec::new(); units],
            saved_for: vec![Vec::new(); units],
            unit_of,
            training,
        };
        grain.gather();
        for (load, (bytes, tensors)) in grain.backward.iter_mut().zip(&grain.parameters) {
            *load = *load + adding_up(*bytes, *tensors);
        }
        // Whoever reads a tied parameter makes a part of its gradient.
        for (bytes, readers) in &grain.ties {
            for unit in readers {
                grain.backward[*unit] = grain.backward[*unit] + adding_up(*bytes, 1);
            }
        }
        Ok(grain)
    }

    pub(super) fn units(&self) -> usize {
        self.forward.len()
    }

    /// Sums up what units hold and what flows between them.
    fn gather(&mut self) {
        let (dag, saved) = (&self.training.dag, self.training.saved());
        let mut readers: BTreeMap<ValueId, BTreeSet<usize>> = BTreeMap::new();
        for (node, unit) in self.unit_of.iter().enumerate() {
            let node = dag.node(NodeId::new(u32::try_from(node).unwrap_or(u32::MAX)));
            for input in &node.inputs {
                readers.entry(*input).or_default().insert(*unit);
            }
            let kept = node.outputs.iter().filter(|value| saved.contains(value));
            let results: Bytes = kept.map(|v| dag.fact(*v).bytes()).sum();
            self.saved[*unit] += results;
        }
        let mut flows: BTreeMap<(usize, Vec<usize>), (Bytes, Bytes)> = BTreeMap::new();
        for (value, units) in readers {
            let bytes = dag.fact(value).bytes();
            let first = units.first().copied().unwrap_or(0);
            match dag.value(value).source {
                Source::Parameter { .. } if units.len() == 1 => {
                    self.parameters[first].0 += bytes;
                    self.parameters[first].1 += 1;
                }
                Source::Parameter { .. } => self.ties.push((bytes, units.into_iter().collect())),
                Source::Input => self.inputs[first] += bytes,
                Source::Buffer { .. } => {}
                Source::Node { .. } => {
                    let Some(maker) = dag.producer(value) else { continue };
                    let from = self.unit_of[maker.index()];
                    let to: Vec<usize> = units.into_iter().filter(|unit| *unit != from).collect();
                    if to.is_empty() {
                        continue;
                    }
                    let back = match self.training.cotangents.contains_key(&value) {
                        true => bytes,
                        false => Bytes::ZERO,
                    };
                    let flow = flows.entry((from, to)).or_default();
                    flow.0 += bytes;
                    flow.1 += back;
                }
            }
        }
        for ((from, to), (bytes, back)) in flows {
            for unit in &to {
                self.before[*unit].push(from);
                self.after[from].push(*unit);
            }
            self.flows.push(Flow { from, to, bytes, back });
        }
        for (place, origin) in self.training.origin.iter().enumerate() {
            let node = &dag.nodes()[self.training.forward_nodes + place];
            let makers = node.inputs.iter().filter_map(|value| dag.producer(*value));
            for maker in makers.filter(|maker| maker.index() < self.training.forward_nodes) {
                self.saved_for[self.unit_of[maker.index()]].push(self.unit_of[origin.index()]);
            }
        }
        let lists = self.before.iter_mut().chain(&mut self.after).chain(&mut self.saved_for);
        for list in lists {
            list.sort_unstable();
            list.dedup();
        }
    }

    /// Returns topological orders of the units: the given one, and for few units some that follow branches differently.
    pub(super) fn orders(&self) -> Vec<Vec<usize>> {
        let mut orders = vec![(0..self.units()).collect::<Vec<usize>>()];
        if self.units() > ORDERED_MAX {
            return orders;
        }
        for pick in [Pick::Last, Pick::First, Pick::Smallest, Pick::Largest] {
            let order = self.order(pick);
            if !orders.contains(&order) {
                orders.push(order);
            }
        }
        orders
    }

    /// Takes one ready unit after another; those that a unit makes ready are put on top of the others.
    fn order(&self, pick: Pick) -> Vec<usize> {
        let units = self.units();
        let mut missing: Vec<usize> = self.before.iter().map(Vec::len).collect();
        let mut ready: Vec<usize> = (0..units).rev().filter(|unit| missing[*unit] == 0).collect();
        let mut order = Vec::with_capacity(units);
        let size = |unit: &usize| (self.saved[*unit], *unit);
        while !ready.is_empty() {
            let last = ready.len() - 1;
            let place = match pick {
                Pick::Last => last,
                Pick::First => 0,
                Pick::Smallest => (0..=last).min_by_key(|at| size(&ready[*at])).unwrap_or(0),
                Pick::Largest => (0..=last).max_by_key(|at| size(&ready[*at])).unwrap_or(0),
            };
            let unit = ready.remove(place);
            order.push(unit);
            for user in &self.after[unit] {
                missing[*user] -= 1;
                if missing[*user] == 0 {
                    ready.push(*user);
                }
            }
        }
        order
    }

    /// Returns the bytes that cross each place of an order of units, in one direction; none at both ends.
    pub(super) fn crossing(&self, order: &[usize]) -> Vec<Bytes> {
        let units = self.units();
        let mut place = vec![0; units];
        for (at, unit) in order.iter().enumerate() {
            place[*unit] = at;
        }
        let mut change = vec![(0u64, 0u64); units + 1];
        for flow in &self.flows {
            let last = flow.to.iter().map(|unit| place[*unit]).max().unwrap_or(0);
            change[place[flow.from] + 1].0 += flow.bytes.count();
            change[last + 1].1 += flow.bytes.count();
        }
        running(change)
    }

    /// Returns the stage of each forward node from the stage of each unit.
    pub(super) fn spread(&self, stage_of: &[u16]) -> Vec<StageId> {
        self.unit_of.iter().map(|unit| StageId::new(stage_of[*unit])).collect()
    }
}

/// Returns the work of the forward nodes that saved values are made from; nothing for the others.
fn repeated(training: &Training, forward: &[Load]) -> Vec<Load> {
    let dag = &training.dag;
    let mut needed = training.saved();
    let mut list = vec![Load::default(); forward.len()];
    for id in dag.node_ids().take(forward.len()).collect::<Vec<_>>().into_iter().rev() {
        let node = dag.node(id);
        if node.outputs.iter().any(|value| needed.contains(value)) {
            needed.extend(node.inputs.iter().copied());
            list[id.index()] = forward[id.index()];
        }
    }
    list
}

/// Returns the topological order, of the given one and one that follows branches to their end, across which less flows.
fn best_order(training: &Training) -> Vec<usize> {
    let given: Vec<usize> = (0..training.forward_nodes).collect();
    let deep = deep_order(training);
    let total = |order: &[usize]| -> Bytes { crossing_bytes(training, order).into_iter().sum() };
    if total(&deep) < total(&given) { deep } else { given }
}

/// A topological order that goes on with what the last operator made, where that can be gone on with.
fn deep_order(training: &Training) -> Vec<usize> {
    let dag = &training.dag;
    let count = training.forward_nodes;
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut missing = vec![0usize; count];
    for id in dag.node_ids().take(count) {
        for maker in dag.node(id).inputs.iter().filter_map(|value| dag.producer(*value)) {
            users[maker.index()].push(id.index());
            missing[id.index()] += 1;
        }
    }
    // Last in, first out; of those that become ready together, the first in the given order is on top.
    let mut ready: Vec<usize> = (0..count).rev().filter(|node| missing[*node] == 0).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(node) = ready.pop() {
        order.push(node);
        for user in users[node].iter().rev() {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(*user);
            }
        }
    }
    order
}

/// Returns the bytes of node outputs that are alive across each place of an order (0 and the end: none).
fn crossing_bytes(training: &Training, order: &[usize]) -> Vec<Bytes> {
    let dag = &training.dag;
    let count = training.forward_nodes;
    let mut place = vec![0; count];
    for (at, node) in order.iter().enumerate() {
        place[*node] = at;
    }
    let mut change = vec![(0u64, 0u64); count + 1];
    let mut last_use: BTreeMap<ValueId, usize> = BTreeMap::new();
    for id in dag.node_ids().take(count) {
        for input in &dag.node(id).inputs {
            let last = last_use.entry(*input).or_default();
            *last = (*last).max(place[id.index()]);
        }
    }
    for (value, used) in last_use {
        if let Some(producer) = dag.producer(value) {
            let bytes = dag.fact(value).bytes().count();
            change[place[producer.index()] + 1].0 += bytes;
            change[used + 1].1 += bytes;
        }
    }
    running(change)
}

/// Returns what is alive from what is born and what dies at each place.
fn running(change: Vec<(u64, u64)>) -> Vec<Bytes> {
    let mut alive = 0u64;
    let step = |(born, dead): (u64, u64)| {
        alive = alive.saturating_add(born).saturating_sub(dead);
        Bytes::new(alive)
    };
    change.into_iter().map(step).collect()
}

/// Chooses where the order may be cut: everywhere, or the cheapest place of each of many equal stretches.
fn cut_places(crossing: &[Bytes], count: usize) -> Vec<usize> {
    if count <= UNITS_MAX {
        return (0..=count).collect();
    }
    let inner = count - 1;
    let stretches = UNITS_MAX - 1;
    let mut places = vec![0];
    for stretch in 0..stretches {
        let from = 1 + stretch * inner / stretches;
        let to = 1 + (stretch + 1) * inner / stretches;
        let cheapest = (from..to).min_by_key(|place| (crossing[*place], *place));
        places.extend(cheapest);
    }
    places.push(count);
    places
}
