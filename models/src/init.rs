//! How parameters and buffers start out: drawn from (job seed, value name) by a counter, so that every peer
//! that holds a tensor draws the same bits, whatever its machine.
//!
//! Elementary functions come from the pure-Rust `libm`, since those of the system round differently here and there.

use wattle_protocol::dag::{Init, Value};

use crate::exec::host::activation::mix;

/// Weyl increment of `SplitMix64`.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Draws the initial elements of a value.
pub fn draw(seed: u64, value: &Value, init: Init) -> Vec<f32> {
    let count = value.fact.elements();
    let key = key(seed, &value.name);
    match init {
        Init::Constant(constant) => vec![constant; count],
        Init::Normal(deviation) => normal(key, deviation, count),
        Init::Uniform(bound) => uniform(key, bound, count),
    }
}

/// Returns the key of a named random stream.
pub fn key(seed: u64, name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"wattle-init-v1\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Uniform draw in [0, 1) with 53 bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
pub(crate) fn unit(key: u64, counter: u64) -> f64 {
    let draw = mix(key.wrapping_add(counter.wrapping_mul(STEP)).wrapping_add(STEP));
    (draw >> 11) as f64 / 9_007_199_254_740_992.0
}

#[expect(clippy::cast_possible_truncation, reason = "parameters are f32")]
fn uniform(key: u64, bound: f32, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| ((unit(key, i) * 2.0 - 1.0) * f64::from(bound)) as f32).collect()
}

/// Normal draws by the Box-Muller transform, two from each pair of uniform ones.
#[expect(clippy::cast_possible_truncation, reason = "parameters are f32")]
fn normal(key: u64, deviation: f32, count: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(count + 1);
    let mut pair = 0u64;
    while out.len() < count {
        // In (0, 1], so that the logarithm is finite.
        let radius = 1.0 - unit(key, 2 * pair);
        let angle = std::f64::consts::TAU * unit(key, 2 * pair + 1);
        let length = libm::sqrt(-2.0 * libm::log(radius)) * f64::from(deviation);
        out.push((length * libm::cos(angle)) as f32);
        out.push((length * libm::sin(angle)) as f32);
        pair += 1;
    }
    out.truncate(count);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_the_asked_moments() {
        let x = normal(key(7, "h.0.attn.c_attn.weight"), 0.02, 200_000);
        let n = 200_000.0;
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 2e-4, "{mean}");
        assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.01, "{variance}");
    }

    #[test]
    fn draws_depend_on_seed_and_name_only() {
        let draw = |seed, name| normal(key(seed, name), 1.0, 5);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        // A prefix of a longer draw is the shorter one.
        assert_eq!(normal(3, 1.0, 4)[..], normal(3, 1.0, 9)[..4]);
    }

    #[test]
    fn uniform_draws_fill_their_range() {
        let x = uniform(5, 0.5, 10_000);
        assert!(x.iter().all(|v| (-0.5..0.5).contains(v)));
        assert!(x.iter().any(|v| *v > 0.49) && x.iter().any(|v| *v < -0.49));
    }
}
