//! Running a [`Program`]: nodes in order, each value freed at its last use.

use std::collections::BTreeMap;

use burn_backend::tensor::Device;
use wattle_protocol::dag::cut::Program;
use wattle_protocol::dag::lifetimes::Lifetimes;
use wattle_protocol::ids::ValueId;
use wattle_protocol::swarm::io::{OpTimes, TaskError};

use super::kernel::{RunContext, eval};
use super::tensor::{Float, HostBackend, Tensor};
use super::times::OpClock;
#[cfg(test)]
use super::traffic;

/// Tensors by value.
pub type Values<B> = BTreeMap<ValueId, Tensor<B>>;

/// Runs a program over `values`, which hold its inputs before and what was to be kept after.
/// Returns how long each kind of operator took, where calls wait for the device.
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
) -> Result<OpTimes, TaskError> {
    let mut clock = OpClock::start();
    for (node, uses) in program.nodes.iter().zip(lifetimes.uses()) {
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
        clock.lap(node.op.name());
    }
    Ok(clock.times())
}

/// Says where an operand was missing.
fn at(node: &str, error: TaskError) -> TaskError {
    match error {
        TaskError::Missing(what) => TaskError::Missing(format!("{what}, at {node}")),
        other => other,
    }
}
