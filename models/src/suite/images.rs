//! Cases of convolutions and pools, with the compositions of `compose::conv` and `compose::pool`.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::conv::{self, Window};
use wattle_protocol::dag::compose::pool::{self, Kind};
use wattle_protocol::dag::op::{Conv2d, Pool2d, Unary};

use super::{Case, built, op, x};

const IMAGE: [usize; 4] = [2, 2, 5, 4];
/// No multiple of any vector's width, on any axis.
const ODD: [usize; 4] = [1, 17, 5, 33];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = conv_cases();
    cases.extend(conv_grad_cases());
    cases.extend(pool_cases());
    cases.extend(row_and_volume_cases());
    cases.extend(transposed_cases());
    cases.extend(composed_pool_cases());
    cases
}

/// Stride, padding, dilation (height and width each), groups.
fn geometry(
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
) -> Conv2d {
    Conv2d { stride, padding, dilation, groups }
}

fn even(stride: usize, padding: usize, dilation: usize, groups: usize) -> Conv2d {
    geometry([stride; 2], [padding; 2], [dilation; 2], groups)
}

fn conv_cases() -> Vec<Case> {
    let conv = |name, conv: Conv2d, x_shape: &[usize], w_shape: &[usize]| {
        op(name, Op::Conv2d(conv), [x(x_shape), x(w_shape)])
    };
    let biased = |name, conv: Conv2d, x_shape: &[usize], w_shape: &[usize]| {
        op(name, Op::Conv2d(conv), [x(x_shape), x(w_shape), x(&w_shape[..1])])
    };
    vec![
        biased("bias", even(1, 1, 1, 1), &IMAGE, &[3, 2, 3, 3]),
        conv("stride", even(2, 1, 1, 1), &IMAGE, &[3, 2, 3, 3]),
        conv("1x1", even(1, 0, 1, 1), &IMAGE, &[3, 2, 1, 1]),
        biased("1x1 stride", even(2, 0, 1, 1), &IMAGE, &[3, 2, 1, 1]),
        conv("dilation", even(1, 2, 2, 1), &IMAGE, &[3, 2, 3, 3]),
        biased("groups", even(1, 0, 1, 2), &IMAGE, &[4, 1, 3, 3]),
        biased("depthwise", even(1, 1, 1, 5), &[1, 5, 5, 4], &[5, 1, 3, 3]),
        biased("two a channel", even(2, 1, 1, 3), &[1, 3, 7, 5], &[6, 1, 3, 3]),
        conv("uneven", geometry([2, 1], [0, 2], [1, 2], 1), &IMAGE, &[3, 2, 2, 3]),
        conv("rows only", geometry([1, 1], [0, 1], [1, 1], 1), &IMAGE, &[3, 2, 1, 3]),
        conv("columns only", geometry([1, 1], [1, 0], [1, 1], 1), &IMAGE, &[3, 2, 3, 1]),
        conv("stride leaves a rest", even(3, 0, 1, 1), &[1, 2, 9, 8], &[2, 2, 3, 3]),
        conv("1x1, padded", even(1, 2, 1, 1), &IMAGE, &[3, 2, 1, 1]),
        conv("1x1 stride, groups", even(2, 1, 1, 2), &IMAGE, &[4, 1, 1, 1]),
        conv("7x7", even(2, 3, 1, 1), &[1, 3, 11, 9], &[4, 3, 7, 7]).rough(),
        conv("whole image", even(1, 0, 1, 1), &IMAGE, &[3, 2, 5, 4]),
        biased("odd", even(1, 1, 1, 1), &ODD, &[9, 17, 3, 3]).rough(),
        conv("odd stride", even(2, 1, 1, 1), &ODD, &[7, 17, 3, 3]).rough(),
        conv("odd 1x1", even(1, 0, 1, 1), &ODD, &[33, 17, 1, 1]).rough(),
        conv("odd depthwise", even(1, 1, 1, 17), &ODD, &[17, 1, 3, 3]).rough(),
        biased("three images", even(1, 1, 1, 1), &[3, 16, 8, 8], &[16, 16, 3, 3]).rough(),
        biased("larger", even(1, 1, 1, 1), &[2, 32, 17, 33], &[33, 32, 3, 3]).rough(),
        conv("larger stride", even(2, 1, 1, 1), &[1, 16, 29, 35], &[24, 16, 3, 3]).rough(),
        conv("larger 1x1", even(1, 0, 1, 1), &[2, 33, 15, 15], &[65, 33, 1, 1]).rough(),
    ]
}

