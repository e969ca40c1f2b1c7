//! A network in stages computes what it computes whole.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wattle_protocol::dag::bundle::{gradient_bytes, state_bytes};
use wattle_protocol::dag::cut::{Cut, cut, whole};
use wattle_protocol::dag::grad::{Training, differentiate};
use wattle_protocol::dag::rewrite::recompute;
use wattle_protocol::dag::sample::{random_assignment, random_dag};
use wattle_protocol::ids::{StageId, Step};
use wattle_protocol::job::{JobSpec, Optimizer};
use wattle_protocol::swarm::io::{GradientSource, Task, TensorName};

use super::{JOB, gpu, gradients, job, key, load, networks, passes, work};
use crate::{DeviceChoice, Executor, data, zoo};

/// Largest difference between whole and cut where a cut adds cotangents in another order, relative to the largest
/// gradient of the network. Each sum rounds to 6e-8 of its terms, and a gradient may be a small difference of large
/// terms, so that its own size says nothing. Largest of 3662 such random networks: 6.0e-7 (2026-11-24, 2 x86 cores).
const TOLERANCE: f32 = 1e-6;
/// The same on a GPU, where kernels may choose the order of their sums by the layout of a tensor.
const GPU_TOLERANCE: f32 = 1e-4;
/// Most stages of a cut.
const STAGES: u16 = 8;
/// Micro-batches of a step: two, so that parts are added up.
const MICRO_BATCHES: u32 = 2;

type Gradients = BTreeMap<String, Vec<f32>>;

fn run(executor: &mut Executor, spec: &JobSpec, cut: Cut) -> (f64, Gradients) {
    let works: Vec<_> = cut.stages.into_iter().map(|graph| work(spec, graph)).collect();
    for work in &works {
        load(executor, work, None).unwrap();
    }
    let loss = passes(executor, &works, 0);
    let mut all = Gradients::new();
    for work in &works {
        for (name, gradient) in gradients(executor, work, 0) {
            if let Some(other) = all.get(&name) {
                assert_eq!(*other, gradient, "holders of {name} disagree");
            }
            all.insert(name, gradient);
        }
    }
    executor.store().drop_job(JOB);
    for work in &works {
        executor.run(&Task::Unload { job: JOB, stage: work.graph.stage }).unwrap();
    }
    (loss, all)
}

/// How equal two results must be.
#[derive(Clone, Copy, Debug)]
enum Law {
    Bits,
    /// Apart by this share, at most, of the largest gradient of the network.
    Within(f32),
}

impl Law {
    fn assert(self, want: &(f64, Gradients), got: &(f64, Gradients), what: &str) {
        let ((loss, want), (got_loss, got)) = (want, got);
        let near = match self {
            Self::Bits => loss.to_bits() == got_loss.to_bits(),
            Self::Within(share) => (loss - got_loss).abs() <= f64::from(share) * loss.abs(),
        };
        assert!(near, "{what}: losses {loss} and {got_loss}, {self:?}");
        assert!(want.keys().eq(got.keys()), "{what}");
        let largest = want.values().flatten().fold(0.0f32, |most, v| most.max(v.abs()));
        for (name, want) in want {
            for (a, b) in want.iter().zip(&got[name]) {
                let near = match self {
                    Self::Bits => a.to_bits() == b.to_bits(),
                    Self::Within(share) => (a - b).abs() <= share * largest,
                };
                assert!(near, "{what}: {name}: {a} and {b} (of {largest}), {self:?}");
            }
        }
    }
}

/// One network, differentiated, and what it computes whole.
struct Whole {
    spec: JobSpec,
    training: Training,
    result: (f64, Gradients),
}

impl Whole {
    fn of(mut spec: JobSpec, executor: &mut Executor) -> Self {
        spec.train.micro_batches = MICRO_BATCHES;
        let training = differentiate(spec.dag.clone(), MICRO_BATCHES).unwrap();
        let result = run(executor, &spec, whole(&training));
        Self { spec, training, result }
    }

    /// Nodes in the order in which they were made, in runs of nearly equal length.
    fn contiguous(&self, stages: u16) -> Vec<StageId> {
        let nodes = self.training.forward_nodes;
        let stage = |node: usize| node * usize::from(stages) / nodes;
        (0..nodes).map(|node| StageId::new(u16::try_from(stage(node)).unwrap())).collect()
    }

    /// Runs the network in stages, and so again with activations recomputed.
    fn check(&self, executor: &mut Executor, assignment: &[StageId], law: Law) {
        let parts = cut(&self.training, assignment).unwrap();
        let what = format!("{} in {} stages", self.spec.name, parts.stages.len());
        let got = run(executor, &self.spec, parts.clone());
        law.assert(&self.result, &got, &what);
        let stages = parts.stages.into_iter().map(recompute).collect();
        let again = run(executor, &self.spec, Cut { stages, edges: parts.edges });
        Law::Bits.assert(&got, &again, &format!("{what}, recomputed"));
    }
}

