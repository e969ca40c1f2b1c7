//! Register tiles: the inner loops of matrix products, written for vectors of any width.
//!
//! A tile is [`ROWS`] rows by up to [`COLUMNS`] columns of a product, summed in registers over all of k, or a few dot
//! products. Each element is summed in the order of k by fused multiply-adds, one to a lane, so that vectors of 8 and of
//! 16 floats give the same bits. What the rows and columns are is the caller's: [`super::conv`], [`super::attention`].

pub mod dots;
pub mod rows;
#[cfg(test)]
mod tests;

use pulp::{Simd, WithSimd};
use wattle_protocol::dag::cost::geometry::TILE;

pub use self::dots::{DOTS, LANES, Segment, dots};
pub use self::rows::{Across, Down, Packed, Rows, pack};

/// Rows of a tile.
pub const ROWS: usize = TILE[0];
/// Most columns of a tile: three vectors of 16.
pub const COLUMNS: usize = TILE[1];
/// Vectors of a tile in a row.
pub const VECTORS: usize = 3;

/// A tile of a product.
pub type Tile = [[f32; COLUMNS]; ROWS];

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

    /// The same with the largest offset known.
    pub fn known(values: &'a [f32], offsets: &'a [usize], last: usize) -> Self {
        Self { values, offsets, last }
    }

    /// Returns the largest offset.
    pub fn last(self) -> usize {
        self.last
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

#[expect(clippy::manual_memcpy, reason = "a reference to the sums would keep them in memory")]
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
    for m in 0..M {
        let (row, _) = S::as_mut_simd_f32s(&mut out[first + m][..width]);
        for v in 0..V {
            row[v] = sums[m][v];
        }
    }
}