fn conv_grad_cases() -> Vec<Case> {
    let input = |name, conv: Conv2d, w: &[usize], g: &[usize], shape: [usize; 4]| {
        op(name, Op::Conv2dInputGrad { conv, shape }, [x(w), x(g)])
    };
    let weight = |name, conv: Conv2d, a: &[usize], g: &[usize], shape: [usize; 4]| {
        op(name, Op::Conv2dWeightGrad { conv, shape }, [x(a).fixed(), x(g).fixed()])
    };
    vec![
        input("stride", even(2, 1, 1, 1), &[3, 2, 3, 3], &[2, 3, 3, 2], IMAGE),
        input("groups", even(1, 0, 1, 2), &[4, 1, 3, 3], &[2, 4, 3, 2], IMAGE),
        input("dilation", even(1, 2, 2, 1), &[3, 2, 3, 3], &[2, 3, 5, 4], IMAGE),
        weight("stride", even(2, 1, 1, 1), &IMAGE, &[2, 3, 3, 2], [3, 2, 3, 3]),
        weight("groups", even(1, 0, 1, 2), &IMAGE, &[2, 4, 3, 2], [4, 1, 3, 3]),
    ]
}

fn pool_cases() -> Vec<Case> {
    let even = |kernel: usize, stride: usize, padding: usize| Pool2d {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
    };
    let uneven = Pool2d { kernel: [3, 2], stride: [1, 2], padding: [1, 0] };
    let mut cases = Vec::new();
    let kinds: [fn(Pool2d) -> Op; 2] = [Op::MaxPool2d, Op::AvgPool2d];
    for kind in kinds {
        cases.extend([
            op("2x2", kind(even(2, 2, 0)), [x(&IMAGE)]),
            op("overlapping, padded", kind(even(3, 2, 1)), [x(&IMAGE)]),
            op("every place", kind(even(3, 1, 1)), [x(&IMAGE)]),
            op("uneven", kind(uneven), [x(&IMAGE)]),
            op("a rest", kind(even(2, 3, 0)), [x(&[1, 2, 7, 6])]),
            op("odd", kind(even(3, 2, 1)), [x(&[1, 3, 9, 33])]).rough(),
            op("larger", kind(even(3, 2, 1)), [x(&[2, 9, 31, 65])]).rough(),
        ]);
    }
    // No number within a window.
    let operands = [x(&[1, 1, 4, 4]), x(&[1, 1, 4, 4])];
    cases.push(
        built("max_pool2d", "no number", operands, move |s, p| {
            let root = s.unary(Unary::Sqrt, p[0])?;
            let sum = s.add(root, p[1])?;
            s.op(Op::MaxPool2d(even(2, 2, 0)), &[sum])
        })
        .edges(),
    );
    cases
}

fn row_and_volume_cases() -> Vec<Case> {
    let row = |name, window: Window<1>, a: &[usize], w: &[usize]| {
        built("conv::conv1d", name, [x(a), x(w), x(&w[..1])], move |s, p| {
            conv::conv1d(s, p[0], p[1], Some(p[2]), &window)
        })
    };
    let volume = |name, window: Window<3>, a: &[usize], w: &[usize]| {
        built("conv::conv3d", name, [x(a), x(w), x(&w[..1])], move |s, p| {
            conv::conv3d(s, p[0], p[1], Some(p[2]), &window)
        })
    };
    let one = |stride, padding, dilation, groups| Window {
        stride: [stride],
        padding: [padding],
        dilation: [dilation],
        groups,
    };
    vec![
        row("padded", one(1, 1, 1, 1), &[2, 3, 7], &[4, 3, 3]),
        row("stride, groups", one(2, 1, 1, 2), &[2, 4, 9], &[6, 2, 3]),
        row("dilation", one(1, 2, 3, 1), &[2, 2, 11], &[3, 2, 3]),
        built("conv::conv1d", "without bias", [x(&[1, 2, 5]), x(&[3, 2, 2])], move |s, p| {
            conv::conv1d(s, p[0], p[1], None, &one(1, 0, 1, 1))
        }),
        volume(
            "uneven",
            Window { stride: [2, 1, 1], padding: [1, 0, 1], dilation: [1; 3], groups: 1 },
            &[1, 2, 4, 3, 3],
            &[2, 2, 2, 2, 2],
        ),
        volume(
            "dilation, groups",
            Window { stride: [1, 2, 1], padding: [2, 1, 1], dilation: [2, 1, 1], groups: 2 },
            &[2, 2, 4, 3, 3],
            &[4, 1, 3, 3, 3],
        )
        .rough(),
        built(
            "conv::conv3d",
            "without bias",
            [x(&[1, 1, 3, 3, 3]), x(&[2, 1, 1, 2, 2])],
            |s, p| {
                let window =
                    Window { stride: [1; 3], padding: [0; 3], dilation: [1; 3], groups: 1 };
                conv::conv3d(s, p[0], p[1], None, &window)
            },
        ),
    ]
}

