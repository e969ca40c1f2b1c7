//! Training: losses fall, steps repeat, and what goes wrong comes back as an error.

use wattle_protocol::dag::cut::Program;
use wattle_protocol::dag::op::{Op, Unary};
use wattle_protocol::dag::text::{parse, to_text};
use wattle_protocol::dag::{DagBuilder, Fact, Init};
use wattle_protocol::ids::{MicroBatch, StageId, Step};
use wattle_protocol::job::{JobSpec, LearningRate, Optimizer};
use wattle_protocol::swarm::io::{GradientSource, StageWork, Task, TaskError};

use super::{EPOCH, JOB, gradients, job, load, passes};
use crate::single::{recalibrate, run_single, whole_work};
use crate::zoo::gpt2;
use crate::{DeviceChoice, Executor, data, zoo};

fn losses(spec: &JobSpec) -> Vec<f64> {
    let mut losses = Vec::new();
    run_single(spec, DeviceChoice::Cpu, |_, loss| losses.push(loss)).unwrap();
    losses
}

fn training(name: &str, source: &str, steps: u64, peak: f32) -> JobSpec {
    let mut spec = job(zoo::by_name(name, None).unwrap().unwrap(), source);
    spec.train.steps = steps;
    spec.train.micro_batches = 4;
    spec.train.optimizer =
        Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    spec.train.learning_rate = LearningRate { peak, floor: peak / 10.0, warmup: 5 };
    spec.train.clip_norm = Some(1.0);
    spec
}

#[test]
fn a_small_gpt2_falls_from_guessing_towards_the_entropy_of_bytes() {
    let losses = losses(&training("gpt2-nano", data::text::KJV, 30, 3e-3));
    assert!((losses[0] - 256f64.ln()).abs() < 0.1, "begins at ln 256: {}", losses[0]);
    let last = losses[losses.len() - 1];
    assert!(last < 3.4, "{last} after 30 steps");
}

#[test]
fn a_small_lstm_falls_from_guessing_towards_the_entropy_of_bytes() {
    let losses = losses(&training("lstm-nano", data::text::KJV, 30, 1e-2));
    assert!((losses[0] - 256f64.ln()).abs() < 0.1, "begins at ln 256: {}", losses[0]);
    let last = losses[losses.len() - 1];
    assert!(last < 3.2, "{last} after 30 steps");
}

#[test]
fn a_small_resnet_learns_digits() {
    let losses = losses(&training("resnet-tiny", data::images::DIGITS, 40, 3e-3));
    let tail = losses[35..].iter().sum::<f64>() / 5.0;
    assert!(tail < 0.8, "{tail} after 40 steps; ln 10 is guessing");
}

/// Goal: running statistics can be estimated anew: the mean over batches, whatever stood there before.
/// Method: a step of momentum 1 over one micro-batch leaves that micro-batch's statistics.
#[test]
fn statistics_are_the_means_over_the_batches_that_they_are_estimated_on() {
    let mut spec = training("resnet-tiny", data::images::DIGITS, 3, 3e-3);
    spec.train.micro_batches = 2;
    let trained = run_single(&spec, DeviceChoice::Cpu, |_, _| {}).unwrap();
    let means = |batches| recalibrate(&spec, &trained, batches, DeviceChoice::Cpu).unwrap();
    let (one, three) = (means(1), means(3));
    assert_eq!(three, recalibrate(&spec, &three, 3, DeviceChoice::Cpu).unwrap());
    let mut seen = 0;
    for (name, value) in &trained {
        if !name.contains("running") {
            assert_eq!(value, &three[name], "{name}: weights stay");
            continue;
        }
        seen += 1;
        assert_ne!(value, &three[name], "{name}");
        assert_ne!(one[name], three[name], "{name}");
    }
    assert!(seen > 4);
    // One update of momentum 1 leaves the statistics of its micro-batch, and with no step size the same weights.
    let text = to_text(&spec.dag).replace(" * 0.1\n", " * 1.0\n");
    let mut exact = JobSpec { dag: parse(&text).unwrap(), ..spec.clone() };
    exact.train.micro_batches = 1;
    exact.train.steps = 1;
    let fresh = recalibrate(&exact, &Default::default(), 1, DeviceChoice::Cpu).unwrap();
    let stepped = run_single(&exact, DeviceChoice::Cpu, |_, _| {}).unwrap();
    for (name, value) in stepped.iter().filter(|(name, _)| name.contains("running")) {
        assert_eq!(value, &fresh[name], "{name}");
    }
}

