//! Loops that select, place or accumulate elements along one axis, and turn pairs of them.

use wattle_protocol::dag::op::Rotary;

/// Returns (outer, length, inner) of an axis: element `(o, i, n)` stands at `(o * length + i) * inner + n`.
fn strides(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Returns where in x each of the indices points, in row-major order of the indices; they are in range.
pub fn places(shape: &[usize], ids_shape: &[usize], axis: usize, ids: &[i32]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for a in (0..shape.len().saturating_sub(1)).rev() {
        strides[a] = strides[a + 1] * shape[a + 1];
    }
    let mut at = vec![0; ids_shape.len()];
    ids.iter()
        .map(|id| {
            let id = usize::try_from(*id).unwrap_or(0);
            let own = at.iter().enumerate();
            let place = own.map(|(a, i)| strides[a] * if a == axis { id } else { *i }).sum();
            for a in (0..at.len()).rev() {
                at[a] += 1;
                if at[a] < ids_shape[a] {
                    break;
                }
                at[a] = 0;
            }
            place
        })
        .collect()
}

/// Combines updates into x at their places, one after another; places beyond x are left alone.
pub fn write<T: Copy>(x: &mut [T], places: &[usize], updates: &[T], combine: impl Fn(T, T) -> T) {
    for (place, update) in places.iter().zip(updates) {
        if let Some(x) = x.get_mut(*place) {
            *x = combine(*x, *update);
        }
    }
}

/// Which of two numbers comes first, the larger one; NaN counts as the largest whatever its sign, which arithmetic
/// leaves open, and both zeros as equal.
fn descending(a: f32, b: f32) -> std::cmp::Ordering {
    let numbers = b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal);
    b.is_nan().cmp(&a.is_nan()).then(numbers)
}

/// Returns the k largest (or smallest) along an axis with their places; NaN counts as the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "axes are far below 2^31"
)]
pub fn top_k(
    x: &[f32],
    shape: &[usize],
    axis: usize,
    k: usize,
    smallest: bool,
) -> (Vec<f32>, Vec<i32>) {
    let (outer, length, inner) = strides(shape, axis);
    let mut values = vec![0.0; outer * k * inner];
    let mut found = vec![0; outer * k * inner];
    let mut order: Vec<usize> = Vec::with_capacity(length);
    for o in 0..outer {
        for n in 0..inner {
            let at = |i: usize| x[(o * length + i) * inner + n];
            let rank = |a: &usize, b: &usize| {
                let larger = descending(at(*a), at(*b));
                let ordered = if smallest { larger.reverse() } else { larger };
                ordered.then(a.cmp(b))
            };
            order.clear();
            order.extend(0..length);
            if k < length {
                order.select_nth_unstable_by(k, rank);
                order.truncate(k);
            }
            order.sort_unstable_by(rank);
            for (place, i) in order.iter().enumerate() {
                let to = (o * k + place) * inner + n;
                values[to] = at(*i);
                found[to] = *i as i32;
            }
        }
    }
    (values, found)
}

/// Returns running sums along an axis.
pub fn cum_sum(
    x: &[f32],
    shape: &[usize],
    axis: usize,
    exclusive: bool,
    reverse: bool,
) -> Vec<f32> {
    let (outer, length, inner) = strides(shape, axis);
    let mut y = vec![0.0; x.len()];
    let mut sums = vec![0.0; inner];
    for o in 0..outer {
        sums.fill(0.0);
        for step in 0..length {
            let i = if reverse { length - 1 - step } else { step };
            let row = (o * length + i) * inner;
            for n in 0..inner {
                let own = x[row + n];
                y[row + n] = if exclusive { sums[n] } else { sums[n] + own };
                sums[n] += own;
            }
        }
    }
    y
}

/// Returns cosines and sines `[length, width / 2]` of the angles of a rotary embedding (Su et al. 2021, equation 15).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "positions and widths are far below 2^53, and tensors are f32"
)]
pub fn angles(length: usize, width: usize, rotary: &Rotary) -> (Vec<f32>, Vec<f32>) {
    let half = width / 2;
    let theta = f64::from(rotary.theta);
    let speeds: Vec<f64> = (0..half).map(|i| theta.powf(-2.0 * i as f64 / width as f64)).collect();
    let sign = if rotary.inverse { -1.0 } else { 1.0 };
    let angle = |at: usize| (rotary.start + at / half) as f64 * speeds[at % half];
    let cos = (0..length * half).map(|at| angle(at).cos() as f32).collect();
    let sin = (0..length * half).map(|at| (sign * angle(at).sin()) as f32).collect();
    (cos, sin)
}

/// Turns pairs of each row of `width` elements by its angles.
pub fn turn(x: &[f32], cos: &[f32], sin: &[f32], width: usize, interleaved: bool) -> Vec<f32> {
    let half = width / 2;
    let mut y = vec![0.0; x.len()];
    let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half)).cycle();
    for ((x, y), (cos, sin)) in rows.zip(angles) {
        for i in 0..half {
            let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            y[a] = x[a] * cos[i] - x[b] * sin[i];
            y[b] = x[a] * sin[i] + x[b] * cos[i];
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_the_earlier_among_equals() {
        let x = [1.0, 3.0, 3.0, 2.0, -0.0, 0.0];
        assert_eq!(top_k(&x, &[6], 0, 3, false), (vec![3.0, 3.0, 2.0], vec![1, 2, 3]));
        assert_eq!(top_k(&x, &[6], 0, 2, true).1, [4, 5]);
        assert_eq!(top_k(&[1.0, 2.0, 3.0, 0.0], &[2, 2], 0, 1, false).1, [1, 0]);
    }

    #[test]
    fn running_sums_go_both_ways() {
        let x = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(cum_sum(&x, &[4], 0, false, false), [1.0, 3.0, 6.0, 10.0]);
        assert_eq!(cum_sum(&x, &[4], 0, true, true), [9.0, 7.0, 4.0, 0.0]);
        assert_eq!(cum_sum(&x, &[2, 2], 0, false, false), [1.0, 2.0, 4.0, 6.0]);
    }
}