fn transposed_cases() -> Vec<Case> {
    let image = |name, geometry: Conv2d, extra, a: &[usize], w: &[usize]| {
        let bias = x(&[w[1] * geometry.groups]);
        built("conv::transposed2d", name, [x(a), x(w), bias], move |s, p| {
            conv::transposed2d(s, p[0], p[1], Some(p[2]), geometry, extra)
        })
    };
    let volume = |name, window: Window<3>, extra, a: &[usize], w: &[usize]| {
        built("conv::transposed3d", name, [x(a), x(w), x(&[w[1] * window.groups])], move |s, p| {
            conv::transposed3d(s, p[0], p[1], Some(p[2]), &window, extra)
        })
    };
    vec![
        image("doubles", even(2, 1, 1, 1), [0, 0], &[1, 3, 3, 2], &[3, 2, 4, 4]),
        image(
            "groups, extra",
            geometry([2, 1], [1, 1], [1, 1], 2),
            [1, 0],
            &[1, 4, 3, 2],
            &[4, 2, 3, 3],
        ),
        image("gaps", even(3, 0, 1, 1), [0, 1], &[1, 2, 3, 2], &[2, 3, 2, 2]),
        image("dilation", even(1, 1, 2, 1), [0, 0], &[2, 2, 3, 3], &[2, 3, 2, 2]),
        built("conv::transposed1d", "groups, extra", [x(&[2, 4, 5]), x(&[4, 3, 3]), x(&[6])], {
            |s, p| {
                let window = Window { stride: [2], padding: [1], dilation: [1], groups: 2 };
                conv::transposed1d(s, p[0], p[1], Some(p[2]), &window, 1)
            }
        }),
        volume(
            "uneven",
            Window { stride: [2, 1, 1], padding: [1, 0, 0], dilation: [1; 3], groups: 1 },
            [0; 3],
            &[1, 2, 2, 2, 2],
            &[2, 2, 2, 2, 2],
        ),
        volume(
            "dilation, extra",
            Window { stride: [2, 2, 2], padding: [1, 1, 1], dilation: [2, 1, 1], groups: 2 },
            [1, 1, 0],
            &[1, 2, 3, 2, 2],
            &[2, 2, 3, 3, 3],
        )
        .rough(),
    ]
}

fn composed_pool_cases() -> Vec<Case> {
    let padded = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let plain = Pool2d { kernel: [2, 2], stride: [2, 1], padding: [0, 0] };
    let mut cases = vec![
        built("pool::mean_of_image", "padded", [x(&IMAGE)], move |s, p| {
            pool::mean_of_image(s, p[0], padded)
        }),
        built("pool::mean_of_image", "not padded", [x(&IMAGE)], move |s, p| {
            pool::mean_of_image(s, p[0], plain)
        }),
    ];
    for (kind, names) in [
        (Kind::Max, ["max", "max padded", "max volume", "max adaptive"]),
        (Kind::Mean, ["mean", "mean padded", "mean volume", "mean adaptive"]),
    ] {
        cases.extend([
            built("pool::pool1d", names[0], [x(&[2, 3, 8])], move |s, p| {
                pool::pool1d(s, p[0], kind, (2, 2, 0))
            }),
            built("pool::pool1d", names[1], [x(&[2, 3, 7])], move |s, p| {
                pool::pool1d(s, p[0], kind, (3, 2, 1))
            }),
            built("pool::pool3d", names[2], [x(&[1, 2, 4, 4, 3])], move |s, p| {
                pool::pool3d(s, p[0], kind, [2, 2, 1], [2, 2, 1], [0; 3])
            }),
            built("pool::pool3d", names[1], [x(&[1, 2, 4, 5, 3])], move |s, p| {
                pool::pool3d(s, p[0], kind, [3, 3, 2], [2, 1, 1], [1, 1, 0])
            }),
            built("pool::adaptive", names[3], [x(&[1, 2, 7, 5])], move |s, p| {
                let rows = pool::adaptive(s, p[0], 2, 3, kind)?;
                pool::adaptive(s, rows, 3, 2, kind)
            }),
        ]);
    }
    cases.push(built("pool::adaptive", "more than there are", [x(&[1, 2, 3])], |s, p| {
        pool::adaptive(s, p[0], 2, 5, Kind::Mean)
    }));
    cases
}
