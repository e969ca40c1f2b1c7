//! Which elements of a tensor are its largest, exactly: those above a magnitude, and of those that equal it the first
//! ones.
//!
//! The bits of a magnitude, read as an integer, are ordered as magnitudes are. So the bound is found digit by digit, from
//! the highest on: a histogram of 12 bits over everything, then of 10 and of 9 bits over what shares the digits found.
//! Time in proportion to the elements whatever they are, memory that is constant.

use super::floats::magnitude;
use super::source::Source;

/// Lowest bit and number of bits of each digit, the highest first; together the 31 bits of a magnitude.
const DIGITS: [(u32, u32); 3] = [(19, 12), (9, 10), (0, 9)];
/// Most values of a digit.
const BUCKETS: usize = 1 << DIGITS[0].1;

/// Where a tensor is cut: its largest elements are those beyond. A value of two words, so that chunks need no more to
/// be encoded apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Elements of a larger magnitude are kept.
    pub(super) magnitude: u32,
    /// Elements of this magnitude are kept below this index.
    pub(super) until: usize,
}

impl Bound {
    /// Finds the `keep` largest; fewer where others are zero, and of equal ones the first. A tensor has fewer than 2^32
    /// elements (16 GiB): so far its histograms count.
    ///
    /// *Cost*: three passes, a fourth where not all of those on the bound are kept.
    pub(super) fn of(source: &Source<'_>, keep: usize) -> Self {
        if keep == 0 {
            return Self { magnitude: u32::MAX, until: 0 };
        }
        if keep >= source.len() {
            return Self { magnitude: 0, until: 0 };
        }
        let (mut prefix, mut left) = (0, keep);
        for (low, width) in DIGITS {
            let counts = histogram(source, prefix, low, width);
            let (mut digit, mut count) = (0, 0);
            for place in (0..1u32 << width).rev() {
                count = counts[bucket(place)];
                digit = place;
                if count >= left {
                    break;
                }
                left -= count;
            }
            prefix = prefix << width | digit;
            let edge = prefix << low;
            if edge != 0 && count == left {
                return Self { magnitude: edge - 1, until: 0 };
            }
        }
        // Zeros are what the receiver has: where the bound is zero, all that is larger is kept, and no zero.
        let until = if prefix == 0 { 0 } else { after(source, prefix, left) };
        Self { magnitude: prefix, until }
    }

    /// Marks which of 64 elements are kept, the first in the lowest bit.
    #[inline]
    pub(super) fn mask(self, start: usize, values: &[f32; 64]) -> u64 {
        let above = mask(values, |value| magnitude(value) > self.magnitude);
        if start >= self.until {
            return above;
        }
        let equal = mask(values, |value| magnitude(value) == self.magnitude);
        let rest = self.until - start;
        above | if rest >= 64 { equal } else { equal & ((1 << rest) - 1) }
    }
}

/// Marks which of 64 elements pass, the first in the lowest bit.
#[inline]
fn mask(values: &[f32; 64], passes: impl Fn(f32) -> bool) -> u64 {
    /// Brings the lowest bit of eight bytes together in the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut flags = [0; 64];
    for (flag, value) in flags.iter_mut().zip(values) {
        *flag = u8::from(passes(*value));
    }
    let mut mask = 0;
    for (place, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
        mask |= (u64::from_le_bytes(*eight).wrapping_mul(GATHER) >> 56) << (8 * place);
    }
    mask
}

/// A digit as an index.
#[inline]
fn bucket(digit: u32) -> usize {
    usize::try_from(digit).unwrap_or(usize::MAX)
}

/// Counts a digit of all magnitudes whose higher digits are `prefix`.
fn histogram(source: &Source<'_>, prefix: u32, low: u32, width: u32) -> Vec<usize> {
    // Neighbours count in tables of their own: neighbours are alike, and would wait for each other.
    let mut tables = vec![[0u32; BUCKETS]; 4];
    let [first, second, third, fourth] = tables.as_mut_slice() else {
        return Vec::new();
    };
    let mut sums = vec![0; 1 << width];
    let last = (1 << width) - 1;
    let digit = |value: f32| bucket(magnitude(value) >> low & last) % BUCKETS;
    let above = low + width;
    source.each(|block| {
        if above == 31 {
            let (fours, rest) = block.as_chunks::<4>();
            for four in fours {
                first[digit(four[0])] += 1;
                second[digit(four[1])] += 1;
                third[digit(four[2])] += 1;
                fourth[digit(four[3])] += 1;
            }
            for value in rest {
                first[digit(*value)] += 1;
            }
            return;
        }
        let (groups, rest) = block.as_chunks::<64>();
        for group in groups {
            let mut sharing = mask(group, |value| magnitude(value) >> above == prefix);
            while sharing != 0 {
                let place = usize::try_from(sharing.trailing_zeros()).unwrap_or(64);
                sharing &= sharing - 1;
                first[digit(group[place])] += 1;
            }
        }
        for value in rest.iter().filter(|value| magnitude(**value) >> above == prefix) {
            first[digit(*value)] += 1;
        }
    });
    for table in &tables {
        for (sum, count) in sums.iter_mut().zip(table) {
            *sum += bucket(*count);
        }
    }
    sums
}

/// Returns the index behind the first `count` elements of a magnitude.
fn after(source: &Source<'_>, wanted: u32, count: usize) -> usize {
    let (mut left, mut end) = (count, 0);
    source.until(|start, block| {
        for (place, value) in block.iter().enumerate() {
            if left > 0 && magnitude(*value) == wanted {
                left -= 1;
                end = start + place + 1;
            }
        }
        left == 0
    });
    end
}
