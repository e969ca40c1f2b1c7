//! Shape rules of operators that move, repeat or sum elements.

use super::{Operands, Shapes, broadcast, check_size};
use crate::dag::Dtype;

impl Operands<'_> {
    pub(super) fn fill(&self, shape: &[usize], value: f32) -> Shapes {
        let [] = self.floats("no operands")?;
        self.need_finite(value)?;
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn reshape(&self, shape: &[usize]) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        check_size(shape)?;
        if shape.iter().product::<usize>() != x.iter().product::<usize>() {
            return Err(self.setting("a shape with as many elements", shape));
        }
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn transpose(&self, perm: &[usize]) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..x.len()) {
            return Err(self.setting("each axis of the operand once", perm));
        }
        Ok(vec![perm.iter().map(|&axis| x[axis]).collect()])
    }

    pub(super) fn slice(&self, axis: usize, start: usize, end: usize) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        self.need_axis(axis, x)?;
        if start >= end || end > x[axis] {
            return Err(self.setting("a range within the axis, not empty", start..end));
        }
        let mut shape = x.to_vec();
        shape[axis] = end - start;
        Ok(vec![shape])
    }

    pub(super) fn unslice(&self, axis: usize, start: usize, len: usize) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        self.need_axis(axis, x)?;
        if start.checked_add(x[axis]).is_none_or(|end| end > len) {
            return Err(self.setting("a start and length that hold the operand", (start, len)));
        }
        let mut shape = x.to_vec();
        shape[axis] = len;
        Ok(vec![shape])
    }

    pub(super) fn concat(&self, axis: usize) -> Shapes {
        const EXPECTED: &str =
            "one or more tensors of one dtype that differ along the joined axis only";
        let Some(first) = self.facts.first() else {
            return Err(self.unfit(EXPECTED));
        };
        self.need_axis(axis, &first.shape)?;
        let mut shape = first.shape.clone();
        shape[axis] = 0;
        for fact in self.facts {
            let dtype = fact.dtype == first.dtype && matches!(fact.dtype, Dtype::F32 | Dtype::I32);
            let rest = dtype && fact.rank() == shape.len();
            let fits = |(i, length): (usize, &usize)| i == axis || *length == shape[i];
            self.need(rest && fact.shape.iter().enumerate().all(fits), EXPECTED)?;
            // A sum that saturates is refused for its size.
            shape[axis] = shape[axis].saturating_add(fact.shape[axis]);
        }
        Ok(vec![shape])
    }

    pub(super) fn expand(&self, shape: &[usize]) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        if broadcast(x, shape).as_deref() != Some(shape) {
            return Err(self.setting("a shape to which the operand broadcasts", shape));
        }
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn sum_to(&self, shape: &[usize]) -> Shapes {
        let [x] = self.floats("one f32 tensor")?;
        if broadcast(shape, x).as_deref() != Some(x) {
            return Err(self.setting("a shape that broadcasts to the operand", shape));
        }
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn reduce(&self, axes: &[usize], keep: bool) -> Shapes {
        let [_] = self.floats("one f32 tensor")?;
        self.reduce_any(axes, keep)
    }

    pub(super) fn reduce_any(&self, axes: &[usize], keep: bool) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        let ascending = axes.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || axes.last().is_none_or(|last| *last >= x.len()) {
            return Err(self.setting("one or more axes of the operand, ascending", axes));
        }
        let kept = x.iter().enumerate().filter_map(|(i, length)| match axes.contains(&i) {
            true if keep => Some(1),
            true => None,
            false => Some(*length),
        });
        Ok(vec![kept.collect()])
    }
}
