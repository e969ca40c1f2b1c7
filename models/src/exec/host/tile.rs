//! Register tiles: the inner loops of matrix products, written for vectors of any width.
//!
//! A tile is [`ROWS`] rows by up to [`COLUMNS`] columns of a product, summed in registers over all of k, or a few dot
//! products. Each element is summed in the order of k by fused multiply-adds, one to a lane, so that vectors of 8 and of
//! 16 floats give the same bits. What the rows and columns are is the caller's: [`super::conv`], [`super::attention`].

use pulp::{Simd, WithSimd};

/// Rows of a tile.
pub const ROWS: usize = 8;
/// Most columns of a tile: three vectors of 16.
pub const COLUMNS: usize = 48;
/// Vectors of a tile in a row.
pub const VECTORS: usize = 3;

/// A tile of a product.
pub type Tile = [[f32; COLUMNS]; ROWS];

/// The left-hand side of a tile.
pub trait Rows: Copy {
    /// Cuts every row to `len` elements, so that the loop over them needs no checks.
    fn cut(self, len: usize) -> Self;
    /// Returns the k-th element of each row.
    fn at(self, k: usize) -> [f32; ROWS];
}

/// Rows of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Across<'a>([&'a [f32]; ROWS]);

impl<'a> Across<'a> {
    /// Takes rows from `first` on of a matrix `[rows, width]`; beyond its end, the last row again.
    #[inline(always)]
    // Always: the slices must stay in registers within the caller's loop.
    pub fn new(matrix: &'a [f32], width: usize, first: usize) -> Self {
        let last = (matrix.len() / width.max(1)).saturating_sub(1);
        let mut rows = [matrix; ROWS];
        for (i, row) in rows.iter_mut().enumerate() {
            let at = (first + i).min(last);
            *row = &matrix[at * width..(at + 1) * width];
        }
        Self(rows)
    }
}

impl Rows for Across<'_> {
    #[inline(always)]
    // Always: what it knows of lengths is for the caller's loop.
    fn cut(self, len: usize) -> Self {
        let [a, b, c, d, e, f, g, h] = self.0;
        let (a, b, c, d) = (&a[..len], &b[..len], &c[..len], &d[..len]);
        Self([a, b, c, d, &e[..len], &f[..len], &g[..len], &h[..len]])
    }

    #[inline(always)]
    // Always: it is the body of the innermost loop.
    fn at(self, k: usize) -> [f32; ROWS] {
        let [a, b, c, d, e, f, g, h] = self.0;
        [a[k], b[k], c[k], d[k], e[k], f[k], g[k], h[k]]
    }
}

/// Rows of which the k-th elements lie together: one pointer, which pays from a few tiles on.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a>(pub &'a [[f32; ROWS]]);

impl Rows for Packed<'_> {
    #[inline(always)]
    // Always: what it knows of lengths is for the caller's loop.
    fn cut(self, len: usize) -> Self {
        Self(&self.0[..len])
    }

    #[inline(always)]
    // Always: it is the body of the innermost loop.
    fn at(self, k: usize) -> [f32; ROWS] {
        self.0[k]
    }
}

/// Packs rows from `first` on of a matrix `[rows, width]`; beyond its end, the last row again.
pub fn pack(matrix: &[f32], width: usize, first: usize, packed: &mut Vec<[f32; ROWS]>) {
    packed.clear();
    packed.resize(width, [0.0; ROWS]);
    for (i, row) in Across::new(matrix, width, first).0.into_iter().enumerate() {
        for (to, x) in packed.iter_mut().zip(row) {
            to[i] = *x;
        }
    }
}

/// Rows of a matrix that lies transposed: the k-th elements are neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Down<'a> {
    /// From the first row's first element on.
    pub values: &'a [f32],
    /// From the k-th elements to the next.
    pub stride: usize,
}

impl Rows for Down<'_> {
    #[inline(always)]
    // Always: what it knows of lengths is for the caller's loop.
    fn cut(self, _: usize) -> Self {
        self
    }

    #[inline(always)]
    // Always: it is the body of the innermost loop.
    fn at(self, k: usize) -> [f32; ROWS] {
        let rest = &self.values[k * self.stride..];
        match rest.first_chunk::<ROWS>() {
            Some(rows) => *rows,
            None => {
                let mut rows = [0.0; ROWS];
                rows[..rest.len()].copy_from_slice(rest);
                rows
            }
        }
    }
}

