//! Attention in host memory: a few rows of weights at a time, which stay in the cache and are never written out.
//!
//! The gradient computes the weights again, as `FlashAttention` does (Dao et al. 2022, section 3.1); unlike there, a row
//! of weights is whole before its softmax, since host caches hold it. Under a causal mask, tiles above the diagonal are
//! left out.

use pulp::{Arch, Simd, WithSimd};

use super::fresh::zeros;
use super::parallel::{map, pieces};
use super::rows::{softmax_grad_row, softmax_row};
use super::tile::{Across, Columns, Down, Grid, LANES, Product, ROWS, Write};

/// Sizes of attention over heads `[heads, len, width]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Heads of all samples.
    pub heads: usize,
    /// Places of queries and of keys.
    pub len: usize,
    /// Channels of q and k.
    pub width: usize,
    /// Channels of v.
    pub value_width: usize,
    /// Whether a place sees only those up to itself.
    pub causal: bool,
    /// Factor on the scores.
    pub scale: f32,
}

impl Heads {
    /// Work of a head, in operations.
    fn work(&self) -> usize {
        2 * self.len * self.len * (self.width + self.value_width)
    }

    /// From a row of weights to the next.
    fn stride(&self) -> usize {
        self.len.next_multiple_of(LANES)
    }

    /// How many places one of `rows` up to `end` sees.
    fn seen(&self, end: usize) -> usize {
        if self.causal { end.min(self.len) } else { self.len }
    }
}

/// `softmax(scale q k^T + mask) v`: `[heads, len, value width]`.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], h: &Heads) -> Vec<f32> {
    let mut out = zeros(h.heads * h.len * h.value_width);
    pieces(&mut out, h.len * h.value_width, h.work(), |head, out| {
        let keys = h.len * h.width;
        let operands = Operands {
            h,
            q: &q[head * keys..][..keys],
            k: &k[head * keys..][..keys],
            v: &v[head * out.len()..][..out.len()],
        };
        Arch::new().dispatch(Forward { operands, out });
    });
    out
}

/// Gradients of q, k and v.
pub fn attention_grad([q, k, v, g]: [&[f32]; 4], h: &Heads) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (keys, values) = (h.len * h.width, h.len * h.value_width);
    let parts = map(h.heads, 3 * h.work(), |head| {
        let mut dq = vec![0.0; keys];
        let (mut dk, mut dv) = (vec![0.0; keys], vec![0.0; values]);
        let operands = Operands {
            h,
            q: &q[head * keys..][..keys],
            k: &k[head * keys..][..keys],
            v: &v[head * values..][..values],
        };
        let g = &g[head * values..][..values];
        let (dq_of, dk_of, dv_of) = (&mut dq, &mut dk, &mut dv);
        Arch::new().dispatch(Backward { operands, g, dq: dq_of, dk: dk_of, dv: dv_of });
        (dq, dk, dv)
    });
    let mut all = (Vec::with_capacity(q.len()), Vec::with_capacity(k.len()), Vec::new());
    all.2.reserve(v.len());
    for (dq, dk, dv) in parts {
        all.0.extend_from_slice(&dq);
        all.1.extend_from_slice(&dk);
        all.2.extend_from_slice(&dv);
    }
    all
}

/// One head's operands.
#[derive(Clone, Copy)]
struct Operands<'a> {
    h: &'a Heads,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// Writes `[len, width]` as `[width, stride]`.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn transpose(x: &[f32], width: usize, stride: usize) -> Vec<f32> {
    let mut out = vec![0.0; width * stride];
    let len = x.len() / width.max(1);
    for first in (0..len).step_by(LANES) {
        let count = LANES.min(len - first);
        let x = &x[first * width..][..count * width];
        for column in 0..width {
            let to = &mut out[column * stride + first..][..count];
            for (t, to) in to.iter_mut().enumerate() {
                *to = x[t * width + column];
            }
        }
    }
    out
}

/// Where each row of a matrix begins.
fn offsets(rows: usize, stride: usize) -> Vec<usize> {
    (0..rows).map(|row| row * stride).collect()
}

