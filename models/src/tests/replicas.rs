//! Stages that several workers run compute what one process computes, to the bit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattle_protocol::dag::bundle::gather_chunks;
use wattle_protocol::dag::cut::cut;
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::ids::{EdgeId, MicroBatch, PeerId, StageId, Step};
use wattle_protocol::job::{JobSpec, Optimizer};
use wattle_protocol::schedule::StagePlan;
use wattle_protocol::swarm::io::{GradientSource, Outcome, StageWork, Task, TensorKey, TensorName};

use super::{JOB, gpu, job, key, load, work};
use crate::single::Steps;
use crate::{DeviceChoice, Executor, data, zoo};

const STEPS: u64 = 3;
const MICRO_BATCHES: u32 = 7;

/// Workers of each stage, each with an executor and a store of its own.
struct Crew {
    works: Vec<Arc<StageWork>>,
    plans: Vec<StagePlan>,
    executors: Vec<Vec<Executor>>,
}

impl Crew {
    fn new(spec: &JobSpec, workers: &[u16], device: DeviceChoice) -> Self {
        let stages = workers.len();
        let training = differentiate(spec.dag.clone(), MICRO_BATCHES).unwrap();
        let stage = |node| u16::try_from(node * stages / training.forward_nodes).unwrap();
        let assignment: Vec<StageId> =
            (0..training.forward_nodes).map(|node| StageId::new(stage(node))).collect();
        let graphs = cut(&training, &assignment).unwrap().stages;
        let works: Vec<_> = graphs.into_iter().map(|graph| work(spec, graph)).collect();
        let (mut plans, mut executors) = (Vec::new(), Vec::new());
        for (work, count) in works.iter().zip(workers) {
            let peer = |n: u16| PeerId::new([u8::try_from(n).unwrap(); 32]);
            // Later workers have earlier groups, as a planner deals them.
            let groups = work.groups.count();
            let turn = |m| (groups - 1 - work.groups.group(MicroBatch::new(m))) * count / groups;
            let turns = (0..MICRO_BATCHES).map(turn).collect();
            let alone = StagePlan::alone(peer(0), Vec::new());
            plans.push(StagePlan { replicas: (1..*count).map(peer).collect(), turns, ..alone });
            let mut own: Vec<Executor> =
                (0..*count).map(|_| Executor::new(device).unwrap()).collect();
            for executor in &mut own {
                load(executor, work, None).unwrap();
            }
            executors.push(own);
        }
        Self { works, plans, executors }
    }

    fn worker(&mut self, stage: usize, micro_batch: MicroBatch) -> &mut Executor {
        let turn = self.plans[stage].turn(micro_batch);
        &mut self.executors[stage][usize::from(turn)]
    }

    /// Runs a pass at its worker and carries what it makes to the workers of the same micro-batch.
    fn pass(&mut self, stage: usize, step: u64, micro_batch: MicroBatch, back: bool) -> Outcome {
        let work = self.works[stage].clone();
        let (job, at, id) = (JOB, Step::new(step), work.graph.stage);
        let task = match back {
            false => Task::Forward { job, stage: id, step: at, micro_batch },
            true => Task::Backward { job, stage: id, step: at, micro_batch },
        };
        let outcome = self.worker(stage, micro_batch).run(&task).unwrap();
        let edges = if back { &work.graph.receives } else { &work.graph.sends };
        for (edge, cut) in edges.iter().filter(|(_, e)| !back || e.cotangent.is_some()) {
            let (to, name) = name(*edge, micro_batch, (cut.from, cut.to), back);
            self.ship((stage, micro_batch), (to.index(), micro_batch), key(step, name));
        }
        outcome
    }

    fn ship(&mut self, from: (usize, MicroBatch), to: (usize, MicroBatch), key: TensorKey) {
        let bytes = self.worker(from.0, from.1).store().bytes(&key).unwrap();
        self.worker(to.0, to.1).store().accept(key, bytes);
    }

