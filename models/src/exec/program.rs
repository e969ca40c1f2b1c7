//! Running a [`Program`]: nodes in order, each value freed at its last use.

use std::collections::{BTreeMap, BTreeSet};

use burn_backend::tensor::Device;
use wattle_protocol::dag::cut::Program;
use wattle_protocol::ids::ValueId;
use wattle_protocol::swarm::io::TaskError;
use wattle_protocol::units::Bytes;

use super::kernel::{RunContext, eval};
use super::tensor::{Float, HostBackend, Tensor};
#[cfg(test)]
use super::traffic;

/// Tensors by value.
pub type Values<B> = BTreeMap<ValueId, Tensor<B>>;

/// What happens to the operands and results of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Uses {
    /// For each operand: whether this is the value's last use.
    last: Vec<bool>,
    /// For each result: whether anything uses it.
    wanted: Vec<bool>,
}

/// Last uses of a program's values, worked out once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes(Vec<Uses>);

impl Lifetimes {
    /// Works out when each value can be freed, `keep` never.
    pub fn of(program: &Program, keep: &BTreeSet<ValueId>) -> Self {
        let mut seen = keep.clone();
        let mut uses: Vec<Uses> = program
            .nodes
            .iter()
            .rev()
            .map(|node| {
                let wanted = node.outputs.iter().map(|v| seen.contains(v)).collect();
                let mut last: Vec<bool> =
                    node.inputs.iter().rev().map(|v| seen.insert(*v)).collect();
                last.reverse();
                Uses { last, wanted }
            })
            .collect();
        uses.reverse();
        Self(uses)
    }

    /// Returns the most memory that a run takes at once: what it `begins` with (`state` aside), and results until
    /// their last use. A view counts as a tensor of its own.
    pub fn peak(
        &self,
        program: &Program,
        begins: impl IntoIterator<Item = ValueId>,
        size: impl Fn(ValueId) -> Bytes,
    ) -> Bytes {
        let mut alive: BTreeMap<ValueId, u64> = BTreeMap::new();
        let mut now = 0u64;
        let add = |alive: &mut BTreeMap<ValueId, u64>, now: &mut u64, id| {
            let bytes = size(id).count();
            if alive.insert(id, bytes).is_none() {
                *now = now.saturating_add(bytes);
            }
        };
        begins.into_iter().for_each(|id| add(&mut alive, &mut now, id));
        let mut most = now;
        for (node, uses) in program.nodes.iter().zip(&self.0) {
            node.outputs.iter().for_each(|id| add(&mut alive, &mut now, *id));
            most = most.max(now);
            let dead = node.inputs.iter().zip(&uses.last).filter(|(_, last)| **last);
            let unused = node.outputs.iter().zip(&uses.wanted).filter(|(_, wanted)| !**wanted);
            for (id, _) in dead.chain(unused) {
                now = now.saturating_sub(alive.remove(id).unwrap_or(0));
            }
        }
        Bytes::new(most)
    }
}

/// Runs a program over `values`, which hold its inputs before and what was to be kept after.
///
/// `state` holds the values that live across runs (parameters and buffers).
///
/// *Errors*: those of the kernels, and [`TaskError::Missing`] for an input that is not there.
pub fn run<B: HostBackend>(
    program: &Program,
    lifetimes: &Lifetimes,
    values: &mut Values<B>,
    state: impl Fn(ValueId) -> Option<Float<B>>,
    context: &RunContext,
    device: &Device<B>,
) -> Result<(), TaskError> {
    for (node, uses) in program.nodes.iter().zip(&lifetimes.0) {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (id, last) in node.inputs.iter().zip(&uses.last) {
            let found = match state(*id) {
                Some(tensor) => Some(Tensor::Float(tensor)),
                None if *last => values.remove(id),
                None => values.get(id).cloned(),
            };
            let missing = || TaskError::Missing(format!("value {id:?} at {}", node.name));
            inputs.push(found.ok_or_else(missing)?);
        }
        #[cfg(test)]
        let before = traffic::traffic();
        let outputs = eval(&node.op, inputs, context, device).map_err(|e| at(&node.name, e))?;
        #[cfg(test)]
        traffic::by_operator::note(&node.op, traffic::traffic() - before);
        for ((id, tensor), wanted) in node.outputs.iter().zip(outputs).zip(&uses.wanted) {
            if *wanted {
                values.insert(*id, tensor);
            }
        }
    }
    Ok(())
}

/// Says where an operand was missing.
fn at(node: &str, error: TaskError) -> TaskError {
    match error {
        TaskError::Missing(what) => TaskError::Missing(format!("{what}, at {node}")),
        other => other,
    }
}
