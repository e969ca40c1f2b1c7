//! Pooling loops whose rule for ties must be the same everywhere.

use wattle_protocol::dag::op::Pool2d;

use super::parallel::pieces;

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
    let mut dx = vec![0.0; x.len()];
    let work = oh * ow * pool.kernel[0] * pool.kernel[1];
    pieces(&mut dx, h * w, 2 * work, |plane, dx| {
        let (x, g) = (&x[plane * h * w..][..h * w], &g[plane * oh * ow..][..oh * ow]);
        for (at, g) in g.iter().enumerate() {
            if let Some(first) = first_maximum(x, pool, [at / ow, at % ow], [h, w]) {
                dx[first] += g;
            }
        }
    });
    dx
}

/// Returns the place of the first maximum of one window; none if the window lies wholly in the padding.
fn first_maximum(x: &[f32], pool: &Pool2d, at: [usize; 2], [h, w]: [usize; 2]) -> Option<usize> {
    let range = |axis: usize, len: usize| {
        let start = at[axis] * pool.stride[axis];
        let end = (start + pool.kernel[axis]).saturating_sub(pool.padding[axis]).min(len);
        start.saturating_sub(pool.padding[axis])..end
    };
    let mut best: Option<usize> = None;
    for row in range(0, h) {
        for column in range(1, w) {
            let place = row * w + column;
            if best.is_none_or(|b| x[place] > x[b]) {
                best = Some(place);
            }
        }
    }
    best
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
}
