//! Blocks of 64 elements: a scale, and each element as that many times it, from -127 to 127.
//!
//! The scale is the block's largest magnitude over 127, rounded up to the upper half of a float, so that no element
//! needs more. *Invariant*: an element is off by at most half the scale, which is at most 1/252 of the block's largest
//! magnitude and 2^-134 (floats are no finer there). 66 bytes for 64 elements: with a scale of four
//! bytes for 128 elements it would be as many, and errors larger, since a block's largest grows with its length.

use super::error::DecodeError;
use super::floats::{from_bf16, magnitude};
use crate::units::Bytes;

/// Elements of a block.
pub(super) const BLOCK: usize = 64;
/// Bytes of a scale.
pub(super) const SCALE: usize = 2;
/// The largest multiple.
const MOST: f32 = 127.0;
/// The least magnitude that is refused, just above 2^127: what comes out is off by half a scale, and stays finite.
pub(super) const TOO_LARGE: u32 = 0x7f00_0001;

/// Returns what so many elements take, exactly.
pub(super) const fn bytes(elements: u64) -> Bytes {
    let blocks = elements.div_ceil(BLOCK as u64);
    Bytes::new(elements.saturating_add(blocks * SCALE as u64))
}

/// 1.5 * 2^23: a sum with it ends with the other number, rounded to the nearest integer, ties to even.
pub(super) const ROUND: f32 = 12_582_912.0;

/// Returns the least scale of which `most` are no less than a magnitude, as the upper half of a float.
#[inline]
pub(super) fn scale(largest: u32, most: f32) -> [u8; 2] {
    let bits = (f32::from_bits(largest) / most).to_bits();
    let up = bits.wrapping_add(0xffff).to_le_bytes();
    let least = [up[2], up[3]];
    // The quotient was rounded, perhaps down to a number that needs no rounding up.
    if from_bf16(least) * most >= f32::from_bits(largest) {
        return least;
    }
    (u16::from_le_bytes(least) + 1).to_le_bytes()
}

#[inline]
fn encode_block(values: &[f32], out: &mut [u8]) {
    let largest = values.iter().fold(0, |most: u32, value| most.max(magnitude(*value)));
    if largest == 0 {
        out.fill(0);
        return;
    }
    let scale = scale(largest, MOST);
    let (head, codes) = out.split_at_mut(SCALE);
    head.copy_from_slice(&scale);
    let scale = from_bf16(scale);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value / scale + ROUND).to_bits().to_le_bytes()[0];
    }
}

/// Writes a chunk over a slice of exactly its bytes.
pub(super) fn write(values: &[f32], out: &mut [u8]) {
    let (whole, rest) = values.as_chunks::<BLOCK>();
    let (blocks, end) = out.as_chunks_mut::<{ BLOCK + SCALE }>();
    for (values, block) in whole.iter().zip(blocks) {
        encode_block(values, block);
    }
    if !rest.is_empty() {
        encode_block(rest, end);
    }
}

/// Says whether an encoder may have written a scale of which there are `most` at most.
#[inline]
pub(super) fn is_scale(bytes: [u8; 2], most: f32) -> bool {
    from_bf16(bytes).to_bits() <= from_bf16(scale(TOO_LARGE - 1, most)).to_bits()
}

#[inline]
fn check_block(block: &[u8]) -> bool {
    let [low, high, codes @ ..] = block else {
        return false;
    };
    let any = codes.iter().fold(0, |any, code| any | code);
    let has_least = codes.iter().fold(false, |has, code| has | (*code == 0x80));
    is_scale([*low, *high], MOST) && !has_least && (any == 0 || [*low, *high] != [0; 2])
}

/// Refuses scales and multiples that no encoder writes.
///
/// *Errors*: [`DecodeError::Value`].
pub(super) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let (blocks, end) = bytes.as_chunks::<{ BLOCK + SCALE }>();
    let mut is_right = end.is_empty() || check_block(end);
    for block in blocks {
        is_right &= check_block(block);
    }
    if is_right { Ok(()) } else { Err(DecodeError::Value) }
}

#[inline]
fn decode_block(block: &[u8], out: &mut [f32], put: impl Fn(&mut f32, f32)) {
    let [low, high, codes @ ..] = block else {
        return;
    };
    let scale = from_bf16([*low, *high]);
    for (slot, code) in out.iter_mut().zip(codes) {
        put(slot, f32::from(i8::from_le_bytes([*code])) * scale);
    }
}

/// Reads a chunk.
pub(super) fn read(bytes: &[u8], out: &mut [f32], put: impl Fn(&mut f32, f32) + Copy) {
    let (blocks, end) = bytes.as_chunks::<{ BLOCK + SCALE }>();
    let (whole, rest) = out.as_chunks_mut::<BLOCK>();
    for (block, slots) in blocks.iter().zip(whole) {
        decode_block(block, slots, put);
    }
    decode_block(end, rest, put);
}

#[cfg(test)]
mod tests {
    use super::super::floats::INFINITE;
    use super::*;

    /// Goal: the bound of the header. Method: any floats that are taken, every length of block.
    #[test]
    fn scales_are_the_least_that_hold_every_magnitude() {
        for largest in (1..TOO_LARGE).step_by(9973).chain([1, 2, TOO_LARGE - 1]) {
            let bytes = scale(largest, MOST);
            let holds = |bytes: [u8; 2]| from_bf16(bytes) * MOST >= f32::from_bits(largest);
            assert!(holds(bytes), "{largest:#x}");
            assert!(!holds((u16::from_le_bytes(bytes) - 1).to_le_bytes()), "{largest:#x}");
            assert!(magnitude(from_bf16(bytes) * MOST) < INFINITE);
        }
    }

    proptest::proptest! {
        #[test]
        fn elements_are_off_by_half_a_scale(
            bits in proptest::collection::vec(0u32..TOO_LARGE, 1..200), signs: u64
        ) {
            let values: Vec<f32> = bits
                .iter()
                .enumerate()
                .map(|(place, bits)| f32::from_bits(bits | u32::from(signs >> (place % 64) & 1 == 1) << 31))
                .collect();
            let mut out = vec![0; usize::try_from(bytes(values.len() as u64).count()).unwrap()];
            write(&values, &mut out);
            proptest::prop_assert_eq!(check(&out), Ok(()));
            let mut back = vec![0.0; values.len()];
            read(&out, &mut back, |slot, value| *slot = value);
            for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = block.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
                for (value, back) in block.iter().zip(back) {
                    let off = (f64::from(*value) - f64::from(*back)).abs();
                    proptest::prop_assert!(off <= f64::from(largest) / 252.0 + 2f64.powi(-134));
                }
            }
        }
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let mut block = [1; BLOCK + SCALE];
        let mut check_scale = |scale: u16, code: u8| {
            block[..2].copy_from_slice(&scale.to_le_bytes());
            block[2] = code;
            check(&block).is_ok()
        };
        assert!(check_scale(0x3f80, 1));
        // Infinite, NaN, negative, one whose multiples are infinite, none.
        for scale in [0x7f80, 0x7fc0, 0xbf80, 0x7f00, 0] {
            assert!(!check_scale(scale, 1), "{scale:#x}");
        }
        assert!(!check_scale(0x3f80, 0x80));
        // The scale of the largest that is taken is the largest scale, here and with half the bits.
        for most in [MOST, 7.0] {
            let largest = scale(TOO_LARGE - 1, most);
            assert!(is_scale(largest, most), "{largest:?}");
            assert!(!is_scale((u16::from_le_bytes(largest) + 1).to_le_bytes(), most));
        }
    }
}
