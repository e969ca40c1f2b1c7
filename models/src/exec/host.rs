//! Hot loops for tensors in host memory, on plain slices.
//!
//! They exist where burn's CPU kernels are scalar (exponentials) or make many passes (normalisation, losses).
//! Every loop is written so that the compiler can vectorise it, runs under [`vectorised`], and rounds the same on
//! every machine: no fused multiply-add, and sums in a fixed order whatever the vector width.

pub mod activation;
pub mod attend;
pub mod attention;
pub mod conv;
pub mod gates;
pub mod norm;
pub mod parallel;
pub mod product;
pub mod rows;
pub mod select;
pub mod tile;
pub mod window;

/// Runs a loop with the widest vectors that this processor surely has among those we build for. The closure must be
/// `#[inline(always)]`, as must be those that it calls: one that is compiled by itself has no vectors.
#[inline]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(f);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(f);
        }
    }
    f()
}

/// `e^x` within a few units in the last place; 0 below -87, infinity above 88; NaN stays NaN.
///
/// *Source*: argument reduction and polynomial of Cephes `expf`.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.0 { -87.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let y = p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let y = if x > 88.0 { f32::INFINITY } else { y };
    if x < -87.0 { 0.0 } else { y }
}

/// Hyperbolic tangent with an absolute error below 2e-7.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Lanes of a sum; fixed, so that the order of additions does not depend on the machine.
const LANES: usize = 16;

/// Sums `f` of each element in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane]);
        }
    }
    rest.iter().fold(total(lanes), |sum, x| sum + f(*x))
}

/// Sums `f` of each pair of elements in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sum_of_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((xs, rest), (ys, others)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    rest.iter().zip(others).fold(total(lanes), |sum, (x, y)| sum + f(*x, *y))
}

/// Sums squares in double precision, in a fixed order on any number of threads.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let sums = parallel::map(x.len().div_ceil(PIECE), 2 * PIECE, |at| {
        let x = &x[at * PIECE..x.len().min((at + 1) * PIECE)];
        vectorised(
            #[inline(always)]
            || {
                let mut lanes = [0.0f64; LANES];
                let (chunks, rest) = x.as_chunks::<LANES>();
                for x in chunks {
                    for lane in 0..LANES {
                        lanes[lane] += f64::from(x[lane]) * f64::from(x[lane]);
                    }
                }
                let rest = rest.iter().map(|x| f64::from(*x) * f64::from(*x));
                lanes.into_iter().chain(rest).sum::<f64>()
            },
        )
    });
    sums.into_iter().sum()
}

#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Elements that one piece of a loop over rows should have.
const PIECE: usize = 1 << 14;

/// Returns how many rows of a width make a piece; the same on every machine, since sums over rows go by pieces.
pub fn rows_of_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Makes a tensor's elements, piece by piece: `f` gets where a piece begins, and the piece.
///
/// `work` is that of an element.
pub fn fill(len: usize, work: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; len];
    parallel::pieces(&mut out, PIECE, work * PIECE, |at, out| {
        vectorised(
            #[inline(always)]
            || f(at * PIECE, out),
        );
    });
    out
}

/// The same where a piece is some whole rows: `f` gets the first row's number, and the rows.
pub fn fill_rows(
    len: usize,
    width: usize,
    work: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let rows = rows_of_piece(width);
    let mut out = vec![0.0; len];
    parallel::pieces(&mut out, rows * width, work * rows * width, |at, out| {
        vectorised(
            #[inline(always)]
            || f(at * rows, out),
        );
    });
    out
}

/// Returns the largest element (NaN if the first is one).
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative error of the polynomial: a few units in the last place of f32.
    const EXP_TOLERANCE: f64 = 4e-7;

    #[test]
    fn exp_is_within_a_few_ulp_over_its_range() {
        for i in -870_000..880_000i32 {
            let x = f64::from(i) / 1e4;
            #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is wanted")]
            let x32 = x as f32;
            let want = f64::from(x32).exp();
            let got = f64::from(exp(x32));
            assert!(((got - want) / want).abs() < EXP_TOLERANCE, "exp({x32}) = {got}, not {want}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0.0f32.to_bits());
        assert!(exp(100.0).is_infinite());
        assert!(exp(f32::INFINITY).is_infinite());
    }

    #[test]
    fn tanh_is_close_everywhere() {
        for i in -2000..2000i16 {
            let x = f32::from(i) / 100.0;
            assert!((tanh(x) - x.tanh()).abs() < 3e-7, "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sums_are_the_same_under_any_vector_width() {
        let x: Vec<f32> = (0..1003u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let plain = sum_of(&x, |x| x * x);
        let wide = vectorised(
            #[inline(always)]
            || sum_of(&x, |x| x * x),
        );
        assert_eq!(plain.to_bits(), wide.to_bits());
    }
}
