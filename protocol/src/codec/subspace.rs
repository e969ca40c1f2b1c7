//! A matrix as the product of two narrow ones: an experiment, no form of a job's.
//!
//! One step of subspace iteration for each tensor, begun where the last tensor's ended: neighbours of a step span much
//! the same space. *Law*: the left factor's columns are orthonormal (or zero, where the matrix has no more), so that
//! what arrives is a projection: its square and that of what is lost add up to the whole.
//!
//! *Source*: T. Vogels et al., "PowerSGD" (2019), algorithm 1, there for gradients of replicas.

use rand_core::RngCore;

use super::error::EncodeError;
use super::floats::INFINITE;
use super::source::Source;

/// Lanes in which products of rows are summed, whatever the machine has.
const LANES: usize = 16;
/// What is left of a column beside the ones before it, of its length, below which it is noise of rounding.
const NOISE: f32 = 1e-5;

/// Two narrow matrices, each as one run of numbers a column: `rank` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// Columns as long as the matrix has rows; orthonormal, or zero.
    pub left: Vec<f32>,
    /// Columns as long as the matrix has columns; where the next tensor begins.
    pub right: Vec<f32>,
    rank: usize,
}

/// Draws a right factor to begin with, of numbers from -1 to 1.
pub fn start(columns: usize, rank: usize, rng: &mut impl RngCore) -> Vec<f32> {
    let mut draw = || {
        let high = u16::try_from(rng.next_u32() >> 16).unwrap_or(u16::MAX);
        (f32::from(high) - 32767.5) / 32768.0
    };
    (0..columns * rank).map(|_| draw()).collect()
}

impl Factors {
    /// Factors a matrix of so many columns, row by row, from a right factor of `rank` columns.
    ///
    /// *Errors*: [`EncodeError::NotFinite`]; [`EncodeError::TooLarge`] if products are.
    /// *Panics*: if the matrix has part of a row, or the right factor part of a column.
    /// *Cost*: 4 `rank` operations an element.
    pub fn of(matrix: &[f32], columns: usize, right: &[f32]) -> Result<Self, EncodeError> {
        assert!(columns > 0 && matrix.len().is_multiple_of(columns), "a matrix has whole rows");
        assert!(right.len().is_multiple_of(columns), "a factor has whole columns");
        Source::new(matrix, None)?.refuse(INFINITE)?;
        let (rows, rank) = (matrix.len() / columns, right.len() / columns);
        let mut left = vec![0.0; rows * rank];
        for (place, row) in matrix.chunks_exact(columns).enumerate() {
            for (column, right) in right.chunks_exact(columns).enumerate() {
                left[column * rows + place] = dot(row, right);
            }
        }
        orthonormalise(&mut left, rows);
        let mut right = vec![0.0; columns * rank];
        for (place, row) in matrix.chunks_exact(columns).enumerate() {
            for (column, right) in right.chunks_exact_mut(columns).enumerate() {
                add(right, left[column * rows + place], row);
            }
        }
        if left.iter().chain(&right).all(|value| value.is_finite()) {
            return Ok(Self { left, right, rank });
        }
        Err(EncodeError::TooLarge { first: 0, count: matrix.len() })
    }

    /// Writes the product over a matrix of as many rows and columns.
    ///
    /// *Panics*: if it has others.
    pub fn restore(&self, out: &mut [f32]) {
        out.fill(0.0);
        if self.rank == 0 {
            return;
        }
        let (rows, columns) = (self.left.len() / self.rank, self.right.len() / self.rank);
        assert_eq!(out.len(), rows * columns, "the product's size is its factors'");
        for (place, row) in out.chunks_exact_mut(columns).enumerate() {
            for (column, right) in self.right.chunks_exact(columns).enumerate() {
                add(row, self.left[column * rows + place], right);
            }
        }
    }
}

/// Sums products in lanes, the same on every machine.
#[inline]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = left.as_chunks::<LANES>();
    let (others, other_rest) = right.as_chunks::<LANES>();
    for (left, right) in whole.iter().zip(others) {
        for place in 0..LANES {
            lanes[place] += left[place] * right[place];
        }
    }
    let rest: f32 = rest.iter().zip(other_rest).map(|(left, right)| left * right).sum();
    lanes.iter().sum::<f32>() + rest
}