/// Writes the weights of up to [`ROWS`] rows from `first` on into `rows` `[.., stride]`.
#[inline(always)]
// Always: it must be compiled for the machine's vectors.
fn weights<S: Simd>(simd: S, o: &Operands<'_>, keys: Columns<'_>, first: usize, rows: &mut [f32]) {
    let (h, stride) = (o.h, o.h.stride());
    let count = rows.len() / stride;
    let seen = h.seen(first + count);
    let q = Across::new(o.q, h.width, first);
    let grid = Grid::dense(seen);
    Product { rows: q, b: keys, grid, y: rows, plane: stride, write: Write::Plain }.with_simd(simd);
    let mut scores = vec![0.0; seen];
    for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
        let own = h.seen(first + i + 1);
        scores[..own].copy_from_slice(&row[..own]);
        softmax_row(&scores[..own], &mut row[..own], h.scale);
        row[own..].fill(0.0);
    }
}

struct Forward<'a> {
    operands: Operands<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    // Always: it must be compiled for the machine's vectors.
    fn with_simd<S: Simd>(self, simd: S) {
        let (o, h) = (&self.operands, self.operands.h);
        let stride = h.stride();
        let keys = transpose(o.k, h.width, stride);
        let (of_keys, of_values) = (offsets(h.width, stride), offsets(h.len, h.value_width));
        let keys = Columns::new(&keys, &of_keys);
        let values = Columns::new(o.v, &of_values);
        let mut rows = vec![0.0; ROWS * stride];
        for (tile, out) in self.out.chunks_mut(ROWS * h.value_width).enumerate() {
            let (first, count) = (tile * ROWS, out.len() / h.value_width);
            let rows = &mut rows[..count * stride];
            weights(simd, o, keys, first, rows);
            let b = values.first(h.seen(first + count));
            let (rows, grid) = (Across::new(rows, stride, 0), Grid::dense(h.value_width));
            let (plane, write) = (h.value_width, Write::Plain);
            Product { rows, b, grid, y: out, plane, write }.with_simd(simd);
        }
    }
}

/// Rows of weights that the gradient holds at a time.
const BLOCK: usize = 4 * ROWS;

struct Backward<'a> {
    operands: Operands<'a>,
    g: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    // Always: it must be compiled for the machine's vectors.
    fn with_simd<S: Simd>(self, simd: S) {
        let (o, h) = (&self.operands, self.operands.h);
        let stride = h.stride();
        let (keys, values) =
            (transpose(o.k, h.width, stride), transpose(o.v, h.value_width, stride));
        let (of_keys, of_values) = (offsets(h.width, stride), offsets(h.value_width, stride));
        let keys = Columns::new(&keys, &of_keys);
        let values = Columns::new(&values, &of_values);
        let (along, across) = (offsets(h.len, h.width), offsets(h.len, h.value_width));
        let k = Columns::new(o.k, &along);
        let mut p = vec![0.0; BLOCK * stride];
        let mut ds = vec![0.0; BLOCK * stride];
        for first in (0..h.len).step_by(BLOCK) {
            let count = BLOCK.min(h.len - first);
            let seen = h.seen(first + count);
            let (p, ds) = (&mut p[..count * stride], &mut ds[..count * stride]);
            let parts = p.chunks_mut(ROWS * stride).zip(ds.chunks_mut(ROWS * stride));
            for (tile, (p, ds)) in parts.enumerate() {
                let first = first + tile * ROWS;
                weights(simd, o, keys, first, p);
                let rows = Across::new(self.g, h.value_width, first);
                let (grid, write) = (Grid::dense(seen), Write::Plain);
                Product { rows, b: values, grid, y: ds, plane: stride, write }.with_simd(simd);
                let mut dp = vec![0.0; seen];
                for (p, ds) in p.chunks_exact(stride).zip(ds.chunks_exact_mut(stride)) {
                    dp.copy_from_slice(&ds[..seen]);
                    let row = softmax_grad_row(&p[..seen], &dp, h.scale);
                    ds[..seen].iter_mut().zip(row).for_each(|(ds, x)| *ds = x);
                }
                let count = ds.len() / stride;
                let dq = &mut self.dq[first * h.width..(first + count) * h.width];
                let (rows, grid) = (Across::new(ds, stride, 0), Grid::dense(h.width));
                Product { rows, b: k.first(seen), grid, y: dq, plane: h.width, write }
                    .with_simd(simd);
            }
            let g = Columns::new(&self.g[first * h.value_width..], &across[..count]);
            let q = Columns::new(&o.q[first * h.width..], &along[..count]);
            turned(simd, p, stride, g, &mut self.dv[..seen * h.value_width], h.value_width);
            turned(simd, ds, stride, q, &mut self.dk[..seen * h.width], h.width);
        }
    }
}

