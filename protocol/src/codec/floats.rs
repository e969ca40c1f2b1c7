//! Floats in 32 and 16 bits, rounded to the nearest, ties to even.
//!
//! Conversions are our own, without branches, so that the compiler vectorises the loops over them on every processor; a
//! test holds them against the crate `half` for all values of 16 bits and for random ones of 32.
//!
//! *Source*: F. Giesen, "float->half variants" (public domain), the variant that rounds ties to even.

use super::error::DecodeError;
use super::form::Floats;

/// Bits of a float without its sign: in their order as integers, magnitudes are ordered.
#[inline]
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// Magnitude of infinity; what is as large or larger is not finite.
pub(super) const INFINITE: u32 = 0x7f80_0000;

/// Returns the least magnitude that would become infinite.
pub(super) const fn least_infinite(floats: Floats) -> u32 {
    match floats {
        Floats::F32 => INFINITE,
        // 65520: half way from the largest, 65504, to what would follow it.
        Floats::F16 => 0x477f_f000,
        // Half way from the largest in the upper half to infinity.
        Floats::Bf16 => 0x7f7f_8000,
    }
}

/// Rounds to half precision; the magnitude is below [`least_infinite`].
#[inline]
fn to_f16(value: f32) -> [u8; 2] {
    /// 0.5: beside it, a subnormal half's last bit is a float's last bit, so that the addition rounds.
    const ROUND: u32 = 126 << 23;
    let bits = magnitude(value);
    let subnormal = (f32::from_bits(bits) + f32::from_bits(ROUND)).to_bits().wrapping_sub(ROUND);
    let odd = (bits >> 13) & 1;
    let normal = bits.wrapping_add(0xc800_0fff).wrapping_add(odd) >> 13;
    let rounded = if bits < 113 << 23 { subnormal } else { normal };
    let whole = (rounded | ((value.to_bits() >> 16) & 0x8000)).to_le_bytes();
    [whole[0], whole[1]]
}

#[inline]
pub(super) fn from_f16(bytes: [u8; 2]) -> f32 {
    /// The smallest normal half, 2^-14.
    const LEAST: u32 = 113 << 23;
    let half = u32::from(u16::from_le_bytes(bytes));
    let shifted = (half & 0x7fff) << 13;
    let normal = shifted.wrapping_add(112 << 23);
    let subnormal = (f32::from_bits(shifted.wrapping_add(LEAST)) - f32::from_bits(LEAST)).to_bits();
    let bits = if shifted < 1 << 23 { subnormal } else { normal };
    f32::from_bits(bits | ((half & 0x8000) << 16))
}

#[inline]
pub(super) fn to_bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)).to_le_bytes();
    [rounded[2], rounded[3]]
}

#[inline]
pub(super) fn from_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Writes each value in its place.
pub(super) fn write(floats: Floats, values: &[f32], out: &mut [u8]) {
    fn each<const N: usize>(values: &[f32], out: &mut [u8], convert: impl Fn(f32) -> [u8; N]) {
        for (value, place) in values.iter().zip(out.as_chunks_mut::<N>().0) {
            *place = convert(*value);
        }
    }
    match floats {
        Floats::F32 => each(values, out, f32::to_le_bytes),
        Floats::F16 => each(values, out, to_f16),
        Floats::Bf16 => each(values, out, to_bf16),
    }
}

/// Reads as many values as there are slots.
pub(super) fn read(
    floats: Floats,
    bytes: &[u8],
    out: &mut [f32],
    put: impl Fn(&mut f32, f32) + Copy,
) {
    fn each<const N: usize>(
        bytes: &[u8],
        out: &mut [f32],
        convert: impl Fn([u8; N]) -> f32,
        put: impl Fn(&mut f32, f32),
    ) {
        for (slot, value) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
            put(slot, convert(*value));
        }
    }
    match floats {
        Floats::F32 => each(bytes, out, f32::from_le_bytes, put),
        Floats::F16 => each(bytes, out, from_f16, put),
        Floats::Bf16 => each(bytes, out, from_bf16, put),
    }
}

/// Refuses values that are not finite.
///
/// *Errors*: [`DecodeError::Value`].
pub(super) fn check_finite(floats: Floats, bytes: &[u8]) -> Result<(), DecodeError> {
    fn largest(bytes: &[u8]) -> u16 {
        let halves = bytes.as_chunks::<2>().0.iter();
        halves.fold(0, |most, half| most.max(u16::from_le_bytes(*half) & 0x7fff))
    }
    let is_finite = match floats {
        Floats::F32 => {
            let words = bytes.as_chunks::<4>().0.iter();
            let most =
                words.fold(0, |most, word| most.max(u32::from_le_bytes(*word) & 0x7fff_ffff));
            most < INFINITE
        }
        Floats::F16 => largest(bytes) < 0x7c00,
        Floats::Bf16 => largest(bytes) < 0x7f80,
    };
    if is_finite { Ok(()) } else { Err(DecodeError::Value) }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn every_half_comes_back_as_the_crate_half_says() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let (ours, theirs) = (from_f16(bytes), f16::from_bits(bits).to_f32());
            if theirs.is_finite() {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#x}");
                assert_eq!(to_f16(ours), bytes, "{bits:#x}");
            }
            let (ours, theirs) = (from_bf16(bytes), bf16::from_bits(bits).to_f32());
            if theirs.is_finite() {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#x}");
                assert_eq!(to_bf16(ours), bytes, "{bits:#x}");
            }
        }
    }

    /// Goal: rounding is the crate's. Method: every 257th float below the bounds, and those around each half.
    #[test]
    fn rounding_is_that_of_the_crate_half() {
        let check = |bits: u32| {
            let value = f32::from_bits(bits);
            if magnitude(value) < least_infinite(Floats::F16) {
                assert_eq!(to_f16(value), f16::from_f32(value).to_le_bytes(), "{value:e}");
            }
            if magnitude(value) < least_infinite(Floats::Bf16) {
                assert_eq!(to_bf16(value), bf16::from_f32(value).to_le_bytes(), "{value:e}");
            }
        };
        (0..=u32::MAX).step_by(257).for_each(check);
        for half in 0..0x7c00u16 {
            let middle = f16::from_bits(half).to_f32().to_bits() + (1 << 12);
            (middle - 2..middle + 3).for_each(check);
        }
    }

    #[test]
    fn the_bounds_are_where_halves_become_infinite() {
        for (floats, is_infinite) in [
            (Floats::F16, (|v| f16::from_f32(v).is_infinite()) as fn(f32) -> bool),
            (Floats::Bf16, |v| bf16::from_f32(v).is_infinite()),
            (Floats::F32, f32::is_infinite),
        ] {
            let bound = least_infinite(floats);
            assert!(is_infinite(f32::from_bits(bound)));
            assert!(!is_infinite(f32::from_bits(bound - 1)));
        }
    }
}