/// A nano with dropout.
fn dropped() -> JobSpec {
    let mut config = gpt2::Config::named("gpt2-nano").unwrap();
    config.layers = 1;
    config.dropout = 0.2;
    let mut spec = training("gpt2-nano", data::text::KJV, 3, 1e-3);
    spec.dag = gpt2::build(&config, 2).unwrap();
    spec
}

#[test]
fn a_run_repeats_itself_bit_by_bit_even_with_dropout() {
    let spec = dropped();
    let bits = |l: Vec<f64>| l.into_iter().map(f64::to_bits).collect::<Vec<_>>();
    let first = bits(losses(&spec));
    assert_eq!(first, bits(losses(&spec)));
    let mut other = spec;
    other.train.seed += 1;
    assert_ne!(first, bits(losses(&other)));
}

#[test]
fn a_redone_step_gives_the_same_gradient() {
    let spec = dropped();
    let work = whole_work(&spec).unwrap();
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    load(&mut executor, &work, None).unwrap();
    let works = [work];
    passes(&mut executor, &works, 0);
    let first = gradients(&executor, &works[0], 0);
    let (job, stage) = (JOB, StageId::new(0));
    executor.run(&Task::ResetStep { job, stage, epoch: EPOCH }).unwrap();
    // Half a step that is forgotten again leaves no trace.
    let (step, micro_batch) = (Step::new(0), MicroBatch::new(0));
    executor.run(&Task::Forward { job, stage, step, micro_batch }).unwrap();
    executor.run(&Task::Backward { job, stage, step, micro_batch }).unwrap();
    executor.run(&Task::ResetStep { job, stage, epoch: EPOCH }).unwrap();
    passes(&mut executor, &works, 0);
    assert_eq!(first, gradients(&executor, &works[0], 0));
}

#[test]
fn attention_written_out_equals_the_fused_operator() {
    let mut config = gpt2::Config::named("gpt2-nano").unwrap();
    config.layers = 2;
    let run = |attention| {
        let config = gpt2::Config { attention, ..config.clone() };
        let mut spec = training("gpt2-nano", data::text::KJV, 2, 1e-3);
        spec.dag = gpt2::build(&config, 2).unwrap();
        losses(&spec)
    };
    let (fused, written) = (run(gpt2::Attention::Fused), run(gpt2::Attention::Primitive));
    for (a, b) in fused.iter().zip(&written) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

/// A network whose loss is the sum of a parameter through one operator.
fn one_op(op: Op, start: f32) -> JobSpec {
    let mut b = DagBuilder::new("one");
    let p = b.parameter("p", &[4], Init::Constant(start), false);
    let x = b.input("x", Fact::f32(&[4]));
    let y = b.op("y", op, &[p]).unwrap();
    let y = b.op("with data", Op::Mul, &[y, x]).unwrap();
    let loss = b.op("loss", Op::ReduceSum { axes: vec![0], keep: false }, &[y]).unwrap();
    b.output(loss);
    job(b.finish().unwrap(), data::NOISE)
}

fn forward(executor: &mut Executor, step: u64) -> Result<(), TaskError> {
    let (job, stage, micro_batch) = (JOB, StageId::new(0), MicroBatch::new(0));
    executor.run(&Task::Forward { job, stage, step: Step::new(step), micro_batch }).map(drop)
}

#[test]
fn a_loss_that_is_no_number_is_an_error() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    load(&mut executor, &whole_work(&one_op(Op::Unary(Unary::Log), -1.0)).unwrap(), None).unwrap();
    assert!(matches!(forward(&mut executor, 0), Err(TaskError::NotFinite(_))));
}

