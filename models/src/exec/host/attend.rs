//! Attention's rows of scores: scaled, masked, turned into weights; and back. For what has a mask, other key lengths or
//! grouped heads; the plain softmax of rows is in `rows`.

use wattle_protocol::dag::op::HIDDEN;

use super::{exp, max_of, sum_of, sum_of_pairs, vectorised};

/// Where each row of scores finds its part of a mask that broadcasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strides {
    /// For each row: where its part begins.
    starts: Vec<usize>,
    /// 1, or 0 where one number counts for the whole row.
    step: usize,
}

impl Strides {
    /// Works them out for weights `[.., S]` and a mask that broadcasts to them.
    pub fn of(weights: &[usize], mask: &[usize]) -> Self {
        let lead = weights.len() - mask.len();
        let mut stride = vec![0; weights.len()];
        let mut size = 1;
        for (axis, length) in mask.iter().enumerate().rev() {
            stride[lead + axis] = if *length == 1 { 0 } else { size };
            size *= length;
        }
        let mut starts = vec![0];
        for (length, stride) in weights.iter().zip(&stride).take(weights.len() - 1) {
            let places = (0..*length).map(|at| at * stride);
            starts =
                starts.iter().flat_map(|start| places.clone().map(move |p| start + p)).collect();
        }
        Self { starts, step: stride.last().copied().unwrap_or(0) }
    }

    fn at(&self, row: usize, column: usize) -> usize {
        self.starts[row] + column * self.step
    }
}

/// Settings of all rows.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// T: row r belongs to query `r % T`.
    pub queries: usize,
    /// S: elements of a row.
    pub keys: usize,
    /// Query t sees keys up to t.
    pub causal: bool,
    /// Factor on the scores.
    pub scale: f32,
    /// Added to them.
    pub mask: Option<(&'a [f32], &'a Strides)>,
}

impl Rows<'_> {
    fn seen(&self, row: usize) -> usize {
        if self.causal { (row % self.queries + 1).min(self.keys) } else { self.keys }
    }

    /// Turns scores into weights, in rows from number `first` on.
    pub fn weigh(&self, scores: &mut [f32], first: usize) {
        vectorised(
            #[inline(always)]
            || {
                for (row, scores) in (first..).zip(scores.chunks_exact_mut(self.keys)) {
                    let (scores, unseen) = scores.split_at_mut(self.seen(row));
                    unseen.fill(0.0);
                    scores.iter_mut().for_each(|score| *score *= self.scale);
                    self.add_mask(scores, row);
                    let max = max_of(scores);
                    if max <= HIDDEN {
                        // All are hidden, or no number is among them: that must stay seen.
                        let wrong = scores.iter().any(|score| score.is_nan());
                        scores.fill(if wrong { f32::NAN } else { 0.0 });
                        continue;
                    }
                    for score in scores.iter_mut() {
                        *score = exp(*score - max);
                    }
                    let inverse = 1.0 / sum_of(scores, |score| score);
                    scores.iter_mut().for_each(|score| *score *= inverse);
                }
            },
        );
    }

    #[inline(always)]
    // Always: it must vectorise within the caller's loop.
    fn add_mask(&self, scores: &mut [f32], row: usize) {
        let Some((mask, strides)) = self.mask else { return };
        let start = strides.starts[row];
        if strides.step == 0 {
            let term = mask[start];
            scores.iter_mut().for_each(|score| *score += term);
            return;
        }
        for (score, term) in scores.iter_mut().zip(&mask[start..]) {
            *score += term;
        }
    }

    /// Turns the weights' cotangents g into those of the scores, `scale w (g - sum(w g))`; without the factor they are
    /// the mask's, and are added to it where it has a gradient.
    pub fn weigh_grad(
        &self,
        weights: &[f32],
        g: &mut [f32],
        first: usize,
        mut mask: Option<(&mut [f32], &Strides)>,
    ) {
        vectorised(
            #[inline(always)]
            || {
                let rows = weights.chunks_exact(self.keys).zip(g.chunks_exact_mut(self.keys));
                for (row, (w, g)) in (first..).zip(rows) {
                    let (g, unseen) = g.split_at_mut(self.seen(row));
                    unseen.fill(0.0);
                    let dot = sum_of_pairs(&w[..g.len()], g, |w, g| w * g);
                    for (g, w) in g.iter_mut().zip(w) {
                        *g = w * (*g - dot);
                    }
                    if let Some((mask, strides)) = &mut mask {
                        for (column, g) in g.iter().enumerate() {
                            mask[strides.at(row, column)] += g;
                        }
                    }
                    g.iter_mut().for_each(|g| *g *= self.scale);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_found_where_it_broadcasts() {
        let check = |mask: &[usize], expected: [usize; 4]| {
            let strides = Strides::of(&[2, 2, 3], mask);
            let places = [(0, 0), (1, 2), (2, 0), (3, 1)];
            assert_eq!(places.map(|(row, column)| strides.at(row, column)), expected, "{mask:?}");
        };
        check(&[2, 2, 3], [0, 5, 6, 10]);
        check(&[2, 1, 3], [0, 2, 3, 4]);
        check(&[2, 3], [0, 5, 0, 4]);
        check(&[2, 2, 1], [0, 1, 2, 3]);
        check(&[], [0, 0, 0, 0]);
    }

    #[test]
    fn a_query_that_sees_nothing_gets_no_weights_and_no_number_stays_none() {
        let mask = [HIDDEN, f32::NEG_INFINITY, 0.0, HIDDEN, f32::NAN, f32::NAN];
        let strides = Strides::of(&[3, 2], &[3, 2]);
        let mask = Some((&mask[..], &strides));
        let rows = Rows { queries: 3, keys: 2, causal: false, scale: 2.0, mask };
        let mut scores = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        rows.weigh(&mut scores, 0);
        assert_eq!(scores[..4], [0.0, 0.0, 1.0, 0.0]);
        assert!(scores[4].is_nan() && scores[5].is_nan());
    }
}
