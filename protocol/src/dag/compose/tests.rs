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