#[test]
fn an_infinite_gradient_is_an_error() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    // The root of zero is finite, its slope is not.
    load(&mut executor, &whole_work(&one_op(Op::Unary(Unary::Sqrt), 0.0)).unwrap(), None).unwrap();
    forward(&mut executor, 0).unwrap();
    let (job, stage, step) = (JOB, StageId::new(0), Step::new(0));
    executor.run(&Task::Backward { job, stage, step, micro_batch: MicroBatch::new(0) }).unwrap();
    let reduce = Task::ReduceGradients { job, stage, step, shared_from: vec![], publish: false };
    assert!(matches!(executor.run(&reduce), Err(TaskError::NotFinite(_))));
}

#[test]
fn what_is_not_there_is_named_and_the_executor_goes_on() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    assert!(matches!(forward(&mut executor, 0), Err(TaskError::Missing(_))));
    load(&mut executor, &whole_work(&one_op(Op::Unary(Unary::Exp), 0.0)).unwrap(), None).unwrap();
    assert!(matches!(forward(&mut executor, 7), Err(TaskError::Missing(_))));
    let (job, stage, step) = (JOB, StageId::new(0), Step::new(0));
    let backward = Task::Backward { job, stage, step, micro_batch: MicroBatch::new(0) };
    assert!(matches!(executor.run(&backward), Err(TaskError::Missing(_))));
    let gradient = GradientSource::Own;
    let update = Task::OptimizerStep { job, stage, step, scale: 1.0, gradient };
    assert!(matches!(executor.run(&update), Err(TaskError::Missing(_))));
    forward(&mut executor, 0).unwrap();
    executor.run(&backward).unwrap();
}

#[test]
fn a_state_of_the_wrong_length_is_refused() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let work = whole_work(&one_op(Op::Unary(Unary::Exp), 0.0)).unwrap();
    let short = bytes::Bytes::from_static(&[0; 12]);
    assert!(matches!(load(&mut executor, &work, Some(short)), Err(TaskError::Missing(_))));
}

/// Goal: no task takes the process down.
/// Method: a stage graph with a node whose shapes lie, and one that asks for more memory than there is.
#[test]
fn a_panic_and_a_lack_of_memory_become_errors() {
    let spec = one_op(Op::Unary(Unary::Exp), 0.0);
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let broken = |op: Op| {
        let mut work = StageWork::clone(&whole_work(&spec).unwrap());
        let Program { nodes, .. } = &mut work.graph.forward;
        nodes[0].op = op;
        std::sync::Arc::new(work)
    };
    let lying = broken(Op::Reshape { shape: vec![3, 5] });
    load(&mut executor, &lying, None).unwrap();
    assert!(matches!(forward(&mut executor, 0), Err(TaskError::Panicked(_))));
    let huge = broken(Op::Fill { shape: vec![usize::MAX / 2], value: 0.0 });
    load(&mut executor, &huge, None).unwrap();
    let error = forward(&mut executor, 0).unwrap_err();
    assert!(matches!(error, TaskError::OutOfMemory(_)), "{error:?}");
    load(&mut executor, &whole_work(&spec).unwrap(), None).unwrap();
    forward(&mut executor, 0).unwrap();
}

#[test]
#[should_panic(expected = "in micro-batch order")]
fn backward_passes_out_of_order_are_a_broken_invariant() {
    let mut spec = one_op(Op::Unary(Unary::Exp), 0.0);
    spec.train.micro_batches = 2;
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    load(&mut executor, &whole_work(&spec).unwrap(), None).unwrap();
    let (job, stage, step) = (JOB, StageId::new(0), Step::new(0));
    for micro_batch in [0, 1].map(MicroBatch::new) {
        executor.run(&Task::Forward { job, stage, step, micro_batch }).unwrap();
    }
    for micro_batch in [1, 0].map(MicroBatch::new) {
        if let Err(TaskError::Panicked(text)) =
            executor.run(&Task::Backward { job, stage, step, micro_batch })
        {
            panic!("{text}");
        }
    }
}
