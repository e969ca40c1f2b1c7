//! Pooling by rows of a plane: the maximum of each column first, which vectors find, then of each window's columns.
//!
//! The rule for ties must be the same everywhere.

use std::ops::Range;

use wattle_protocol::dag::op::Pool2d;

use super::fresh::fill_rows;

/// Max pooling; padding is never a maximum, NaN always.
///
/// *Shapes*: x `[planes, h, w]` -> `[planes, oh, ow]`.
pub fn max_pool(x: &[f32], pool: &Pool2d, [h, w]: [usize; 2], [oh, ow]: [usize; 2]) -> Vec<f32> {
    let work = pool.kernel[0] * pool.kernel[1];
    let windows: Vec<_> = (0..ow).map(|at| window(pool, 1, at, w)).collect();
    let planes = x.len() / (h * w);
    let (y, _) = fill_rows(planes * oh * ow, oh * ow, work, |first, y| {
        let mut best = vec![0.0; w];
        for (x, y) in x[first * h * w..].chunks_exact(h * w).zip(y.chunks_exact_mut(oh * ow)) {
            for (at, y) in y.chunks_exact_mut(ow).enumerate() {
                let seen = window(pool, 0, at, h);
                best.fill(f32::NEG_INFINITY);
                for row in x[seen.start * w..seen.end * w].chunks_exact(w) {
                    for (best, x) in best.iter_mut().zip(row) {
                        *best = larger(*best, *x);
                    }
                }
                for (y, window) in y.iter_mut().zip(&windows) {
                    *y = best[window.clone()].iter().copied().fold(f32::NEG_INFINITY, larger);
                }
            }
        }
    });
    y
}

/// The larger of two numbers; NaN is the largest.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// Returns what a window sees of an axis of `len`.
fn window(pool: &Pool2d, axis: usize, at: usize, len: usize) -> Range<usize> {
    let start = at * pool.stride[axis];
    let end = (start + pool.kernel[axis]).saturating_sub(pool.padding[axis]).min(len);
    start.saturating_sub(pool.padding[axis]).min(end)..end
}

/// Gradient of max pooling: g goes to the first maximum of each window in row-major order.
///
/// *Shapes*: x `[planes, h, w]`, g `[planes, oh, ow]`.
pub fn max_pool_grad(
    x: &[f32],
    g: &[f32],
    pool: &Pool2d,
    [h, w]: [usize; 2],
    [oh, ow]: [usize; 2],
) -> Vec<f32> {
    let windows: Vec<_> = (0..ow).map(|at| window(pool, 1, at, w)).collect();
    let (dx, _) = fill_rows(x.len(), h * w, pool.kernel[0] * pool.kernel[1], |first, dx| {
        // The maximum of each column, and the row of the first one.
        let (mut best, mut rows) = (vec![0.0; w], vec![0; w]);
        let planes = x[first * h * w..].chunks_exact(h * w).zip(dx.chunks_exact_mut(h * w));
        for ((x, dx), g) in planes.zip(g[first * oh * ow..].chunks_exact(oh * ow)) {
            for (at, g) in g.chunks_exact(ow).enumerate() {
                let seen = window(pool, 0, at, h);
                if seen.is_empty() {
                    continue;
                }
                maxima(&x[seen.start * w..seen.end * w], &mut best, &mut rows);
                for (window, g) in windows.iter().zip(g) {
                    // Of columns with the same maximum, the one where it stands higher up, then the first.
                    let first = window.clone().reduce(|a, b| {
                        let ahead = best[b] > best[a] || best[b] == best[a] && rows[b] < rows[a];
                        if ahead { b } else { a }
                    });
                    if let Some(column) = first {
                        dx[(seen.start + rows[column]) * w + column] += g;
                    }
                }
            }
        }
    });
    dx
}

/// Finds the maximum of each column, and the first row where it stands.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn maxima(x: &[f32], best: &mut [f32], rows: &mut [usize]) {
    best.copy_from_slice(&x[..best.len()]);
    rows.fill(0);
    for (at, row) in x.chunks_exact(best.len()).enumerate().skip(1) {
        for ((best, found), x) in best.iter_mut().zip(rows.iter_mut()).zip(row) {
            let ahead = x > best;
            *best = if ahead { *x } else { *best };
            *found = if ahead { at } else { *found };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_maximum() {
        let pool = Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
        let dx = max_pool_grad(&[1.0, 3.0, 3.0, 3.0], &[5.0], &pool, [2, 2], [1, 1]);
        assert_eq!(dx, [0.0, 5.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_is_never_a_maximum() {
        let pool = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
        let x = [-1.0, -2.0, -3.0, -4.0];
        let dx = max_pool_grad(&x, &[7.0], &pool, [2, 2], [1, 1]);
        assert_eq!(dx, [7.0, 0.0, 0.0, 0.0]);
    }

    /// Goal: both go by rows and columns, and must find what a walk through each window finds, ties included.
    #[test]
    fn pools_are_what_a_walk_through_each_window_finds() {
        for (kernel, stride, padding) in [([3, 3], [2, 2], [1, 1]), ([2, 3], [1, 2], [0, 1])] {
            let (pool, [h, w]) = (Pool2d { kernel, stride, padding }, [9, 40]);
            let out = [0, 1].map(|a| ([h, w][a] + 2 * padding[a] - kernel[a]) / stride[a] + 1);
            let [oh, ow] = out;
            let planes = 70;
            let number = |i: usize| f32::from(u8::try_from(i * i % 7).unwrap());
            let x: Vec<f32> = (0..planes * h * w).map(number).collect();
            let g: Vec<f32> = (0..planes * oh * ow).map(|i| number(i) + 1.0).collect();
            let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
            for (at, g) in g.iter().enumerate() {
                let (plane, row, column) = (at / (oh * ow), at / ow % oh, at % ow);
                let rows = window(&pool, 0, row, h);
                let places = rows.flat_map(|r| window(&pool, 1, column, w).map(move |c| r * w + c));
                let places = places.map(|place| plane * h * w + place);
                let first = places.reduce(|a, b| if x[b] > x[a] { b } else { a }).unwrap();
                y.push(x[first]);
                dx[first] += g;
            }
            assert_eq!(max_pool(&x, &pool, [h, w], out), y);
            assert_eq!(max_pool_grad(&x, &g, &pool, [h, w], out), dx);
        }
    }
}
