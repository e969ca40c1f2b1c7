//! Fused operators and fast compositions compute what they stand for, written out with primitives: values and
//! gradients.

use wattle_protocol::dag::compose::{Built, Scope, conv, einsum, layout, pool, recurrent, sample};
use wattle_protocol::dag::compose::{stereo, volume};
use wattle_protocol::dag::op::{Comparison, Conv2d, HIDDEN, Op, Pool2d, Unary};
use wattle_protocol::ids::ValueId;

use super::super::gpu;
use super::{Build, built, largest, loss_and_gradient};
use crate::{DeviceChoice, Executor};

/// Rounding of sums in other orders, relative to the largest element of the same tensor.
const TOLERANCE: f32 = 1e-5;
/// The same on a GPU, whose exponentials differ too.
const GPU_TOLERANCE: f32 = 2e-4;

/// A thing, its operands, and how it is built in two ways.
struct Pair {
    name: &'static str,
    shapes: &'static [&'static [usize]],
    fused: Build,
    written: Build,
}

/// Attention with everything written out: copies of key heads, masks, softmax.
fn attention(s: &mut Scope<'_>, p: &[ValueId], causal: bool, scale: f32) -> Built {
    let (q, shape) = (p[0], s.shape(p[0]));
    let heads = shape.len() - 3;
    let times = shape[heads] / s.len(p[1], heads);
    let (k, v) = (layout::repeat(s, p[1], heads, times)?, layout::repeat(s, p[2], heads, times)?);
    let product = |transpose_b| Op::MatMul { transpose_a: false, transpose_b };
    let scores = s.op(product(true), &[q, k])?;
    let mut scores = s.scale(scores, scale)?;
    if let Some(mask) = p.get(3) {
        scores = s.add(scores, *mask)?;
    }
    let of = s.shape(scores);
    let (queries, keys) = (of[heads + 1], of[heads + 2]);
    if causal {
        let rows = s.op(Op::Iota { shape: vec![queries, 1], axis: 0 }, &[])?;
        let columns = s.op(Op::Iota { shape: vec![1, keys], axis: 1 }, &[])?;
        let seen = s.compare(Comparison::LessEqual, columns, rows)?;
        let hidden = s.number(HIDDEN)?;
        scores = s.choose(seen, scores, hidden)?;
    }
    let weights = s.op(Op::Softmax { axis: heads + 2 }, &[scores])?;
    s.op(product(false), &[weights, v])
}

/// One step's part of `[T, B, ..]`.
fn step(s: &mut Scope<'_>, x: ValueId, at: usize) -> Built {
    let shape = s.shape(x);
    let part = s.slice(x, 0, at, at + 1)?;
    s.reshape(part, &shape[1..])
}

fn gate(s: &mut Scope<'_>, x: ValueId, at: usize, width: usize, function: Unary) -> Built {
    let part = s.slice(x, 1, at * width, (at + 1) * width)?;
    s.unary(function, part)
}

/// Hidden states of an LSTM step by step, from `fed, recurrent, h, c`.
fn lstm(s: &mut Scope<'_>, p: &[ValueId]) -> Built {
    let width = s.len(p[2], 1);
    let (mut h, mut c) = (p[2], p[3]);
    let (mut hidden, mut cells) = (Vec::new(), Vec::new());
    for at in 0..s.len(p[0], 0) {
        let own = step(s, p[0], at)?;
        let back = s.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[h, p[1]])?;
        let sums = s.add(own, back)?;
        let input = gate(s, sums, 0, width, Unary::Sigmoid)?;
        let forget = gate(s, sums, 1, width, Unary::Sigmoid)?;
        let candidate = gate(s, sums, 2, width, Unary::Tanh)?;
        let output = gate(s, sums, 3, width, Unary::Sigmoid)?;
        let (kept, fresh) = (s.mul(forget, c)?, s.mul(input, candidate)?);
        c = s.add(kept, fresh)?;
        let shown = s.unary(Unary::Tanh, c)?;
        h = s.mul(output, shown)?;
        let shape = [&[1, 1], &s.shape(h)[..]].concat();
        hidden.push(s.reshape(h, &shape)?);
        cells.push(s.reshape(c, &shape)?);
    }
    let (hidden, cells) = (s.concat(&hidden, 1)?, s.concat(&cells, 1)?);
    s.concat(&[hidden, cells], 0)
}