/// Says whether a cut adds the cotangents of each value in the order of the whole. Sums of two commute; in a longer one
/// a stage's own sum is taken first, which is the same if its terms are the first ones.
fn keeps_order(training: &Training, assignment: &[StageId]) -> bool {
    training.contributions.iter().all(|(value, terms)| {
        let Some(home) = training.dag.producer(*value) else { return true };
        let stages: Vec<_> = terms.iter().map(|t| assignment[t.consumer.index()]).collect();
        let others: BTreeSet<_> =
            stages.iter().filter(|s| **s != assignment[home.index()]).collect();
        let in_order = |stage: &StageId| {
            let count = stages.iter().filter(|s| *s == stage).count();
            count == 1 || stages[..count].iter().all(|s| s == stage)
        };
        stages.len() < 3 || others.into_iter().all(in_order)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Goal: whatever the network and the cut, stages compute what the whole computes: the very bits where the cut
    /// keeps the order of sums (two thirds of these), else within rounding.
    #[test]
    fn random_networks_in_random_stages_equal_the_whole(
        seed: u64,
        nodes in 10usize..60,
        stages in 1..=STAGES,
    ) {
        let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
        let whole = Whole::of(job(random_dag(seed, nodes), data::NOISE), &mut executor);
        let assignment = random_assignment(seed, &whole.training, stages);
        let kept = keeps_order(&whole.training, &assignment);
        whole.check(&mut executor, &assignment, if kept { Law::Bits } else { Law::Within(TOLERANCE) });
    }
}

/// Goal: networks of every shape have the same bits in stages; none has a value whose sum a cut reorders, but for
/// sums of slices, of whose terms only one is not zero at any place.
/// Method: every named network in 1 to 8 stages, in runs of its nodes and in random legal stages.
#[test]
fn named_networks_in_one_to_eight_stages_equal_the_whole_bit_by_bit() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    for spec in networks::small().into_iter().chain(networks::zoo()) {
        let whole = Whole::of(spec, &mut executor);
        for stages in 1..=STAGES {
            whole.check(&mut executor, &whole.contiguous(stages), Law::Bits);
            for seed in 0..3 {
                let assignment = random_assignment(seed, &whole.training, stages);
                whole.check(&mut executor, &assignment, Law::Bits);
            }
        }
    }
}

/// Runs a network on a GPU whole, which must agree with the CPU, and in runs of its nodes; then in random stages,
/// for as many numbers of stages as are asked for.
fn check_on_gpu(executor: &mut Executor, spec: JobSpec, random: impl IntoIterator<Item = u16>) {
    let law = Law::Within(GPU_TOLERANCE);
    let on_cpu = Whole::of(spec.clone(), &mut Executor::new(DeviceChoice::Cpu).unwrap());
    let whole = Whole::of(spec, executor);
    law.assert(&on_cpu.result, &whole.result, &format!("{} on a GPU", whole.spec.name));
    for stages in 1..=STAGES {
        whole.check(executor, &whole.contiguous(stages), law);
    }
    for stages in random {
        let assignment = random_assignment(u64::from(stages), &whole.training, stages);
        whole.check(executor, &assignment, law);
    }
}

#[test]
fn small_networks_in_one_to_eight_stages_equal_the_whole_on_a_gpu() {
    let Some(mut executor) = gpu() else { return };
    for spec in networks::small() {
        check_on_gpu(&mut executor, spec, 1..=STAGES);
    }
}

/// Fewer random cuts: a pass of these takes half a second on a GPU that a CPU emulates.
#[test]
fn networks_of_the_zoo_in_one_to_eight_stages_equal_the_whole_on_a_gpu() {
    let Some(mut executor) = gpu() else { return };
    for spec in networks::zoo() {
        check_on_gpu(&mut executor, spec, [STAGES]);
    }
}

/// Goal: a backup that follows its owner holds the same bits.
/// Method: snapshot, restore elsewhere, apply the owner's published gradient there, snapshot both.
#[test]
fn a_backup_follows_its_owner_bit_by_bit() {
    let dag = zoo::by_name("resnet-tiny", Some(4)).unwrap().unwrap();
    let mut spec = job(dag, data::images::DIGITS);
    spec.train.micro_batches = 3;
    spec.train.optimizer =
        Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let work = crate::single::whole_work(&spec).unwrap();
    let stage = StageId::new(0);
    let mut owner = Executor::new(DeviceChoice::Cpu).unwrap();
    let mut backup = Executor::new(DeviceChoice::Cpu).unwrap();
    load(&mut owner, &work, None).unwrap();
    let state = |executor: &mut Executor, step| {
        let name = key(step, TensorName::StageState { stage });
        executor.run(&Task::Snapshot { job: JOB, stage, key: name }).unwrap();
        let bytes = executor.store().take(&name).unwrap();
        assert_eq!(bytes.len() as u64, state_bytes(&work.graph, &spec.train.optimizer).count());
        bytes
    };
    let first = state(&mut owner, 0);
    load(&mut backup, &work, Some(first.clone())).unwrap();
    assert_eq!(first, state(&mut backup, 0), "restoring changes no bit");
    for step in 0..3 {
        passes(&mut owner, std::slice::from_ref(&work), step);
        let name = key(step, TensorName::StageGradient { stage });
        let bytes = owner.store().bytes(&name).unwrap();
        assert_eq!(bytes.len() as u64, gradient_bytes(&work.graph, 3).count());
        backup.store().accept(name, bytes);
        let update = |gradient| {
            let (job, step) = (JOB, Step::new(step));
            Task::OptimizerStep { job, stage, step, scale: 0.37, gradient }
        };
        owner.run(&update(GradientSource::Own)).unwrap();
        backup.run(&update(GradientSource::Stored(name))).unwrap();
        let after = state(&mut owner, step + 1);
        assert_eq!(after, state(&mut backup, step + 1), "step {step}");
        assert_ne!(after, first);
    }
}