    fn copy(&self, (stage, from): (usize, usize), (other, to): (usize, usize), key: TensorKey) {
        let bytes = self.executors[stage][from].store().bytes(&key).unwrap();
        self.executors[other][to].store().accept(key, bytes);
    }

    /// Gathers a stage's sums along its workers to the owner.
    fn gather(&mut self, stage: usize, step: u64) {
        let list = gathers(&self.plans[stage], &self.works[stage], step);
        for Gathering { worker, task, made } in list {
            self.executors[stage][usize::from(worker)].run(&task).unwrap();
            if let Some((name, sink)) = made {
                let ends = ((stage, usize::from(worker)), (stage, usize::from(sink)));
                self.copy(ends.0, ends.1, key(step, name));
            }
        }
    }

    /// Runs a step; returns its mean loss.
    fn step(&mut self, spec: &JobSpec, step: u64) -> f64 {
        let stages = self.works.len();
        let mut loss = 0.0;
        for m in (0..MICRO_BATCHES).map(MicroBatch::new) {
            for stage in 0..stages {
                if let Outcome::Forward { loss: Some(own) } = self.pass(stage, step, m, false) {
                    loss += own;
                }
            }
        }
        for m in (0..MICRO_BATCHES).map(MicroBatch::new) {
            for stage in (0..stages).rev() {
                self.pass(stage, step, m, true);
            }
        }
        let (job, at) = (JOB, Step::new(step));
        for stage in 0..stages {
            self.gather(stage, step);
        }
        let sharers: Vec<Vec<StageId>> = self.works.iter().map(|w| sharers(w)).collect();
        for (stage, sharers) in sharers.iter().enumerate() {
            let id = self.works[stage].graph.stage;
            let task = Task::ShareGradients { job, stage: id, step: at };
            self.executors[stage][0].run(&task).unwrap();
            for to in sharers {
                let name = TensorName::SharedGradient { stage: id, to: *to };
                self.copy((stage, 0), (to.index(), 0), key(step, name));
            }
        }
        let mut squares = 0.0;
        for (stage, shared_from) in sharers.into_iter().enumerate() {
            let id = self.works[stage].graph.stage;
            let task =
                Task::ReduceGradients { job, stage: id, step: at, shared_from, publish: true };
            let outcome = self.executors[stage][0].run(&task).unwrap();
            let Outcome::Gradients { sum_of_squares } = outcome else { panic!("{outcome:?}") };
            squares += sum_of_squares;
        }
        let (norm, most) = (f64::sqrt(squares), f64::from(spec.train.clip_norm.unwrap()));
        let scale = if norm > most { most / norm } else { 1.0 };
        for stage in 0..stages {
            let id = self.works[stage].graph.stage;
            let held = key(step, TensorName::StageGradient { stage: id });
            for worker in 0..self.executors[stage].len() {
                let gradient = match worker {
                    0 => GradientSource::Own,
                    _ => GradientSource::Stored(held),
                };
                if worker > 0 {
                    self.copy((stage, 0), (stage, worker), held);
                }
                let task = Task::OptimizerStep { job, stage: id, step: at, scale, gradient };
                self.executors[stage][worker].run(&task).unwrap();
            }
        }
        loss / f64::from(MICRO_BATCHES)
    }

    /// Returns all tensors by name; all who hold one hold the same.
    fn tensors(&mut self) -> BTreeMap<String, Vec<u32>> {
        let mut all: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (work, executors) in self.works.iter().zip(&mut self.executors) {
            for executor in executors {
                for (name, values) in executor.parameters(JOB, work.graph.stage).unwrap() {
                    let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
                    let known = all.entry(name.clone()).or_insert_with(|| bits.clone());
                    assert_eq!(*known, bits, "holders of {name} disagree");
                }
            }
        }
        all
    }
}

/// One worker's addition of one piece of the sums, and what it makes for which other worker.
pub(super) struct Gathering {
    pub(super) worker: u16,
    pub(super) task: Task,
    pub(super) made: Option<(TensorName, u16)>,
}