/// Hidden states of a GRU step by step, from `fed, recurrent, bias, h`.
fn gru(s: &mut Scope<'_>, p: &[ValueId]) -> Built {
    let width = s.len(p[3], 1);
    let mut h = p[3];
    let mut hidden = Vec::new();
    for at in 0..s.len(p[0], 0) {
        let own = step(s, p[0], at)?;
        let back = s.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[h, p[1]])?;
        let both = s.add(own, back)?;
        let reset = gate(s, both, 0, width, Unary::Sigmoid)?;
        let update = gate(s, both, 1, width, Unary::Sigmoid)?;
        let part = s.slice(back, 1, 2 * width, 3 * width)?;
        let part = s.add(part, p[2])?;
        let part = s.mul(reset, part)?;
        let own = s.slice(own, 1, 2 * width, 3 * width)?;
        let candidate = s.add(own, part)?;
        let candidate = s.unary(Unary::Tanh, candidate)?;
        let less = s.scale(update, -1.0)?;
        let rest = s.shift(less, 1.0)?;
        let (fresh, kept) = (s.mul(rest, candidate)?, s.mul(update, h)?);
        h = s.add(fresh, kept)?;
        let shape = [&[1], &s.shape(h)[..]].concat();
        hidden.push(s.reshape(h, &shape)?);
    }
    s.concat(&hidden, 0)
}

/// A correlation volume disparity by disparity.
fn correlation(s: &mut Scope<'_>, p: &[ValueId]) -> Built {
    let [_, channels, _, width] = s.sized(p[0], "an image")?;
    let mut planes = Vec::new();
    for disparity in 0..3 {
        let left = s.slice(p[0], 3, disparity, width)?;
        let right = s.slice(p[1], 3, 0, width - disparity)?;
        let product = s.mul(left, right)?;
        let sum = s.sum(product, &[1], true)?;
        let sum = s.scale(sum, 1.0 / f32::from(u16::try_from(channels).unwrap()))?;
        planes.push(layout::pad(s, sum, 3, (disparity, 0), layout::Padding::Constant(0.0))?);
    }
    s.concat(&planes, 1)
}

const CONV: Conv2d = Conv2d { stride: [2, 1], padding: [1, 0], dilation: [1, 2], groups: 1 };

fn sequences() -> Vec<Pair> {
    vec![
        Pair {
            name: "attention grouped",
            shapes: &[&[2, 6, 5, 4], &[2, 2, 5, 4], &[2, 2, 5, 4]],
            fused: |s, p| s.op(Op::Attention { causal: true, scale: 0.7 }, p),
            written: |s, p| attention(s, p, true, 0.7),
        },
        Pair {
            name: "attention masked",
            shapes: &[&[2, 4, 5, 4], &[2, 1, 7, 4], &[2, 1, 7, 3], &[2, 1, 5, 7]],
            fused: |s, p| s.op(Op::Attention { causal: false, scale: 0.7 }, p),
            written: |s, p| attention(s, p, false, 0.7),
        },
        Pair {
            name: "attention masked and causal",
            shapes: &[&[2, 4, 5, 4], &[2, 2, 3, 4], &[2, 2, 3, 4], &[4, 1, 3]],
            fused: |s, p| s.op(Op::Attention { causal: true, scale: -0.7 }, p),
            written: |s, p| attention(s, p, true, -0.7),
        },
        Pair {
            name: "lstm",
            shapes: &[&[5, 3, 16], &[16, 4], &[3, 4], &[3, 4]],
            fused: |s, p| s.op(Op::Lstm, p),
            written: lstm,
        },
        Pair {
            name: "gru",
            shapes: &[&[5, 3, 12], &[12, 4], &[4], &[3, 4]],
            fused: |s, p| s.op(Op::Gru, p),
            written: gru,
        },
        Pair {
            name: "gru backwards",
            shapes: &[&[4, 2, 9], &[9, 3], &[3], &[2, 3]],
            fused: |s, p| Ok(recurrent::gru_of(s, p[0], [p[1], p[2]], Some(p[3]), true)?.hidden),
            written: |s, p| {
                let turned = layout::flip(s, p[0], 0)?;
                let y = gru(s, &[turned, p[1], p[2], p[3]])?;
                layout::flip(s, y, 0)
            },
        },
    ]
}

