//! The derivative of every operator against central differences, through `differentiate` and the executor.
//!
//! `cover` says which case stands for which operator, so that no operator is left out.

mod composed;
pub(super) mod cover;
mod rest;
mod sequence;
mod written;

use std::sync::Arc;

use wattle_protocol::dag::compose::{Built, Scope};
use wattle_protocol::dag::op::{Binary, Conv2d, Gelu, Op, Pool2d, Rotary, Targets, Unary};
use wattle_protocol::dag::{Dag, DagBuilder, Fact, Init};
use wattle_protocol::ids::{MicroBatch, StageId, Step, ValueId};
use wattle_protocol::swarm::io::{Outcome, StageWork, Task};

use super::{JOB, gradients, job, load, passes};
use crate::exec::store::to_bytes;
use crate::single::whole_work;
use crate::{DeviceChoice, Executor, data};

/// Half the distance between the two points of a difference: large enough that f32 rounding of the loss (some 1e-6)
/// stays small against it, small enough for its square to be.
const STEP: f32 = 1e-2;
/// Share of the gradient that a difference may be off: curvature (`STEP^2`) and rounding (`1e-6 / STEP`) together.
const RELATIVE: f64 = 6e-3;
/// The same for gradients near zero: rounding alone.
const ABSOLUTE: f64 = 5e-4;
/// How many times [`ABSOLUTE`] the largest gradient of each operand must be, so that a wrong one is seen.
const TELLING: f64 = 20.0;

/// One operator on parameters (and, first or last, data) of these shapes.
pub(super) struct Case {
    pub(super) name: &'static str,
    op: Op,
    parameters: Vec<Vec<usize>>,
    /// Elements stay above zero.
    positive: bool,
    /// How many of them, the last ones, are running statistics and not trained.
    buffers: usize,
    /// Ids of this shape as the last operand.
    ids: Option<(Ids, Vec<usize>)>,
    /// What is built instead of the operator alone: one that needs indices or masks, or a composition.
    build: Option<Build>,
}

/// Builds a part of a network from operands.
type Build = fn(&mut Scope<'_>, &[ValueId]) -> Built;

/// Which ids.
#[derive(Clone, Copy)]
enum Ids {
    /// Bytes of a text, all below 128.
    Tokens,
    /// Digits, below 10.
    Labels,
}

fn case(name: &'static str, op: Op, shapes: &[&[usize]]) -> Case {
    let parameters = shapes.iter().map(|s| s.to_vec()).collect();
    Case { name, op, parameters, positive: false, buffers: 0, ids: None, build: None }
}

fn positive(name: &'static str, op: Op, shapes: &[&[usize]]) -> Case {
    Case { positive: true, ..case(name, op, shapes) }
}

fn built(name: &'static str, shapes: &[&[usize]], build: Build) -> Case {
    Case { build: Some(build), ..case(name, Op::AddN, shapes) }
}

fn with_ids(name: &'static str, op: Op, shape: &[usize], ids: (Ids, &[usize])) -> Case {
    Case { ids: Some((ids.0, ids.1.to_vec())), ..case(name, op, &[shape]) }
}

fn conv(stride: usize, padding: usize, dilation: usize, groups: usize) -> Conv2d {
    Conv2d { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups }
}

fn linear_cases() -> Vec<Case> {
    let product = |transpose_a, transpose_b| Op::MatMul { transpose_a, transpose_b };
    let attention = |causal| Op::Attention { causal, scale: 0.5 };
    let qkv: [&[usize]; 3] = [&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]];
    vec![
        case("matmul", product(false, false), &[&[2, 3, 4], &[2, 4, 2]]),
        case("matmul ta", product(true, false), &[&[2, 4, 3], &[2, 4, 2]]),
        case("matmul tb", product(false, true), &[&[2, 3, 4], &[2, 2, 4]]),
        case("matmul ta tb", product(true, true), &[&[2, 4, 3], &[2, 2, 4]]),
        case("matmul matrix", product(false, false), &[&[2, 3, 4], &[4, 2]]),
        case("matmul matrix tb", product(false, true), &[&[2, 3, 4], &[2, 4]]),
        case("matmul matrix ta", product(true, true), &[&[2, 4, 3], &[2, 4]]),
        case("matmul broadcast", product(false, false), &[&[1, 3, 4], &[2, 4, 2]]),
        case("linear", Op::Linear, &[&[2, 3, 4], &[4, 5], &[5]]),
        case("linear without bias", Op::Linear, &[&[3, 4], &[4, 5]]),
        with_ids("embedding", Op::Embedding, &[128, 2], (Ids::Tokens, &[2, 3])),
        case("attention", attention(false), &qkv),
        case("attention causal", attention(true), &qkv),
        case("attention heads", attention(true), &[&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4]]),
        with_ids(
            "cross-entropy",
            Op::CrossEntropy(Targets::default()),
            &[3, 10],
            (Ids::Labels, &[3]),
        ),
        with_ids(
            "cross-entropy text",
            Op::CrossEntropy(Targets::default()),
            &[1, 2, 128],
            (Ids::Tokens, &[1, 2]),
        ),
    ]
}

