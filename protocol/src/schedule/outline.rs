//! A lower bound of what a run of forward nodes takes of memory, from running sums: for searches that look at many.
//!
//! Counted are parameters with what is kept of them, values saved for the backward pass, and the largest node; not what is
//! alive around it, nor bundles. Whatever [`super::footprint`] lets through, this does; what it lets through may
//! be refused there.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::Groups;
use crate::dag::Source;
use crate::dag::bundle::optimizer_slots;
use crate::dag::cost::workspace::workspace;
use crate::dag::grad::Training;
use crate::dag::lifetimes::tensor_bytes;
use crate::ids::{NodeId, ValueId};
use crate::job::JobSpec;
use crate::units::Bytes;

/// Running sums over the forward nodes of a network; each is one longer than the nodes.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Parameters, each where it is read first.
    parameters: Vec<Bytes>,
    /// What the backward pass reads, each at the first node whose backward nodes do.
    saved: Vec<Bytes>,
    /// The largest operands, results and workspace of a node or of a backward one that belongs to it. Not a sum.
    own: Vec<Bytes>,
    copies: u64,
    recompute: bool,
}

impl Outline {
    /// Adds a network up.
    pub fn of(spec: &JobSpec, training: &Training) -> Self {
        let (count, dag) = (training.forward_nodes, &training.dag);
        let kept = training.saved();
        let mut parameters = vec![Bytes::ZERO; count];
        let mut own = vec![Bytes::ZERO; count];
        let mut counted = BTreeSet::new();
        let mut readers: BTreeMap<ValueId, usize> = BTreeMap::new();
        for id in dag.node_ids() {
            let origin = id.index().checked_sub(count).map(|place| training.origin[place].index());
            let at = origin.unwrap_or(id.index());
            own[at] = own[at].max(own_bytes(training, id));
            for input in &dag.node(id).inputs {
                let is_parameter = matches!(dag.value(*input).source, Source::Parameter { .. });
                if origin.is_none() && is_parameter && counted.insert(*input) {
                    parameters[at] += tensor_bytes(dag.fact(*input));
                }
                if origin.is_some() && kept.contains(input) {
                    let first = readers.entry(*input).or_insert(at);
                    *first = at.min(*first);
                }
            }
        }
        let mut saved = vec![Bytes::ZERO; count];
        for (value, at) in readers {
            saved[at] += tensor_bytes(dag.fact(value));
        }
        let sums = u64::from(Groups::of(spec).count());
        Self {
            parameters: running(&parameters),
            saved: running(&saved),
            own,
            copies: 1 + sums + optimizer_slots(&spec.train.optimizer) as u64,
            recompute: spec.swarm.recompute,
        }
    }

    /// Returns the least that nodes `start..end` take while so many micro-batches are kept; grows with the run.
    /// `largest` is that of [`Self::largest`], which a caller who lets runs grow keeps.
    ///
    /// *Cost*: O(1).
    pub fn least(&self, (start, end): (usize, usize), kept: u64, largest: Bytes) -> Bytes {
        let of = |sums: &[Bytes]| sums[end].less(sums[start]);
        let saved = of(&self.saved);
        // What is computed again is there for one micro-batch at a time.
        let others = if self.recompute { 0 } else { kept.saturating_sub(1) };
        of(&self.parameters) * self.copies + saved * others + saved.max(largest)
    }

    /// Returns what the largest of some nodes has in memory by itself.
    pub fn largest(&self, (start, end): (usize, usize)) -> Bytes {
        self.own[start..end].iter().copied().max().unwrap_or_default()
    }
}

fn running(each: &[Bytes]) -> Vec<Bytes> {
    let mut sum = Bytes::ZERO;
    let sums = each.iter().map(|bytes| {
        sum += *bytes;
        sum
    });
    std::iter::once(Bytes::ZERO).chain(sums).collect()
}

/// What a node has in memory: operands and results but for the state, and workspace. One thread's: there is at least
/// that.
fn own_bytes(training: &Training, id: NodeId) -> Bytes {
    let dag = &training.dag;
    let node = dag.node(id);
    let facts = |ids: &[ValueId]| ids.iter().map(|v| dag.fact(*v)).collect::<Vec<_>>();
    let space = workspace(&node.op, &facts(&node.inputs), &facts(&node.outputs)).on(1);
    let is_made = |v: &ValueId| matches!(dag.value(*v).source, Source::Node { .. } | Source::Input);
    let values = node.inputs.iter().chain(&node.outputs).copied().filter(is_made);
    let values: BTreeSet<ValueId> = values.collect();
    space + values.iter().map(|v| tensor_bytes(dag.fact(*v))).sum()
}
