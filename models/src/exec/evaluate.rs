//! Running a Dag forward, once: values in, values out. For networks without a loss, and for comparisons.
//!
//! Not a second interpreter: the same [`program`](super::program) and kernels that training runs.

use std::collections::{BTreeMap, BTreeSet};

use burn::backend::Dispatch;
use burn_backend::tensor::Device;
use wattle_protocol::dag::cut::Program;
use wattle_protocol::dag::lifetimes::Lifetimes;
use wattle_protocol::dag::{Dag, Dtype, Source};
use wattle_protocol::ids::ValueId;
use wattle_protocol::swarm::io::TaskError;

use super::contain;
use super::device::{self, DeviceChoice};
use super::kernel::RunContext;
use super::program::{Values, run};
use super::tensor::{Float, Tensor, int_values};

/// Elements of a tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum HostValues {
    /// Of an f32 tensor.
    Floats(Vec<f32>),
    /// Of an i32 tensor.
    Ints(Vec<i32>),
}

/// Why a network did not run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvaluateError {
    /// There is no device.
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    /// A value that must be given is not, or has another type or number of elements.
    #[error("`{name}` needs {expected}")]
    Given {
        /// The input, parameter or buffer.
        name: String,
        /// What fits.
        expected: String,
    },
    /// A kernel failed.
    #[error("the network does not run: {0:?}")]
    Task(TaskError),
}

impl From<TaskError> for EvaluateError {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

/// Runs a network forward; returns its outputs in order.
///
/// `inputs` holds its data inputs by value, `state` its parameters and buffers by name. Random operators draw with
/// seed 0.
///
/// *Errors*: [`EvaluateError`].
pub fn evaluate(
    dag: &Dag,
    inputs: &BTreeMap<ValueId, HostValues>,
    state: &BTreeMap<String, Vec<f32>>,
    choice: DeviceChoice,
) -> Result<Vec<HostValues>, EvaluateError> {
    let device = device::open(choice)?.device;
    let mut values = Values::<Dispatch>::new();
    let mut kept: BTreeMap<ValueId, Float<Dispatch>> = BTreeMap::new();
    for id in dag.value_ids() {
        match dag.value(id).source {
            Source::Input => {
                values.insert(id, upload(dag, id, inputs.get(&id), &device)?);
            }
            Source::Parameter { .. } | Source::Buffer { .. } => {
                let value = dag.value(id);
                let elements = state.get(&value.name).filter(|e| e.len() == value.fact.elements());
                let elements = elements.ok_or_else(|| given(dag, id))?;
                kept.insert(id, Float::new(elements.clone(), &value.fact.shape, &device));
            }
            Source::Node { .. } => {}
        }
    }
    let program = Program { nodes: dag.nodes().to_vec(), outputs: dag.outputs().to_vec() };
    let wanted: BTreeSet<ValueId> = program.outputs.iter().copied().collect();
    let lifetimes = Lifetimes::of(&program, &wanted);
    let context = RunContext::default();
    contain(|| {
        run(&program, &lifetimes, &mut values, |id| kept.get(&id).cloned(), &context, &device)?;
        program.outputs.iter().map(|id| download(*id, &values, &kept)).collect()
    })
    .map_err(Into::into)
}

fn given(dag: &Dag, id: ValueId) -> EvaluateError {
    let value = dag.value(id);
    EvaluateError::Given { name: value.name.clone(), expected: value.fact.to_string() }
}

fn upload(
    dag: &Dag,
    id: ValueId,
    values: Option<&HostValues>,
    device: &Device<Dispatch>,
) -> Result<Tensor<Dispatch>, EvaluateError> {
    let fact = dag.fact(id);
    match values {
        Some(HostValues::Floats(v)) if fact.dtype == Dtype::F32 && v.len() == fact.elements() => {
            Ok(Tensor::floats(v.clone(), &fact.shape, device))
        }
        Some(HostValues::Ints(v)) if fact.dtype == Dtype::I32 && v.len() == fact.elements() => {
            Ok(Tensor::ints(v.clone(), &fact.shape, device))
        }
        Some(_) | None => Err(given(dag, id)),
    }
}

fn download(
    id: ValueId,
    values: &Values<Dispatch>,
    kept: &BTreeMap<ValueId, Float<Dispatch>>,
) -> Result<HostValues, TaskError> {
    if let Some(tensor) = kept.get(&id) {
        return Ok(HostValues::Floats(tensor.clone().values()?));
    }
    let missing = || TaskError::Missing(format!("the output {id:?}"));
    match values.get(&id).ok_or_else(missing)?.clone() {
        Tensor::Float(tensor) => Ok(HostValues::Floats(tensor.values()?)),
        Tensor::Int(tensor) => Ok(HostValues::Ints(int_values::<Dispatch>(tensor)?)),
    }
}

#[cfg(test)]
mod tests {
    use wattle_protocol::dag::{DagBuilder, Fact, Init, Op};

    use super::*;

    #[test]
    fn a_network_without_a_loss_runs_forward() {
        let mut builder = DagBuilder::new("small");
        let x = builder.input("x", Fact::f32(&[2]));
        let w = builder.parameter("w", &[2], Init::Constant(0.0), true);
        let y = builder.op("y", Op::Mul, &[x, w]).unwrap();
        builder.output(y);
        builder.output(w);
        let dag = builder.finish().unwrap();
        let inputs = BTreeMap::from([(x, HostValues::Floats(vec![1.0, 2.0]))]);
        let state = BTreeMap::from([("w".to_string(), vec![3.0, 4.0])]);
        let outputs = evaluate(&dag, &inputs, &state, DeviceChoice::Cpu).unwrap();
        let floats = |values: &[f32]| HostValues::Floats(values.to_vec());
        assert_eq!(outputs, [floats(&[3.0, 8.0]), floats(&[3.0, 4.0])]);
        let short = BTreeMap::from([(x, HostValues::Floats(vec![1.0]))]);
        let error = evaluate(&dag, &short, &state, DeviceChoice::Cpu).unwrap_err();
        assert_eq!(error.to_string(), "`x` needs f32[2]");
        assert!(evaluate(&dag, &inputs, &BTreeMap::new(), DeviceChoice::Cpu).is_err());
    }
}
