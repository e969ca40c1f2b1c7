//! Running a case: its results by one forward pass, its gradients by one step of training.

use std::collections::BTreeMap;

use wattle_protocol::dag::{Dag, DagError};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, Start, SwarmSpec, TrainSpec,
};

use super::Case;
use crate::data;
use crate::exec::DeviceChoice;
use crate::exec::evaluate::{EvaluateError, HostValues, evaluate};
use crate::single::{SingleError, run_single};

/// Why a case does not run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Its network is not valid.
    #[error("the network of {0} is not valid: {1}")]
    Build(String, Box<DagError>),
    /// Its forward pass fails.
    #[error("{0} does not run forward: {1}")]
    Forward(String, Box<EvaluateError>),
    /// Its backward pass fails.
    #[error("{0} does not run backward: {1}")]
    Backward(String, Box<SingleError>),
    /// The reference values do not belong to it.
    #[error("{0}: {1}; make the reference values again with models/src/suite/make.py")]
    Reference(String, String),
}

/// What a case computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its results, row-major; integers as floats.
    pub results: Vec<Vec<f32>>,
    /// The gradients of its trained operands, in the order of [`Case::trained`].
    pub gradients: Vec<Vec<f32>>,
}

/// Returns the job that turns parameters, which start at zero, into negative gradients: one step of plain gradient
/// descent with rate 1.
pub fn job(dag: Dag) -> JobSpec {
    let train = TrainSpec {
        steps: 1,
        micro_batches: 1,
        optimizer: Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 },
        learning_rate: LearningRate { peak: 1.0, floor: 1.0, warmup: 0 },
        clip_norm: None,
        seed: 0,
    };
    let swarm = SwarmSpec { order: Some(PipelineOrder::GPipe), ..SwarmSpec::PLAIN };
    let data = DataSpec { source: data::NOISE.into(), seed: 0 };
    JobSpec { name: dag.name().into(), dag, data, train, swarm, start: Start::Seed }
}

/// Runs a case on a device.
///
/// *Errors*: [`SuiteError`].
pub fn run(case: &Case, device: DeviceChoice) -> Result<Found, SuiteError> {
    let dag = case.dag().map_err(|error| SuiteError::Build(case.id(), error.into()))?;
    let results = results(case, &dag, &BTreeMap::new(), device)?;
    if case.forward_only {
        return Ok(Found { results, gradients: Vec::new() });
    }
    let learnt = run_single(&job(dag), device, |_, _| ())
        .map_err(|error| SuiteError::Backward(case.id(), error.into()))?;
    let gradient = |at: usize| -> Vec<f32> {
        learnt.get(&format!("p{at}")).into_iter().flatten().map(|p| -p).collect()
    };
    Ok(Found { results, gradients: case.trained().map(gradient).collect() })
}

/// Runs a case's network forward with some of its parameters moved away from zero; returns its results.
///
/// *Errors*: [`SuiteError`].
pub fn results(
    case: &Case,
    dag: &Dag,
    moved: &BTreeMap<String, Vec<f32>>,
    device: DeviceChoice,
) -> Result<Vec<Vec<f32>>, SuiteError> {
    let start = |id| {
        let value = dag.value(id);
        let zeros = || vec![0.0; value.fact.elements()];
        (value.name.clone(), moved.get(&value.name).cloned().unwrap_or_else(zeros))
    };
    let state: BTreeMap<String, Vec<f32>> = dag.parameters().map(start).collect();
    let outputs = evaluate(dag, &BTreeMap::new(), &state, device)
        .map_err(|error| SuiteError::Forward(case.id(), error.into()))?;
    Ok(outputs.into_iter().skip(1).map(as_floats).collect())
}

#[expect(clippy::cast_precision_loss, reason = "integers of the suite are small")]
fn as_floats(values: HostValues) -> Vec<f32> {
    match values {
        HostValues::Floats(list) => list,
        HostValues::Ints(list) => list.into_iter().map(|v| v as f32).collect(),
    }
}
