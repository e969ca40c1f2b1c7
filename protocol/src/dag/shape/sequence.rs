//! Shape rules of operators over sequences: attention and recurrent layers.

use super::{Operands, Shape, ShapeError, Shapes, broadcast, check_size};
use crate::dag::{Dtype, Fact};

/// What an attention reads and makes.
struct Attended<'a> {
    q: &'a [usize],
    k: &'a [usize],
    v: &'a [usize],
    mask: Option<&'a [usize]>,
    result: Shape,
}

impl<'a> Operands<'a> {
    pub(super) fn attention(&self, scale: f32) -> Shapes {
        const EXPECTED: &str = "f32 q [.., H, T, D], k [.., G, S, D], v [.., G, S, E] with G a divisor of H, \
                                and maybe a mask that broadcasts to [.., H, T, S]";
        self.need_finite(scale)?;
        Ok(vec![self.attended(self.facts, EXPECTED)?.result])
    }

    pub(super) fn attention_grad(&self, scale: f32, mask_grad: bool) -> Shapes {
        const EXPECTED: &str =
            "q, k, v and maybe a mask as attention does, and f32 g [.., H, T, E]";
        self.need_finite(scale)?;
        let Some((g, operands)) = self.facts.split_last() else {
            return Err(self.unfit(EXPECTED));
        };
        let found = self.attended(operands, EXPECTED)?;
        self.need(g.dtype == Dtype::F32 && g.shape == found.result, EXPECTED)?;
        let mut shapes = [found.q, found.k, found.v].map(<[usize]>::to_vec).to_vec();
        match (mask_grad, found.mask) {
            (true, Some(mask)) => shapes.push(mask.to_vec()),
            (true, None) => return Err(self.setting("a mask for its gradient", mask_grad)),
            (false, _) => {}
        }
        Ok(shapes)
    }

    /// Checks what an attention reads; also that the weights `[.., H, T, S]`, which a kernel may hold, are no larger
    /// than any tensor may be.
    fn attended(
        &self,
        facts: &'a [&'a Fact],
        expected: &'static str,
    ) -> Result<Attended<'a>, ShapeError> {
        let unfit = || self.unfit(expected);
        self.need(facts.iter().all(|fact| fact.dtype == Dtype::F32), expected)?;
        let (q, k, v, mask) = match facts {
            [q, k, v] => (q, k, v, None),
            [q, k, v, mask] => (q, k, v, Some(mask.shape.as_slice())),
            _ => return Err(unfit()),
        };
        let (q, k, v) = (q.shape.as_slice(), k.shape.as_slice(), v.shape.as_slice());
        let (
            Some((q_lead, [_, depth])),
            Some((k_lead, [keys, k_depth])),
            Some((v_lead, [values, width])),
        ) = (q.split_last_chunk(), k.split_last_chunk(), v.split_last_chunk())
        else {
            return Err(unfit());
        };
        let grouped = match (q_lead.split_last(), k_lead.split_last()) {
            (None, None) => true,
            // Sizes have been checked, so that there is a head.
            (Some((heads, q_lead)), Some((own, k_lead))) => {
                q_lead == k_lead && heads.is_multiple_of(*own)
            }
            _ => false,
        };
        let fits = grouped && k_lead == v_lead && depth == k_depth && keys == values;
        self.need(fits, expected)?;
        let with_last = |last: usize| [&q[..q.len() - 1], &[last]].concat();
        let weights = with_last(*keys);
        check_size(&weights)?;
        let broadcasts = |mask| broadcast(mask, &weights).is_some_and(|shape| shape == weights);
        self.need(mask.is_none_or(broadcasts), expected)?;
        Ok(Attended { q, k, v, mask, result: with_last(*width) })
    }

    pub(super) fn lstm(&self) -> Shapes {
        const EXPECTED: &str = "f32 fed [T, B, 4 H], recurrent [4 H, H], h [B, H] and c [B, H]";
        let [fed, recurrent, h, c] = self.floats(EXPECTED)?;
        let (&[steps, batch, rows], &[_, width]) = (fed, h) else {
            return Err(self.unfit(EXPECTED));
        };
        let gates = width.checked_mul(4).filter(|gates| *gates == rows);
        let fits = gates.is_some() && recurrent == [rows, width] && h == [batch, width] && c == h;
        self.need(fits, EXPECTED)?;
        Ok(vec![vec![2, steps, batch, width], fed.to_vec()])
    }

    pub(super) fn lstm_grad(&self) -> Shapes {
        const EXPECTED: &str = "f32 recurrent [4 H, H], h, c [B, H], states [2, T, B, H], gates [T, B, 4 H] and g as states";
        let [recurrent, h, c, states, gates, g] = self.floats(EXPECTED)?;
        let &[2, steps, batch, width] = states else {
            return Err(self.unfit(EXPECTED));
        };
        let rows = width.saturating_mul(4);
        let fits = recurrent == [rows, width] && gates == [steps, batch, rows] && g == states;
        self.need(fits && h == [batch, width] && c == h, EXPECTED)?;
        Ok([gates, recurrent, h, c].map(<[usize]>::to_vec).to_vec())
    }

    pub(super) fn gru(&self) -> Shapes {
        const EXPECTED: &str = "f32 fed [T, B, 3 H], recurrent [3 H, H], bias [H] and h [B, H]";
        let [fed, recurrent, bias, h] = self.floats(EXPECTED)?;
        let (&[steps, batch, rows], &[width]) = (fed, bias) else {
            return Err(self.unfit(EXPECTED));
        };
        let gates = width.checked_mul(3).filter(|gates| *gates == rows);
        let fits = gates.is_some() && recurrent == [rows, width] && h == [batch, width];
        self.need(fits, EXPECTED)?;
        Ok(vec![vec![steps, batch, width], vec![steps, batch, width.saturating_mul(4)]])
    }

    pub(super) fn gru_grad(&self) -> Shapes {
        const EXPECTED: &str =
            "f32 recurrent [3 H, H], h [B, H], y [T, B, H], gates [T, B, 4 H] and g as y";
        let [recurrent, h, y, gates, g] = self.floats(EXPECTED)?;
        let &[steps, batch, width] = y else {
            return Err(self.unfit(EXPECTED));
        };
        let rows = width.saturating_mul(3);
        let fits = recurrent == [rows, width] && h == [batch, width] && g == y;
        self.need(fits && gates == [steps, batch, width.saturating_mul(4)], EXPECTED)?;
        Ok(vec![vec![steps, batch, rows], recurrent.to_vec(), vec![width], h.to_vec()])
    }
}
