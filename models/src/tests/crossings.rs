//! What crosses between host memory and a GPU: a stage waits for nothing, and what its operators bring over is listed.

use std::collections::BTreeSet;
use std::sync::Arc;

use wattle_protocol::dag::cut::cut;
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::op::every;
use wattle_protocol::ids::{MicroBatch, StageId, Step};
use wattle_protocol::job::{JobSpec, Optimizer};
use wattle_protocol::swarm::io::{
    GradientSource, Outcome, StageWork, Task, TaskError, TensorKey, TensorName,
};

use super::{JOB, gpu, job, key, load, networks, passes, work};
use crate::exec::kernel::origin::{Crossing, crossing};
use crate::exec::traffic::{Traffic, by_operator, traffic};
use crate::{Executor, Flights, data, zoo};

/// Micro-batches of a step: two, so that one is computed while the other is read.
const MICRO_BATCHES: u32 = 2;
const STAGES: usize = 2;

/// Returns a network of each family.
fn families() -> Vec<JobSpec> {
    let llama = zoo::by_name("llama-nano", Some(2)).unwrap().unwrap();
    let mut specs = networks::zoo();
    specs.push(job(llama, data::text::KJV));
    for spec in &mut specs {
        spec.train.micro_batches = MICRO_BATCHES;
        spec.train.optimizer =
            Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    }
    specs
}

fn in_stages(spec: &JobSpec) -> Vec<Arc<StageWork>> {
    let training = differentiate(spec.dag.clone(), MICRO_BATCHES).unwrap();
    let nodes = training.forward_nodes;
    let stage = |node: usize| StageId::new(u16::try_from(node * STAGES / nodes).unwrap());
    let assignment: Vec<StageId> = (0..nodes).map(stage).collect();
    let cut = cut(&training, &assignment).unwrap();
    cut.stages.into_iter().map(|graph| work(spec, graph)).collect()
}

/// Returns the passes of a step in an order in which, with two under way, each finds its tensors.
fn pass_tasks(works: &[Arc<StageWork>]) -> Vec<(usize, Task)> {
    let (job, step) = (JOB, Step::new(0));
    let micro_batches = || (0..MICRO_BATCHES).map(MicroBatch::new);
    let forward = (0..works.len()).flat_map(|at| {
        let stage = works[at].graph.stage;
        micro_batches()
            .map(move |micro_batch| (at, Task::Forward { job, stage, step, micro_batch }))
    });
    let backward = (0..works.len()).rev().flat_map(|at| {
        let stage = works[at].graph.stage;
        micro_batches()
            .map(move |micro_batch| (at, Task::Backward { job, stage, step, micro_batch }))
    });
    forward.chain(backward).collect()
}

/// Returns the ends of a step of one stage: shares, sums.
fn end_tasks(work: &StageWork) -> [Task; 2] {
    let (job, stage, step) = (JOB, work.graph.stage, Step::new(0));
    let sharers = work.graph.shared.iter().flat_map(|s| s.stages.clone());
    let from: BTreeSet<StageId> = sharers.filter(|s| *s != stage).collect();
    let shared_from = from.into_iter().collect();
    let reduce = Task::ReduceGradients { job, stage, step, shared_from, publish: true };
    [Task::ShareGradients { job, stage, step }, reduce]
}

/// Tensors that a task leaves to be read.
fn leaves(work: &StageWork, task: &Task) -> usize {
    let graph = &work.graph;
    match task {
        Task::Forward { .. } => graph.sends.len() + usize::from(graph.loss.is_some()),
        Task::Backward { .. } => {
            graph.receives.iter().filter(|(_, edge)| edge.cotangent.is_some()).count()
        }
        _ => 0,
    }
}

fn loss_of(executor: &mut Executor, flights: &mut Flights<()>) -> Result<f64, TaskError> {
    let Some(((), flight)) = flights.pop() else { return Ok(0.0) };
    match executor.land(flight?)? {
        Outcome::Forward { loss } => Ok(loss.unwrap_or(0.0)),
        Outcome::Done | Outcome::Gradients { .. } => Ok(0.0),
    }
}

