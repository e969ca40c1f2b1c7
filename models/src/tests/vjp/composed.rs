//! Cases that need indices or masks, and compositions: their derivatives against differences, as an operator's.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::{
    conv, einsum, elements, layout, loss, mesh, norm, pool, recurrent, reduce, resize, sample,
    scan, volume,
};
use wattle_protocol::dag::op::{Binary, Comparison, Conv2d};

use super::{Case, built};

/// Places along an axis of length 3, some of them twice.
const TWICE: [i32; 4] = [2, 0, 2, 1];

/// Functions with jumps or kinks, at places that no difference moves across one.
fn function_cases() -> Vec<Case> {
    let row: &[usize] = &[2, 3, 4];
    vec![
        built("max", &[row, &[3, 1]], |s, p| {
            let apart = s.shift(p[1], 0.017)?;
            s.binary(Binary::Max, p[0], apart)
        }),
        built("min", &[row, &[3, 1]], |s, p| {
            let apart = s.shift(p[1], 0.017)?;
            s.binary(Binary::Min, p[0], apart)
        }),
        // Some 1.0 over 0.4: a little more than twice.
        built("remainder", &[row, row], |s, p| {
            let a = s.scale(p[0], 0.05)?;
            let a = s.shift(a, 1.0)?;
            let b = s.scale(p[1], 0.02)?;
            let b = s.shift(b, 0.4)?;
            s.binary(Binary::Remainder, a, b)
        }),
    ]
}

fn index_cases() -> Vec<Case> {
    let row: &[usize] = &[2, 3, 4];
    vec![
        built("where", &[row, &[4]], |s, p| {
            let mask = s.compare(Comparison::Less, p[0], p[1])?;
            s.choose(mask, p[0], p[1])
        }),
        built("iota", &[row], |s, p| {
            let places = s.op(Op::Iota { shape: vec![3, 1], axis: 0 }, &[])?;
            let places = s.float(places)?;
            s.mul(p[0], places)
        }),
        built("gather", &[row], |s, p| {
            let ids = s.ints(&[2, 2], TWICE.to_vec())?;
            s.op(Op::Gather { axis: 1 }, &[p[0], ids])
        }),
        built("gather grad", &[&[2, 4, 4]], |s, p| {
            let ids = s.ints(&[4], TWICE.to_vec())?;
            s.op(Op::GatherGrad { axis: 1, len: 3 }, &[ids, p[0]])
        }),
        built("gather elements", &[&[2, 3]], |s, p| {
            let ids = s.ints(&[2, 2], TWICE.to_vec())?;
            s.op(Op::GatherElements { axis: 1 }, &[p[0], ids])
        }),
        built("scatter add", &[&[2, 3], &[2, 2]], |s, p| {
            let ids = s.ints(&[2, 2], TWICE.to_vec())?;
            s.op(Op::ScatterElements { axis: 1, add: true }, &[p[0], ids, p[1]])
        }),
        built("scatter", &[&[2, 3], &[2, 2]], |s, p| {
            let ids = s.ints(&[2, 2], TWICE.to_vec())?;
            s.op(Op::ScatterElements { axis: 1, add: false }, &[p[0], ids, p[1]])
        }),
    ]
}

fn image_cases() -> Vec<Case> {
    let image: &[usize] = &[1, 2, 5, 4];
    vec![
        built("grid sample", &[image, &[1, 2, 3, 2]], |s, p| {
            // All within the area between four pixels.
            let small = s.scale(p[1], 0.1)?;
            let between = s.shift(small, 0.2)?;
            sample::grid_sample(s, p[0], between, sample::Beyond::Zeros, true)
        }),
        built("warp", &[image, &[1, 1, 5, 4]], |s, p| {
            // A quarter of a pixel from where the derivative jumps.
            let small = s.scale(p[1], 0.2)?;
            let between = s.shift(small, 0.5)?;
            sample::warp(s, p[0], between, sample::Beyond::Border)
        }),
        built("deformable", &[image, &[3, 2, 2, 2], &[1, 8, 4, 3], &[1, 4, 4, 3]], |s, p| {
            let small = s.scale(p[2], 0.1)?;
            let offset = s.shift(small, 0.5)?;
            let operands = sample::Deformable { x: p[0], weight: p[1], offset, mask: Some(p[3]) };
            let conv = Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
            sample::deformable(s, operands, conv)
        }),
        built("transposed", &[&[1, 4, 3, 2], &[4, 2, 3, 3], &[4]], |s, p| {
            let conv = Conv2d { stride: [2, 1], padding: [1, 1], dilation: [1, 1], groups: 2 };
            conv::transposed2d(s, p[0], p[1], Some(p[2]), conv, [1, 0])
        }),
        built("conv3d", &[&[1, 2, 4, 3, 3], &[2, 2, 2, 2, 2]], |s, p| {
            let window =
                conv::Window { stride: [2, 1, 1], padding: [1, 0, 1], dilation: [1; 3], groups: 1 };
            conv::conv3d(s, p[0], p[1], None, &window)
        }),
        built("transposed3d", &[&[1, 2, 2, 2, 2], &[2, 2, 2, 2, 2]], |s, p| {
            let window =
                conv::Window { stride: [2, 1, 1], padding: [1, 0, 0], dilation: [1; 3], groups: 1 };
            conv::transposed3d(s, p[0], p[1], None, &window, [0; 3])
        }),
        built("pool3d", &[&[1, 2, 4, 4, 2]], |s, p| {
            pool::pool3d(s, p[0], pool::Kind::Max, [2, 2, 1], [2, 2, 1], [0; 3])
        }),
        built("resize", &[image], |s, p| {
            let wide = resize::linear(s, p[0], 2, 7, resize::Corners::HalfPixel)?;
            resize::linear(s, wide, 3, 6, resize::Corners::Aligned)
        }),
        built("reflected", &[image], |s, p| {
            layout::pad(s, p[0], 2, (2, 1), layout::Padding::Reflect)
        }),
        built("group norm", &[&[2, 4, 3], &[4], &[4]], |s, p| {
            norm::group_norm(s, p[0], Some((p[1], p[2])), 2, 1e-3)
        }),
    ]
}

