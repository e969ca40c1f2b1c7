//! Element-wise loops: GELU in its tanh form with its derivative, the logistic function, gradient of ReLU, dropout.

use super::elements::{map, zip};
use super::tanh;
use crate::exec::tensor::memory::HostFloats;

/// `sqrt(2 / pi)`.
const ROOT: f32 = 0.797_884_6;
/// Factor of the cubic term.
const CUBIC: f32 = 0.044_715;

/// Work of an element with an exponential, in operations.
const CURVE: usize = 24;

/// GELU, tanh form.
pub fn gelu_tanh(x: HostFloats) -> Vec<f32> {
    map(
        x,
        CURVE,
        #[inline(always)]
        |x| {
            let t = tanh(ROOT * (x + CUBIC * x * x * x));
            0.5 * x * (1.0 + t)
        },
    )
}

/// Derivative of [`gelu_tanh`] at x, times g.
pub fn gelu_tanh_grad(x: HostFloats, g: HostFloats) -> Vec<f32> {
    zip(
        x,
        g,
        CURVE,
        #[inline(always)]
        |x, g| {
            let t = tanh(ROOT * (x + CUBIC * x * x * x));
            let slope = ROOT * (1.0 + 3.0 * CUBIC * x * x);
            g * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
        },
    )
}

/// `1 / (1 + e^-x)`.
#[expect(clippy::redundant_closure, reason = "what is passed by name is called for each element")]
pub fn sigmoid(x: HostFloats) -> Vec<f32> {
    map(
        x,
        CURVE,
        #[inline(always)]
        |x| super::sigmoid(x),
    )
}

/// g where y is above zero.
pub fn relu_grad(y: HostFloats, g: HostFloats) -> Vec<f32> {
    zip(
        y,
        g,
        1,
        #[inline(always)]
        |y, g| if y > 0.0 { g } else { 0.0 },
    )
}

/// `max(x, 0)`; NaN stays NaN.
pub fn relu(x: HostFloats) -> Vec<f32> {
    map(
        x,
        1,
        #[inline(always)]
        |x| if x < 0.0 { 0.0 } else { x },
    )
}

/// Draws a dropout mask: 0 or `1 / (1 - rate)` an element, from a counter, so that every device and every replay
/// draws the same.
///
/// *Source*: one round of the `SplitMix64` mixer (Steele et al. 2014) over key + element index.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the threshold is a share of 2^32, and the upper half of the hash is taken"
)]
pub fn dropout_mask(key: u64, rate: f32, len: usize) -> Vec<f32> {
    let keep = 1.0 / (1.0 - rate);
    let threshold = (f64::from(rate) * 4_294_967_296.0) as u64;
    (0..len as u64)
        .map(|i| {
            let draw = mix(key.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 32;
            if draw < threshold { 0.0 } else { keep }
        })
        .collect()
}

/// The `SplitMix64` finaliser.
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_its_share_and_repeats() {
        let mask = dropout_mask(42, 0.1, 100_000);
        let dropped = mask.iter().filter(|m| **m == 0.0).count();
        assert!((9_500..10_500).contains(&dropped), "{dropped}");
        assert_eq!(mask, dropout_mask(42, 0.1, 100_000));
        assert_ne!(mask, dropout_mask(43, 0.1, 100_000));
    }
}
