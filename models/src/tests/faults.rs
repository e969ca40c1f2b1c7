//! What a machine can do to a task: too little memory, and a device that goes away.

use std::process::Command;
use std::sync::Arc;

use wattle_protocol::dag::op::Op;
use wattle_protocol::dag::{DagBuilder, Fact, Init};
use wattle_protocol::ids::{MicroBatch, StageId, Step};
use wattle_protocol::swarm::io::{Outcome, StageWork, Task, TaskError};
use wattle_protocol::units::Bytes;

use super::{JOB, gpu, job, load};
use crate::exec::device::lose_gpu;
use crate::exec::stage::footprint;
use crate::single::whole_work;
use crate::{DeviceChoice, Executor, data, zoo};

const STAGE: StageId = StageId::new(0);

fn nano() -> Arc<StageWork> {
    let dag = zoo::by_name("gpt2-nano", Some(1)).unwrap().unwrap();
    whole_work(&job(dag, data::text::KJV)).unwrap()
}

/// A network that stretches four numbers to a tensor of 32 GiB.
fn huge() -> Arc<StageWork> {
    let mut b = DagBuilder::new("huge");
    let x = b.input("x", Fact::f32(&[1, 4]));
    let p = b.parameter("p", &[4], Init::Constant(1.0), false);
    let y = b.op("y", Op::Mul, &[x, p]).unwrap();
    let wide = b.op("wide", Op::Expand { shape: vec![1 << 31, 4] }, &[y]).unwrap();
    let loss = b.op("loss", Op::ReduceMean { axes: vec![0, 1], keep: false }, &[wide]).unwrap();
    b.output(loss);
    whole_work(&job(b.finish().unwrap(), data::NOISE)).unwrap()
}

fn forward(executor: &mut Executor) -> Result<f64, TaskError> {
    let (step, micro_batch) = (Step::new(0), MicroBatch::new(0));
    match executor.run(&Task::Forward { job: JOB, stage: STAGE, step, micro_batch })? {
        Outcome::Forward { loss: Some(loss) } => Ok(loss),
        other => panic!("{other:?}"),
    }
}

fn backward(executor: &mut Executor) -> Result<Outcome, TaskError> {
    let (step, micro_batch) = (Step::new(0), MicroBatch::new(0));
    executor.run(&Task::Backward { job: JOB, stage: STAGE, step, micro_batch })
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, TaskError>) {
    match result {
        Err(TaskError::OutOfMemory(text)) => {
            for part in ["needs", "are taken", "--memory"] {
                assert!(text.contains(part), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stage_that_does_not_fit_is_refused_and_the_executor_goes_on() {
    let work = nano();
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let state = footprint::of(&work).state.count();
    executor.store().limit(Some(Bytes::new(state - 1)));
    assert_refused(load(&mut executor, &work, None));
    assert!(matches!(forward(&mut executor), Err(TaskError::Missing(_))));
    executor.store().limit(Some(Bytes::new(state)));
    load(&mut executor, &work, None).unwrap();
    // Loading it again takes the place of the old one.
    load(&mut executor, &work, None).unwrap();
    assert_refused(forward(&mut executor));
    executor.store().limit(None);
    forward(&mut executor).unwrap();
    executor.store().limit(Some(Bytes::new(2 * state)));
    assert_refused(backward(&mut executor));
    executor.store().limit(None);
    backward(&mut executor).unwrap();
}

#[test]
fn two_stages_share_one_limit_and_what_is_unloaded_is_free_again() {
    let work = nano();
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let state = footprint::of(&work).state.count();
    executor.store().limit(Some(Bytes::new(state + state / 2)));
    load(&mut executor, &work, None).unwrap();
    let mut second = StageWork::clone(&work);
    second.graph.stage = StageId::new(1);
    let second = Arc::new(second);
    assert_refused(load(&mut executor, &second, None));
    executor.run(&Task::Unload { job: JOB, stage: STAGE }).unwrap();
    load(&mut executor, &second, None).unwrap();
}

#[test]
fn a_huge_tensor_is_refused_before_it_is_made() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    executor.store().limit(Some(Bytes::new(1 << 30)));
    load(&mut executor, &huge(), None).unwrap();
    assert_refused(forward(&mut executor));
    load(&mut executor, &nano(), None).unwrap();
    forward(&mut executor).unwrap();
}

/// Goal: a driver's reset costs the stages on the device, not the process.
/// Method: destroy the device under a loaded stage, in a process of its own, since all tests here share the device.
#[test]
fn a_lost_gpu_is_opened_afresh_by_the_next_load() {
    const CHILD: &str = "WATTLE_TEST_LOSES_ITS_GPU";
    const NAME: &str = "tests::faults::a_lost_gpu_is_opened_afresh_by_the_next_load";
    let Some(mut executor) = gpu() else { return };
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let work = nano();
    load(&mut executor, &work, None).unwrap();
    let before = forward(&mut executor).unwrap();
    for _ in 0..2 {
        lose_gpu();
        let error = forward(&mut executor).unwrap_err();
        assert!(matches!(error, TaskError::DeviceLost(_)), "{error:?}");
        assert!(forward(&mut executor).is_err(), "the stage went with the device");
        load(&mut executor, &work, None).unwrap();
        let after = forward(&mut executor).unwrap();
        assert!((before - after).abs() <= 1e-6 * before, "{before} and {after}");
    }
}
