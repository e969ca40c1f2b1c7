//! Shape rules of products, embeddings and causal masks.

use super::{Operands, Shape, Shapes, broadcast};
use crate::dag::Dtype;

impl Operands<'_> {
    pub(super) fn matmul(&self, transpose_a: bool, transpose_b: bool) -> Shapes {
        const EXPECTED: &str = "f32 [.., M, K] and [.., K, N] with leading axes that broadcast";
        let [a, b] = self.floats(EXPECTED)?;
        let (Some((a_lead, a)), Some((b_lead, b))) =
            (a.split_last_chunk::<2>(), b.split_last_chunk::<2>())
        else {
            return Err(self.unfit(EXPECTED));
        };
        let [m, k] = if transpose_a { [a[1], a[0]] } else { *a };
        let [k_of_b, n] = if transpose_b { [b[1], b[0]] } else { *b };
        self.need(k == k_of_b, EXPECTED)?;
        let mut shape = broadcast(a_lead, b_lead).ok_or_else(|| self.unfit(EXPECTED))?;
        shape.extend([m, n]);
        Ok(vec![shape])
    }

    pub(super) fn linear(&self) -> Shapes {
        const EXPECTED: &str = "f32 x [.., I], w [I, O] and maybe bias [O]";
        let (x, w, bias) = if self.facts.len() == 2 {
            let [x, w] = self.floats(EXPECTED)?;
            (x, w, None)
        } else {
            let [x, w, bias] = self.floats(EXPECTED)?;
            (x, w, Some(bias))
        };
        let (Some((last, lead)), [inner, outer]) = (x.split_last(), w) else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(last == inner && bias.is_none_or(|bias| bias == [*outer]), EXPECTED)?;
        Ok(vec![joined(lead, &[*outer])])
    }

    pub(super) fn linear_weight_grad(&self) -> Shapes {
        const EXPECTED: &str = "f32 x [.., I] and g [.., O] with equal leading axes";
        let [x, g] = self.floats(EXPECTED)?;
        let (Some((inner, x_lead)), Some((outer, g_lead))) = (x.split_last(), g.split_last())
        else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(x_lead == g_lead, EXPECTED)?;
        Ok(vec![vec![*inner, *outer]])
    }

    pub(super) fn embedding(&self) -> Shapes {
        const EXPECTED: &str = "table f32 [V, C] and ids i32 [..]";
        let [table, ids] = self.typed([Dtype::F32, Dtype::I32], EXPECTED)?;
        let [_, width] = table else {
            return Err(self.unfit(EXPECTED));
        };
        Ok(vec![joined(ids, &[*width])])
    }

    pub(super) fn embedding_grad(&self, rows: usize) -> Shapes {
        const EXPECTED: &str = "ids i32 [..] and g f32 [.., C] with equal leading axes";
        let [ids, g] = self.typed([Dtype::I32, Dtype::F32], EXPECTED)?;
        let Some((width, lead)) = g.split_last() else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(lead == ids, EXPECTED)?;
        Ok(vec![vec![rows, *width]])
    }

    pub(super) fn causal_mask(&self, fill: f32) -> Shapes {
        const EXPECTED: &str = "f32 [.., T, T]";
        let [x] = self.floats(EXPECTED)?;
        if fill.is_nan() {
            return Err(self.setting("a fill that is a number", fill));
        }
        self.need(matches!(x, [.., rows, columns] if rows == columns), EXPECTED)?;
        Ok(vec![x.to_vec()])
    }
}

fn joined(lead: &[usize], last: &[usize]) -> Shape {
    [lead, last].concat()
}