fn image_cases() -> Vec<Case> {
    let pool = |kernel: usize, stride: usize, padding: usize| Pool2d {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
    };
    let image: &[usize] = &[2, 2, 5, 4];
    vec![
        case("conv2d", Op::Conv2d(conv(1, 1, 1, 1)), &[image, &[3, 2, 3, 3], &[3]]),
        case("conv2d stride", Op::Conv2d(conv(2, 1, 1, 1)), &[image, &[3, 2, 3, 3]]),
        case("conv2d 1x1 stride", Op::Conv2d(conv(2, 0, 1, 1)), &[image, &[3, 2, 1, 1]]),
        case("conv2d dilation", Op::Conv2d(conv(1, 2, 2, 1)), &[image, &[3, 2, 3, 3]]),
        case("conv2d groups", Op::Conv2d(conv(1, 0, 1, 2)), &[image, &[4, 1, 3, 3], &[4]]),
        case("max pool", Op::MaxPool2d(pool(2, 2, 0)), &[image]),
        case("max pool padded", Op::MaxPool2d(pool(3, 2, 1)), &[image]),
        case("average pool", Op::AvgPool2d(pool(2, 2, 0)), &[image]),
        case("average pool padded", Op::AvgPool2d(pool(3, 2, 1)), &[image]),
        case("batch norm", Op::BatchNorm { eps: 1e-3 }, &[image, &[2], &[2]]),
        Case {
            buffers: 2,
            ..positive(
                "batch norm inference",
                Op::BatchNormInference { eps: 1e-3 },
                &[image, &[2], &[2], &[2], &[2]],
            )
        },
    ]
}

fn element_cases() -> Vec<Case> {
    let row: &[usize] = &[2, 3, 4];
    vec![
        case("layer norm", Op::LayerNorm { eps: 1e-3 }, &[row, &[4], &[4]]),
        case("softmax", Op::Softmax { axis: 2 }, &[row]),
        case("softmax inner", Op::Softmax { axis: 1 }, &[row]),
        case("causal mask", Op::CausalMask { fill: 0.5 }, &[&[2, 3, 3]]),
        case("relu", Op::Relu, &[row]),
        case("gelu tanh", Op::Gelu(Gelu::Tanh), &[row]),
        case("gelu erf", Op::Gelu(Gelu::Erf), &[row]),
        case("dropout", Op::Dropout { rate: 0.3, stream: 1 }, &[row]),
        case("add", Op::Add, &[row, row]),
        case("add broadcast", Op::Add, &[row, &[4]]),
        case("add both broadcast", Op::Add, &[&[2, 1, 4], &[3, 1]]),
        case("sub broadcast", Op::Sub, &[&[3, 1], row]),
        case("mul broadcast", Op::Mul, &[row, &[3, 1]]),
        positive("div broadcast", Op::Div, &[row, &[4]]),
        case("scale", Op::Scale { factor: -1.5 }, &[row]),
        case("shift", Op::Shift { term: 2.0 }, &[row]),
        case("exp", Op::Unary(Unary::Exp), &[row]),
        positive("log", Op::Unary(Unary::Log), &[row]),
        positive("sqrt", Op::Unary(Unary::Sqrt), &[row]),
        case("tanh", Op::Unary(Unary::Tanh), &[row]),
        case("sigmoid", Op::Unary(Unary::Sigmoid), &[row]),
        case("sum of three", Op::AddN, &[row, row, row]),
        case("reshape", Op::Reshape { shape: vec![4, 6] }, &[row]),
        case("transpose", Op::Transpose { perm: vec![2, 0, 1] }, &[row]),
        case("slice", Op::Slice { axis: 1, start: 1, end: 3 }, &[row]),
        case("unslice", Op::Unslice { axis: 2, start: 1, len: 7 }, &[row]),
        case("concat", Op::Concat { axis: 1 }, &[row, &[2, 1, 4]]),
        case("expand", Op::Expand { shape: vec![2, 3, 4] }, &[&[3, 1]]),
        case("sum to", Op::SumTo { shape: vec![3, 1] }, &[row]),
        positive("sum to scalar", Op::SumTo { shape: vec![] }, &[row]),
        case("reduce sum", Op::ReduceSum { axes: vec![0, 2], keep: false }, &[row]),
        case("reduce mean", Op::ReduceMean { axes: vec![1], keep: true }, &[row]),
    ]
}