fn window_cases() -> Vec<Case> {
    let image: &[usize] = &[1, 2, 5, 4];
    vec![
        built("grid sample in volumes", &[&[1, 2, 3, 3, 2], &[1, 2, 1, 3, 3]], |s, p| {
            let small = s.scale(p[1], 0.1)?;
            let between = s.shift(small, 0.2)?;
            volume::grid_sample(s, p[0], between, sample::Beyond::Zeros, true)
        }),
        built("unfold", &[image], |s, p| {
            let window = Conv2d { stride: [2, 1], padding: [1, 0], dilation: [1, 2], groups: 1 };
            layout::unfold(s, p[0], [3, 2], &window)
        }),
        built("adaptive", &[image], |s, p| {
            let mean = pool::adaptive_all(s, p[0], &[3, 3], pool::Kind::Mean)?;
            let max = pool::adaptive_all(s, p[0], &[3, 3], pool::Kind::Max)?;
            s.mul(mean, max)
        }),
        built("conv gru", &[&[1, 2, 3, 4], &[1, 1, 3, 4], &[6, 3, 1, 3], &[6]], |s, p| {
            let mut gate = |at: usize| {
                let weight = s.slice(p[2], 0, 2 * at, 2 * at + 2)?;
                let bias = s.slice(p[3], 0, 2 * at, 2 * at + 2)?;
                Ok(recurrent::ConvGate { weight, bias })
            };
            let (update, reset, candidate) = (gate(0)?, gate(1)?, gate(2)?);
            let gates = recurrent::ConvGates { update, reset, candidate };
            recurrent::conv_gru(s, p[0], p[1], gates)
        }),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let row: &[usize] = &[2, 3, 4];
    let mut cases = function_cases();
    cases.extend(index_cases());
    cases.extend(image_cases());
    cases.extend(window_cases());
    cases.extend([
        built("silu", &[row], |s, p| elements::silu(s, p[0])),
        built("softplus", &[row], |s, p| elements::softplus(s, p[0])),
        built("euclidean norm", &[row], |s, p| elements::norm(s, p[0], &[1], false)),
        built("smooth l1", &[row, row], |s, p| loss::smooth_l1(s, p[0], p[1], 0.5, None)),
        built("divergence", &[row, row], |s, p| {
            let q = s.op(Op::LogSoftmax { axis: 2 }, &[p[0]])?;
            let target = s.op(Op::Softmax { axis: 2 }, &[p[1]])?;
            let one = loss::kl(s, q, target)?;
            s.scale(one, 20.0)
        }),
        built("masked mean", &[row], |s, p| {
            let mask = s.ints(&[3, 1], vec![1, 0, 1])?;
            let x = s.shift(p[0], 0.5)?;
            reduce::masked_mean(s, x, mask, &[1, 2], false)
        }),
        built("masked max", &[row], |s, p| {
            let mask = s.ints(&[3, 1], vec![1, 0, 1])?;
            reduce::masked_max(s, p[0], mask, &[1], -1e9)
        }),
        built("neighbours", &[&[2, 3, 4]], |s, p| {
            let ids = s.ints(&[3, 2], vec![1, -1, 2, 0, -1, -1])?;
            mesh::mean_of_neighbours(s, p[0], ids)
        }),
        built("contraction", &[&[2, 3, 4], &[4, 3]], |s, p| einsum::einsum(s, "bij,ji->bi", p)),
        built("running product", &[row], |s, p| scan::cum_prod(s, p[0], 1)),
        built("rendering", &[row, row], |s, p| scan::rendering_weights(s, p[0], p[1])),
        built("soft argmin", &[row], |s, p| scan::soft_argmin(s, p[0], 1, 1.0)),
    ]);
    cases
}
