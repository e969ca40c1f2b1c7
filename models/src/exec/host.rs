//! Hot loops for tensors in host memory, on plain slices.
//!
//! They exist where burn's CPU kernels are scalar (exponentials) or make many passes (normalisation, losses).
//! Every loop is written so that the compiler can vectorise it, runs under [`vectorised`], and rounds the same on
//! every machine: no fused multiply-add, and sums in a fixed order whatever the vector width.

pub mod activation;
pub mod attend;
pub mod gates;
pub mod norm;
pub mod rows;
pub mod select;
pub mod window;

/// Runs a loop with the widest vectors that this processor surely has among those we build for.
#[inline]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
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

/// Sums in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sum_of(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len - len % LANES;
    let mut start = 0;
    while start < whole {
        for (lane, slot) in lanes.iter_mut().enumerate() {
            *slot += f(start + lane);
        }
        start += LANES;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    let mut total = lanes[0];
    for i in whole..len {
        total += f(i);
    }
    total
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
        let plain = sum_of(x.len(), |i| x[i]);
        let wide = vectorised(|| sum_of(x.len(), |i| x[i]));
        assert_eq!(plain.to_bits(), wide.to_bits());
    }
}