fn function_cases() -> Vec<Case> {
    let row: &[usize] = &[2, 3, 4];
    let unary = |name, f| case(name, Op::Unary(f), &[row]);
    let binary = |f| Op::Binary(f);
    vec![
        unary("sin", Unary::Sin),
        unary("cos", Unary::Cos),
        unary("asin", Unary::Asin),
        unary("acos", Unary::Acos),
        unary("atan", Unary::Atan),
        unary("erf", Unary::Erf),
        unary("abs", Unary::Abs),
        positive("pow", binary(Binary::Pow), &[row, &[4]]),
        positive("atan2", binary(Binary::Atan2), &[row, row]),
        case("rms norm", Op::RmsNorm { eps: 1e-3 }, &[row, &[4]]),
        case("log-softmax", Op::LogSoftmax { axis: 1 }, &[row]),
        case("reduce max", Op::ReduceMax { axes: vec![0, 2], keep: false }, &[row]),
        case("cum sum", Op::CumSum { axis: 1, exclusive: false, reverse: false }, &[row]),
        case("cum sum back", Op::CumSum { axis: 2, exclusive: true, reverse: true }, &[row]),
        case("top k", Op::TopK { axis: 2, k: 2, smallest: false }, &[row]),
        case("rotary", Op::Rotary(turning(false)), &[&[2, 3, 4]]),
        case("rotary interleaved", Op::Rotary(turning(true)), &[&[2, 3, 4]]),
    ]
}

fn turning(interleaved: bool) -> Rotary {
    Rotary { theta: 10.0, interleaved, inverse: false, start: 2 }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = linear_cases();
    cases.extend(image_cases());
    cases.extend(element_cases());
    cases.extend(function_cases());
    cases.extend(sequence::cases());
    cases.extend(composed::cases());
    cases.extend(rest::cases());
    cases
}

/// Elements that lie at least 0.06 apart (in large tensors 1/128) and half of that from zero, so that no difference
/// crosses a kink.
fn spaced(count: usize, offset: usize, positive: bool) -> Vec<f32> {
    let step = if count > 60 { 1.0 / 128.0 } else { 0.06 };
    let place = |i: usize| u16::try_from((i * 37 + offset * 11) % count).unwrap();
    let half = f32::from(u16::try_from(count / 2).unwrap());
    (0..count)
        .map(|i| {
            let x = (f32::from(place(i)) - half + 0.5) * step;
            if positive { x.abs() + 0.6 } else { x }
        })
        .collect()
}

/// Weights of both signs, none near zero: a result whose weight is zero would not be looked at.
fn weights(count: usize, offset: usize) -> Vec<f32> {
    spaced(count, offset, false).into_iter().map(|x| x + x.signum() * 0.5).collect()
}