/// The right-hand side of a tile: column j of row k is `values[offsets[k] + j]`.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    values: &'a [f32],
    offsets: &'a [usize],
    /// The largest offset.
    last: usize,
}

impl<'a> Columns<'a> {
    /// Takes elements, and where each row begins among them.
    pub fn new(values: &'a [f32], offsets: &'a [usize]) -> Self {
        Self { values, offsets, last: offsets.iter().max().copied().unwrap_or(0) }
    }

    /// Takes the same places of other elements.
    pub fn of(self, values: &'a [f32]) -> Self {
        Self { values, ..self }
    }

    /// Takes the first rows only.
    pub fn first(self, rows: usize) -> Self {
        Self { offsets: &self.offsets[..rows], ..self }
    }

    /// Copies `count` columns from `at` on, with zeros up to a tile's full width; returns the offsets of the copy.
    fn copy(self, at: usize, count: usize, near: &mut Vec<f32>) -> Vec<usize> {
        near.clear();
        near.resize(self.offsets.len() * COLUMNS, 0.0);
        for (near, offset) in near.chunks_exact_mut(COLUMNS).zip(self.offsets) {
            near[..count].copy_from_slice(&self.values[offset + at..][..count]);
        }
        (0..self.offsets.len()).map(|k| k * COLUMNS).collect()
    }
}

/// How a product's columns lie in memory: rows of `row` columns that count, each `width` after the one before.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// From a row to the next.
    pub width: usize,
    /// Columns of a row that count.
    pub row: usize,
    /// Columns in all, those that do not count included.
    pub columns: usize,
}

impl Grid {
    /// Columns that all count.
    pub fn dense(columns: usize) -> Self {
        Self { width: columns.max(1), row: columns, columns }
    }

    /// Calls `f` with each run of columns that count among `count` from `at` on: where it begins in the tile, where in
    /// the output plane, and its length.
    #[inline(always)]
    // Always: it ends a tile.
    fn runs(self, at: usize, count: usize, mut f: impl FnMut(usize, usize, usize)) {
        let (end, mut q) = (at + count, at);
        while q < end {
            let (line, place) = (q / self.width, q % self.width);
            if place < self.row {
                let len = (self.row - place).min(end - q);
                f(q - at, line * self.row + place, len);
            }
            q += self.width - place;
        }
    }
}

/// What becomes of a product's elements.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// They are written, a row's bias added.
    Biased(&'a [f32]),
    /// They are written.
    Plain,
    /// They are added.
    Add,
}

/// Some rows, at most [`ROWS`], of a product, for `y` `[rows, plane]`.
#[derive(Debug)]
pub struct Product<'a, R> {
    /// The left-hand side.
    pub rows: R,
    /// The right-hand side.
    pub b: Columns<'a>,
    /// Its columns.
    pub grid: Grid,
    /// Where the product goes.
    pub y: &'a mut [f32],
    /// From a row of `y` to the next.
    pub plane: usize,
    /// How.
    pub write: Write<'a>,
}

impl<R: Rows> WithSimd for Product<'_, R> {
    type Output = ();

    #[inline(always)]
    // Always: it must be compiled for the machine's vectors.
    fn with_simd<S: Simd>(self, simd: S) {
        let mut out: Tile = [[0.0; COLUMNS]; ROWS];
        let step = columns::<S>();
        let mut near = Vec::new();
        let mut at = 0;
        while at < self.grid.columns {
            let count = step.min(self.grid.columns - at);
            if self.b.last + at + reads::<S>(count) <= self.b.values.len() {
                tile(simd, self.rows, self.b, at, count, &mut out);
            } else {
                // A tile's full width would reach beyond the end.
                let offsets = self.b.copy(at, count, &mut near);
                tile(simd, self.rows, Columns::new(&near, &offsets), 0, count, &mut out);
            }
            for (i, y) in self.y.chunks_mut(self.plane).enumerate() {
                let row = &out[i];
                self.grid.runs(at, count, |from, to, len| {
                    let (y, row) = (&mut y[to..to + len], &row[from..from + len]);
                    match self.write {
                        Write::Plain => y.copy_from_slice(row),
                        Write::Biased(bias) => {
                            for (y, x) in y.iter_mut().zip(row) {
                                *y = x + bias[i];
                            }
                        }
                        Write::Add => {
                            for (y, x) in y.iter_mut().zip(row) {
                                *y += x;
                            }
                        }
                    }
                });
            }
            at += step;
        }
    }
}

