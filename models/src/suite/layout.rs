//! Cases of operators that move, stretch or sum elements, with the compositions of `compose::layout` and `compose::scan`.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::layout::{self, Padding};
use wattle_protocol::dag::compose::scan;
use wattle_protocol::dag::op::Numbers;

use super::{Case, above, built, floats, op, whole, x};

const ROW: [usize; 3] = [2, 3, 4];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = move_cases();
    cases.extend(integer_cases());
    cases.extend(reduction_cases());
    cases.extend(source_cases());
    cases.extend(padding_cases());
    cases.extend(scan_cases());
    cases
}

fn move_cases() -> Vec<Case> {
    let transpose = |name, perm: &[usize], shape: &[usize]| {
        op(name, Op::Transpose { perm: perm.to_vec() }, [x(shape)])
    };
    let expand = |name, to: &[usize], shape: &[usize]| {
        op(name, Op::Expand { shape: to.to_vec() }, [x(shape)])
    };
    let sum_to = |name, to: &[usize], shape: &[usize]| {
        op(name, Op::SumTo { shape: to.to_vec() }, [x(shape)])
    };
    vec![
        op("other axes", Op::Reshape { shape: vec![4, 6] }, [x(&ROW)]),
        op("to a scalar", Op::Reshape { shape: vec![] }, [x(&[1, 1])]),
        transpose("turned", &[2, 0, 1], &ROW),
        transpose("five axes", &[0, 2, 1, 4, 3], &[2, 3, 2, 1, 4]),
        transpose("six axes", &[5, 0, 3, 1, 4, 2], &[2, 3, 1, 2, 2, 3]),
        transpose("odd", &[1, 0], &[17, 33]).rough(),
        transpose("heads", &[0, 2, 1, 3], &[2, 65, 3, 24]).rough(),
        op("middle", Op::Slice { axis: 1, start: 1, end: 3 }, [x(&ROW)]),
        op("last", Op::Slice { axis: 2, start: 3, end: 4 }, [x(&ROW)]),
        op("last axis", Op::Unslice { axis: 2, start: 1, len: 7 }, [x(&ROW)]),
        op("first axis", Op::Unslice { axis: 0, start: 3, len: 5 }, [x(&ROW)]),
        op("two", Op::Concat { axis: 1 }, [x(&ROW), x(&[2, 1, 4])]),
        op("three", Op::Concat { axis: 2 }, [x(&ROW), x(&[2, 3, 1]), x(&[2, 3, 5])]),
        op("one", Op::Concat { axis: 0 }, [x(&ROW)]),
        expand("leading axis", &[2, 3, 4], &[3, 1]),
        expand("scalar", &[2, 3], &[]),
        expand("middle axis", &[3, 5, 2], &[3, 1, 2]),
        sum_to("a column", &[3, 1], &ROW),
        sum_to("a row", &[4], &ROW),
        sum_to("a scalar", &[], &ROW),
        sum_to("odd", &[1, 17], &[33, 17]).rough(),
    ]
}

/// The same of integers.
fn integer_cases() -> Vec<Case> {
    let numbers = || whole(-9, 10, &ROW);
    let sum = |axes: Vec<usize>| Op::ReduceSum { axes, keep: false };
    vec![
        op("integers", Op::Reshape { shape: vec![4, 6] }, [numbers()]),
        op("integers", Op::Transpose { perm: vec![2, 0, 1] }, [numbers()]),
        op("integers", Op::Slice { axis: 1, start: 1, end: 3 }, [numbers()]),
        op("integers", Op::Unslice { axis: 2, start: 1, len: 7 }, [numbers()]),
        op("integers", Op::Concat { axis: 1 }, [numbers(), whole(-9, 10, &[2, 1, 4])]),
        op("integers", Op::Expand { shape: vec![2, 3, 4] }, [whole(-9, 10, &[3, 1])]),
        op("integers", sum(vec![0, 2]), [numbers()]),
    ]
}

