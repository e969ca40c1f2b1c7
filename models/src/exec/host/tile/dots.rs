//! Dot products of a few rows with a few others, for sums over long rows.

use pulp::Simd;

/// Dot products of rows of `a` with rows of `b` are formed for this many rows of each at a time.
pub const DOTS: [usize; 2] = [4, 6];
/// Lanes of a dot product, whatever the machine's vectors.
pub const LANES: usize = 16;

/// A part of the rows that are multiplied: its length is a multiple of [`LANES`].
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where it begins in rows of the left-hand side.
    pub left: usize,
    /// Where it begins in rows of the right-hand side.
    pub right: usize,
    /// Elements.
    pub len: usize,
}

/// Adds dot products: `out[i][j] += sum over q of a[i][q] b[j][q]`, over all segments.
#[inline(always)]
// Always: the vector width is the caller's.
pub fn dots<S: Simd>(
    simd: S,
    a: [&[f32]; DOTS[0]],
    b: [&[f32]; DOTS[1]],
    segments: &[Segment],
    out: &mut [[f32; DOTS[1]]; DOTS[0]],
) {
    match S::F32_LANES {
        16 => some_dots::<S, 4, 6, 1>(simd, (a, b), [0, 0], segments, out),
        8 => {
            for place in [[0, 0], [2, 0], [0, 2], [2, 2], [0, 4], [2, 4]] {
                some_dots::<S, 2, 2, 2>(simd, (a, b), place, segments, out);
            }
        }
        4 => {
            for place in [[0, 0], [2, 0], [0, 2], [2, 2], [0, 4], [2, 4]] {
                some_dots::<S, 2, 2, 4>(simd, (a, b), place, segments, out);
            }
        }
        _ => {
            for place in 0..DOTS[0] * DOTS[1] {
                let place = [place / DOTS[1], place % DOTS[1]];
                some_dots::<S, 1, 1, LANES>(simd, (a, b), place, segments, out);
            }
        }
    }
}

#[inline(always)]
// Always: the sums must stay in registers.
fn some_dots<S: Simd, const M: usize, const N: usize, const V: usize>(
    simd: S,
    (a, b): ([&[f32]; DOTS[0]], [&[f32]; DOTS[1]]),
    [first, column]: [usize; 2],
    segments: &[Segment],
    out: &mut [[f32; DOTS[1]]; DOTS[0]],
) {
    // By loops over constants, here and below: closures and references would keep the sums in memory.
    let mut sums = [[[simd.splat_f32s(0.0); V]; N]; M];
    for segment in segments {
        let len = segment.len / LANES;
        let mut left = [vectors::<S, V>(a[first], segment.left, len); M];
        let mut right = [vectors::<S, V>(b[column], segment.right, len); N];
        for m in 0..M {
            left[m] = vectors::<S, V>(a[first + m], segment.left, len);
        }
        for n in 0..N {
            right[n] = vectors::<S, V>(b[column + n], segment.right, len);
        }
        for q in 0..len {
            for m in 0..M {
                for n in 0..N {
                    for v in 0..V {
                        let (x, y) = (left[m][q][v], right[n][q][v]);
                        sums[m][n][v] = simd.mul_add_e_f32s(x, y, sums[m][n][v]);
                    }
                }
            }
        }
    }
    // The lanes are added up by halving their number, which is the same for vectors of any width.
    for m in 0..M {
        for n in 0..N {
            let mut width = V / 2;
            while width > 0 {
                for v in 0..width {
                    sums[m][n][v] = simd.add_f32s(sums[m][n][v], sums[m][n][v + width]);
                }
                width /= 2;
            }
            out[first + m][column + n] += simd.reduce_sum_f32s(sums[m][n][0]);
        }
    }
}

#[inline(always)]
// Always: it is a cast.
fn vectors<S: Simd, const V: usize>(row: &[f32], at: usize, len: usize) -> &[[S::f32s; V]] {
    &S::as_simd_f32s(&row[at..]).0.as_chunks::<V>().0[..len]
}
