//! Index arithmetic of row-major arrays.

use super::super::report::Reason;

/// Returns the step of each axis.
pub(in crate::onnx) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Returns the place of each element of `shape` in an array whose axes step by `strides`, from `start`.
pub(in crate::onnx) fn walk(shape: &[usize], strides: &[isize], start: usize) -> Vec<usize> {
    let count: usize = shape.iter().product();
    let mut places = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    let mut at = start.cast_signed();
    for _ in 0..count {
        places.push(at.cast_unsigned());
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis].cast_signed();
            index[axis] = 0;
        }
    }
    places
}

/// Returns the place of each element of `to` in an array of shape `from` that is stretched to it.
pub(in crate::onnx) fn stretched(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let lead = to.len() - from.len();
    let steps = (0..to.len()).map(|axis| match axis.checked_sub(lead) {
        Some(axis) if from[axis] > 1 => own[axis].cast_signed(),
        Some(_) | None => 0,
    });
    walk(to, &steps.collect::<Vec<_>>(), 0)
}

/// Returns the shape to which shapes broadcast.
///
/// *Errors*: they do not.
pub(in crate::onnx) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Reason> {
    let rank = a.len().max(b.len());
    let length = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    let lengths = (0..rank).map(|axis| match (length(a, axis), length(b, axis)) {
        (x, y) if x == y => Some(x),
        (1, y) => Some(y),
        (x, 1) => Some(x),
        _ => None,
    });
    let wrong = || Reason::malformed(format!("shapes {a:?} and {b:?} do not fit"));
    lengths.collect::<Option<Vec<_>>>().ok_or_else(wrong)
}
