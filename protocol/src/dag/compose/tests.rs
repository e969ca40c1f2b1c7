//! Shapes and derivatives of compositions: that they build, and that a gradient finds its way through them.

use super::*;
use crate::dag::grad::differentiate;
use crate::dag::op::Conv2d;
use crate::dag::{Dag, Init};

/// Builds a composition over parameters of these shapes, checks its shape, and differentiates its mean.
fn check(
    shapes: &[&[usize]],
    expected: &[usize],
    build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Built,
) -> Dag {
    let mut b = DagBuilder::new("composition");
    let inputs: Vec<ValueId> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| b.parameter(format!("p{i}"), shape, Init::Normal(1.0), true))
        .collect();
    let y = build(&mut Scope::new(&mut b, "y"), &inputs).unwrap();
    assert_eq!(b.fact(y).shape, expected);
    let axes: Vec<usize> = (0..expected.len()).collect();
    let loss = match axes.is_empty() {
        true => y,
        false => b.op("loss", Op::ReduceMean { axes, keep: false }, &[y]).unwrap(),
    };
    b.output(loss);
    let training = differentiate(b.finish().unwrap(), 1).unwrap();
    let reached: std::collections::BTreeSet<_> =
        training.gradients.iter().map(|g| g.parameter).collect();
    assert_eq!(reached.len(), shapes.len(), "every operand has a gradient");
    training.dag.checked().unwrap()
}

#[test]
fn images_are_sampled_and_warped() {
    let image: &[usize] = &[2, 3, 5, 6];
    for beyond in [sample::Beyond::Zeros, sample::Beyond::Border] {
        check(&[image, &[2, 4, 7, 2]], &[2, 3, 4, 7], |s, p| {
            sample::grid_sample(s, p[0], p[1], beyond, false)
        });
        check(&[image, &[2, 1, 5, 6]], image, |s, p| sample::warp(s, p[0], p[1], beyond));
    }
    let conv = Conv2d { stride: [2, 2], padding: [1, 1], dilation: [1, 1], groups: 1 };
    check(
        &[&[1, 4, 6, 6], &[5, 4, 3, 3], &[1, 36, 3, 3], &[1, 18, 3, 3]],
        &[1, 5, 3, 3],
        |s, p| {
            let operands =
                sample::Deformable { x: p[0], weight: p[1], offset: p[2], mask: Some(p[3]) };
            sample::deformable(s, operands, conv)
        },
    );
}

#[test]
fn convolutions_of_other_ranks_have_the_shapes_that_frameworks_give_them() {
    let one = conv::Window { stride: [2], padding: [1], dilation: [1], groups: 2 };
    check(&[&[2, 4, 9], &[6, 2, 3], &[6]], &[2, 6, 5], |s, p| {
        conv::conv1d(s, p[0], p[1], Some(p[2]), &one)
    });
    check(&[&[2, 4, 5], &[4, 3, 3], &[6]], &[2, 6, 10], |s, p| {
        conv::transposed1d(s, p[0], p[1], Some(p[2]), &one, 1)
    });
    let three =
        conv::Window { stride: [2, 1, 1], padding: [1, 1, 0], dilation: [1, 1, 1], groups: 1 };
    check(&[&[1, 2, 5, 4, 4], &[3, 2, 3, 3, 1], &[3]], &[1, 3, 3, 4, 4], |s, p| {
        conv::conv3d(s, p[0], p[1], Some(p[2]), &three)
    });
    check(&[&[1, 2, 3, 4, 4], &[2, 3, 3, 3, 1], &[3]], &[1, 3, 5, 4, 4], |s, p| {
        conv::transposed3d(s, p[0], p[1], Some(p[2]), &three, [0, 0, 0])
    });
}

