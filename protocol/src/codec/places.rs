//! Where the kept elements of a chunk are: the gap before each, its lowest bits as they are, the rest in unary.
//!
//! One layout for every density: `shift` low bits of each gap one after another, then for each gap as many zeros as its
//! higher bits count, and a one. With no low bits that is a bitmap without its end. The encoder takes the shift that
//! gives the fewest bits, and of those the least.
//! *Invariant*: k gaps that sum to z take at most k (1 + shift) + z / 2^shift bits for every shift, whatever they are.
//!
//! *Source*: R. F. Rice, "Some practical universal noiseless coding techniques" (1979); parts apart as in P. Elias,
//! "Efficient storage and retrieval by content and address of static files" (1974), whose size is the invariant's.

use super::bits::{get, word};
use super::error::DecodeError;

/// Most low bits of a gap: a gap within a chunk has no more than 16 bits.
pub(super) const SHIFT_MAX: usize = 16;

/// Returns the bits that gaps take.
fn size(gaps: &[u16], shift: usize) -> usize {
    let high: u32 = gaps.iter().map(|gap| u32::from(*gap) >> shift).sum();
    gaps.len() * (1 + shift) + usize::try_from(high).unwrap_or(usize::MAX)
}

/// Returns the shift of the fewest bits, the least of those, and the bits.
///
/// The number of bits is convex in the shift: going one up costs a bit for each gap and saves half of what is in unary,
/// which is ever less. So whichever way it falls leads to its least.
pub(super) fn best(gaps: &[u16]) -> (usize, usize) {
    let sum = size(gaps, 0);
    let mean = sum / gaps.len().max(1);
    let mut shift = mean.max(1).ilog2().try_into().unwrap_or(SHIFT_MAX).min(SHIFT_MAX);
    let mut bits = size(gaps, shift);
    while shift < SHIFT_MAX {
        let further = size(gaps, shift + 1);
        if further >= bits {
            break;
        }
        (shift, bits) = (shift + 1, further);
    }
    while shift > 0 {
        let further = size(gaps, shift - 1);
        if further > bits {
            break;
        }
        (shift, bits) = (shift - 1, further);
    }
    (shift, bits)
}

/// Appends gaps, given what [`best`] returned for them; `words` is room to work in.
pub(super) fn write(
    gaps: &[u16],
    (shift, bits): (usize, usize),
    words: &mut Vec<u64>,
    out: &mut Vec<u8>,
) {
    words.clear();
    words.resize(bits / 64 + 2, 0);
    if shift > 0 {
        write_low(gaps, shift, words);
    }
    write_high(gaps, shift, words);
    let start = out.len();
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    out.truncate(start + bits.div_ceil(8));
}

/// Writes the low bits of gaps, from the first bit on. A word is put together before it is stored: memory would make
/// each gap wait for the one before.
fn write_low(gaps: &[u16], shift: usize, words: &mut [u64]) {
    let (mut word, mut filled) = (0, 0);
    let mut slots = words.iter_mut();
    for gap in gaps {
        let low = u64::from(*gap) & ((1 << shift) - 1);
        word |= low << filled;
        filled += shift;
        if filled >= 64 {
            if let Some(slot) = slots.next() {
                *slot = word;
            }
            filled -= 64;
            word = low >> (shift - filled);
        }
    }
    if let Some(slot) = slots.next() {
        *slot = word;
    }
}

/// Writes the rest of gaps in unary, behind their low bits.
fn write_high(gaps: &[u16], shift: usize, words: &mut [u64]) {
    let mut at = gaps.len() * shift;
    let (mut index, mut word) = (at / 64, 0);
    for gap in gaps {
        at += usize::from(*gap) >> shift;
        if at / 64 != index {
            words[index] |= word;
            (index, word) = (at / 64, 0);
        }
        word |= 1 << (at % 64);
        at += 1;
    }
    words[index] |= word;
}

