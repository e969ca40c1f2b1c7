//! Shape rules of operators that read, write or make elements by index, and of positions.

use super::{Operands, ShapeError, Shapes, check_size};
use crate::dag::op::{LITERAL_MAX, Numbers, Rotary};
use crate::dag::{Dtype, Fact};

impl<'a> Operands<'a> {
    /// Returns a tensor of either dtype and its indices.
    fn indexed(&self, expected: &'static str) -> Result<(&'a [usize], &'a [usize]), ShapeError> {
        let (Some(x), Some(ids)) = (self.facts.first(), self.facts.get(1)) else {
            return Err(self.unfit(expected));
        };
        let known = matches!(x.dtype, Dtype::F32 | Dtype::I32) && ids.dtype == Dtype::I32;
        self.need(known, expected)?;
        Ok((&x.shape, &ids.shape))
    }

    pub(super) fn gather(&self, axis: usize) -> Shapes {
        const EXPECTED: &str = "x f32 or i32 [.., N, ..] and ids i32 of one axis or more";
        let (x, ids) = self.indexed(EXPECTED)?;
        self.need(self.facts.len() == 2 && !ids.is_empty(), EXPECTED)?;
        self.need_axis(axis, x)?;
        Ok(vec![[&x[..axis], ids, &x[axis + 1..]].concat()])
    }

    pub(super) fn gather_grad(&self, axis: usize, len: usize) -> Shapes {
        const EXPECTED: &str = "ids i32 and g f32 of the gather's result shape";
        let [ids, g] = self.typed([Dtype::I32, Dtype::F32], EXPECTED)?;
        self.need(!ids.is_empty(), EXPECTED)?;
        let end = axis.checked_add(ids.len()).filter(|end| *end <= g.len());
        let Some(end) = end.filter(|end| &g[axis..*end] == ids) else {
            return Err(self.unfit(EXPECTED));
        };
        Ok(vec![[&g[..axis], &[len], &g[end..]].concat()])
    }

    /// Checks that ids have x's rank and are at most as long on other axes.
    fn need_within(&self, axis: usize, x: &[usize], ids: &[usize]) -> Result<(), ShapeError> {
        const EXPECTED: &str = "ids of x's rank, at most as long as x on the other axes";
        self.need_axis(axis, x)?;
        let pairs = x.iter().zip(ids).enumerate();
        let mut within = pairs.map(|(i, (of, at))| i == axis || at <= of);
        self.need(x.len() == ids.len() && within.all(|fits| fits), EXPECTED)
    }

    pub(super) fn gather_elements(&self, axis: usize) -> Shapes {
        const EXPECTED: &str = "x f32 or i32 and ids i32 of one rank";
        let (x, ids) = self.indexed(EXPECTED)?;
        self.need(self.facts.len() == 2, EXPECTED)?;
        self.need_within(axis, x, ids)?;
        Ok(vec![ids.to_vec()])
    }

    pub(super) fn scatter_elements(&self, axis: usize) -> Shapes {
        const EXPECTED: &str = "x, ids i32 and updates of x's dtype in the shape of ids";
        let (x, ids) = self.indexed(EXPECTED)?;
        let updates = self.facts.get(2).filter(|_| self.facts.len() == 3);
        let dtype = self.facts[0].dtype;
        let fits = |updates: &&&Fact| updates.dtype == dtype && updates.shape == ids;
        self.need(updates.filter(fits).is_some(), EXPECTED)?;
        self.need_within(axis, x, ids)?;
        Ok(vec![x.to_vec()])
    }

    pub(super) fn top_k(&self, axis: usize, k: usize) -> Shapes {
        let [x] = self.floats("one f32 tensor")?;
        self.need_axis(axis, x)?;
        if k == 0 || k > x[axis] {
            return Err(self.setting("a k from 1 to the length of the axis", k));
        }
        let mut shape = x.to_vec();
        shape[axis] = k;
        Ok(vec![shape.clone(), shape])
    }

    pub(super) fn iota(&self, shape: &[usize], axis: usize) -> Shapes {
        let [] = self.floats("no operands")?;
        self.need_axis(axis, shape)?;
        if i32::try_from(shape[axis]).is_err() {
            return Err(self.setting("an axis whose places fit i32", shape));
        }
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn literal(&self, shape: &[usize], numbers: &Numbers) -> Shapes {
        let [] = self.floats("no operands")?;
        check_size(shape)?;
        let count = numbers.len();
        if count > LITERAL_MAX || count != shape.iter().product::<usize>() {
            return Err(self.setting("as many numbers as the shape has, 65,536 at most", count));
        }
        if let Numbers::Floats(list) = numbers {
            list.iter().try_for_each(|number| self.need_finite(*number))?;
        }
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn rotary(&self, rotary: &Rotary) -> Shapes {
        const EXPECTED: &str = "f32 x [.., T, D] with D even";
        let [x] = self.floats(EXPECTED)?;
        self.need(matches!(x, [.., _, width] if width % 2 == 0), EXPECTED)?;
        if !(rotary.theta.is_finite() && rotary.theta > 0.0) {
            return Err(self.setting("a finite theta above 0", rotary.theta));
        }
        let end = rotary.start.checked_add(x[x.len() - 2]);
        if end.is_none_or(|end| end > 1 << 24) {
            return Err(self.setting("positions below 2^24", rotary.start));
        }
        Ok(vec![x.to_vec()])
    }
}
