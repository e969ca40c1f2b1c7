//! Blocks of 32 elements: a scale, and each element as that many times it, from -15 to 15.
//!
//! Between [`super::int4`] and [`super::int8`]: an element is off by at most half the scale, which is at most 1/29 of the
//! block's largest magnitude and 2^-134. 22 bytes for 32 elements: after the scale come the low four bits of each
//! multiple as `int4` packs them, then their highest bits, eight to a byte, which count -16.

use super::error::DecodeError;
use super::floats::{from_bf16, magnitude};
use super::int8::{ROUND, SCALE, is_scale, scale};
use crate::units::Bytes;

/// Elements of a block.
const BLOCK: usize = 32;
/// Bytes of a block.
const SIZE: usize = SCALE + BLOCK / 2 + BLOCK / 8;
/// The largest multiple.
const MOST: f32 = 15.0;

/// Returns what so many elements take, exactly.
pub(super) const fn bytes(elements: u64) -> Bytes {
    let (whole, rest) = (elements / BLOCK as u64, elements % BLOCK as u64);
    let end = if rest == 0 { 0 } else { SCALE as u64 + rest.div_ceil(2) + rest.div_ceil(8) };
    Bytes::new(whole.saturating_mul(SIZE as u64).saturating_add(end))
}

/// Splits what follows a scale into low bits and highest bits of so many elements.
#[inline]
fn parts(codes: &[u8], elements: usize) -> (&[u8], &[u8]) {
    codes.split_at(elements.div_ceil(2).min(codes.len()))
}

#[inline]
fn encode_block(values: &[f32], out: &mut [u8]) {
    out.fill(0);
    let largest = values.iter().fold(0, |most: u32, value| most.max(magnitude(*value)));
    if largest == 0 {
        return;
    }
    let scale = scale(largest, MOST);
    let (head, codes) = out.split_at_mut(SCALE);
    head.copy_from_slice(&scale);
    let scale = from_bf16(scale);
    let mut all = [0u8; BLOCK];
    for (code, value) in all.iter_mut().zip(values) {
        *code = (value / scale + ROUND).to_bits().to_le_bytes()[0] & 0x1f;
    }
    let (low, high) = codes.split_at_mut(values.len().div_ceil(2));
    let (first, second) = all.split_at(low.len());
    for ((byte, first), second) in low.iter_mut().zip(first).zip(second) {
        *byte = first & 0xf | second << 4;
    }
    for (byte, codes) in high.iter_mut().zip(all.as_chunks::<8>().0) {
        for (place, code) in codes.iter().enumerate() {
            *byte |= (code >> 4) << place;
        }
    }
}

/// Writes a chunk over a slice of exactly its bytes.
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

/// Returns the multiples of a block of so many elements, and zeros behind them.
#[inline]
fn multiples(codes: &[u8], elements: usize) -> [i8; BLOCK] {
    let (low, high) = parts(codes, elements);
    let mut all = [0u8; BLOCK];
    let (first, second) = all.split_at_mut(low.len());
    for ((byte, first), second) in low.iter().zip(first).zip(second) {
        (*first, *second) = (byte & 0xf, byte >> 4);
    }
    for (byte, codes) in high.iter().zip(all.as_chunks_mut::<8>().0) {
        for (place, code) in codes.iter_mut().enumerate() {
            // A byte whose upper three bits are the sign's.
            *code |= (byte >> place & 1) * 0xf0;
        }
    }
    all.map(|code| i8::from_le_bytes([code]))
}

#[inline]
fn check_block(block: &[u8], elements: usize) -> bool {
    let [low, high, codes @ ..] = block else {
        return false;
    };
    let all = multiples(codes, elements);
    let any = all.iter().fold(0, |any, code| any | code);
    let has_least = all.iter().fold(false, |has, code| has | (*code == -16));
    is_scale([*low, *high], MOST) && !has_least && (any == 0 || [*low, *high] != [0; 2])
}

/// Refuses scales and multiples that no encoder writes, for so many elements.
///
/// *Errors*: [`DecodeError::Value`].
pub(super) fn check(bytes: &[u8], elements: usize) -> Result<(), DecodeError> {
    let (blocks, end) = bytes.split_at(elements / BLOCK * SIZE);
    let rest = elements % BLOCK;
    let mut is_right = end.is_empty() || check_block(end, rest);
    // Bits of elements that are not there belong to nobody.
    let (low, high) = parts(end.get(SCALE..).unwrap_or_default(), rest);
    is_right &= rest.is_multiple_of(2) || low.last().is_none_or(|byte| byte >> 4 == 0);
    is_right &= rest.is_multiple_of(8) || high.last().is_none_or(|byte| byte >> (rest % 8) == 0);
    for block in blocks.as_chunks::<SIZE>().0 {
        is_right &= check_block(block, BLOCK);
    }
    if is_right { Ok(()) } else { Err(DecodeError::Value) }
}

#[inline]
fn decode_block(block: &[u8], out: &mut [f32], put: impl Fn(&mut f32, f32)) {
    let [low, high, codes @ ..] = block else {
        return;
    };
    let scale = from_bf16([*low, *high]);
    let multiples = multiples(codes, out.len());
    for (slot, code) in out.iter_mut().zip(multiples) {
        put(slot, f32::from(code) * scale);
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
            let mut out = vec![0xff; usize::try_from(bytes(values.len() as u64).count()).unwrap()];
            write(&values, &mut out);
            proptest::prop_assert_eq!(check(&out, values.len()), Ok(()));
            let mut back = vec![0.0; values.len()];
            read(&out, &mut back, |slot, value| *slot = value);
            for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = block.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
                for (value, back) in block.iter().zip(back) {
                    let off = (f64::from(*value) - f64::from(*back)).abs();
                    proptest::prop_assert!(off <= f64::from(largest) / 29.0 + 2f64.powi(-134));
                }
            }
        }
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let mut block = [0x11; SIZE];
        block[18..].fill(0);
        let mut check_with = |scale: u16, low: u8, high: u8| {
            block[..2].copy_from_slice(&scale.to_le_bytes());
            (block[2], block[18]) = (low, high);
            check(&block, BLOCK).is_ok()
        };
        assert!(check_with(0x3f80, 1, 1));
        // Infinite, NaN, negative, one whose multiples are infinite, none.
        for scale in [0x7f80, 0x7fc0, 0xbf80, 0x7f00, 0, 0x8000] {
            assert!(!check_with(scale, 1, 1), "{scale:#x}");
        }
        // -16: no low bits under a highest one.
        assert!(check_with(0x3f80, 0x10, 0) && !check_with(0x3f80, 0x10, 1));
        // Three elements: the last half byte and five highest bits are nobody's.
        assert_eq!(check(&[0x80, 0x3f, 0x11, 0x01, 0x07], 3), Ok(()));
        assert_eq!(check(&[0x80, 0x3f, 0x11, 0x11, 0x07], 3), Err(DecodeError::Value));
        assert_eq!(check(&[0x80, 0x3f, 0x11, 0x01, 0x0f], 3), Err(DecodeError::Value));
    }
}