impl Case {
    /// Weighs the operator's first result with data, so that each element counts differently, and sums.
    pub(super) fn dag(&self) -> Dag {
        let mut b = DagBuilder::new("case");
        let shapes = self.parameters.iter().enumerate();
        let trained = self.parameters.len() - self.buffers;
        let mut inputs: Vec<ValueId> = shapes
            .map(|(i, s)| match i < trained {
                true => b.parameter(format!("p{i}"), s, Init::Normal(1.0), true),
                false => b.buffer(format!("p{i}"), s, Init::Constant(1.0)),
            })
            .collect();
        if let Some((ids, shape)) = &self.ids {
            let name = match ids {
                Ids::Tokens => "tokens",
                Ids::Labels => "labels",
            };
            inputs.push(b.input(name, Fact::i32(shape)));
        }
        let y = match self.build {
            Some(build) => build(&mut Scope::new(&mut b, "y"), &inputs).unwrap(),
            None => b.op("y", self.op.clone(), &inputs).unwrap(),
        };
        let count = b.fact(y).elements();
        let flat = b.op("flat", Op::Reshape { shape: vec![count] }, &[y]).unwrap();
        let weights = b.parameter("weights", &[count], Init::Normal(1.0), true);
        let weighed = b.op("weighed", Op::Mul, &[flat, weights]).unwrap();
        let loss = b.op("loss", Op::ReduceSum { axes: vec![0], keep: false }, &[weighed]).unwrap();
        b.output(loss);
        b.finish().unwrap()
    }

    /// Returns parameters, then buffers.
    pub(super) fn state(&self, dag: &Dag) -> Vec<f32> {
        let mut state = Vec::new();
        for (at, id) in dag.parameters().chain(dag.buffers()).enumerate() {
            let count = dag.fact(id).elements();
            state.extend(match dag.value(id).name.as_str() {
                "weights" => weights(count, at),
                _ => spaced(count, at, self.positive),
            });
        }
        state
    }

    /// Returns the case as the only stage of a job.
    pub(super) fn work(&self, dag: &Dag) -> Arc<StageWork> {
        let source = match self.ids {
            Some((Ids::Labels, _)) => data::images::DIGITS,
            Some((Ids::Tokens, _)) | None => data::text::KJV,
        };
        whole_work(&job(dag.clone(), source)).unwrap()
    }
}

/// Returns the loss and the gradient of each parameter by name.
pub(super) fn loss_and_gradient(
    executor: &mut Executor,
    work: &Arc<StageWork>,
    state: &[f32],
) -> (f64, Vec<(String, Vec<f32>)>) {
    load(executor, work, Some(to_bytes(state))).unwrap();
    let loss = passes(executor, std::slice::from_ref(work), 0);
    (loss, gradients(executor, work, 0))
}

fn loss(executor: &mut Executor, work: &Arc<StageWork>, state: &[f32]) -> f64 {
    load(executor, work, Some(to_bytes(state))).unwrap();
    let (job, stage) = (JOB, StageId::new(0));
    let (step, micro_batch) = (Step::new(0), MicroBatch::new(0));
    match executor.run(&Task::Forward { job, stage, step, micro_batch }).unwrap() {
        Outcome::Forward { loss: Some(loss) } => loss,
        other => panic!("{other:?}"),
    }
}

/// Returns the largest magnitude.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

#[test]
fn every_derivative_agrees_with_central_differences() {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let mut wrong = Vec::new();
    for case in cases() {
        let dag = case.dag();
        let (state, work) = (case.state(&dag), case.work(&dag));
        let (_, gradients) = loss_and_gradient(&mut executor, &work, &state);
        for (name, gradient) in &gradients {
            let most = f64::from(largest(gradient));
            if most <= TELLING * ABSOLUTE {
                wrong.push(format!("{}: {name} is at most {most}", case.name));
            }
        }
        let gradient: Vec<f32> = gradients.into_iter().flat_map(|(_, g)| g).collect();
        for at in 0..gradient.len() {
            let mut moved = state.clone();
            moved[at] = state[at] + STEP;
            let above = loss(&mut executor, &work, &moved);
            moved[at] = state[at] - STEP;
            let below = loss(&mut executor, &work, &moved);
            let difference = (above - below) / (2.0 * f64::from(STEP));
            let want = f64::from(gradient[at]);
            if (difference - want).abs() > ABSOLUTE + RELATIVE * want.abs() {
                wrong.push(format!("{} element {at}: {want} but {difference}", case.name));
            }
        }
    }
    let first = &wrong[..wrong.len().min(30)];
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), first.join("\n"));
}
