//! What operands hold: a counter-based formula, which `make.py` repeats, so that inputs need no file.
//!
//! A hash of (operand, element) gives each element a rank, and ranks are spread evenly over a range. So no two elements
//! are alike, which would leave a maximum open, and none is zero, where derivatives jump.

use wattle_protocol::dag::op::Numbers;

use super::{Filling, Operand};
use crate::exec::host::activation::mix;

/// Weyl increment of `SplitMix64`, between elements.
const ELEMENT: u64 = 0x9E37_79B9_7F4A_7C15;
/// The same between operands.
const OPERAND: u64 = 0xD1B5_4A32_D192_ED03;
/// The stream that weighs results.
const WEIGHTS: usize = 100;
/// The stream that chooses elements of large tensors.
const CHOICE: usize = 101;
/// The stream of the signs with which large tensors are summed.
const SIGNS: usize = 102;

fn draw(stream: usize, element: usize) -> u64 {
    let key = (stream as u64).wrapping_add(1).wrapping_mul(OPERAND);
    mix(key.wrapping_add((element as u64).wrapping_mul(ELEMENT)))
}

/// Returns the elements `0..count` in the order of their draws.
fn order(stream: usize, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_unstable_by_key(|place| draw(stream, *place));
    places
}

/// Returns numbers spread over a range, in single precision.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "operands are f32, and counts are far below 2^53"
)]
fn spread(stream: usize, (low, high): (f32, f32), count: usize) -> Vec<f32> {
    // Other operands lie between this one's elements.
    let shift = 0.25 + 0.013 * stream.min(10) as f64;
    let (low, width) = (f64::from(low), f64::from(high) - f64::from(low));
    let mut values = vec![0.0; count];
    for (rank, place) in order(stream, count).into_iter().enumerate() {
        values[place] = (low + width * (rank as f64 + shift) / count as f64) as f32;
    }
    values
}

/// Returns the elements of an operand, row-major.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the remainder lies within the range"
)]
pub fn values(at: usize, operand: &Operand) -> Numbers {
    let count = operand.shape.iter().product();
    match &operand.filling {
        Filling::Range(low, high) => Numbers::Floats(spread(at, (*low, *high), count)),
        Filling::Floats(list) => Numbers::Floats(list.clone()),
        Filling::Ids(low, high) => {
            let span = i64::from(*high) - i64::from(*low);
            let id = |i| low.wrapping_add(((draw(at, i) >> 11) % span as u64) as i32);
            Numbers::Ints((0..count).map(id).collect())
        }
        Filling::Ints(list) => Numbers::Ints(list.clone()),
    }
}

fn sign(stream: usize, element: usize) -> f32 {
    if draw(stream, element) & 1 == 0 { 1.0 } else { -1.0 }
}

/// Returns weights of both signs between 1/2 and 3/2: none near zero, since a result with that weight would not be
/// looked at.
pub fn weights(count: usize) -> Vec<f32> {
    let sizes = spread(WEIGHTS, (0.5, 1.5), count);
    sizes.into_iter().enumerate().map(|(i, size)| size * sign(WEIGHTS, i)).collect()
}

/// Returns some of the elements of a large tensor.
pub fn chosen(count: usize, limit: usize) -> Vec<usize> {
    order(CHOICE, count).into_iter().take(limit).collect()
}

/// Sums a large tensor with signs, so that a change of any element shows.
pub fn signed_sum(values: &[f32]) -> f64 {
    values.iter().enumerate().map(|(i, v)| f64::from(*v) * f64::from(sign(SIGNS, i))).sum()
}

/// Sums an operand so that other elements, or the same in another order, give another number.
pub fn fingerprint(numbers: &Numbers) -> f64 {
    let one = |(i, value): (usize, f64)| value * f64::from(u32::try_from(i % 97 + 1).unwrap_or(0));
    match numbers {
        Numbers::Floats(list) => list.iter().map(|v| f64::from(*v)).enumerate().map(one).sum(),
        Numbers::Ints(list) => list.iter().map(|v| f64::from(*v)).enumerate().map(one).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::x;

    #[test]
    fn elements_differ_and_are_not_zero() {
        for count in 1..200 {
            let (a, b) = (values(0, &x(&[count])), values(1, &x(&[count])));
            let (Numbers::Floats(a), Numbers::Floats(b)) = (a, b) else { panic!("floats") };
            let mut all: Vec<u32> = a.iter().chain(&b).map(|v| v.to_bits()).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 2 * count);
            assert!(a.iter().chain(&b).all(|v| v.abs() < 1.6 && *v != 0.0));
        }
    }
}