/// Lists who of a stage's workers adds which sums up, in order.
pub(super) fn gathers(plan: &StagePlan, work: &StageWork, step: u64) -> Vec<Gathering> {
    let (job, stage, step) = (JOB, work.graph.stage, Step::new(step));
    let chunks = u16::try_from(gather_chunks(&work.graph).len()).unwrap();
    let mut list = Vec::new();
    for worker in (0..u16::try_from(plan.workers().count()).unwrap()).rev() {
        let (source, sink) = (plan.source(worker), plan.sink(worker));
        let behind = (0..work.train.micro_batches).map(MicroBatch::new);
        let behind = behind.filter(|m| plan.turn(*m) > worker);
        let first = behind.map(|m| work.groups.group(m) + 1).max().unwrap_or(0);
        let has_part = sink.is_some() || (worker == 0 && source.is_some());
        for chunk in (0..chunks).filter(|_| has_part) {
            let task = Task::GatherGradients { job, stage, step, chunk, worker, source, first };
            let name = TensorName::GroupSums { stage, worker, chunk };
            list.push(Gathering { worker, task, made: sink.map(|sink| (name, sink)) });
        }
    }
    list
}

fn name(
    edge: EdgeId,
    micro_batch: MicroBatch,
    (from, to): (StageId, StageId),
    back: bool,
) -> (StageId, TensorName) {
    match back {
        false => (to, TensorName::Activation { edge, micro_batch }),
        true => (from, TensorName::Cotangent { edge, micro_batch }),
    }
}

fn sharers(work: &StageWork) -> Vec<StageId> {
    let shared = work.graph.shared.iter().flat_map(|s| s.stages.iter().copied());
    let others: BTreeSet<StageId> = shared.filter(|s| *s != work.graph.stage).collect();
    others.into_iter().collect()
}

/// Goal: losses and all tensors after a few steps are those of one process, whoever ran which micro-batch. Method: every
/// number of replicas up to four, with fewer workers too, in one stage and in two (tied weights in both).
fn check(model: &str, source: &str, most: u16, device: DeviceChoice) {
    let mut spec = job(zoo::by_name(model, Some(2)).unwrap().unwrap(), source);
    spec.train.micro_batches = MICRO_BATCHES;
    spec.train.clip_norm = Some(1.0);
    spec.train.optimizer =
        Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let mut plain = Vec::new();
    for replicas in 1..=most {
        spec.swarm.replicas = replicas;
        let mut alone = Steps::begin(&spec, device).unwrap();
        let losses: Vec<u64> = (0..STEPS).map(|_| alone.next_loss().unwrap().to_bits()).collect();
        let bits = |(name, values): (String, Vec<f32>)| {
            (name, values.iter().map(|v| v.to_bits()).collect())
        };
        let tensors: BTreeMap<String, Vec<u32>> =
            alone.parameters().unwrap().into_iter().map(bits).collect();
        let few = replicas.min(2);
        let crews = [vec![1], vec![few], vec![replicas], vec![1, replicas], vec![replicas, few]];
        for crew in BTreeSet::from(crews) {
            let mut workers = Crew::new(&spec, &crew, device);
            let got: Vec<u64> =
                (0..STEPS).map(|step| workers.step(&spec, step).to_bits()).collect();
            assert_eq!(got, losses, "{model}, {replicas} replicas, workers {crew:?}");
            assert!(workers.tensors() == tensors, "{model}, {replicas}, workers {crew:?}");
        }
        plain.push(tensors);
    }
    // The order of sums is part of the job: another number of replicas is another sum.
    assert!(plain[0] != plain[1]);
}

#[test]
fn a_transformer_with_replicas_equals_one_process() {
    check("gpt2-nano", data::text::KJV, 4, DeviceChoice::Cpu);
}

#[test]
fn batch_norm_with_replicas_equals_one_process() {
    check("resnet-tiny", data::images::DIGITS, 4, DeviceChoice::Cpu);
}

#[test]
fn replicas_on_gpus_equal_one_process_on_a_gpu() {
    if gpu().is_some() {
        check("resnet-tiny", data::images::DIGITS, 2, DeviceChoice::Wgpu);
    }
}
