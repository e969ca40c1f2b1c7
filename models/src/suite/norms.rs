//! Cases of softmax, normalisations and losses, with the compositions of `compose::norm` and `compose::loss`.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::{loss, norm};
use wattle_protocol::dag::op::Targets;

use super::{Case, above, built, floats, ids, ints, op, range, x};

const ROW: [usize; 3] = [2, 3, 4];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = softmax_cases();
    cases.extend(norm_cases());
    cases.extend(composed_norm_cases());
    cases.extend(cross_entropy_cases());
    cases.extend(loss_cases());
    cases
}

fn softmax_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let kinds: [fn(usize) -> Op; 2] = [|axis| Op::Softmax { axis }, |axis| Op::LogSoftmax { axis }];
    for kind in kinds {
        cases.extend([
            op("last axis", kind(2), [x(&ROW)]),
            op("middle axis", kind(1), [x(&ROW)]),
            op("first axis", kind(0), [x(&ROW)]),
            // All weight on the only element: no gradient, which no difference tells from a small one.
            op("rows of 1", kind(1), [x(&[3, 1])]).rough(),
            op("rows of 7", kind(1), [x(&[3, 7])]),
            op("rows of 33", kind(1), [x(&[3, 33])]).rough(),
            op("rows of 65", kind(2), [x(&[2, 5, 65])]).rough(),
            op("larger", kind(1), [x(&[129, 129])]).rough(),
            op("steep", kind(1), [range(-40.0, 40.0, &[3, 7])]).rough().within(5e-5),
            op("large", kind(1), [range(990.0, 1010.0, &[3, 7])]).rough(),
        ]);
    }
    // A mask of minus infinity, as importers write it.
    let hidden = [Op::Softmax { axis: 1 }, Op::LogSoftmax { axis: 1 }]
        .into_iter()
        .zip(["softmax", "log_softmax"]);
    for (operator, row) in hidden {
        let divisor = floats(&[1.0, 0.0, 1.0, 1.0, 1.0, 0.0], &[2, 3]);
        let values = floats(&[0.5, -1.0, 2.0, 1.0, -0.25, -3.0], &[2, 3]);
        cases.push(
            built(row, "hidden by minus infinity", [values, divisor], move |s, p| {
                let x = s.div(p[0], p[1])?;
                s.op(operator.clone(), &[x])
            })
            .edges(),
        );
    }
    cases.push(op("any rows", Op::SoftmaxGrad { axis: 1 }, [x(&ROW).fixed(), x(&ROW).fixed()]));
    cases
}

fn norm_cases() -> Vec<Case> {
    let image: [usize; 4] = [2, 3, 5, 4];
    let layer = |name, shape: &[usize], eps| {
        let width = shape[shape.len() - 1];
        op(name, Op::LayerNorm { eps }, [x(shape), x(&[width]), x(&[width])])
    };
    let batch = |name, shape: &[usize]| {
        op(name, Op::BatchNorm { eps: 1e-3 }, [x(shape), x(&[shape[1]]), x(&[shape[1]])])
    };
    let rms = |name, shape: &[usize]| {
        op(name, Op::RmsNorm { eps: 1e-3 }, [x(shape), x(&[shape[shape.len() - 1]])])
    };
    let inference = |name, shape: &[usize]| {
        let channel = [shape[1]];
        op(
            name,
            Op::BatchNormInference { eps: 1e-3 },
            [x(shape), x(&channel), x(&channel), x(&channel).fixed(), above(&channel).fixed()],
        )
    };
    vec![
        layer("rows", &ROW, 1e-3),
        layer("rows of 7", &[5, 7], 1e-5),
        layer("rows of 33", &[3, 33], 1e-5).rough(),
        layer("rows of 130", &[2, 2, 130], 1e-5).rough(),
        layer("rows of 1", &[3, 1], 1e-5).rough(),
        layer("larger", &[2, 65, 96], 1e-5).rough(),
        op(
            "far from zero",
            Op::LayerNorm { eps: 1e-5 },
            [range(99.0, 101.0, &[3, 33]), x(&[33]), x(&[33])],
        )
        .rough()
        .within(3e-5),
        batch("image", &image),
        batch("rows", &[4, 3, 1, 1]),
        batch("odd", &[3, 17, 3, 3]).rough(),
        batch("larger", &[4, 17, 15, 15]).rough(),
        inference("image", &image),
        inference("odd", &[3, 17, 3, 3]).rough(),
        rms("rows", &ROW),
        rms("rows of 7", &[5, 7]),
        rms("rows of 33", &[3, 33]).rough(),
        rms("rows of 130", &[2, 2, 130]).rough(),
        rms("larger", &[2, 65, 96]).rough(),
    ]
}

