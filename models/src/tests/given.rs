//! Jobs that start from given weights: the same numbers as from the seed, and nothing but what the job names.

use wattle_protocol::ids::{Step, TensorHash};
use wattle_protocol::job::{JobSpec, Optimizer, Start};
use wattle_protocol::swarm::io::{StateSource, Task, TaskError, TensorName};

use super::{JOB, job, key, work};
use crate::single::{run_single, run_single_from, whole_work};
use crate::weights::given::Given;
use crate::{DeviceChoice, Executor, data, zoo};

fn seeded() -> JobSpec {
    let mut spec =
        job(zoo::by_name("resnet-tiny", Some(2)).unwrap().unwrap(), data::images::DIGITS);
    spec.train.steps = 3;
    spec.train.optimizer =
        Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    spec
}

#[test]
fn weights_that_equal_the_draws_train_like_the_draws() {
    let spec = seeded();
    let given = Given::drawn(spec.dag.values(), spec.train.seed);
    // The seed draws nothing of what is given: another one changes nothing.
    let mut from = JobSpec { start: given.start(&spec.dag).unwrap(), ..spec.clone() };
    from.train.seed += 1;
    let run = |spec: &JobSpec, given: Option<&Given>| {
        let mut losses = Vec::new();
        let end = match given {
            Some(_) => run_single_from(spec, given, DeviceChoice::Cpu, |_, l| losses.push(l)),
            None => run_single(spec, DeviceChoice::Cpu, |_, l| losses.push(l)),
        };
        (losses, end.unwrap())
    };
    assert_eq!(run(&spec, None), run(&from, Some(&given)));
}

#[test]
fn only_the_bytes_that_the_job_names_are_taken() {
    let mut spec = seeded();
    let given = Given::drawn(spec.dag.values(), 5);
    spec.start = given.start(&spec.dag).unwrap();
    let work = work(&spec, whole_work(&spec).unwrap().graph.clone());
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let name = key(0, TensorName::StageStart { stage: work.graph.stage });
    let good = given.bundle(&work.graph).unwrap();
    let mut load = |bytes: bytes::Bytes, work: &std::sync::Arc<_>| {
        executor.store().accept(name, bytes);
        let (source, step) = (StateSource::Given(name), Step::default());
        executor.run(&Task::LoadStage { job: JOB, work: std::sync::Arc::clone(work), source, step })
    };
    load(good.clone(), &work).unwrap();
    let mut other = good.to_vec();
    other[7] ^= 1;
    let Err(TaskError::Missing(text)) = load(other.into(), &work) else {
        panic!("one bit is another job");
    };
    assert!(text.contains("given"), "{text}");
    assert!(load(good.slice(4..), &work).is_err());
    let Start::Given(hashes) = &mut spec.start else {
        panic!("it starts from weights");
    };
    hashes[3] = TensorHash::of(b"another");
    let lying = super::work(&spec, work.graph.clone());
    assert!(load(good, &lying).is_err());
}
