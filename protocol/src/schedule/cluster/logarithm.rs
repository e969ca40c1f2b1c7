//! The base-2 logarithm from sums and products alone, so that its bits are the same on every machine.

/// 2 / ln 2.
const SCALE: f64 = 2.0 * std::f64::consts::LOG2_E;

/// Returns the base-2 logarithm of a count; that of 0 counts as that of 1. Good to nine digits.
pub(super) fn log2(count: u64) -> f64 {
    let count = count.max(1);
    let shift = 63 - count.leading_zeros();
    // The mantissa in [1, 2), exact to 31 bits.
    let bits = u32::try_from((count << (63 - shift)) >> 32).unwrap_or(u32::MAX);
    let mut mantissa = f64::from(bits) / f64::from(1u32 << 31);
    let mut whole = f64::from(shift);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        whole += 1.0;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), whose argument is at most 0.172 here.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let u = t * t;
    let series = 1.0 + u * (1.0 / 3.0 + u * (0.2 + u * (1.0 / 7.0 + u * (1.0 / 9.0 + u / 11.0))));
    whole + SCALE * t * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_logarithm() {
        assert_eq!(log2(0).to_bits(), 0f64.to_bits());
        for shift in 0..64 {
            assert_eq!(log2(1 << shift).to_bits(), f64::from(shift).to_bits());
        }
        for count in [3u32, 5, 7, 10, 11, 1_000, 1_250_000, u32::MAX] {
            assert!((log2(u64::from(count)) - f64::from(count).log2()).abs() < 1e-8, "{count}");
        }
    }
}
