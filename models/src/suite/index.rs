//! Cases of operators that read, write, select or accumulate along an axis.

use wattle_protocol::dag::Op;

use super::{Case, floats, ids, ints, op, whole, x};

const ROW: [usize; 3] = [2, 3, 4];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = gather_cases();
    cases.extend(element_cases());
    cases.extend(order_cases());
    cases
}

fn gather_cases() -> Vec<Case> {
    // Some places twice.
    let twice = || ints(&[2, 0, 2, 1], &[2, 2]);
    vec![
        op("middle axis", Op::Gather { axis: 1 }, [x(&ROW), twice()]),
        op("first axis", Op::Gather { axis: 0 }, [x(&ROW), ids(2, &[5])]),
        op("last axis", Op::Gather { axis: 2 }, [x(&ROW), ids(4, &[7])]),
        op("odd", Op::Gather { axis: 1 }, [x(&[3, 33, 5]), ids(33, &[65])]).rough(),
        op("integers", Op::Gather { axis: 1 }, [whole(-9, 10, &ROW), twice()]),
        op("middle axis", Op::GatherGrad { axis: 1, len: 3 }, [twice(), x(&[2, 2, 2, 4])]),
        op("last axis", Op::GatherGrad { axis: 2, len: 5 }, [ids(5, &[7]), x(&[2, 3, 7])]),
    ]
}

fn element_cases() -> Vec<Case> {
    let twice = || ints(&[2, 0, 2, 1], &[2, 2]);
    let scatter = |axis, add| Op::ScatterElements { axis, add };
    // Each place once: which of several writes counts, PyTorch leaves open.
    let once = || ints(&[2, 0, 1, 2], &[2, 2]);
    vec![
        op("last axis", Op::GatherElements { axis: 1 }, [x(&[2, 3]), twice()]),
        op("first axis", Op::GatherElements { axis: 0 }, [x(&[3, 4]), ids(3, &[5, 4])]),
        op("fewer elsewhere", Op::GatherElements { axis: 1 }, [x(&ROW), ids(3, &[1, 5, 2])]),
        op("odd", Op::GatherElements { axis: 1 }, [x(&[7, 33]), ids(33, &[7, 17])]).rough(),
        op("integers", Op::GatherElements { axis: 1 }, [whole(-9, 10, &[2, 3]), twice()]),
        op("adds", scatter(1, true), [x(&[2, 3]), twice(), x(&[2, 2])]),
        op("adds, first axis", scatter(0, true), [x(&[3, 4]), ids(3, &[5, 4]), x(&[5, 4])]),
        op("adds, fewer elsewhere", scatter(1, true), [x(&ROW), ids(3, &[1, 5, 2]), x(&[1, 5, 2])]),
        op("adds, odd", scatter(1, true), [x(&[7, 33]), ids(33, &[7, 65]), x(&[7, 65])]).rough(),
        op("replaces", scatter(1, false), [x(&[2, 3]), once(), x(&[2, 2])]),
        op(
            "replaces, first axis",
            scatter(0, false),
            [x(&[5, 2]), ints(&[4, 1, 0, 3], &[2, 2]), x(&[2, 2])],
        ),
        op("replaces twice", scatter(1, false), [x(&[2, 3]), twice(), x(&[2, 2])]).rough(),
        op(
            "integers",
            scatter(1, false),
            [whole(-9, 10, &[2, 3]), twice(), whole(-9, 10, &[2, 2])],
        ),
    ]
}

fn order_cases() -> Vec<Case> {
    let top = |axis, k, smallest| Op::TopK { axis, k, smallest };
    let sum = |exclusive, reverse| Op::CumSum { axis: 1, exclusive, reverse };
    let ties = || floats(&[1.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 1.0], &[2, 4]);
    vec![
        op("largest", top(2, 2, false), [x(&ROW)]),
        op("smallest", top(2, 2, true), [x(&ROW)]),
        op("middle axis", top(1, 2, false), [x(&ROW)]),
        op("all", top(2, 4, false), [x(&ROW)]),
        op("first axis", top(0, 2, true), [x(&[5, 3])]),
        op("odd", top(1, 5, false), [x(&[7, 33])]).rough(),
        op("equal ones", top(1, 2, false), [ties()]).rough(),
        op("equal ones, smallest", top(1, 3, true), [ties()]).rough(),
        op("forward", sum(false, false), [x(&ROW)]),
        op("exclusive", sum(true, false), [x(&ROW)]),
        op("backward", sum(false, true), [x(&ROW)]),
        op("backward, exclusive", sum(true, true), [x(&ROW)]),
        op("first axis", Op::CumSum { axis: 0, exclusive: true, reverse: true }, [x(&ROW)]),
        op("last axis", Op::CumSum { axis: 2, exclusive: false, reverse: true }, [x(&ROW)]),
        op("odd", Op::CumSum { axis: 1, exclusive: false, reverse: false }, [x(&[7, 33])]).rough(),
    ]
}