/// Returns how many bytes so many gaps take, at least one, if the last element lies within a chunk of `len` elements.
pub(super) fn check(
    bytes: &[u8],
    count: usize,
    shift: usize,
    len: usize,
) -> Result<usize, DecodeError> {
    let start = count * shift;
    let (mut at, mut left) = (start / 64 * 64, count);
    let mut ones = word(bytes, at / 8) & (u64::MAX << (start % 64));
    loop {
        let here = usize::try_from(ones.count_ones()).unwrap_or(64);
        if here >= left {
            break;
        }
        left -= here;
        at += 64;
        if at / 8 >= bytes.len() {
            return Err(DecodeError::Short);
        }
        ones = word(bytes, at / 8);
    }
    for _ in 1..left {
        ones &= ones - 1;
    }
    let end = at + usize::try_from(ones.trailing_zeros()).unwrap_or(64) + 1;
    let zeros = end - start - count;
    if zeros > len {
        return Err(DecodeError::Outside);
    }
    let places = if shift == 0 { 0..0 } else { 0..count };
    let low: usize = places.map(|place| get(bytes, place * shift, shift)).sum();
    if (zeros << shift) + low + count > len {
        return Err(DecodeError::Outside);
    }
    if get(bytes, end, end.next_multiple_of(8) - end) != 0 {
        return Err(DecodeError::Layout);
    }
    Ok(end.div_ceil(8))
}

/// Visits the place of each element, in order, of bytes that were checked; returns how many bytes there were.
#[inline]
pub(super) fn each(
    bytes: &[u8],
    count: usize,
    shift: usize,
    mut visit: impl FnMut(usize),
) -> usize {
    let start = count * shift;
    let mut at = start / 64 * 64;
    let mut ones = word(bytes, at / 8) & (u64::MAX << (start % 64));
    // The place behind the last element, and the bit behind its one.
    let (mut next, mut behind, mut low) = (0, start, 0);
    for _ in 0..count {
        while ones == 0 {
            at += 64;
            if at / 8 >= bytes.len() {
                return bytes.len();
            }
            ones = word(bytes, at / 8);
        }
        let one = at + usize::try_from(ones.trailing_zeros()).unwrap_or(64);
        ones &= ones - 1;
        next += ((one - behind) << shift) + get(bytes, low, shift);
        visit(next);
        next += 1;
        behind = one + 1;
        low += shift;
    }
    behind.div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(gaps: &[u16]) -> Vec<usize> {
        let next = |next: &mut usize, gap: &u16| {
            let place = *next + usize::from(*gap);
            *next = place + 1;
            Some(place)
        };
        gaps.iter().scan(0, next).collect()
    }

    proptest::proptest! {
        /// Every shift, not the best alone: places come back, the size is as predicted and within the invariant.
        #[test]
        fn places_come_back(gaps in proptest::collection::vec(0u16..600, 1..100), shift in 0usize..17) {
            let bits = size(&gaps, shift);
            let sum: usize = gaps.iter().map(|gap| usize::from(*gap)).sum();
            proptest::prop_assert!(bits <= gaps.len() * (1 + shift) + (sum >> shift));
            let (mut out, len) = (Vec::new(), sum + gaps.len());
            write(&gaps, (shift, bits), &mut Vec::new(), &mut out);
            proptest::prop_assert_eq!(check(&out, gaps.len(), shift, len), Ok(out.len()));
            proptest::prop_assert_eq!(check(&out, gaps.len(), shift, len - 1), Err(DecodeError::Outside));
            let cut = check(&out[..out.len() - 1], gaps.len(), shift, len);
            proptest::prop_assert_eq!(cut, Err(DecodeError::Short));
            let mut back = Vec::new();
            let used = each(&out, gaps.len(), shift, |place| back.push(place));
            proptest::prop_assert_eq!(used, out.len());
            proptest::prop_assert_eq!(back, places(&gaps));
        }

        #[test]
        fn the_shift_is_the_least_of_the_fewest_bits(
            gaps in proptest::collection::vec(0u16..2000, 1..50), scale in 0u32..11
        ) {
            let gaps: Vec<u16> = gaps.iter().map(|gap| gap >> scale).collect();
            let sizes: Vec<usize> = (0..=SHIFT_MAX).map(|shift| size(&gaps, shift)).collect();
            let least = *sizes.iter().min().unwrap();
            let first = sizes.iter().position(|bits| *bits == least).unwrap();
            proptest::prop_assert_eq!(best(&gaps), (first, least));
        }
    }

    #[test]
    fn without_low_bits_it_is_a_bitmap() {
        let mut out = Vec::new();
        write(&[1, 0, 3], (0, 7), &mut Vec::new(), &mut out);
        assert_eq!(out, [0b0100_0110]);
    }
}
