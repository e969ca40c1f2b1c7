//! A network in stages computes what it computes whole.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wattle_protocol::dag::bundle::{gradient_bytes, state_bytes};
use wattle_protocol::dag::cut::{Cut, cut, whole};
use wattle_protocol::dag::grad::{Training, differentiate};
use wattle_protocol::dag::rewrite::recompute;
use wattle_protocol::dag::sample::{random_assignment, random_dag};
use wattle_protocol::ids::{StageId, Step};
use wattle_protocol::job::{JobSpec, Optimizer};
use wattle_protocol::swarm::io::{GradientSource, Task, TensorName};

use super::{JOB, gradients, job, key, load, passes, work};
use crate::{DeviceChoice, Executor, data, zoo};

/// Largest difference between whole and cut, relative to the largest element of a gradient: a cut only changes the
/// order in which a fan-out's cotangents are added.
const TOLERANCE: f32 = 2e-6;

type Gradients = BTreeMap<String, Vec<f32>>;

fn run(spec: &JobSpec, cut: Cut) -> (f64, Gradients) {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let works: Vec<_> = cut.stages.into_iter().map(|graph| work(spec, graph)).collect();
    for work in &works {
        load(&mut executor, work, None).unwrap();
    }
    let loss = passes(&mut executor, &works, 0);
    let mut all = Gradients::new();
    for work in &works {
        for (name, gradient) in gradients(&executor, work, 0) {
            if let Some(other) = all.get(&name) {
                assert_eq!(*other, gradient, "holders of {name} disagree");
            }
            all.insert(name, gradient);
        }
    }
    (loss, all)
}

fn assert_close(a: &Gradients, b: &Gradients) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, a) in a {
        let largest = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        for (a, b) in a.iter().zip(&b[name]) {
            assert!((a - b).abs() <= TOLERANCE * largest, "{name}: {a} and {b} (of {largest})");
        }
    }
}

fn check(spec: &JobSpec, training: &Training, assignment: &[StageId]) {
    let (loss, want) = run(spec, whole(training));
    let parts = cut(training, assignment).unwrap();
    let (cut_loss, got) = run(spec, parts.clone());
    assert!((loss - cut_loss).abs() <= 1e-6 * loss.abs().max(1e-3), "{loss} and {cut_loss}");
    assert_close(&want, &got);
    let stages = parts.stages.into_iter().map(recompute).collect();
    let (again_loss, again) = run(spec, Cut { stages, edges: parts.edges });
    assert_eq!(cut_loss.to_bits(), again_loss.to_bits());
    assert_eq!(got, again, "recomputed activations must be the same bits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn random_networks_in_random_stages_equal_the_whole(seed: u64, nodes in 6usize..50, stages in 2u16..6) {
        let mut spec = job(random_dag(seed, nodes), data::NOISE);
        spec.train.micro_batches = 2;
        let training = differentiate(spec.dag.clone(), 2).unwrap();
        check(&spec, &training, &random_assignment(seed, &training, stages));
    }
}

#[test]
fn gpt2_with_tied_embeddings_in_stages_equals_the_whole() {
    let dag = zoo::by_name("gpt2-nano", Some(2)).unwrap().unwrap();
    let mut spec = job(dag, data::text::KJV);
    spec.train.micro_batches = 2;
    let training = differentiate(spec.dag.clone(), 2).unwrap();
    let nodes = training.forward_nodes;
    for stages in [2, 3, 5] {
        let stage = |n: usize| StageId::new(u16::try_from(n * stages / nodes).unwrap());
        let assignment: Vec<_> = (0..nodes).map(stage).collect();
        check(&spec, &training, &assignment);
    }
}

#[test]
fn resnet_in_stages_equals_the_whole() {
    let dag = zoo::by_name("resnet-tiny", Some(4)).unwrap().unwrap();
    let spec = job(dag, data::images::DIGITS);
    let training = differentiate(spec.dag.clone(), 1).unwrap();
    for seed in 0..3 {
        check(&spec, &training, &random_assignment(seed, &training, 4));
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
        backup.store().put_bytes(name, bytes);
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
