//! Cases of operators over sequences: attention in its general form, LSTM, GRU and the compositions of
//! `compose::recurrent`.

use wattle_protocol::dag::compose::recurrent::{self, ConvGate, ConvGates, Sequence, Weights};
use wattle_protocol::dag::compose::{Built, Scope};
use wattle_protocol::dag::op::HIDDEN;
use wattle_protocol::dag::{DagError, Op};
use wattle_protocol::ids::ValueId;

use super::{Case, Operand, built, floats, op, range, x};

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = attention_cases();
    cases.extend(masked_cases());
    cases.extend(attention_grad_cases());
    cases.extend(operator_cases());
    cases.extend(layer_cases());
    cases.extend(product_cases());
    cases.extend(conv_cases());
    cases
}

/// Query, key and value, and maybe a mask.
fn attention(name: &'static str, causal: bool, shapes: &[&[usize]]) -> Case {
    let operands: Vec<Operand> = shapes.iter().map(|shape| x(shape)).collect();
    op(name, Op::Attention { causal, scale: 0.5 }, operands)
}

fn attention_cases() -> Vec<Case> {
    let same = |name, causal, q: &[usize], k: &[usize]| attention(name, causal, &[q, k, k]);
    vec![
        same("more keys", false, &[2, 3, 4], &[2, 5, 4]),
        same("fewer keys", false, &[2, 5, 4], &[2, 3, 4]),
        same("more keys, causal", true, &[2, 3, 4], &[2, 5, 4]),
        same("fewer keys, causal", true, &[2, 5, 4], &[2, 3, 4]),
        same("one query, causal", true, &[1, 2, 1, 4], &[1, 2, 6, 4]).rough(),
        attention("wider values", false, &[&[2, 3, 4], &[2, 3, 4], &[2, 3, 7]]),
        attention("narrower values, causal", true, &[&[3, 4], &[5, 4], &[5, 2]]),
        same("grouped heads", false, &[2, 4, 3, 4], &[2, 2, 3, 4]),
        same("grouped heads, causal", true, &[1, 6, 5, 3], &[1, 2, 5, 3]),
        same("one head of keys", false, &[2, 3, 3, 4], &[2, 1, 4, 4]),
        same("five axes", true, &[2, 1, 4, 3, 4], &[2, 1, 2, 3, 4]),
        attention(
            "larger, grouped, causal",
            true,
            &[&[1, 4, 65, 24], &[1, 2, 70, 24], &[1, 2, 70, 17]],
        )
        .rough(),
    ]
}

/// Some of the positions hidden, the others in favor or out of it.
fn hiding(shape: &[usize], hidden: impl Fn(usize) -> bool) -> Operand {
    let count: usize = shape.iter().product();
    let soft = [0.0, -0.7, 0.4];
    let one = |i| if hidden(i) { HIDDEN } else { soft[i % soft.len()] };
    floats(&(0..count).map(one).collect::<Vec<_>>(), shape).fixed()
}

fn masked_cases() -> Vec<Case> {
    // Of three operands and a mask that is no parameter.
    let masked = |name, causal, [q, k]: [&[usize]; 2], mask: Operand| {
        op(name, Op::Attention { causal, scale: 0.5 }, [x(q), x(k), x(k), mask])
    };
    let square: [&[usize]; 2] = [&[2, 2, 4, 3], &[2, 2, 4, 3]];
    let padded: [&[usize]; 2] = [&[2, 2, 3, 4], &[2, 2, 5, 4]];
    vec![
        attention("mask", false, &[&[2, 3, 4], &[2, 3, 4], &[2, 3, 4], &[3, 3]]),
        attention("mask, causal", true, &[&[2, 3, 4], &[2, 3, 4], &[2, 3, 4], &[2, 3, 3]]),
        attention("mask of a row", false, &[&[2, 3, 4], &[2, 5, 4], &[2, 5, 4], &[5]]),
        attention(
            "mask of each head",
            false,
            &[&[2, 3, 3, 4], &[2, 3, 4, 4], &[2, 3, 4, 2], &[3, 1, 4]],
        ),
        masked("hidden positions", false, square, hiding(&[4, 4], |i| i % 5 == 3)),
        masked("hidden keys", false, padded, hiding(&[2, 1, 1, 5], |i| i == 4 || i > 6)),
        masked("a query that sees nothing", false, square, hiding(&[4, 4], |i| i / 4 == 2)),
        masked("a query that sees nothing, causal", true, square, hiding(&[4, 4], |i| i % 4 < 2)),
        attention(
            "grouped, mask, causal, more keys, wider values",
            true,
            &[&[1, 4, 3, 3], &[1, 2, 5, 3], &[1, 2, 5, 6], &[4, 3, 5]],
        ),
        attention(
            "larger, grouped, mask",
            false,
            &[&[1, 4, 65, 24], &[1, 2, 70, 24], &[1, 2, 70, 17], &[65, 70]],
        )
        .rough(),
    ]
}

