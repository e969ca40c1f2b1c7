//! Cases of compositions, one each where `composed` and `sequence` have none; and that none is left out.

use wattle_protocol::dag::compose::{
    Built, Scope, conv, elements, layout, loss, mesh, norm, pool, recurrent, reduce, resize,
    sample, stereo, volume,
};
use wattle_protocol::dag::op::{Conv2d, Op, Pool2d, Targets};
use wattle_protocol::ids::ValueId;

use super::{Case, Ids, built, loss_and_gradient, with_ids};
use crate::{DeviceChoice, Executor};

fn element_cases() -> Vec<Case> {
    let row: &[usize] = &[2, 3, 4];
    vec![
        built("mish", &[row], |s, p| elements::mish(s, p[0])),
        built("elu", &[row], |s, p| elements::elu(s, p[0], 1.5)),
        built("leaky relu", &[row], |s, p| elements::leaky_relu(s, p[0], 0.2)),
        // Elements lie 0.03 off multiples of 0.06.
        built("clamp", &[row], |s, p| elements::clamp(s, p[0], Some(-0.48), Some(0.42))),
        built("one hot", &[&[3, 4]], |s, p| {
            let ids = s.ints(&[3], vec![2, 0, 3])?;
            let rows = elements::one_hot(s, ids, 4)?;
            s.mul(p[0], rows)
        }),
        built("squares", &[row, row], |s, p| scaled_loss(s, p, loss::mse)),
        built("distances", &[row, row], |s, p| {
            let target = s.scale(p[1], 0.3)?;
            let target = s.shift(target, 0.9)?;
            scaled_loss(s, &[p[0], target], loss::l1)
        }),
        built("end point", &[row, row], |s, p| {
            let target = s.shift(p[1], 0.9)?;
            let error = loss::end_point(s, p[0], target, 1)?;
            s.scale(error, 20.0)
        }),
        built("masked sum", &[row], |s, p| {
            let mask = s.ints(&[4], vec![1, 0, 0, 1])?;
            reduce::masked_sum(s, p[0], mask, &[1], true)
        }),
        with_ids(
            "cross-entropy smoothed",
            Op::CrossEntropy(Targets { smoothing: 0.2, ignore: Some(3) }),
            &[3, 10],
            (Ids::Labels, &[3]),
        ),
    ]
}

