//! Proofs over the whole room: derivatives of every operator, cuts against the whole, training.

mod crossings;
mod cuts;
mod devices;
mod faults;
mod given;
mod limits;
mod networks;
mod operators;
mod reference;
mod replicas;
mod suite;
mod training;
mod vjp;

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use wattle_protocol::dag::Dag;
use wattle_protocol::dag::bundle::gradient_bytes;
use wattle_protocol::dag::cut::StageGraph;
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, StageId, Step};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, Start, SwarmSpec, TrainSpec,
};
use wattle_protocol::swarm::io::{
    Outcome, StageWork, StateSource, Task, TaskError, TensorKey, TensorName,
};

use crate::exec::store::to_floats;
use crate::{DeviceChoice, Executor};

/// Where this variable is set, a machine without a GPU fails the tests that need one.
const REQUIRE_GPU: &str = "WATTLE_REQUIRE_WGPU";

/// Opens the GPU. Where there is none, returns None and says so past the capture of test output.
pub(crate) fn gpu() -> Option<Executor> {
    let error = match Executor::new(DeviceChoice::Wgpu) {
        Ok(executor) => return Some(executor),
        Err(error) => error,
    };
    assert!(std::env::var_os(REQUIRE_GPU).is_none(), "{REQUIRE_GPU} is set, but {error}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    writeln!(std::io::stderr(), "\nSKIPPED {test}: {error}; {REQUIRE_GPU}=1 makes this a failure")
        .unwrap();
    None
}

pub(crate) const JOB: JobId = JobId::new([1; 16]);
pub(crate) const EPOCH: Epoch = Epoch::new(3);

/// Returns a job that trains a network; tests change what they are about.
pub(crate) fn job(dag: Dag, source: &str) -> JobSpec {
    let optimizer = Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let train = TrainSpec {
        steps: 10,
        micro_batches: 1,
        optimizer,
        learning_rate: LearningRate { peak: 0.1, floor: 0.1, warmup: 0 },
        clip_norm: None,
        seed: 5,
    };
    let swarm = SwarmSpec { order: Some(PipelineOrder::GPipe), ..SwarmSpec::PLAIN };
    let data = DataSpec { source: source.into(), seed: 9 };
    JobSpec { name: dag.name().into(), dag, start: Start::Seed, data, train, swarm }
}

pub(crate) fn key(step: u64, name: TensorName) -> TensorKey {
    TensorKey { job: JOB, epoch: EPOCH, step: Step::new(step), name }
}

pub(crate) fn work(spec: &JobSpec, graph: StageGraph) -> Arc<StageWork> {
    Arc::new(StageWork::of(spec, graph, &[]))
}

/// Loads stages at step 0, each from a state if one is given.
pub(crate) fn load(
    executor: &mut Executor,
    work: &Arc<StageWork>,
    state: Option<Bytes>,
) -> Result<(), TaskError> {
    let stage = work.graph.stage;
    let name = key(0, TensorName::StageState { stage });
    let source = match state {
        Some(bytes) => {
            executor.store().accept(name, bytes);
            StateSource::Stored(name)
        }
        None => StateSource::Initial,
    };
    let step = Step::new(0);
    executor.run(&Task::LoadStage { job: JOB, work: work.clone(), source, step })?;
    executor.run(&Task::ResetStep { job: JOB, stage, epoch: EPOCH })?;
    Ok(())
}

/// Runs all passes of one step over loaded stages and reduces; returns the mean loss.
pub(crate) fn passes(executor: &mut Executor, works: &[Arc<StageWork>], step: u64) -> f64 {
    let (job, step) = (JOB, Step::new(step));
    let micro_batches = works[0].train.micro_batches;
    let mut loss = 0.0;
    for micro_batch in (0..micro_batches).map(MicroBatch::new) {
        for work in works {
            let stage = work.graph.stage;
            let outcome = executor.run(&Task::Forward { job, stage, step, micro_batch }).unwrap();
            if let Outcome::Forward { loss: Some(l) } = outcome {
                loss += l;
            }
        }
    }
    for micro_batch in (0..micro_batches).map(MicroBatch::new) {
        for work in works.iter().rev() {
            let stage = work.graph.stage;
            executor.run(&Task::Backward { job, stage, step, micro_batch }).unwrap();
        }
    }
    for work in works {
        let stage = work.graph.stage;
        executor.run(&Task::ShareGradients { job, stage, step }).unwrap();
    }
    for work in works {
        let stage = work.graph.stage;
        let mut from: Vec<StageId> = work
            .graph
            .shared
            .iter()
            .flat_map(|s| s.stages.clone())
            .filter(|s| *s != stage)
            .collect();
        from.sort();
        from.dedup();
        let task = Task::ReduceGradients { job, stage, step, shared_from: from, publish: true };
        executor.run(&task).unwrap();
    }
    loss / f64::from(micro_batches)
}

/// Returns a stage's reduced gradient by parameter name.
pub(crate) fn gradients(
    executor: &Executor,
    work: &StageWork,
    step: u64,
) -> Vec<(String, Vec<f32>)> {
    let graph = &work.graph;
    let bytes =
        executor.store().bytes(&key(step, TensorName::StageGradient { stage: graph.stage }));
    let bytes = bytes.unwrap();
    assert_eq!(bytes.len() as u64, gradient_bytes(graph, work.train.micro_batches).count());
    let mut rest = &to_floats(&bytes)[..];
    let mut out = Vec::new();
    for id in &graph.parameters {
        let value = &graph.values[id];
        let (head, tail) = rest.split_at(value.fact.elements());
        out.push((value.name.clone(), head.to_vec()));
        rest = tail;
    }
    out
}