fn reduction_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let kinds: [fn(Vec<usize>, bool) -> Op; 3] = [
        |axes, keep| Op::ReduceSum { axes, keep },
        |axes, keep| Op::ReduceMean { axes, keep },
        |axes, keep| Op::ReduceMax { axes, keep },
    ];
    for kind in kinds {
        let reduce = |name, axes: &[usize], keep| op(name, kind(axes.to_vec(), keep), [x(&ROW)]);
        cases.extend([
            reduce("first", &[0], false),
            reduce("middle, kept", &[1], true),
            reduce("last", &[2], false),
            reduce("outer", &[0, 2], false),
            reduce("inner, kept", &[1, 2], true),
            reduce("all", &[0, 1, 2], false),
            reduce("all, kept", &[0, 1, 2], true),
            op("odd", kind(vec![1], false), [x(&[7, 33])]).rough(),
        ]);
    }
    let ties = floats(&[1.0, 3.0, 3.0, 2.0, 2.0, 2.0], &[2, 3]);
    cases.push(op("equal maxima", Op::ReduceMax { axes: vec![1], keep: false }, [ties]).rough());
    cases
}

/// Operators without operands.
fn source_cases() -> Vec<Case> {
    let literal = |name, shape: &[usize], numbers| {
        op(name, Op::Literal { shape: shape.to_vec(), numbers }, [])
    };
    vec![
        op("inner", Op::Iota { shape: vec![2, 3, 4], axis: 1 }, []),
        op("last", Op::Iota { shape: vec![33], axis: 0 }, []),
        op("shape", Op::Fill { shape: vec![2, 3], value: -1.25 }, []),
        op("scalar", Op::Fill { shape: vec![], value: 7.0 }, []),
        literal("floats", &[2, 2], Numbers::Floats(vec![0.5, -1.5, 2.0, 1e-3])),
        literal("integers", &[3], Numbers::Ints(vec![-7, 0, 65_535])),
    ]
}

fn padding_cases() -> Vec<Case> {
    let row = || [x(&ROW)];
    let pad = |name, axis, around, padding| {
        built("layout::pad", name, [x(&ROW)], move |s, p| {
            layout::pad(s, p[0], axis, around, padding)
        })
    };
    vec![
        pad("zeros", 2, (1, 2), Padding::Constant(0.0)),
        pad("a number", 1, (2, 1), Padding::Constant(2.5)),
        pad("a number behind", 0, (0, 2), Padding::Constant(-1.0)),
        pad("reflect", 2, (3, 2), Padding::Reflect),
        pad("reflect, short axis", 1, (2, 2), Padding::Reflect),
        pad("replicate", 2, (2, 5), Padding::Replicate),
        pad("circular", 2, (3, 4), Padding::Circular),
        built("layout::pad", "integers", [whole(-9, 10, &ROW)], |s, p| {
            layout::pad(s, p[0], 2, (1, 1), Padding::Constant(4.0))
        }),
        built("layout::flip", "middle", row(), |s, p| layout::flip(s, p[0], 1)),
        built("layout::stride", "by two", [x(&[2, 7])], |s, p| {
            layout::stride(s, p[0], 1, (1, 7, 2))
        }),
        built("layout::stride", "by one", [x(&[2, 7])], |s, p| {
            layout::stride(s, p[0], 1, (2, 5, 1))
        }),
        built("layout::tile", "three times", row(), |s, p| layout::tile(s, p[0], 1, 3)),
        built("layout::repeat", "three times", row(), |s, p| layout::repeat(s, p[0], 1, 3)),
        built("layout::dilate", "by three", row(), |s, p| layout::dilate(s, p[0], 1, 3)),
        built("layout::dilate", "one element", [x(&[2, 1, 3])], |s, p| {
            layout::dilate(s, p[0], 1, 3)
        }),
    ]
}

fn scan_cases() -> Vec<Case> {
    let with_zeros = [1.5, 0.0, -2.0, 0.5, 2.0, 3.0, 0.0, 0.0, 1.0, -1.0];
    vec![
        built("scan::cum_prod", "middle", [x(&ROW)], |s, p| scan::cum_prod(s, p[0], 1)),
        built("scan::cum_prod", "through zeros", [floats(&with_zeros, &[2, 5])], |s, p| {
            scan::cum_prod(s, p[0], 1)
        })
        .rough(),
        built("scan::cum_prod", "nine", [above(&[2, 9])], |s, p| scan::cum_prod(s, p[0], 1))
            .rough(),
        built("scan::rendering_weights", "rays", [above(&ROW), above(&ROW)], |s, p| {
            scan::rendering_weights(s, p[0], p[1])
        }),
        built("scan::soft_argmin", "costs", [x(&ROW)], |s, p| scan::soft_argmin(s, p[0], 1, 1.0)),
        built("scan::soft_argmin", "steps of two", [x(&[2, 17, 3, 3])], |s, p| {
            scan::soft_argmin(s, p[0], 1, 2.0)
        })
        .rough(),
    ]
}