fn attention_grad_cases() -> Vec<Case> {
    let grad = |name, causal, mask_grad, shapes: &[&[usize]]| {
        let operands: Vec<Operand> = shapes.iter().map(|shape| x(shape).fixed()).collect();
        op(name, Op::AttentionGrad { causal, scale: 0.5, mask_grad }, operands)
    };
    let (q, k, v, g): ([usize; 4], [usize; 4], [usize; 4], [usize; 4]) =
        ([1, 4, 3, 4], [1, 2, 5, 4], [1, 2, 5, 2], [1, 4, 3, 2]);
    vec![
        grad("grouped", false, false, &[&q, &k, &v, &g]),
        grad("mask", true, false, &[&q, &k, &v, &[3, 5], &g]),
        grad("mask too", false, true, &[&q, &k, &v, &[4, 1, 5], &g]),
    ]
}

fn operator_cases() -> Vec<Case> {
    // How far products and weights reach; steps, batch and width.
    let spread = |reach: f32, shape: &[usize]| range(-reach, reach, shape);
    let plain = [1.6, 1.6];
    let lstm = |name, reach: [f32; 2], [steps, batch, width]: [usize; 3]| {
        let fed = spread(reach[0], &[steps, batch, 4 * width]);
        let recurrent = spread(reach[1], &[4 * width, width]);
        op(name, Op::Lstm, [fed, recurrent, x(&[batch, width]), x(&[batch, width])])
    };
    let gru = |name, reach: [f32; 2], [steps, batch, width]: [usize; 3]| {
        let fed = spread(reach[0], &[steps, batch, 3 * width]);
        let recurrent = spread(reach[1], &[3 * width, width]);
        op(name, Op::Gru, [fed, recurrent, x(&[width]), x(&[batch, width])])
    };
    vec![
        lstm("steps and batch", plain, [3, 2, 2]),
        lstm("one step", plain, [1, 3, 2]),
        lstm("one sequence", plain, [4, 1, 3]),
        lstm("one wide", plain, [3, 2, 1]),
        lstm("odd", plain, [5, 3, 7]).rough(),
        // Larger weights would make f32 errors grow from step to step.
        lstm("larger", [0.9, 0.3], [9, 5, 33]).rough(),
        lstm("far", [6.0, 1.6], [4, 2, 3]).rough(),
        gru("steps and batch", plain, [3, 2, 2]),
        gru("one step", plain, [1, 3, 2]),
        gru("one sequence", plain, [4, 1, 3]),
        gru("one wide", plain, [3, 2, 1]),
        gru("odd", plain, [5, 3, 7]).rough(),
        gru("larger", [0.9, 0.3], [9, 5, 33]).rough(),
        gru("far", [6.0, 1.6], [4, 2, 3]).rough(),
    ]
}

/// Input, weights and two biases of a layer of 3 steps, batch 2, input 3 and width 2.
fn layer(gates: usize) -> Vec<Operand> {
    let rows = gates * 2;
    vec![x(&[3, 2, 3]), x(&[rows, 3]), x(&[rows, 2]), x(&[rows]), x(&[rows])]
}

/// The same with states at the start.
fn started(gates: usize, states: usize) -> Vec<Operand> {
    let states = (0..states).map(|_| x(&[2, 2]));
    layer(gates).into_iter().chain(states).collect()
}

fn weights(p: &[ValueId]) -> Weights {
    Weights { input: p[1], recurrent: p[2], biases: Some([p[3], p[4]]) }
}

type Layer = Result<Sequence, DagError>;