#[test]
fn the_rest_builds_and_differentiates() {
    let row: &[usize] = &[2, 3, 4];
    let image: &[usize] = &[1, 4, 5, 6];
    check(&[row], row, |s, p| elements::silu(s, p[0]));
    check(&[row], row, |s, p| elements::mish(s, p[0]));
    check(&[row], row, |s, p| elements::elu(s, p[0], 1.0));
    check(&[row], row, |s, p| elements::leaky_relu(s, p[0], 0.1));
    check(&[row], &[2, 4], |s, p| elements::norm(s, p[0], &[1], false));
    check(&[row], &[2, 3, 7], |s, p| layout::pad(s, p[0], 2, (1, 2), layout::Padding::Reflect));
    check(&[row], &[2, 3, 7], |s, p| {
        layout::pad(s, p[0], 2, (1, 2), layout::Padding::Constant(2.0))
    });
    check(&[row], &[2, 5, 4], |s, p| layout::dilate(s, p[0], 1, 2));
    check(&[image], &[1, 4, 9, 6], |s, p| {
        resize::linear(s, p[0], 2, 9, resize::Corners::HalfPixel)
    });
    check(&[image], &[1, 4, 3, 6], |s, p| resize::nearest(s, p[0], 2, 3));
    check(&[image, &[4], &[4]], image, |s, p| {
        norm::group_norm(s, p[0], Some((p[1], p[2])), 2, 1e-5)
    });
    check(&[image], &[1, 4, 2, 6], |s, p| pool::adaptive(s, p[0], 2, 2, pool::Kind::Mean));
    check(&[&[1, 2, 4, 6, 6]], &[1, 2, 2, 3, 3], |s, p| {
        pool::pool3d(s, p[0], pool::Kind::Max, [2; 3], [2; 3], [0; 3])
    });
    check(&[row, row], &[], |s, p| loss::smooth_l1(s, p[0], p[1], 1.0, None));
    check(&[row, row], &[], |s, p| loss::berhu(s, p[0], p[1], None));
    check(&[row, row], &[], |s, p| loss::kl(s, p[0], p[1]));
    check(&[row], row, |s, p| scan::cum_prod(s, p[0], 2));
    check(&[row, row], row, |s, p| scan::rendering_weights(s, p[0], p[1]));
    check(&[row], &[2, 4], |s, p| scan::soft_argmin(s, p[0], 1, 2.0));
}

#[test]
fn sums_of_products_have_the_axes_that_are_named() {
    let contracted = |equation: &str, shapes: &[&[usize]], expected: &[usize]| {
        check(shapes, expected, |s, p| einsum::einsum(s, equation, p));
    };
    contracted("bij,bjk->bik", &[&[2, 3, 4], &[2, 4, 5]], &[2, 3, 5]);
    contracted("...ij,jk", &[&[2, 3, 4], &[4, 5]], &[2, 3, 5]);
    contracted("ii->i", &[&[3, 3]], &[3]);
    contracted("i,j,k->kji", &[&[2], &[3], &[4]], &[4, 3, 2]);
    contracted("bhwc,bhvc->bhwv", &[&[1, 2, 3, 4], &[1, 2, 5, 4]], &[1, 2, 3, 5]);
    contracted("ij->", &[&[2, 3]], &[]);
}

fn refused(shapes: &[&[usize]], build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Built) {
    let mut b = DagBuilder::new("composition");
    let inputs: Vec<ValueId> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| b.parameter(format!("p{i}"), shape, Init::Normal(1.0), true))
        .collect();
    let error = build(&mut Scope::new(&mut b, "y"), &inputs).unwrap_err();
    assert!(matches!(error, DagError::Composition { .. }), "{error}");
}

