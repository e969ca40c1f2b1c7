//! Blocks of 32 elements: a scale, and each element as that many times it, from -7 to 7, two to a byte.
//!
//! As [`super::int8`] with half the bits: an element is off by at most half the scale, which is at most 1/13 of the block's
//! largest magnitude and 2^-134. 18 bytes for 32 elements: blocks of 64 would take 17 for as many, and errors grow with the
//! block's largest. The low half of a byte is of the block's first half, the high one of its second, so that loops go
//! straight through.

use super::error::DecodeError;
use super::floats::{from_bf16, magnitude};
use super::int8::{ROUND, SCALE, is_scale, scale};
use crate::units::Bytes;

/// Elements of a block.
const BLOCK: usize = 32;
/// Bytes of a block.
const SIZE: usize = SCALE + BLOCK / 2;
/// The largest multiple.
const MOST: f32 = 7.0;

/// Returns what so many elements take, exactly.
pub(super) const fn bytes(elements: u64) -> Bytes {
    let (whole, rest) = (elements / BLOCK as u64, elements % BLOCK as u64);
    let end = if rest == 0 { 0 } else { SCALE as u64 + rest.div_ceil(2) };
    Bytes::new(whole.saturating_mul(SIZE as u64).saturating_add(end))
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
    let code = |value: f32| (value / scale + ROUND).to_bits().to_le_bytes()[0] & 0xf;
    let (first, second) = values.split_at(codes.len());
    for (byte, value) in codes.iter_mut().zip(first) {
        *byte = code(*value);
    }
    for (byte, value) in codes.iter_mut().zip(second) {
        *byte |= code(*value) << 4;
    }
}

/// Writes a chunk over a slice of exactly its bytes. A last block of 31 takes as many as a whole one.
pub(super) fn write(values: &[f32], out: &mut [u8]) {
    let (whole, rest) = values.as_chunks::<BLOCK>();
    let (blocks, end) = out.split_at_mut(whole.len() * SIZE);
    for (values, block) in whole.iter().zip(blocks.as_chunks_mut::<SIZE>().0) {
        encode_block(values, block);
    }
    if !rest.is_empty() {
        encode_block(rest, end);
    }
}

#[inline]
fn check_block(block: &[u8]) -> bool {
    let [low, high, codes @ ..] = block else {
        return false;
    };
    let any = codes.iter().fold(0, |any, byte| any | byte);
    let has_least = |byte: &u8| (*byte & 0xf == 8) | (*byte >> 4 == 8);
    let has_least = codes.iter().fold(false, |has, byte| has | has_least(byte));
    is_scale([*low, *high], MOST) && !has_least && (any == 0 || [*low, *high] != [0; 2])
}

/// Refuses scales and multiples that no encoder writes, for so many elements.
///
/// *Errors*: [`DecodeError::Value`].
pub(super) fn check(bytes: &[u8], elements: usize) -> Result<(), DecodeError> {
    let (blocks, end) = bytes.split_at(elements / BLOCK * SIZE);
    let mut is_right = end.is_empty() || check_block(end);
    // Of an odd number, the last half byte belongs to nobody.
    let last = if elements % 2 == 1 { end.last() } else { None };
    is_right &= last.is_none_or(|byte| byte >> 4 == 0);
    for block in blocks.as_chunks::<SIZE>().0 {
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
    let value = |bits: u8| f32::from(i8::from_le_bytes([bits]) >> 4) * scale;
    let (first, second) = out.split_at_mut(codes.len());
    for (slot, byte) in first.iter_mut().zip(codes) {
        put(slot, value(byte << 4));
    }
    for (slot, byte) in second.iter_mut().zip(codes) {
        put(slot, value(*byte));
    }
}

/// Reads a chunk.
pub(super) fn read(bytes: &[u8], out: &mut [f32], put: impl Fn(&mut f32, f32) + Copy) {
    let (whole, rest) = out.as_chunks_mut::<BLOCK>();
    let (blocks, end) = bytes.split_at(whole.len() * SIZE);
    for (block, slots) in blocks.as_chunks::<SIZE>().0.iter().zip(whole) {
        decode_block(block, slots, put);
    }
    decode_block(end, rest, put);
}

#[cfg(test)]
mod tests {
    use super::super::int8::TOO_LARGE;
    use super::*;

    proptest::proptest! {
        /// The bound of the header: any floats that are taken, every length of block.
        #[test]
        fn elements_are_off_by_half_a_scale(
            bits in proptest::collection::vec(0u32..TOO_LARGE, 1..100), signs: u64
        ) {
            let values: Vec<f32> = bits
                .iter()
                .enumerate()
                .map(|(place, bits)| f32::from_bits(bits | u32::from(signs >> (place % 64) & 1 == 1) << 31))
                .collect();
            let mut out = vec![0; usize::try_from(bytes(values.len() as u64).count()).unwrap()];
            write(&values, &mut out);
            proptest::prop_assert_eq!(check(&out, values.len()), Ok(()));
            let mut back = vec![0.0; values.len()];
            read(&out, &mut back, |slot, value| *slot = value);
            for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = block.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
                for (value, back) in block.iter().zip(back) {
                    let off = (f64::from(*value) - f64::from(*back)).abs();
                    proptest::prop_assert!(off <= f64::from(largest) / 13.0 + 2f64.powi(-134));
                }
            }
        }
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let mut block = [0x11; SIZE];
        let mut check_with = |scale: u16, code: u8| {
            block[..2].copy_from_slice(&scale.to_le_bytes());
            block[2] = code;
            check(&block, BLOCK).is_ok()
        };
        assert!(check_with(0x3f80, 1));
        // Infinite, NaN, negative, one whose multiples are infinite, none.
        for scale in [0x7f80, 0x7fc0, 0xbf80, 0x7f00, 0, 0x8000] {
            assert!(!check_with(scale, 1), "{scale:#x}");
        }
        assert!(!check_with(0x3f80, 0x80) && !check_with(0x3f80, 0x08));
        // Three elements: the last half byte is nobody's.
        assert_eq!(check(&[0x80, 0x3f, 0x11, 0x01], 3), Ok(()));
        assert_eq!(check(&[0x80, 0x3f, 0x11, 0x11], 3), Err(DecodeError::Value));
    }
}