type Loss = fn(&mut Scope<'_>, ValueId, ValueId, Option<ValueId>) -> Built;

/// A loss over every second column, times 20, so that its gradients are not lost in rounding.
fn scaled_loss(s: &mut Scope<'_>, p: &[ValueId], loss: Loss) -> Built {
    let mask = s.ints(&[4], vec![1, 0, 1, 1])?;
    let loss = loss(s, p[0], p[1], Some(mask))?;
    s.scale(loss, 20.0)
}

fn layout_cases() -> Vec<Case> {
    let image: &[usize] = &[1, 2, 5, 4];
    vec![
        built("circular", &[image], |s, p| {
            let x = layout::pad(s, p[0], 2, (2, 3), layout::Padding::Circular)?;
            layout::pad(s, x, 3, (1, 2), layout::Padding::Replicate)
        }),
        built("constant", &[image], |s, p| {
            let x = layout::pad(s, p[0], 2, (2, 0), layout::Padding::Constant(1.5))?;
            layout::pad(s, x, 3, (1, 2), layout::Padding::Constant(0.0))
        }),
        built("flipped", &[image], |s, p| layout::flip(s, p[0], 2)),
        built("every second", &[image], |s, p| layout::stride(s, p[0], 2, (1, 5, 2))),
        built("tiled", &[image], |s, p| {
            let x = layout::tile(s, p[0], 3, 2)?;
            layout::repeat(s, x, 2, 2)
        }),
        built("apart", &[image], |s, p| layout::dilate(s, p[0], 2, 3)),
        built("nearest", &[image], |s, p| {
            let x = resize::nearest(s, p[0], 2, 3)?;
            resize::nearest_all(s, x, &[7, 6])
        }),
        built("trilinear", &[&[1, 1, 2, 3, 4]], |s, p| {
            resize::linear_all(s, p[0], &[3, 5, 3], resize::Corners::Asymmetric)
        }),
        built("pool1d", &[&[2, 2, 7]], |s, p| {
            let mean = pool::pool1d(s, p[0], pool::Kind::Mean, (3, 2, 1))?;
            let max = pool::pool1d(s, p[0], pool::Kind::Max, (3, 2, 1))?;
            s.add(mean, max)
        }),
        built("mean of image", &[image], |s, p| {
            let window = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
            pool::mean_of_image(s, p[0], window)
        }),
        built("adaptive alone", &[image], |s, p| pool::adaptive(s, p[0], 2, 3, pool::Kind::Mean)),
        built("subsampled", &[image], |s, p| {
            let every = Pool2d { kernel: [1, 1], stride: [2, 2], padding: [0, 0] };
            s.op(Op::AvgPool2d(every), p)
        }),
    ]
}

fn image_cases() -> Vec<Case> {
    let image: &[usize] = &[1, 2, 5, 4];
    vec![
        built("conv1d", &[&[2, 4, 9], &[6, 2, 3], &[6]], |s, p| {
            let window = conv::Window { stride: [2], padding: [1], dilation: [2], groups: 2 };
            conv::conv1d(s, p[0], p[1], Some(p[2]), &window)
        }),
        built("transposed1d", &[&[2, 4, 5], &[4, 3, 3], &[6]], |s, p| {
            let window = conv::Window { stride: [2], padding: [1], dilation: [1], groups: 2 };
            conv::transposed1d(s, p[0], p[1], Some(p[2]), &window, 1)
        }),
        built("instance norm", &[&[2, 3, 4], &[3], &[3]], |s, p| {
            let x = norm::as_image(s, p[0])?;
            norm::instance_norm(s, x, Some((p[1], p[2])), 1e-3)
        }),
        built("deformable without mask", &[image, &[3, 1, 2, 2], &[1, 16, 4, 3]], |s, p| {
            // Version 1, two groups of offsets and of channels.
            let small = s.scale(p[2], 0.1)?;
            let offset = s.shift(small, 0.5)?;
            let weight = s.concat(&[p[1], p[1]], 0)?;
            let operands = sample::Deformable { x: p[0], weight, offset, mask: None };
            let conv = Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 2 };
            sample::deformable(s, operands, conv)
        }),
        built("grid sample at the border", &[image, &[1, 2, 3, 2]], |s, p| {
            // Columns a tenth of a pixel around 1.6, rows around 2.3.
            let small = s.scale(p[1], 0.1)?;
            let between = s.shift(small, 0.05)?;
            sample::grid_sample(s, p[0], between, sample::Beyond::Border, false)
        }),
        built("volume at the border", &[&[1, 2, 3, 3, 2], &[1, 1, 1, 3, 3]], |s, p| {
            let small = s.scale(p[1], 0.1)?;
            let between = s.shift(small, 0.15)?;
            let x = s.scale(p[0], 4.0)?;
            volume::grid_sample(s, x, between, sample::Beyond::Border, false)
        }),
        built("all pairs", &[&[1, 2, 2, 4], &[1, 2, 2, 4]], |s, p| {
            stereo::all_pairs(s, p[0], p[1])
        }),
        built("concatenation", &[&[1, 2, 2, 4], &[1, 2, 2, 4]], |s, p| {
            stereo::concatenation(s, p[0], p[1], 3)
        }),
        built(
            "separable conv gru",
            &[&[1, 2, 3, 4], &[1, 1, 3, 4], &[2, 3, 1, 3], &[2]],
            |s, p| {
                let turned = s.transpose(p[2], &[0, 1, 3, 2])?;
                let gates = |weight: ValueId| {
                    let gate = recurrent::ConvGate { weight, bias: p[3] };
                    recurrent::ConvGates { update: gate, reset: gate, candidate: gate }
                };
                recurrent::separable_conv_gru(s, p[0], p[1], [gates(p[2]), gates(turned)])
            },
        ),
        built("gru of products", &[&[3, 2, 6], &[6, 2], &[2]], |s, p| {
            Ok(recurrent::gru_of(s, p[0], [p[1], p[2]], None, false)?.last)
        }),
        built("neighbours' features", &[&[2, 3, 4]], |s, p| {
            let ids = s.ints(&[3, 2], vec![1, -1, 2, 0, -1, -1])?;
            let all = mesh::neighbours(s, p[0], ids)?;
            // Weights of what is no neighbour would have no gradient.
            s.slice(all, 1, 0, 2).and_then(|part| s.slice(part, 2, 0, 1))
        }),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = element_cases();
    cases.extend(layout_cases());
    cases.extend(image_cases());
    cases
}

#[test]
fn a_norm_at_zero_has_a_gradient_of_zero() {
    let case = built("norm", &[&[2, 3]], |s, p| elements::norm(s, p[0], &[1], false));
    let dag = case.dag();
    let (work, mut executor) = (case.work(&dag), Executor::new(DeviceChoice::Cpu).unwrap());
    // One row of zeros, one of length 5; then the weights of the two results.
    let state = [0.0, 0.0, 0.0, 3.0, 0.0, 4.0, 1.0, 2.0];
    let (loss, gradients) = loss_and_gradient(&mut executor, &work, &state);
    assert!((loss - 10.0).abs() < 1e-5, "{loss}");
    let expected = [0.0, 0.0, 0.0, 1.2, 0.0, 1.6];
    for (found, expected) in gradients[0].1.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} but {expected}");
    }
}

/// Goal: every public composition is called by a case here, so that its derivative is compared with differences.
/// Method: look for its name, as a call, in these files; those that others are made of count through them.
#[test]
fn every_composition_has_a_case() {
    /// Called by `recurrent::lstm`, by losses, and by `sample::grid_sample`; what has no derivative on purpose, and what
    /// takes a part of itself as such, which differences would see (`crate::suite` compares both with PyTorch).
    const WITHIN: [&str; 5] = ["lstm_of", "mean", "bilinear", "constant", "berhu"];
    let cases = [include_str!("composed.rs"), include_str!("sequence.rs"), include_str!("rest.rs")];
    let called = |module: &str, name: &str| {
        let calls = [format!("{module}::{name}("), format!("{module}::{name})")];
        calls.iter().any(|call| cases.iter().any(|text| text.contains(call)))
    };
    let all = crate::tests::operators::all_compositions();
    assert!(all.len() > 50);
    let missing: Vec<_> = all
        .iter()
        .filter(|(module, name, _)| !WITHIN.contains(&name.as_str()) && !called(module, name))
        .map(|(module, name, _)| format!("{module}::{name}"))
        .collect();
    assert!(missing.is_empty(), "no case calls {missing:?}");
}
