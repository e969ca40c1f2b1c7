//! Cases of products: matrices, layers, embeddings, attention, rotary positions.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::Rotary;

use super::{Case, Operand, built, ids, op, range, x};

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = matrix_cases();
    cases.extend(layer_cases());
    cases.extend(attention_cases());
    cases.extend(rotary_cases());
    cases
}

fn matrix_cases() -> Vec<Case> {
    let product = |name, transpose_a, transpose_b, a: &[usize], b: &[usize]| {
        op(name, Op::MatMul { transpose_a, transpose_b }, [x(a), x(b)])
    };
    vec![
        product("plain", false, false, &[2, 3, 4], &[2, 4, 2]),
        product("first swapped", true, false, &[2, 4, 3], &[2, 4, 2]),
        product("second swapped", false, true, &[2, 3, 4], &[2, 2, 4]),
        product("both swapped", true, true, &[2, 4, 3], &[2, 2, 4]),
        product("rows by matrix", false, false, &[2, 3, 4], &[4, 2]),
        product("rows by swapped matrix", false, true, &[2, 3, 4], &[2, 4]),
        product("swapped rows by swapped matrix", true, true, &[2, 4, 3], &[2, 4]),
        product("first stretched", false, false, &[1, 3, 4], &[2, 4, 2]),
        product("both stretched", false, false, &[2, 1, 3, 4], &[3, 4, 2]),
        product("one row", false, false, &[1, 33], &[33, 7]),
        product("one column", false, false, &[7, 33], &[33, 1]),
        product("one term", false, false, &[5, 1], &[1, 9]),
        product("odd", false, false, &[33, 17], &[17, 7]).rough(),
        product("odd swapped", true, true, &[17, 33], &[7, 17]).rough(),
        product("larger", false, true, &[2, 65, 24], &[2, 65, 24]).rough(),
        product("larger still", false, false, &[129, 130], &[130, 65]).rough(),
    ]
}

fn layer_cases() -> Vec<Case> {
    let embedding = |name, rows: i32, width, shape: &[usize]| {
        let table = x(&[usize::try_from(rows).unwrap_or(0), width]);
        op(name, Op::Embedding, [table, ids(rows, shape)])
    };
    vec![
        op("with bias", Op::Linear, [x(&[2, 3, 4]), x(&[4, 5]), x(&[5])]),
        op("without bias", Op::Linear, [x(&[3, 4]), x(&[4, 5])]),
        op("one row", Op::Linear, [x(&[17]), x(&[17, 9]), x(&[9])]),
        op("odd", Op::Linear, [x(&[7, 33]), x(&[33, 17]), x(&[17])]).rough(),
        op("larger", Op::Linear, [x(&[2, 65, 96]), x(&[96, 70]), x(&[70])]).rough(),
        op("rows", Op::LinearWeightGrad, [x(&[2, 3, 4]).fixed(), x(&[2, 3, 5]).fixed()]),
        op("odd", Op::LinearWeightGrad, [x(&[65, 17]).fixed(), x(&[65, 33]).fixed()]),
        embedding("rows", 11, 3, &[2, 5]),
        embedding("odd", 33, 17, &[65]).rough(),
        op("rows", Op::EmbeddingGrad { rows: 5 }, [ids(5, &[3, 4]), x(&[3, 4, 7]).fixed()]),
    ]
}

fn attention_cases() -> Vec<Case> {
    let three = |shape: &[usize]| vec![x(shape), x(shape), x(shape)];
    let attention = |name, causal, scale, operands: Vec<Operand>| {
        op(name, Op::Attention { causal, scale }, operands)
    };
    let four = |shape: &[usize]| -> Vec<Operand> { (0..4).map(|_| x(shape).fixed()).collect() };
    vec![
        attention("all see all", false, 0.5, three(&[2, 3, 4])),
        attention("causal", true, 0.5, three(&[2, 3, 4])),
        attention("heads", true, 0.5, three(&[1, 2, 3, 4])),
        attention("a matrix", true, 0.5, three(&[5, 4])),
        // Nothing to choose from: no gradient of q and k, which no difference tells from a small one.
        attention("one position", true, 0.5, three(&[2, 1, 8])).rough(),
        attention("odd", false, 0.447, three(&[3, 17, 5])).rough(),
        attention("head of 24", false, 0.204, three(&[1, 2, 65, 24])).rough(),
        attention("head of 24, causal", true, 0.204, three(&[1, 2, 65, 24])).rough(),
        attention("longer, causal", true, 0.177, three(&[2, 3, 129, 32])).rough(),
        attention("longer", false, 0.177, three(&[2, 3, 129, 32])).rough(),
        attention("large scores", true, 20.0, three(&[2, 7, 4])).rough().within(5e-5),
        op(
            "three",
            Op::AttentionGrad { causal: true, scale: 0.5, mask_grad: false },
            four(&[2, 5, 4]),
        ),
        op("in the middle", Op::CausalMask { fill: 0.5 }, [x(&[2, 3, 3])]),
        op("heads", Op::CausalMask { fill: -2.0 }, [x(&[2, 2, 5, 5])]),
        built("causal_mask", "before a softmax", [x(&[2, 7, 7])], |s, p| {
            let hidden = s.op(Op::CausalMask { fill: f32::NEG_INFINITY }, &[p[0]])?;
            s.op(Op::Softmax { axis: 2 }, &[hidden])
        }),
    ]
}

fn rotary_cases() -> Vec<Case> {
    let turn = |name, interleaved, inverse, start, shape: &[usize]| {
        let rotary = Rotary { theta: 10.0, interleaved, inverse, start };
        op(name, Op::Rotary(rotary), [x(shape)])
    };
    let far = Rotary { theta: 10_000.0, interleaved: false, inverse: false, start: 1000 };
    vec![
        turn("halves", false, false, 2, &[2, 3, 4]),
        turn("pairs", true, false, 2, &[2, 3, 4]),
        turn("halves back", false, true, 0, &[2, 3, 4]),
        turn("a matrix", false, false, 1, &[3, 4]),
        turn("pairs back", true, true, 1, &[1, 2, 5, 6]),
        turn("odd", false, false, 0, &[2, 7, 18]).rough(),
        // Angles of some thousand radians: a position times a frequency is rounded to f32 first.
        op("far", Op::Rotary(far), [range(-1.0, 1.0, &[1, 7, 24])]).rough(),
    ]
}