fn images() -> Vec<Pair> {
    vec![
        Pair {
            name: "correlation",
            shapes: &[&[2, 4, 3, 6], &[2, 4, 3, 6]],
            fused: |s, p| stereo::correlation(s, p[0], p[1], 3),
            written: correlation,
        },
        Pair {
            name: "grid sample of a flat volume",
            shapes: &[&[2, 3, 4, 5], &[2, 3, 2, 2]],
            fused: |s, p| {
                let volume = s.reshape(p[0], &[2, 3, 1, 4, 5])?;
                let flat = s.reshape(p[1], &[2, 1, 3, 2, 2])?;
                let grid = layout::pad(s, flat, 4, (0, 1), layout::Padding::Constant(0.0))?;
                let y = volume::grid_sample(s, volume, grid, sample::Beyond::Border, true)?;
                s.reshape(y, &[2, 3, 3, 2])
            },
            written: |s, p| sample::grid_sample(s, p[0], p[1], sample::Beyond::Border, true),
        },
        Pair {
            name: "convolution by windows",
            shapes: &[&[2, 3, 5, 6], &[4, 3, 3, 2]],
            fused: |s, p| s.op(Op::Conv2d(CONV), p),
            written: |s, p| {
                let windows = layout::unfold(s, p[0], [3, 2], &CONV)?;
                let w = s.reshape(p[1], &[4, 18])?;
                let y = einsum::einsum(s, "ok,bkp->bop", &[w, windows])?;
                s.reshape(y, &[2, 4, 3, 4])
            },
        },
        Pair {
            name: "adaptive pool of equal windows",
            shapes: &[&[2, 3, 6, 4]],
            fused: |s, p| pool::adaptive_all(s, p[0], &[3, 2], pool::Kind::Mean),
            written: |s, p| {
                let window = Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
                s.op(Op::AvgPool2d(window), p)
            },
        },
        Pair {
            name: "convolution in three axes",
            shapes: &[&[1, 2, 1, 4, 5], &[3, 2, 1, 3, 3]],
            fused: |s, p| {
                let window = conv::Window {
                    stride: [1; 3],
                    padding: [0, 1, 1],
                    dilation: [1; 3],
                    groups: 1,
                };
                conv::conv3d(s, p[0], p[1], None, &window)
            },
            written: |s, p| {
                let (x, w) = (s.reshape(p[0], &[1, 2, 4, 5])?, s.reshape(p[1], &[3, 2, 3, 3])?);
                let conv = Conv2d { stride: [1; 2], padding: [1; 2], dilation: [1; 2], groups: 1 };
                let y = s.op(Op::Conv2d(conv), &[x, w])?;
                s.reshape(y, &[1, 3, 1, 4, 5])
            },
        },
    ]
}

fn check(executor: &mut Executor, tolerance: f32) {
    let mut wrong = Vec::new();
    for pair in sequences().into_iter().chain(images()) {
        let [fused, written] = [pair.fused, pair.written].map(|build| {
            let case = built(pair.name, pair.shapes, build);
            let dag = case.dag();
            let (state, work) = (case.state(&dag), case.work(&dag));
            loss_and_gradient(executor, &work, &state)
        });
        // Gradients of the weights on the result are the result itself.
        for ((name, want), (_, got)) in written.1.iter().zip(&fused.1) {
            let most = largest(want);
            let off = want.iter().zip(got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            if most < 1e-3 || off > tolerance * most {
                wrong.push(format!("{}: {name} off {off} of {most}", pair.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fused_operators_compute_what_they_stand_for() {
    check(&mut Executor::new(DeviceChoice::Cpu).unwrap(), TOLERANCE);
}

#[test]
fn fused_operators_compute_what_they_stand_for_on_a_gpu() {
    let Some(mut executor) = gpu() else { return };
    check(&mut executor, GPU_TOLERANCE);
}