#[test]
fn operands_of_the_wrong_rank_are_refused_without_a_panic() {
    for equation in ["ij,jk->ik", "ij,j->ik", "i->i", "ij->ij->", "i1->i", "", "ii->i"] {
        refused(&[&[2, 3]], |s, p| einsum::einsum(s, equation, p));
    }
    let conv = Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
    let (image, kernel): (&[usize], &[usize]) = (&[1, 4, 6, 6], &[5, 4, 3, 3]);
    let lists: [[&[usize]; 3]; 4] = [
        [&[4, 6, 6], kernel, &[1, 18, 4, 4]],
        [image, &[5, 4, 9], &[1, 18, 4, 4]],
        [image, kernel, &[1, 18, 16]],
        [image, kernel, &[1, 17, 4, 4]],
    ];
    for shapes in lists {
        refused(&shapes, |s, p| {
            let operands = sample::Deformable { x: p[0], weight: p[1], offset: p[2], mask: None };
            sample::deformable(s, operands, conv)
        });
    }
    let row: &[usize] = &[2, 3];
    refused(&[row, row], |s, p| sample::warp(s, p[0], p[1], sample::Beyond::Zeros));
    refused(&[row, row], |s, p| volume::grid_sample(s, p[0], p[1], sample::Beyond::Zeros, true));
    refused(&[row, row], |s, p| stereo::correlation(s, p[0], p[1], 2));
    refused(&[image, image], |s, p| stereo::correlation(s, p[0], p[1], 0));
    refused(&[image], |s, p| layout::unfold(s, p[0], [7, 1], &conv));
    refused(&[row, row], |s, p| conv::transposed2d(s, p[0], p[1], None, conv, [0, 0]));
}

#[test]
fn volumes_windows_and_recurrent_layers_build_and_differentiate() {
    let image: &[usize] = &[1, 4, 5, 6];
    let conv = Conv2d { stride: [2, 1], padding: [1, 0], dilation: [1, 2], groups: 1 };
    check(&[image, image], &[1, 3, 5, 6], |s, p| stereo::correlation(s, p[0], p[1], 3));
    check(&[image, image], &[1, 5, 6, 6], |s, p| stereo::all_pairs(s, p[0], p[1]));
    check(&[image, image], &[1, 8, 3, 5, 6], |s, p| stereo::concatenation(s, p[0], p[1], 3));
    check(&[image], &[1, 4 * 9, 3 * 2], |s, p| layout::unfold(s, p[0], [3, 3], &conv));
    check(&[&[1, 2, 3, 4, 5], &[1, 2, 2, 2, 3]], &[1, 2, 2, 2, 2], |s, p| {
        volume::grid_sample(s, p[0], p[1], sample::Beyond::Border, true)
    });
    check(&[&[1, 2, 3, 4, 5]], &[1, 2, 6, 8, 3], |s, p| {
        resize::linear_all(s, p[0], &[6, 8, 3], resize::Corners::HalfPixel)
    });
    check(&[image], &[1, 4, 2, 2], |s, p| pool::adaptive_all(s, p[0], &[2, 2], pool::Kind::Max));
    let layer: [&[usize]; 5] = [&[7, 2, 5], &[12, 5], &[12, 3], &[12], &[12]];
    let weights = |p: &[ValueId]| recurrent::Weights {
        input: p[1],
        recurrent: p[2],
        biases: Some([p[3], p[4]]),
    };
    for backwards in [false, true] {
        check(&layer, &[2, 3], |s, p| {
            let all = recurrent::lstm(s, p[0], weights(p), None, backwards)?;
            s.add(all.last, all.cell)
        });
        let layer: [&[usize]; 5] = [&[7, 2, 5], &[9, 5], &[9, 3], &[9], &[9]];
        check(&layer, &[7, 2, 3], |s, p| {
            Ok(recurrent::gru(s, p[0], weights(p), None, backwards)?.hidden)
        });
        check(&layer, &[7, 2, 3], |s, p| {
            Ok(recurrent::gru_reset_before(s, p[0], weights(p), None, backwards)?.hidden)
        });
    }
    let (row, column): (&[usize], &[usize]) = (&[2, 5, 1, 5], &[2, 5, 5, 1]);
    let bias: &[usize] = &[2];
    let gates = [row, row, row, column, column, column, bias, bias, bias, bias, bias, bias];
    let shapes = [&[&[1, 2, 4, 6][..], &[1, 3, 4, 6]], &gates[..]].concat();
    check(&shapes, &[1, 2, 4, 6], |s, p| {
        let gate = |at: usize| recurrent::ConvGate { weight: p[2 + at], bias: p[8 + at] };
        let gates = |at: usize| recurrent::ConvGates {
            update: gate(at),
            reset: gate(at + 1),
            candidate: gate(at + 2),
        };
        recurrent::separable_conv_gru(s, p[0], p[1], [gates(0), gates(3)])
    });
}