/// Returns how many columns a tile reads where `count` are wanted.
#[inline(always)]
// Always: the vector width is the caller's.
fn reads<S: Simd>(count: usize) -> usize {
    match (S::REGISTER_COUNT >= 32, count.div_ceil(S::F32_LANES)) {
        (_, 1) => S::F32_LANES,
        (true, 2) => 2 * S::F32_LANES,
        _ => columns::<S>(),
    }
}

/// Returns how many columns a tile has on this machine.
#[inline(always)]
// Always: it is a constant of the vector width.
pub fn columns<S: Simd>() -> usize {
    (VECTORS * S::F32_LANES).min(COLUMNS)
}

/// Computes a tile from column `at` on; `columns` of them count, the others may be anything.
#[inline(always)]
// Always: the vector width is the caller's.
pub fn tile<S: Simd>(
    simd: S,
    rows: impl Rows,
    b: Columns<'_>,
    at: usize,
    columns: usize,
    out: &mut Tile,
) {
    match (S::REGISTER_COUNT >= 32, columns.div_ceil(S::F32_LANES)) {
        (true, 1) => part::<S, ROWS, 1>(simd, rows, 0, b, at, out),
        (true, 2) => part::<S, ROWS, 2>(simd, rows, 0, b, at, out),
        (true, _) => part::<S, ROWS, VECTORS>(simd, rows, 0, b, at, out),
        // With 16 registers, half of the rows at a time.
        (false, 1) => {
            part::<S, { ROWS / 2 }, 1>(simd, rows, 0, b, at, out);
            part::<S, { ROWS / 2 }, 1>(simd, rows, ROWS / 2, b, at, out);
        }
        (false, _) => {
            part::<S, { ROWS / 2 }, VECTORS>(simd, rows, 0, b, at, out);
            part::<S, { ROWS / 2 }, VECTORS>(simd, rows, ROWS / 2, b, at, out);
        }
    }
}

#[inline(always)]
// Always: the sums must stay in registers.
fn part<S: Simd, const M: usize, const V: usize>(
    simd: S,
    rows: impl Rows,
    first: usize,
    b: Columns<'_>,
    at: usize,
    out: &mut Tile,
) {
    let width = V * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    let rows = rows.cut(b.offsets.len());
    for (k, offset) in b.offsets.iter().enumerate() {
        let (b, _) = S::as_simd_f32s(&b.values[*offset + at..][..width]);
        let Some(b) = b.first_chunk::<V>() else { continue };
        let a = rows.at(k);
        for m in 0..M {
            let a = simd.splat_f32s(a[first + m]);
            for v in 0..V {
                sums[m][v] = simd.mul_add_e_f32s(a, b[v], sums[m][v]);
            }
        }
    }
    // By index: a reference to the sums would keep them in memory.
    for m in 0..M {
        let (row, _) = S::as_mut_simd_f32s(&mut out[first + m][..width]);
        for v in 0..V {
            row[v] = sums[m][v];
        }
    }
}

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

#[cfg(test)]
mod tests {
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
            let segments =
                [(0, 16), (16, 32)].map(|(at, len)| Segment { left: at, right: at, len });
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
                let want: f64 = (0..48)
                    .map(|q| f64::from(a[i * 48 + q]) * f64::from(b[j * 48 + q]))
                    .sum::<f64>()
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
        let (Some(eight), Some(sixteen)) = (pulp::x86::V3::try_new(), pulp::x86::V4::try_new())
        else {
            return;
        };
        let (a, b) = (numbers(ROWS * K, 1), numbers(K * COLUMNS, 2));
        let product = || Product { a: &a, b: &b, is_down: false };
        assert_eq!(Simd::vectorize(eight, product()), Simd::vectorize(sixteen, product()));
        let (a, b) = (numbers(4 * 48, 3), numbers(6 * 48, 4));
        assert_eq!(Simd::vectorize(eight, Dots(&a, &b)), Simd::vectorize(sixteen, Dots(&a, &b)));
    }
}