fn composed_norm_cases() -> Vec<Case> {
    let image: [usize; 4] = [2, 4, 3, 3];
    vec![
        built("norm::group_norm", "affine", [x(&[2, 4, 3]), x(&[4]), x(&[4])], |s, p| {
            norm::group_norm(s, p[0], Some((p[1], p[2])), 2, 1e-3)
        }),
        built("norm::group_norm", "plain", [x(&image)], |s, p| {
            norm::group_norm(s, p[0], None, 2, 1e-3)
        }),
        built("norm::group_norm", "odd", [x(&[1, 15, 7]), x(&[15]), x(&[15])], |s, p| {
            norm::group_norm(s, p[0], Some((p[1], p[2])), 5, 1e-5)
        })
        .rough(),
        built("norm::instance_norm", "image", [x(&image), x(&[4]), x(&[4])], |s, p| {
            norm::instance_norm(s, p[0], Some((p[1], p[2])), 1e-3)
        }),
        built("norm::as_image", "rows", [x(&ROW)], |s, p| norm::as_image(s, p[0])),
        built("norm::as_image", "volume", [x(&[2, 3, 2, 2, 2])], |s, p| norm::as_image(s, p[0])),
    ]
}

fn cross_entropy_cases() -> Vec<Case> {
    let loss = |name, smoothing, ignore, operands: [super::Operand; 2]| {
        op(name, Op::CrossEntropy(Targets { smoothing, ignore }), operands)
    };
    let some = || ints(&[3, -100, 0, 9, -100], &[5]);
    vec![
        loss("rows", 0.0, None, [x(&[3, 10]), ids(10, &[3])]),
        loss("text", 0.0, None, [x(&[2, 3, 11]), ids(11, &[2, 3])]),
        loss("smoothed", 0.1, None, [x(&[3, 10]), ids(10, &[3])]),
        loss("some ignored", 0.0, Some(-100), [x(&[5, 10]), some()]),
        loss("smoothed, some ignored", 0.2, Some(-100), [x(&[5, 10]), some()]),
        loss("a class ignored", 0.0, Some(2), [x(&[4, 3]), ints(&[0, 2, 1, 2], &[4])]),
        loss("all ignored", 0.0, Some(-1), [x(&[2, 3]), ints(&[-1, -1], &[2])]).rough(),
        loss("steep", 0.0, None, [range(-80.0, 80.0, &[3, 7]), ids(7, &[3])]).rough(),
        loss("odd", 0.1, None, [x(&[7, 33]), ids(33, &[7])]).rough(),
        loss("larger", 0.0, None, [x(&[2, 65, 129]), ids(129, &[2, 65])]).rough(),
    ]
}

fn loss_cases() -> Vec<Case> {
    let mask = || ids(2, &ROW);
    let two = || [x(&ROW), x(&ROW)];
    let masked = || [x(&ROW), x(&ROW), mask()];
    let shares = [0.5, 0.25, 0.25, 0.0, 0.1, 0.2, 0.3, 0.4];
    vec![
        built("loss::mean", "of all", [x(&ROW)], |s, p| loss::mean(s, p[0], None)),
        built("loss::mean", "of some", [x(&ROW), mask()], |s, p| loss::mean(s, p[0], Some(p[1]))),
        built("loss::mean", "of none", [x(&ROW), ints(&[0], &[1])], |s, p| {
            loss::mean(s, p[0], Some(p[1]))
        })
        .rough(),
        built("loss::mse", "of all", two(), |s, p| loss::mse(s, p[0], p[1], None)),
        built("loss::mse", "of some", masked(), |s, p| loss::mse(s, p[0], p[1], Some(p[2]))),
        built("loss::l1", "of all", two(), |s, p| loss::l1(s, p[0], p[1], None)).rough(),
        built("loss::l1", "of some", masked(), |s, p| loss::l1(s, p[0], p[1], Some(p[2]))).rough(),
        built("loss::smooth_l1", "of all", two(), |s, p| loss::smooth_l1(s, p[0], p[1], 0.5, None)),
        built("loss::smooth_l1", "of some", masked(), |s, p| {
            loss::smooth_l1(s, p[0], p[1], 1.0, Some(p[2]))
        }),
        built("loss::berhu", "of all", two(), |s, p| loss::berhu(s, p[0], p[1], None)).rough(),
        built("loss::berhu", "of some", masked(), |s, p| loss::berhu(s, p[0], p[1], Some(p[2])))
            .rough(),
        built(
            "loss::kl",
            "some shares are 0",
            [x(&[2, 4]), floats(&shares, &[2, 4]).fixed()],
            |s, p| {
                let log_q = s.op(Op::LogSoftmax { axis: 1 }, &[p[0]])?;
                loss::kl(s, log_q, p[1])
            },
        ),
        built("loss::end_point", "flow", [x(&[2, 2, 3, 3]), x(&[2, 2, 3, 3])], |s, p| {
            loss::end_point(s, p[0], p[1], 1)
        })
        .rough(),
    ]
}