#[inline]
fn add(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// Makes columns orthonormal, one after another; what others span already becomes zero.
///
/// *Source*: Gram-Schmidt, each column twice, which is enough (W. Kahan, in B. Parlett, "The Symmetric Eigenvalue
/// Problem", 6.9).
fn orthonormalise(columns: &mut [f32], rows: usize) {
    if rows == 0 {
        return;
    }
    for place in 0..columns.len() / rows {
        let (before, rest) = columns.split_at_mut(place * rows);
        let column = &mut rest[..rows];
        let whole = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(rows) {
                add(column, -dot(column, other), other);
            }
        }
        let left = dot(column, column).sqrt();
        let scale = if left > NOISE * whole { 1.0 / left } else { 0.0 };
        for value in column {
            *value *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    use super::*;

    /// Sums of some hundred products in single precision, each rounded by 6e-8.
    const ROUNDING: f64 = 1e-4;

    fn random(len: usize, seed: u64) -> Vec<f32> {
        start(len, 1, &mut rand_chacha::ChaCha8Rng::seed_from_u64(seed))
    }

    fn square(values: &[f32]) -> f64 {
        values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum()
    }

    /// A matrix of that rank, plus noise.
    fn matrix(rows: usize, columns: usize, rank: usize, noise: f32, seed: u64) -> Vec<f32> {
        let (left, right) = (random(rows * rank, seed), random(columns * rank, seed + 1));
        let noise: Vec<f32> = random(rows * columns, seed + 2).iter().map(|v| noise * v).collect();
        let factors = Factors { left, right, rank };
        let mut out = vec![0.0; rows * columns];
        factors.restore(&mut out);
        out.iter().zip(noise).map(|(value, noise)| value + noise).collect()
    }

    fn lost(matrix: &[f32], factors: &Factors) -> (f64, f64) {
        let mut back = vec![f32::NAN; matrix.len()];
        factors.restore(&mut back);
        let off: Vec<f32> = matrix.iter().zip(&back).map(|(value, back)| value - back).collect();
        (square(&off), square(&back))
    }

    proptest! {
        #[test]
        fn a_projection_and_what_it_loses_add_up(
            rows in 1usize..60, columns in 1usize..60, rank in 1usize..9, noise in 0.0..1.0f32, seed: u64
        ) {
            let matrix = matrix(rows, columns, 3, noise, seed >> 1);
            let factors = Factors::of(&matrix, columns, &random(columns * rank, seed >> 2)).unwrap();
            for (place, column) in factors.left.chunks(rows).enumerate() {
                for (other_place, other) in factors.left.chunks(rows).enumerate() {
                    let product = f64::from(dot(column, other));
                    let is_unit = place == other_place && column.iter().any(|value| *value != 0.0);
                    prop_assert!((product - f64::from(u8::from(is_unit))).abs() < ROUNDING);
                }
            }
            let (off, back) = lost(&matrix, &factors);
            let whole = square(&matrix);
            prop_assert!((off + back - whole).abs() <= ROUNDING * whole);
        }

        /// A step from where the last one ended loses no more.
        #[test]
        fn a_warm_start_loses_no_more(
            rows in 5usize..60, columns in 5usize..60, rank in 1usize..5, seed in 0..u64::MAX / 2
        ) {
            let matrix = matrix(rows, columns, 6, 0.3, seed);
            let first = Factors::of(&matrix, columns, &random(columns * rank, seed + 9)).unwrap();
            let second = Factors::of(&matrix, columns, &first.right).unwrap();
            let whole = square(&matrix);
            prop_assert!(lost(&matrix, &second).0 <= lost(&matrix, &first).0 + ROUNDING * whole);
        }

        #[test]
        fn a_matrix_of_no_larger_rank_comes_back(
            rows in 1usize..60, columns in 1usize..60, rank in 1usize..5, seed in 0..u64::MAX / 2
        ) {
            let matrix = matrix(rows, columns, rank, 0.0, seed);
            let factors = Factors::of(&matrix, columns, &random(columns * (rank + 1), seed + 9)).unwrap();
            prop_assert!(lost(&matrix, &factors).0 <= ROUNDING * square(&matrix));
        }
    }

    #[test]
    fn what_is_not_finite_or_overflows_is_refused() {
        let start = random(2, 1);
        let refused = Factors::of(&[1.0, f32::NAN], 2, &start);
        assert_eq!(refused, Err(EncodeError::NotFinite { first: 1, count: 1 }));
        assert!(matches!(Factors::of(&[3e38; 4], 2, &[1.0; 2]), Err(EncodeError::TooLarge { .. })));
    }
}