/// Adds the product of weights `[rows, stride]`, transposed, with `b` to `out` `[seen, width]`.
#[inline(always)]
// Always: it must be compiled for the machine's vectors.
fn turned<S: Simd>(
    simd: S,
    weights: &[f32],
    stride: usize,
    b: Columns<'_>,
    out: &mut [f32],
    width: usize,
) {
    for (tile, out) in out.chunks_mut(ROWS * width).enumerate() {
        let rows = Down { values: &weights[tile * ROWS..], stride };
        let (grid, write) = (Grid::dense(width), Write::Add);
        Product { rows, b, grid, y: out, plane: width, write }.with_simd(simd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        let number = |i: usize| f32::from(u16::try_from((i * 7919 + salt * 97) % 1009).unwrap());
        (0..count).map(|i| (number(i) * 0.37).sin()).collect()
    }

    /// Weights of one head in double precision.
    fn plain_weights(q: &[f32], k: &[f32], h: &Heads) -> Vec<f64> {
        let mut p = vec![0.0; h.len * h.len];
        for i in 0..h.len {
            let seen = h.seen(i + 1);
            let dot = |j: usize| -> f64 {
                (0..h.width)
                    .map(|d| f64::from(q[i * h.width + d]) * f64::from(k[j * h.width + d]))
                    .sum()
            };
            let e: Vec<f64> = (0..seen).map(|j| (dot(j) * f64::from(h.scale)).exp()).collect();
            let total: f64 = e.iter().sum();
            for (p, e) in p[i * h.len..].iter_mut().zip(&e) {
                *p = e / total;
            }
        }
        p
    }

    fn check(got: &[f32], want: &[f64], what: &str, h: &Heads) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 2e-6, "{what}: {got}, not {want}; {h:?}");
        }
    }

    fn check_head(h: &Heads) {
        let (keys, values) = (h.len * h.width, h.len * h.value_width);
        let (q, k, v, g) =
            (numbers(keys, 1), numbers(keys, 2), numbers(values, 3), numbers(values, 4));
        let p = plain_weights(&q, &k, h);
        let at = |x: &[f32], row: usize, width: usize, d: usize| f64::from(x[row * width + d]);
        let mut y = vec![0.0; values];
        let (mut dq, mut dk, mut dv) = (vec![0.0; keys], vec![0.0; keys], vec![0.0; values]);
        for i in 0..h.len {
            let dp: Vec<f64> = (0..h.len)
                .map(|j| {
                    let pair = |d| at(&g, i, h.value_width, d) * at(&v, j, h.value_width, d);
                    (0..h.value_width).map(pair).sum()
                })
                .collect();
            let dot: f64 = (0..h.len).map(|j| p[i * h.len + j] * dp[j]).sum();
            for j in 0..h.len {
                let weight = p[i * h.len + j];
                let ds = weight * (dp[j] - dot) * f64::from(h.scale);
                for d in 0..h.value_width {
                    y[i * h.value_width + d] += weight * at(&v, j, h.value_width, d);
                    dv[j * h.value_width + d] += weight * at(&g, i, h.value_width, d);
                }
                for d in 0..h.width {
                    dq[i * h.width + d] += ds * at(&k, j, h.width, d);
                    dk[j * h.width + d] += ds * at(&q, i, h.width, d);
                }
            }
        }
        check(&attention(&q, &k, &v, h), &y, "y", h);
        let (a, b, c) = attention_grad([&q, &k, &v, &g], h);
        check(&a, &dq, "dq", h);
        check(&b, &dk, "dk", h);
        check(&c, &dv, "dv", h);
    }

    #[test]
    fn attention_and_its_gradients_are_the_sums_that_define_them() {
        for (len, width, value_width) in
            [(1, 1, 1), (5, 3, 2), (8, 16, 16), (33, 24, 24), (65, 24, 40), (70, 64, 64)]
        {
            for causal in [false, true] {
                let scale = 0.3;
                check_head(&Heads { heads: 1, len, width, value_width, causal, scale });
            }
        }
    }

    #[test]
    fn heads_do_not_see_each_other() {
        let one = Heads { heads: 1, len: 9, width: 4, value_width: 4, causal: true, scale: 0.5 };
        let both = Heads { heads: 2, ..one };
        let x = numbers(72, 5);
        let y = attention(&x, &x, &x, &both);
        let second = &x[36..];
        assert_eq!(&y[36..], &attention(second, second, second, &one)[..]);
    }
}