/// Returns both directions over one sequence; the operands of the second follow those of the first.
fn both_directions(
    s: &mut Scope<'_>,
    p: &[ValueId],
    layer: fn(&mut Scope<'_>, ValueId, Weights, bool) -> Layer,
) -> Built {
    let forward = layer(s, p[0], weights(p), false)?;
    let backward = layer(s, p[0], weights(&p[4..]), true)?;
    s.concat(&[forward.hidden, backward.hidden], 2)
}

fn layer_cases() -> Vec<Case> {
    type Kind = fn(&mut Scope<'_>, &[ValueId], Weights, bool) -> Layer;
    let lstm: Kind = |s, p, weights, backwards| {
        let start = (p.len() > 5).then(|| [p[5], p[6]]);
        recurrent::lstm(s, p[0], weights, start, backwards)
    };
    let gru: Kind =
        |s, p, weights, backwards| recurrent::gru(s, p[0], weights, p.get(5).copied(), backwards);
    let before: Kind = |s, p, weights, backwards| {
        recurrent::gru_reset_before(s, p[0], weights, p.get(5).copied(), backwards)
    };
    let mut cases = Vec::new();
    let kinds = [
        ("recurrent::lstm", lstm, 4, 2),
        ("recurrent::gru", gru, 3, 1),
        ("recurrent::gru_reset_before", before, 3, 1),
    ];
    for (row, kind, gates, states) in kinds {
        let all = move |name, operands, backwards, part: fn(Sequence) -> ValueId| {
            built(row, name, operands, move |s, p| Ok(part(kind(s, p, weights(p), backwards)?)))
        };
        cases.extend([
            all("hidden states", started(gates, states), false, |y| y.hidden),
            all("last state", started(gates, states), false, |y| y.last),
            all("cell", started(gates, states), false, |y| y.cell),
            all("from zeros", layer(gates), false, |y| y.hidden),
            all("backwards", started(gates, states), true, |y| y.hidden),
            all("backwards, last state", layer(gates), true, |y| y.last),
            built(row, "without biases", layer(gates)[..3].to_vec(), move |s, p| {
                let weights = Weights { input: p[1], recurrent: p[2], biases: None };
                Ok(kind(s, p, weights, false)?.hidden)
            }),
        ]);
    }
    let two = |gates| [layer(gates), layer(gates)[1..].to_vec()].concat();
    cases.push(built("recurrent::lstm", "two directions", two(4), |s, p| {
        both_directions(s, p, |s, x, w, backwards| recurrent::lstm(s, x, w, None, backwards))
    }));
    cases.push(built("recurrent::gru", "two directions", two(3), |s, p| {
        both_directions(s, p, |s, x, w, backwards| recurrent::gru(s, x, w, None, backwards))
    }));
    cases
}

/// Layers whose products with the input have been taken before.
fn product_cases() -> Vec<Case> {
    let lstm = |name, operands: Vec<Operand>, backwards| {
        built("recurrent::lstm_of", name, operands, move |s, p| {
            let start = (p.len() > 2).then(|| [p[2], p[3]]);
            Ok(recurrent::lstm_of(s, p[0], p[1], start, backwards)?.hidden)
        })
    };
    let gru = |name, operands: Vec<Operand>, backwards| {
        built("recurrent::gru_of", name, operands, move |s, p| {
            let start = p.get(3).copied();
            Ok(recurrent::gru_of(s, p[0], [p[1], p[2]], start, backwards)?.hidden)
        })
    };
    let of_lstm = || vec![x(&[3, 2, 8]), x(&[8, 2]), x(&[2, 2]), x(&[2, 2])];
    let of_gru = || vec![x(&[3, 2, 6]), x(&[6, 2]), x(&[2]), x(&[2, 2])];
    vec![
        lstm("backwards", of_lstm(), true),
        lstm("from zeros", of_lstm()[..2].to_vec(), false),
        gru("backwards", of_gru(), true),
        gru("from zeros", of_gru()[..3].to_vec(), false),
    ]
}

fn conv_cases() -> Vec<Case> {
    // State of two channels, input of three, on an image of 3 by 4; update, reset, candidate.
    let gates = |[height, width]: [usize; 2]| {
        let gate = move |_| [range(-0.6, 0.6, &[2, 5, height, width]), x(&[2])];
        (0..3).flat_map(gate)
    };
    let operands = |kernels: &[[usize; 2]]| -> Vec<Operand> {
        let images = [x(&[2, 2, 3, 4]), x(&[2, 3, 3, 4])];
        images.into_iter().chain(kernels.iter().flat_map(|kernel| gates(*kernel))).collect()
    };
    let read = |p: &[ValueId]| ConvGates {
        update: ConvGate { weight: p[0], bias: p[1] },
        reset: ConvGate { weight: p[2], bias: p[3] },
        candidate: ConvGate { weight: p[4], bias: p[5] },
    };
    vec![
        built("recurrent::conv_gru", "3x3", operands(&[[3, 3]]), move |s, p| {
            recurrent::conv_gru(s, p[0], p[1], read(&p[2..]))
        }),
        built("recurrent::conv_gru", "1x1", operands(&[[1, 1]]), move |s, p| {
            recurrent::conv_gru(s, p[0], p[1], read(&p[2..]))
        }),
        built(
            "recurrent::separable_conv_gru",
            "1x5 and 5x1",
            operands(&[[1, 5], [5, 1]]),
            move |s, p| {
                let gates = [read(&p[2..]), read(&p[8..])];
                recurrent::separable_conv_gru(s, p[0], p[1], gates)
            },
        ),
    ]
}
