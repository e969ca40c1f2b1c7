//! Exponential, hyperbolic tangent and logistic function of one number, such that loops over them are vectorised.

/// `e^x` within a few units in the last place; 0 below -87, infinity above 88; NaN stays NaN.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn exp(x: f32) -> f32 {
    let clamped = if x > 88.0 { 88.0 } else { x };
    let y = exp_by(
        clamped,
        #[inline(always)]
        |a, b, c| a * b + c,
    );
    if x > 88.0 { f32::INFINITY } else { y }
}

/// The same for x up to 88 with a multiply-add of the caller's.
///
/// *Source*: argument reduction and polynomial of Cephes `expf`.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn exp_by(x: f32, add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = add(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = add(n, -0.693_359_4, clamped);
    let r = add(n, 2.121_944_4e-4, r);
    let p = add(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = add(p, r, 8.333_452e-3);
    let p = add(p, r, 4.166_579_6e-2);
    let p = add(p, r, 1.666_666_5e-1);
    let p = add(p, r, 0.5);
    let p = add(p * r, r, r) + 1.0;
    let y = p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { y }
}

/// Hyperbolic tangent with an absolute error below 2e-7.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Logistic function, within a few units in the last place; 0 below -88.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
