//! Tiles and dot products against sums written out, and vectors of one width against those of another.

use pulp::{Arch, Scalar};

use super::*;

struct Product<'a> {
    a: &'a [f32],
    b: &'a [f32],
    is_down: bool,
}

const K: usize = 37;

impl WithSimd for Product<'_> {
    type Output = Tile;

    fn with_simd<S: Simd>(self, simd: S) -> Tile {
        let mut out = [[0.0; COLUMNS]; ROWS];
        let offsets: Vec<usize> = (0..K).map(|k| k * COLUMNS).collect();
        let b = Columns::new(self.b, &offsets);
        let step = columns::<S>();
        for at in (0..COLUMNS).step_by(step) {
            let mut part = [[0.0; COLUMNS]; ROWS];
            match self.is_down {
                true => {
                    let rows = Down { values: self.a, stride: ROWS };
                    tile(simd, rows, b, at, step, &mut part);
                }
                false => tile(simd, Across::new(self.a, K, 0), b, at, step, &mut part),
            }
            for (row, part) in out.iter_mut().zip(&part) {
                row[at..at + step].copy_from_slice(&part[..step]);
            }
        }
        out
    }
}

fn numbers(count: usize, salt: u16) -> Vec<f32> {
    let number = |i: usize| f32::from(u16::try_from(i * 7919 % 1009).unwrap());
    (0..count).map(|i| ((number(i) + f32::from(salt)) * 0.37).sin()).collect()
}

#[test]
fn tiles_are_products_by_row_and_by_column() {
    let (a, b) = (numbers(ROWS * K, 1), numbers(K * COLUMNS, 2));
    let transposed: Vec<f32> = (0..K * ROWS).map(|i| a[i % ROWS * K + i / ROWS]).collect();
    let across = Arch::new().dispatch(Product { a: &a, b: &b, is_down: false });
    let down = Arch::new().dispatch(Product { a: &transposed, b: &b, is_down: true });
    assert_eq!(across, down);
    for (i, row) in across.iter().enumerate() {
        for (j, got) in row.iter().enumerate() {
            let want: f64 =
                (0..K).map(|k| f64::from(a[i * K + k]) * f64::from(b[k * COLUMNS + j])).sum();
            assert!((f64::from(*got) - want).abs() < 1e-5, "{i} {j}: {got} {want}");
        }
    }
}

struct Dots<'a>(&'a [f32], &'a [f32]);

impl WithSimd for Dots<'_> {
    type Output = [[f32; DOTS[1]]; DOTS[0]];

    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let mut out = [[1.0; DOTS[1]]; DOTS[0]];
        let len = 3 * LANES;
        let a = std::array::from_fn(|i| &self.0[i * len..(i + 1) * len]);
        let b = std::array::from_fn(|i| &self.1[i * len..(i + 1) * len]);
        let segments = [(0, 16), (16, 32)].map(|(at, len)| Segment { left: at, right: at, len });
        dots(simd, a, b, &segments, &mut out);
        out
    }
}

#[test]
fn dots_are_dot_products_and_much_the_same_without_vectors() {
    let (a, b) = (numbers(4 * 48, 3), numbers(6 * 48, 4));
    let wide = Arch::new().dispatch(Dots(&a, &b));
    let scalar = Dots(&a, &b).with_simd(Scalar);
    for i in 0..4 {
        for j in 0..6 {
            let want: f64 =
                (0..48).map(|q| f64::from(a[i * 48 + q]) * f64::from(b[j * 48 + q])).sum::<f64>()
                    + 1.0;
            assert!((f64::from(wide[i][j]) - want).abs() < 1e-5);
            assert!((wide[i][j] - scalar[i][j]).abs() < 1e-5);
        }
    }
}

/// A stage that moves from a machine with AVX-512 to one with AVX2 goes on with the same bits.
#[cfg(target_arch = "x86_64")]
#[test]
fn vectors_of_eight_and_of_sixteen_give_the_same_bits() {
    let (Some(eight), Some(sixteen)) = (pulp::x86::V3::try_new(), pulp::x86::V4::try_new()) else {
        return;
    };
    let (a, b) = (numbers(ROWS * K, 1), numbers(K * COLUMNS, 2));
    let product = || Product { a: &a, b: &b, is_down: false };
    assert_eq!(Simd::vectorize(eight, product()), Simd::vectorize(sixteen, product()));
    let (a, b) = (numbers(4 * 48, 3), numbers(6 * 48, 4));
    assert_eq!(Simd::vectorize(eight, Dots(&a, &b)), Simd::vectorize(sixteen, Dots(&a, &b)));
}