/// Runs a step with two tasks under way, and asserts of each that nothing was waited for while it was launched.
fn step_in_flight(executor: &mut Executor, works: &[Arc<StageWork>], name: &str) -> f64 {
    let launch = |executor: &mut Executor, flights: &mut Flights<()>, work, task: &Task| {
        let before = traffic();
        let flight = executor.launch(task);
        let Traffic { waits, readings, uploads } = traffic() - before;
        assert_eq!(waits, 0, "{name}: {task:?} waits for the device");
        match task {
            Task::Forward { .. } | Task::Backward { .. } => {
                assert_eq!(readings, leaves(work, task) as u64, "{name}: {task:?}");
            }
            Task::OptimizerStep { .. } => {
                assert_eq!((readings, uploads), (0, 0), "{name}: {task:?}");
            }
            _ => {}
        }
        flights.push((), flight);
    };
    let mut flights = Flights::default();
    let mut loss = 0.0;
    for (at, task) in pass_tasks(works) {
        if flights.len() >= executor.flights_max() {
            loss += loss_of(executor, &mut flights).unwrap();
        }
        launch(executor, &mut flights, &works[at], &task);
    }
    // Shares of all before the sums of any.
    for end in 0..2 {
        for work in works {
            launch(executor, &mut flights, work, &end_tasks(work)[end]);
        }
        while !flights.is_empty() {
            loss += loss_of(executor, &mut flights).unwrap();
        }
    }
    loss / f64::from(MICRO_BATCHES)
}

fn gradient(executor: &Executor, work: &StageWork) -> bytes::Bytes {
    let name = TensorName::StageGradient { stage: work.graph.stage };
    executor.store().bytes(&key(0, name)).unwrap()
}

fn update(executor: &mut Executor, work: &StageWork) -> Traffic {
    let (job, stage, step) = (JOB, work.graph.stage, Step::new(0));
    let gradient = GradientSource::Own;
    let before = traffic();
    let task = Task::OptimizerStep { job, stage, step, scale: 0.5, gradient };
    let flight = executor.launch(&task).unwrap();
    let crossed = traffic() - before;
    executor.land(flight).unwrap();
    crossed
}

/// Goal: no stage stops the device within a step, whatever the family, and what lands later is what would have been
/// waited for, bit by bit.
#[test]
fn stages_of_every_family_wait_for_nothing_on_a_gpu() {
    let Some(mut executor) = gpu() else { return };
    for spec in families() {
        let works = in_stages(&spec);
        let mut results = Vec::new();
        for in_flight in [false, true] {
            for work in &works {
                load(&mut executor, work, None).unwrap();
            }
            let loss = match in_flight {
                false => passes(&mut executor, &works, 0),
                true => step_in_flight(&mut executor, &works, &spec.name),
            };
            let gradients: Vec<_> = works.iter().map(|work| gradient(&executor, work)).collect();
            for work in &works {
                assert_eq!(update(&mut executor, work), Traffic::default(), "{}", spec.name);
            }
            let states: Vec<_> = works.iter().map(|work| state(&mut executor, work)).collect();
            results.push((loss.to_bits(), gradients, states));
            executor.store().drop_job(JOB);
        }
        assert!(results[0] == results[1], "{}: in flight other bits than one by one", spec.name);
    }
}

fn state(executor: &mut Executor, work: &StageWork) -> bytes::Bytes {
    let stage = work.graph.stage;
    let name: TensorKey = key(1, TensorName::StageState { stage });
    executor.run(&Task::Snapshot { job: JOB, stage, key: name }).unwrap();
    executor.store().take(&name).unwrap()
}

/// Asserts that what operators have brought over on this thread, which has run all of them on a GPU, is what the page of
/// operators lists.
pub(super) fn check_listed() {
    let found = by_operator::take();
    for (name, (op, crossed)) in &found {
        let is_listed = match crossing(op) {
            Crossing::Nothing => false,
            Crossing::Upload(_) => crossed.waits == 0,
            Crossing::Wait(_) => crossed.waits > 0,
        };
        assert!(is_listed, "{name} brings {crossed:?} over, and is listed as {:?}", crossing(op));
    }
    for op in every().iter().filter(|op| crossing(op) != Crossing::Nothing) {
        assert!(found.contains_key(op.name()), "{} brings nothing over, and is listed", op.name());
    }
}

/// Goal: a gradient that single precision cannot square is still clipped, not refused.
#[test]
fn norms_beyond_single_precision_are_finite_on_a_gpu() {
    let Some(mut executor) = gpu() else { return };
    let mut spec = networks::small().swap_remove(0);
    spec.train.micro_batches = 1;
    let work = crate::single::whole_work(&spec).unwrap();
    let norms = [1.0, 1e21].map(|factor| {
        load(&mut executor, &work, None).unwrap();
        let (job, stage, step) = (JOB, work.graph.stage, Step::new(0));
        let micro_batch = MicroBatch::new(0);
        executor.run(&Task::Forward { job, stage, step, micro_batch }).unwrap();
        executor.run(&Task::Backward { job, stage, step, micro_batch }).unwrap();
        executor.scale_gradients(JOB, stage, factor);
        match executor.run(&end_tasks(&work)[1]).unwrap() {
            Outcome::Gradients { sum_of_squares } => sum_of_squares.sqrt(),
            other => panic!("{other:?}"),
        }
    });
    assert!((norms[1] / norms[0] / 1e21 - 1.0).abs() < 1e-5, "{norms:?}");
}
