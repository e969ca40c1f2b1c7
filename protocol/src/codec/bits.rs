//! Bits in words of 64, the lowest first, and small numbers in few bytes.

/// Reads eight little-endian bytes from `at` on; zeros stand for those beyond the end.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk::<8>() {
        return u64::from_le_bytes(*whole);
    }
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(padded)
}

/// Reads `width` bits (at most 32) at a position; zeros beyond the end.
#[inline]
pub(super) fn get(bytes: &[u8], position: usize, width: usize) -> usize {
    let bits = (word(bytes, position / 8) >> (position % 8)) & ((1 << width) - 1);
    usize::try_from(bits).unwrap_or(usize::MAX)
}

/// Appends a number in groups of 7 bits, the lowest first, the high bit of each byte saying that more follow.
pub(super) fn push_number(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Reads such a number of at most three bytes, and how many it took; None where the bytes end, or where it has leading
/// groups of zero.
pub(super) fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (place, byte) in bytes.iter().take(3).enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let is_shortest = place == 0 || *byte != 0;
            return is_shortest.then_some((number, place + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn numbers_come_back_in_the_fewest_bytes(value in 0usize..1 << 21) {
            let mut bytes = Vec::new();
            push_number(value, &mut bytes);
            proptest::prop_assert_eq!(number(&bytes), Some((value, bytes.len())));
            bytes.pop();
            proptest::prop_assert_eq!(number(&bytes), None);
        }

        /// Against the bits one by one.
        #[test]
        fn bits_are_read_where_they_are(
            bytes in proptest::collection::vec(0u8.., 0..40), at in 0usize..330, width in 0usize..33
        ) {
            let bit = |at: usize| usize::from(bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1));
            let wanted = (0..width).fold(0, |all, place| all | bit(at + place) << place);
            proptest::prop_assert_eq!(get(&bytes, at, width), wanted);
        }
    }

    #[test]
    fn numbers_with_leading_zeros_are_none() {
        assert_eq!(number(&[0x80, 0x00]), None);
        assert_eq!(number(&[0xff, 0xff, 0xff, 0x00]), None);
    }
}
